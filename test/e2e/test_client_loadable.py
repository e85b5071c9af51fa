"""The library as a loadable extension, from Python's sqlite3."""

import json
import sqlite3

import pytest
from rig.place import ROOT

EXTENSION = str(ROOT / "build" / "lib" / "rowsync")
SCHEMA = (ROOT / "examples" / "business" / "sqlite.sql").read_text()


@pytest.fixture
def app(tmp_path):
    """Opens databases with the extension loaded."""
    opened = []

    def make(name):
        connection = sqlite3.connect(tmp_path / name, isolation_level=None)
        connection.enable_load_extension(True)
        connection.load_extension(EXTENSION)
        opened.append(connection)
        return connection
    yield make
    for connection in opened:
        connection.close()


def start(connection, gateway, source):
    """What an app does once."""
    connection.executescript(SCHEMA)
    connection.execute("SELECT rowsync_init()")
    for table in ("users", "posts"):
        connection.execute("SELECT rowsync_track(?, 'business')", (table,))
    connection.execute("SELECT rowsync_attach(?, 'ann', ?)", (gateway.url, source))
    connection.execute("SELECT rowsync_token(?)", (gateway.token("ann", source),))


def report(connection, function="rowsync_sync"):
    """The report of a sync."""
    return json.loads(connection.execute(f"SELECT {function}()").fetchone()[0])


def test_two_apps_sync_in_plain_sql(app, gateway):
    phone, tablet = app("phone.db"), app("tablet.db")
    start(phone, gateway, "phone")
    start(tablet, gateway, "tablet")
    phone.execute("INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440000', 'Ann', 'a', 1, 1)")
    assert json.loads(phone.execute("SELECT rowsync_status()").fetchone()[0])["pending"] == 1
    assert report(phone)["uploaded"] == 1
    assert report(tablet, "rowsync_pull")["head"] == 1
    assert tablet.execute("SELECT name FROM users").fetchall() == [("Ann",)]


def test_failures_are_errors_with_what_to_do(app):
    connection = app("new.db")
    with pytest.raises(sqlite3.OperationalError, match="no rowsync tables yet. Run rowsync_init"):
        connection.execute("SELECT rowsync_sync()").fetchall()
    connection.execute("SELECT rowsync_init()")
    with pytest.raises(sqlite3.OperationalError, match="not attached to a user"):
        connection.execute("SELECT rowsync_sync()").fetchall()
    with pytest.raises(sqlite3.OperationalError, match="There is no table"):
        connection.execute("SELECT rowsync_track('nothing')").fetchall()


def test_no_view_can_call_it(app):
    connection = app("view.db")
    connection.execute("CREATE VIEW trap AS SELECT rowsync_init()")
    with pytest.raises(sqlite3.OperationalError, match="unsafe use of rowsync_init"):
        connection.execute("SELECT * FROM trap").fetchall()


def test_the_connection_can_be_closed_at_once(app, gateway, tmp_path):
    connection = app("close.db")
    start(connection, gateway, "phone")
    report(connection)
    connection.close()
    again = sqlite3.connect(tmp_path / "close.db")
    assert again.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    again.execute("BEGIN EXCLUSIVE")
    again.close()
