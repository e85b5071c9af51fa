"""What stands in the databases, read by SQL that owes nothing to the code under test."""

import collections
import json
import sqlite3
import uuid

COLUMNS = {
    "users": ("id", "name", "email", "created_at", "updated_at"),
    "posts": ("id", "author_id", "title", "content", "created_at", "updated_at"),
}


def on_device(device, query, values=()):
    """Rows of a query on the device's file, by a connection of our own that cannot write."""
    connection = sqlite3.connect(f"file:{device.path}?mode=ro", uri=True)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def device_rows(device):
    """{(table, id): row} of a device, every column with its storage class."""
    found = {}
    for table, columns in COLUMNS.items():
        names = ", ".join(columns)
        types = ", ".join(f"typeof({column})" for column in columns)
        for row in on_device(device, f"SELECT {names}, {types} FROM {table}"):
            found[table, row[0]] = row
    return found


def typed(row):
    """A row as device_rows has it: its values, then what SQLite calls their types."""
    names = {str: "text", int: "integer", type(None): "null", float: "real", bytes: "blob"}
    return (*row, *(names[type(value)] for value in row))


def server_rows(database, user):
    """{(table, id): row} of a user on the server."""
    found = {}
    for table, columns in COLUMNS.items():
        names = ", ".join(f"{column}::text" if column.endswith("id") else column
                          for column in columns)
        for row in database.rows(
                f"SELECT {names} FROM business.{table} WHERE _rowsync_scope = %s", user):
            found[table, row[0]] = row
    return found


def device_versions(device):
    """{(table, id): (version, deleted)} as the device remembers them."""
    return {(table, key): (version, bool(deleted)) for table, key, version, deleted in on_device(
        device, "SELECT table_name, pk_uuid, server_version, deleted FROM _sync_row_meta")}


def server_versions(database, user):
    """{(table, id): (version, deleted)} of a user on the server."""
    rows = database.rows(
        """SELECT c.relname, m.row_key, m.version, m.deleted
             FROM rowsync.row_meta m
             JOIN rowsync.scope s USING (scope_id)
             JOIN rowsync.synced_table t USING (table_id)
             JOIN pg_catalog.pg_class c ON c.oid = t.relid
            WHERE s.name = %s""", user)
    return {(table, str(uuid.UUID(bytes=bytes(key)))): (version, deleted)
            for table, key, version, deleted in rows}


Entry = collections.namedtuple("Entry", "seq op table key payload source change_id")


def server_log(database, user):
    """The change log of a user, in order."""
    rows = database.rows(
        """SELECT l.seq, l.op, c.relname, l.row_key, l.payload, o.source_id, l.source_change_id
             FROM rowsync.change_log l
             JOIN rowsync.scope s USING (scope_id)
             JOIN rowsync.synced_table t USING (table_id)
             JOIN pg_catalog.pg_class c ON c.oid = t.relid
             LEFT JOIN rowsync.source o ON o.scope_id = l.scope_id AND o.source_no = l.source_no
            WHERE s.name = %s ORDER BY l.seq""", user)
    return [Entry(seq, op, table, str(uuid.UUID(bytes=bytes(key))),
                  json.loads(payload) if payload else None, source, change_id)
            for seq, op, table, key, payload, source, change_id in rows]


def orphans_on_device(device):
    """Posts on the device whose author is not there, and what SQLite's own check finds."""
    return on_device(
        device, "SELECT p.id FROM posts p LEFT JOIN users u ON u.id = p.author_id "
        "WHERE u.id IS NULL") + on_device(device, "PRAGMA foreign_key_check")


def orphans_on_server(database, user):
    """Posts of a user on the server whose author is not among the same user's rows."""
    return database.rows(
        """SELECT p.id FROM business.posts p
             LEFT JOIN business.users u
               ON u.id = p.author_id AND u._rowsync_scope = p._rowsync_scope
            WHERE p._rowsync_scope = %s AND u.id IS NULL""", user)


Pending = collections.namedtuple("Pending", "table key op base_version payload")


def pending(device):
    """What waits for upload on a device, from the view that the seed names; payloads parsed."""
    return [Pending(table, key, op, base, json.loads(payload) if payload else None)
            for table, key, op, base, payload in on_device(
                device,
                "SELECT table_name, pk_uuid, op, base_version, payload FROM _sync_pending")]
