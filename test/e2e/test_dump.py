"""pg_dump and pg_restore of a database in use: the copy syncs on, and restoring captures nothing."""

import json
import subprocess

import pytest


def tool(cluster, name, *arguments):
    """Runs one of PostgreSQL's own programs."""
    done = subprocess.run([cluster.bin / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def upload(database, user, source, changes):
    """The answer to an upload."""
    return json.loads(database.value("SELECT rowsync.upload(%s, %s, %s)", user, source,
                                     json.dumps({"changes": changes})))


def user_change(number, op, pk, version, **payload):
    """One change of business.users."""
    return {"source_change_id": number, "schema": "business", "table": "users", "op": op, "pk": pk,
            "server_version": version, "payload": payload or None}


KEY = "550e8400-e29b-41d4-a716-44665544000"
TABLES = ("scope", "source", "synced_table", "row_meta", "change_log", "schema_change")


def contents(database):
    """All that rowsync keeps, and the rows it keeps it about."""
    kept = {table: sorted(map(str, database.rows(f"SELECT t::text FROM rowsync.{table} t")))
            for table in TABLES}
    kept["users"] = sorted(database.rows("SELECT u::text FROM business.users u"))
    kept["posts"] = sorted(database.rows("SELECT p::text FROM business.posts p"))
    return kept


@pytest.fixture
def used(database):
    """A database with users, posts, tombstones, history and a changed table."""
    upload(database, "ann", "phone", [user_change(1, "INSERT", KEY + "1", 0, name="Ann", email="a")])
    upload(database, "ann", "phone", [user_change(2, "INSERT", KEY + "2", 0, name="Bea", email="b")])
    upload(database, "ann", "phone", [user_change(3, "DELETE", KEY + "3", 0)])
    database.rows("SET rowsync.scope = 'bob'")
    database.rows("INSERT INTO business.users (id, name, email) VALUES (%s, 'Bob', 'c')",
                  KEY + "4")
    database.rows("ALTER TABLE business.users ADD COLUMN note text DEFAULT 'none'")
    upload(database, "ann", "phone", [user_change(4, "DELETE", KEY + "2", 2)])
    return database


@pytest.mark.parametrize("form", ["plain", "custom", "directory, two jobs"])
def test_restored_database_syncs_on(cluster, used, tmp_path, form):
    copy = cluster.database(template="template0")
    dump = str(tmp_path / "dump")
    source, target = cluster.dsn(used.name), cluster.dsn(copy.name)
    try:
        if form == "plain":
            tool(cluster, "pg_dump", "-f", dump, source)
            tool(cluster, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, target)
        elif form == "custom":
            tool(cluster, "pg_dump", "-Fc", "-f", dump, source)
            tool(cluster, "pg_restore", "--exit-on-error", "-d", target, dump)
        else:
            tool(cluster, "pg_dump", "-Fd", "-j2", "-f", dump, source)
            tool(cluster, "pg_restore", "--exit-on-error", "-j2", "-d", target, dump)
        assert contents(copy) == contents(used)
        assert copy.rows("SELECT * FROM rowsync.verify()") == []
        assert copy.value("SELECT rowsync.schema_version()") == 2

        head = copy.value("SELECT head FROM rowsync.scope WHERE name = 'ann'")
        # It goes on where the other one was: same numbers, new ones behind them, no key reused.
        again = upload(copy, "ann", "phone", [
            user_change(1, "INSERT", KEY + "1", 0, name="Ann", email="a"),
            user_change(5, "UPDATE", KEY + "1", head - 1, name="Ann II")])
        assert [(s["status"], s.get("new_server_version")) for s in again["statuses"]] == [
            ("applied", 1), ("applied", head + 1)], again
        copy.rows("SET rowsync.scope = 'new user'")
        copy.rows("INSERT INTO business.users (id, name, email) VALUES (%s, 'New', 'n')", KEY + "6")
        assert copy.rows("SELECT head FROM rowsync.scope WHERE name = 'new user'") == [(1,)]
        assert copy.rows("SELECT * FROM rowsync.verify()") == []
    finally:
        copy.drop()


def test_data_restored_into_a_database_in_place_is_not_captured(cluster, used, tmp_path):
    """As docs/sql.md says: --disable-triggers, for the triggers are there already."""
    dump = str(tmp_path / "data")
    before = contents(used)
    dsn = cluster.dsn(used.name)
    tool(cluster, "pg_dump", "-Fc", "--data-only", "-t", "business.posts", "-t", "business.users", "-f",
         dump, dsn)
    used.rows("SET session_replication_role = replica")
    used.rows("DELETE FROM business.users")
    used.rows("RESET session_replication_role")
    tool(cluster, "pg_restore", "--data-only", "--disable-triggers", "--exit-on-error", "-d", dsn, dump)
    assert contents(used) == before
    assert used.rows("SELECT * FROM rowsync.verify()") == []


def test_after_a_restored_backup_the_epoch_grows(used):
    first = json.loads(used.value("SELECT rowsync.download('ann', 'tablet')"))
    assert first["epoch"] == 1
    assert used.value("SELECT rowsync.declare_restored('ann')") == 1
    assert used.value("SELECT rowsync.declare_restored()") == 2
    assert json.loads(used.value("SELECT rowsync.download('ann', 'tablet')"))["epoch"] == 3
    assert json.loads(used.value("SELECT rowsync.download('bob', 'tablet')"))["epoch"] == 2
