"""pg_dump and pg_restore of a database in use: the copy syncs on, and restoring captures nothing."""

import concurrent.futures
import json
import subprocess
import threading

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
TABLES = ("scope", "source", "synced_table", "row_meta", "change_log", "batch", "schema_change", "refusal")


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


def plain(cluster, source, target, dump):
    """One script, run by psql."""
    tool(cluster, "pg_dump", "-f", dump, source)
    tool(cluster, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, target)


def custom(cluster, source, target, dump):
    """One archive."""
    tool(cluster, "pg_dump", "-Fc", "-f", dump, source)
    tool(cluster, "pg_restore", "--exit-on-error", "-d", target, dump)


def parallel(cluster, source, target, dump):
    """A directory, dumped and restored by several jobs."""
    tool(cluster, "pg_dump", "-Fd", "-j3", "-f", dump, source)
    tool(cluster, "pg_restore", "--exit-on-error", "-j3", "-d", target, dump)


def sections(cluster, source, target, dump):
    """One archive, restored in the three goes that pg_dump knows."""
    tool(cluster, "pg_dump", "-Fc", "-f", dump, source)
    for section in ("pre-data", "data", "post-data"):
        tool(cluster, "pg_restore", "--exit-on-error", f"--section={section}", "-d", target, dump)


def schema_then_data(cluster, source, target, dump):
    """Two archives: the triggers are there when the rows come."""
    tool(cluster, "pg_dump", "-Fc", "--schema-only", "-f", dump + ".schema", source)
    tool(cluster, "pg_dump", "-Fc", "--data-only", "-f", dump, source)
    tool(cluster, "pg_restore", "--exit-on-error", "-d", target, dump + ".schema")
    tool(cluster, "pg_restore", "--exit-on-error", "--disable-triggers", "-d", target, dump)


def test_a_table_that_syncs_no_more_is_restored_as_such(cluster, used, tmp_path):
    """Its history is there, its rows are captured by nobody, and it may be registered again on the copy."""
    used.rows("SELECT rowsync.unregister_table('business.posts')")
    used.rows("SELECT rowsync.unregister_table('business.users')")
    before = contents(used)
    copy = cluster.database(template="template0")
    try:
        parallel(cluster, cluster.dsn(used.name), cluster.dsn(copy.name), str(tmp_path / "dump"))
        assert contents(copy) == before
        copy.rows("UPDATE business.users SET name = 'by hand'")
        assert contents(copy)["change_log"] == before["change_log"]
        assert copy.rows("SELECT * FROM rowsync.verify()") == []
        assert copy.value("SELECT rowsync.register_table('business.users')") > copy.value(
            "SELECT max(table_id) FROM rowsync.change_log WHERE source_no > 0"), "no number is given twice"
        again = upload(copy, "ann", "phone", [user_change(1, "INSERT", KEY + "1", 0, name="Ann", email="a")])
        (status,) = again["statuses"]
        assert (status["status"], status["server_row"]["payload"]["name"]) == ("applied", "by hand")
        assert copy.rows("SELECT * FROM rowsync.verify()") == []
    finally:
        copy.drop()


@pytest.mark.parametrize("restore", [plain, custom, parallel, sections, schema_then_data],
                         ids=lambda function: function.__name__)
def test_restored_database_syncs_on(cluster, used, tmp_path, restore):
    copy = cluster.database(template="template0")
    try:
        restore(cluster, cluster.dsn(used.name), cluster.dsn(copy.name), str(tmp_path / "dump"))
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


def test_a_dump_while_devices_upload_is_a_moment_of_them_all(cluster, used, tmp_path):
    """Every upload that the copy has is there whole, and nothing is there in part."""
    done = threading.Event()

    def write(device):
        own = type(used)(cluster, used.name)
        number = 0
        while not done.is_set():
            number += 1
            pk = f"550e8400-e29b-41d4-a716-{device:04d}{number:08d}"
            answer = upload(own, f"user {device % 2}", f"device {device}", [
                user_change(2 * number - 1, "INSERT", pk, 0, name="N", email=pk),
                {**user_change(2 * number, "INSERT", pk, 0, author_id=pk, title="T"), "table": "posts"}])
            assert {status["status"] for status in answer["statuses"]} == {"applied"}, answer
        own.close()
        return number

    copy = cluster.database(template="template0")
    try:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(write, device) for device in range(3)]
            try:
                for _ in range(3):
                    parallel(cluster, cluster.dsn(used.name), cluster.dsn(copy.name),
                             str(tmp_path / copy.name))
                    assert copy.rows("SELECT * FROM rowsync.verify()") == []
                    assert copy.rows("""
                        SELECT count(*) FROM business.users u LEFT JOIN business.posts p USING (id)
                         WHERE u.email = u.id::text AND p.id IS NULL""") == [(0,)]
                    copy.drop()
                    copy = cluster.database(template="template0")
            finally:
                done.set()
            assert all(writer.result() > 10 for writer in writers)
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
    assert used.value("SELECT rowsync.declare_restored('ann')") == 1
    second = json.loads(used.value("SELECT rowsync.download('ann', 'tablet')"))
    assert used.value("SELECT rowsync.declare_restored()") == 2
    third = json.loads(used.value("SELECT rowsync.download('ann', 'tablet')"))
    assert first["epoch"] < second["epoch"] < third["epoch"]
    assert json.loads(used.value("SELECT rowsync.download('bob', 'tablet')"))["epoch"] == third["epoch"]
