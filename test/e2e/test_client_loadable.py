"""The library as a loadable extension, from Python's sqlite3."""

import json
import os
import re
import sqlite3
import subprocess

import pytest
from rig.build import BUILD, preload
from rig.place import ROOT

EXTENSION = str(BUILD / "lib" / "rowsync")
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
    both = json.loads(tablet.execute("SELECT rowsync_compare()").fetchone()[0])
    assert both["equal"] and both["rows_here"] == both["rows_there"] == 1
    assert both["digest_here"] == both["digest_there"] and both["untracked"] == []
    phone.execute("SELECT rowsync_untrack('users'), rowsync_pull()")
    both = json.loads(phone.execute("SELECT rowsync_compare()").fetchone()[0])
    assert not both["equal"] and "business.users" in both["untracked"]
    assert "business.posts" not in both["untracked"]


def test_failures_are_errors_with_what_to_do(app):
    connection = app("new.db")
    with pytest.raises(sqlite3.OperationalError, match="no rowsync tables yet. Run rowsync_init"):
        connection.execute("SELECT rowsync_sync()").fetchall()
    connection.execute("SELECT rowsync_init()")
    with pytest.raises(sqlite3.OperationalError, match="not attached to a user"):
        connection.execute("SELECT rowsync_sync()").fetchall()
    connection.execute("SELECT rowsync_attach('http://127.0.0.1:1', 'ann')")
    with pytest.raises(sqlite3.OperationalError, match=r"There is no token. Set one by rowsync_token\(\), signed"):
        connection.execute("SELECT rowsync_sync()").fetchall()
    with pytest.raises(sqlite3.OperationalError, match="There is no table"):
        connection.execute("SELECT rowsync_track('nothing')").fetchall()


def test_what_waits_is_read_as_tables(app, gateway, database):
    phone = app("phone.db")
    start(phone, gateway, "phone")
    phone.execute("SELECT rowsync_track('users', 'business', 'manual')")
    ann, bea = "550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440001"
    phone.execute("INSERT INTO users VALUES (?, 'Ann', 'a', 1, 1), (?, 'Bea', 'b', 1, 1)",
                  (ann, bea))
    database.rows("ALTER TABLE business.users ADD CONSTRAINT no_bea CHECK (name <> 'Bea')")
    pending = phone.execute("SELECT op, table_name, pk, base_version, payload FROM rowsync_pending"
                            " WHERE table_name = 'users' ORDER BY pk").fetchall()
    assert [row[:4] for row in pending] == [("INSERT", "users", ann, 0), ("INSERT", "users", bea, 0)]
    assert json.loads(pending[0][4])["name"] == "Ann"
    assert report(phone)["rejected"] == 1
    (refused,) = phone.execute("SELECT table_name, pk, op, reason, message, payload"
                               " FROM rowsync_rejected").fetchall()
    assert refused[:4] == ("users", bea, "INSERT", "constraint")
    assert "no_bea" in refused[4] and json.loads(refused[5])["name"] == "Bea"
    phone.execute("SELECT rowsync_discard('users', ?)", (bea,))
    database.rows("UPDATE business.users SET name = 'Ann of psql'")
    phone.execute("UPDATE users SET name = 'Ann of the phone'")
    assert report(phone)["conflicts"] == 1
    (conflict,) = phone.execute("SELECT pk, op, local_payload, server_payload, server_deleted"
                                " FROM rowsync_conflicts").fetchall()
    assert conflict[:2] == (ann, "UPDATE") and conflict[4] == 0
    assert json.loads(conflict[2])["name"] == "Ann of the phone"
    assert json.loads(conflict[3])["name"] == "Ann of psql"
    assert phone.execute("SELECT count(*) FROM rowsync_conflicts a, rowsync_conflicts b"
                         " WHERE a.local_payload = b.local_payload").fetchone() == (1,)
    phone.execute("SELECT rowsync_resolve('users', ?, 'client')", (ann,))
    for table in ("conflicts", "rejected"):
        assert phone.execute(f"SELECT * FROM rowsync_{table}").fetchall() == []
    assert report(phone)["pending"] == 0
    assert database.rows("SELECT name FROM business.users") == [("Ann of the phone",)]


