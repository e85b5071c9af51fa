"""What an app does on a device, for the tests of the client."""

import uuid


def typed(device, table):
    """The rows of a table with the types that SQLite stored, in a fixed order."""
    return sorted(repr([(type(value).__name__, value) for value in row])
                  for row in device.rows(f"SELECT * FROM {table}"))


def key(name):
    """The same uuid for the same name, in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def add_user(device, name, email=None):
    """The app creates a user."""
    device.rows("INSERT INTO users VALUES (?, ?, ?, 1, 1)",
                (key(name), name, email or f"{name}@sync.example"))


def add_post(device, name, author):
    """The app creates a post."""
    device.rows("INSERT INTO posts VALUES (?, ?, ?, '', 1, 1)", (key(name), key(author), name))


def name_of(device, name):
    """What a user is called on a device now."""
    return device.value("SELECT name FROM users WHERE id = ?", (key(name),))


def everything(device):
    """All rows of the example schema with their types."""
    return {table: typed(device, table) for table in (
        "users", "posts", "categories", "teams", "team_members", "files", "file_reviews")}
