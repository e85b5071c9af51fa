"""The comparisons that every scenario makes after an upload."""

import collections

from . import state

LETTERS = {"INSERT": "I", "UPDATE": "U", "DELETE": "D"}


def count(rows, table):
    """How many of {(table, id): …} are in a table."""
    return sum(1 for name, _ in rows if name == table)


def named(table, row):
    """A row as {column: value}."""
    return dict(zip(state.COLUMNS[table], row))


def outcome(status):
    """What became of a change: its status, or the reason why it is invalid."""
    return status["invalid"]["reason"] if status["status"] == "invalid" else status["status"]


def check_uploads(check, uploads, report, size):
    """The uploads seen on the wire are whole and agree with the client's report.

    Returns how often each outcome came.
    """
    check.true(f"no batch above {size} changes, and a status for each change, in order",
               all(len(changes) <= size
                   and [change["source_change_id"] for change in changes]
                   == [status["source_change_id"] for status in statuses]
                   for changes, statuses in uploads))
    seen = collections.Counter(outcome(status) for _, statuses in uploads for status in statuses)
    check.equal("the client reports as many requests as the wire saw: {}", report["rounds"],
                len(uploads))
    check.equal("and as many changes applied: {}", report["statuses"].get("applied", 0), seen["applied"])
    return seen


def check_settled(check, world, app, changes):
    """Device and server hold exactly what the app wrote, in `changes` changes, and know its versions."""
    device, database, user = app.device, world.database, app.device.user
    check.equal("nothing left to upload: {} pending", state.pending(device), [])
    here, there = state.device_rows(device), state.server_rows(database, user)
    for table in state.COLUMNS:
        check.equal(f"SQLite has {{}} {table}", count(here, table), count(app.rows, table))
        check.equal(f"PostgreSQL has {{}} {table}", count(there, table), count(app.rows, table))
    check.equal("SQLite equals what the app wrote, column by column: {} rows", here,
                app.typed_rows())
    check.equal("PostgreSQL equals what the app wrote, column by column: {} rows", there, app.rows)
    check.equal("foreign keys valid in SQLite: {} orphans", len(state.orphans_on_device(device)), 0)
    check.equal("foreign keys valid in PostgreSQL: {} orphans",
                len(state.orphans_on_server(database, user)), 0)
    check_versions(check, world, app, changes)


def check_versions(check, world, app, changes):
    """Versions, tombstones and the log of a user's scope, on both sides."""
    device, database, user = app.device, world.database, app.device.user
    mine, versions = state.device_versions(device), state.server_versions(database, user)
    log = state.server_log(database, user)
    check.equal("row_meta on the server has {} rows", len(versions), len(app.rows) + len(app.gone))
    check.equal("of them deleted: {}", {key for key, meta in versions.items() if meta[1]},
                set(app.gone))
    check.equal("row_meta on the device has the same rows, versions and deletions: {}", mine,
                versions)
    check.equal("the log has {} entries", len(log), changes)
    check.equal("and is dense: from 1 to {}", [entry.seq for entry in log],
                list(range(1, changes + 1)))
    check.equal("its head: {}", database.value(
        "SELECT head FROM rowsync.scope WHERE name = %s", user), changes)
    check.equal("each version is the row's last entry in the log: {}",
                {(entry.table, entry.key): (entry.seq, entry.op == "D") for entry in log}, versions)
    check.equal("all entries name their source and a change of their own: {}",
                len({(entry.source, entry.change_id) for entry in log
                     if entry.source == device.source}), changes)
    check.equal("the log holds the rows as they are: {}",
                {(entry.table, entry.key): entry.payload for entry in log if entry.op != "D"},
                {key: named(key[0], row) for key, row in app.rows.items()})