def test_a_list_can_be_joined_and_read_again_within_itself(app):
    connection = app("lists.db")
    with pytest.raises(sqlite3.OperationalError, match="was rowsync_init.. run"):
        connection.execute("SELECT * FROM rowsync_pending").fetchall()
    connection.executescript("CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL);"
                             "INSERT INTO note VALUES ('a'), ('b');")
    connection.execute("SELECT rowsync_init(), rowsync_track('note')")
    assert connection.execute("SELECT count(*) FROM rowsync_pending p, rowsync_pending q, note n"
                              " WHERE n.id = q.pk").fetchone() == (4,)
    assert connection.execute("SELECT pk, (SELECT count(*) FROM rowsync_pending q WHERE q.pk >= p.pk)"
                              " FROM rowsync_pending p ORDER BY pk").fetchall() == [("a", 2), ("b", 1)]


def test_verify_and_untrack(app):
    connection = app("verify.db")
    connection.execute("CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, text)")
    connection.execute("SELECT rowsync_init(), rowsync_track('note')")
    assert connection.execute("SELECT rowsync_verify()").fetchone() == (0,)
    connection.execute("INSERT INTO note VALUES ('a', 'x')")
    with pytest.raises(sqlite3.OperationalError, match="rowsync: .*pending"):
        connection.execute("SELECT rowsync_untrack('note')").fetchall()
    connection.execute("SELECT rowsync_untrack('note', 1)")
    assert connection.execute("SELECT count(*) FROM rowsync_pending").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="wrong number of arguments"):
        connection.execute("SELECT rowsync_attach('http://127.0.0.1')")
    with pytest.raises(sqlite3.OperationalError, match="the policy is"):
        connection.execute("SELECT rowsync_track('note', 'public', 'best')").fetchall()


def test_columns_stay_on_the_device(app, gateway):
    phone = app("phone.db")
    phone.executescript(SCHEMA)
    phone.execute("""ALTER TABLE users ADD draft TEXT""")
    phone.execute("""ALTER TABLE users ADD "a,[b" TEXT""")
    phone.execute("SELECT rowsync_init()")
    phone.execute("SELECT rowsync_track('users', 'business', NULL, ?)", ('["draft", "a,[b"]',))
    phone.execute("SELECT rowsync_attach(?, 'ann', 'phone')", (gateway.url,))
    phone.execute("SELECT rowsync_token(?)", (gateway.token("ann", "phone"),))
    phone.execute("INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440000', 'Ann', 'a', 1, 1,"
                  " 'x', 'y')")
    assert report(phone)["uploaded"] == 1
    for given, kept in ((("public",), ["a,[b", "draft"]), (("public", "merge"), ["a,[b", "draft"]),
                        (("public", None, None), ["a,[b", "draft"]), ((None, None, ""), []),
                        ((None, None, "a,[b"), ["a,[b"]), ((None, None, " [ ]"), [])):
        phone.execute(f"SELECT rowsync_track('users'{', ?' * len(given)})", given)
        assert sorted(json.loads(phone.execute("SELECT local_columns FROM _sync_table").fetchone()[0])
                      ) == kept
    for wrong in ("[", '["draft"', '["draft"] x', "[1]", '["draft", null]', '[""]', '["draft\\u0000"]'):
        with pytest.raises(sqlite3.OperationalError, match="are one name or a JSON array of names"):
            phone.execute("SELECT rowsync_track('users', NULL, NULL, ?)", (wrong,)).fetchall()
    with pytest.raises(sqlite3.OperationalError, match="no column .draft,name. .*in a JSON array"):
        phone.execute("SELECT rowsync_track('users', NULL, NULL, 'draft,name')").fetchall()


def test_the_sqlite_shell_loads_it(tmp_path):
    done = subprocess.run(["sqlite3", tmp_path / "shell.db", f".load {EXTENSION}",
                           "SELECT rowsync_init()", "SELECT rowsync_status()"],
                          capture_output=True, text=True, check=True,
                          env={**os.environ, **preload()})
    assert json.loads(done.stdout.strip().splitlines()[-1])["pending"] == 0


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


def test_nothing_is_called_that_sqlite_3_35_has_not():
    """An app may bring SQLite 3.35: what later versions added to the interface would be missing there,
    or lie behind the end of the table that it hands to extensions."""
    later = {"autovacuum_pages", "changes64", "total_changes64", "error_offset", "vtab_distinct",
             "vtab_in", "vtab_in_first", "vtab_in_next", "vtab_rhs_value", "db_name",
             "value_encoding", "is_interrupted", "stmt_explain", "get_clientdata", "set_clientdata",
             "setlk_timeout"}
    called = {name for path in (ROOT / "client-sqlite" / "src").rglob("*.c")
              for name in re.findall(r"sqlite3_(\w+)\(", path.read_text())}
    assert len(called) > 40
    assert not called & later
