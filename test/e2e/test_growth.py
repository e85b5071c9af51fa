"""The work for an upload, a page and a row of a snapshot does not grow with the tables: counted in the
blocks that a session touches, whose plans were made when the tables had ten rows.

ROWSYNC_ROWS=1000000 grows them to that many rows.
"""

import contextlib
import json
import os

ROWS = int(os.environ.get("ROWSYNC_ROWS", 20_000))
SMALL = 1000
SCHEMA = """
CREATE EXTENSION rowsync;
CREATE TABLE users (id text PRIMARY KEY, name text) WITH (autovacuum_enabled = off);
CREATE TABLE posts (id text PRIMARY KEY, author text NOT NULL REFERENCES users, title text)
    WITH (autovacuum_enabled = off);
CREATE INDEX ON posts (author);
SELECT rowsync.register_table('users');
SELECT rowsync.register_table('posts');
"""


class Session:
    """One connection, and what its statements touch."""

    def __init__(self, connection):
        self.cursor = connection.cursor()
        self.cursor.execute("SET rowsync.scope = 'ann'")
        self.rows = 0
        self.number = 0

    def grow(self, rows):
        """Fills both tables by SQL until they have this many rows; nobody analyses them."""
        for insert in ("users SELECT 'u' || n, 'x'", "posts SELECT 'p' || n, 'u' || n, 'x'"):
            self.cursor.execute(f"INSERT INTO {insert} FROM generate_series(%s, %s) AS n",
                                (self.rows + 1, rows))
        self.rows = rows

    def blocks(self, query, *values):
        """How many blocks a query touches, in memory or not."""
        self.cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, values)
        plan = self.cursor.fetchone()[0][0]["Plan"]
        return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

    def upload(self):
        """Blocks of an upload that inserts, updates and deletes rows all over the tables."""
        changes = []
        self.number += 1
        for n in range(20):
            key = 1 + (self.number * 7 + n * self.rows // 20) % self.rows
            changes += [("users", "INSERT", f"n{self.number}.{n}", {"name": "y"}),
                        ("posts", "INSERT", f"n{self.number}.{n}",
                         {"author": f"u{key}", "title": "y"}),
                        ("users", "UPDATE", f"u{key}", {"name": f"y{self.number}"})]
        changes += [("posts", "DELETE", f"n{self.number - 1}.{n}", None) for n in range(20)]
        body = [{"source_change_id": self.number * 1000 + i, "schema": "public", "table": table,
                 "op": op, "pk": key, "payload": payload,
                 "server_version": 0 if op == "INSERT" else self.version(table, key)}
                for i, (table, op, key, payload) in enumerate(changes)]
        before = self.head()
        blocks = self.blocks("SELECT rowsync.upload('ann', 'phone', %s)",
                             json.dumps({"changes": body}))
        assert self.head() == before + len(changes), "some changes were not applied"
        return blocks

    def version(self, table, key):
        """The version of a row; 0 where there is none."""
        self.cursor.execute("SELECT coalesce(max(version), 0) FROM rowsync.row_meta"
                            " JOIN rowsync.synced_table USING (table_id)"
                            " WHERE relid = %s::regclass AND row_key = convert_to(%s, 'UTF8')",
                            (table, key))
        return self.cursor.fetchone()[0]

    def head(self):
        """The number of the latest change."""
        self.cursor.execute("SELECT max(head) FROM rowsync.scope")
        return self.cursor.fetchone()[0]

    def costs(self):
        """The least of some tries for each thing: hint bits and splits of pages come and go."""
        return {
            "upload": min(self.upload() for _ in range(6)),
            "page": min(self.blocks("SELECT rowsync.download('ann', 'tablet', %s, 100)",
                                    self.rows + n) for n in range(0, 300, 100)),
            "snapshot of a row": self.blocks("SELECT rowsync.snapshot('ann', 'tablet')")
            / (2 * self.rows),
        }


def test_the_work_does_not_grow_with_the_tables(cluster):
    database = cluster.database()
    database.psql("-c", SCHEMA)
    with contextlib.closing(database.connect()) as connection:
        session = Session(connection)
        session.grow(10)
        session.cursor.execute("ANALYZE users, posts")
        session.upload()
        session.grow(SMALL)
        small = session.costs()
        session.grow(ROWS)
        large = session.costs()
    print(small, large)
    # A level more of each index, and what lay together on a page no longer does.
    for what, allowed in (("upload", 1.5), ("page", 1.5), ("snapshot of a row", 1.5)):
        assert large[what] <= small[what] * allowed, (what, small, large)
    database.drop()
