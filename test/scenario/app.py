"""An app as a scenario drives it: plain SQL on its own file, and a model of what it should hold."""

import uuid

from . import state

# The range of a bigint must survive the journey, not only that of a double.
BIG = 2**62


class App:
    """The app on one device. `rows` is what its tables must hold, `gone` what it has deleted.

    `operations` counts the rows that its statements really touched.
    """

    def __init__(self, device, name):
        """`name` makes keys and addresses differ from those of other scenarios."""
        self.device = device
        self.name = name
        self.rows = {}
        self.gone = {}
        self.operations = 0

    def key(self, kind, number):
        """The key of the app's nth user or post: the same in every run."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"rowsync:{self.name}:{kind}:{number}"))

    def write(self, statement, values):
        """Runs one statement of the app and counts the rows it touched."""
        self.operations += self.device.app.execute(statement, values).rowcount

    def transaction(self):
        """Several statements as one transaction."""
        return self.device.transaction()

    def insert(self, table, row):
        """Inserts a row."""
        marks = ", ".join("?" * len(row))
        self.write(f"INSERT INTO {table} VALUES ({marks})", row)
        self.rows[table, row[0]] = row

    def add_user(self, number):
        """Creates user `number`."""
        self.insert("users", (
            self.key("user", number), f"Complex User {number}",
            f"user{number}@{self.name}.example", BIG + number, 1640995200 + number))

    def add_posts(self, number, count=2):
        """Creates `count` posts of user `number`."""
        for post in range(1, count + 1):
            self.insert("posts", (
                self.key("post", (number, post)), self.key("user", number),
                f"Post {post} of user {number}",
                f"It's \"quoted\", back\\slashed,\n\tspaced; Grüße, 東京, 🚲 {number}.{post}",
                1640995200 + number, -post))

    def rename_user(self, number, update):
        """Edits user `number` for the nth time."""
        key = self.key("user", number)
        old = self.rows["users", key]
        row = (key, f"Updated User {number} (Update #{update})",
               f"user{number}.{update}@{self.name}.example", old[3], old[4] + update)
        self.write("UPDATE users SET name = ?, email = ?, updated_at = ? WHERE id = ?",
                   (row[1], row[2], row[4], key))
        self.rows["users", key] = row

    def _delete(self, table, key):
        self.write(f"DELETE FROM {table} WHERE id = ?", (key,))
        self.gone[table, key] = self.rows.pop((table, key))

    def delete_user(self, number):
        """Deletes user `number`."""
        self._delete("users", self.key("user", number))

    def delete_posts(self, number, count=2):
        """Deletes the posts of user `number`."""
        for post in range(1, count + 1):
            self._delete("posts", self.key("post", (number, post)))

    def typed_rows(self):
        """`rows` as state.device_rows has them."""
        return {key: state.typed(row) for key, row in self.rows.items()}
