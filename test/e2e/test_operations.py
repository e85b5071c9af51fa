"""What docs/operations.md promises: pg_upgrade, logical replication, the line for cron."""

import json
import re
import subprocess
import time

import pytest

import rig
from rig import process

DOCS = (rig.ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def prepare(database):
    """Makes the table that these tests sync."""
    database.rows("CREATE EXTENSION rowsync")
    database.rows("CREATE TABLE note (id text PRIMARY KEY, body text, owner text)")
    database.rows("SELECT rowsync.register_table('note', 'owner')")


def upload(database, number, version, **payload):
    """The status of ann's phone writing to her note."""
    answer = database.value("SELECT rowsync.upload('ann', 'phone', %s)", json.dumps({"changes": [
        {"source_change_id": number, "table": "note", "op": "UPDATE", "pk": "a",
         "server_version": version, "payload": payload}]}))
    (status,) = json.loads(answer)["statuses"]
    return status["status"], status.get("new_server_version")


@pytest.fixture
def start_cluster(request):
    """Starts servers of this test's own."""
    started = []

    def start(name, **settings):
        started.append(rig.Cluster.start(name, fsync="off", **settings))
        return started[-1]

    yield start
    for server in started:
        server.stop(failed=request.session.testsfailed > 0)


def test_pg_upgrade(start_cluster):
    """From and to the same version of PostgreSQL: what matters is that data files move, not dumps."""
    old, new = start_cluster("upgrade-old"), start_cluster("upgrade-new")
    database = rig.Database(old, "postgres")
    prepare(database)
    assert upload(database, 1, 0, body="A") == ("applied", 1)
    database.close()
    old.stop_server()
    new.stop_server()
    log = old.place.path / "pg_upgrade.log"
    with open(log, "wb") as output:
        done = process.spawn(
            [old.bin / "pg_upgrade", "-b", old.bin, "-B", old.bin, "-d", old.data, "-D", new.data,
             "-U", "postgres", "-s", old.sockets, "--no-sync"],
            user=old.place.user, cwd=old.place.folder("pg_upgrade"), stdout=output,
            stderr=subprocess.STDOUT)
    assert done.wait() == 0, log.read_text()
    new.start_server()
    database = rig.Database(new, database.name)
    assert database.rows("SELECT * FROM rowsync.verify()") == []
    assert upload(database, 1, 0, body="A") == ("applied", 1)
    assert upload(database, 2, 1, body="B") == ("applied", 2)
    assert database.rows("SELECT * FROM rowsync.verify()") == []
    database.close()


def test_logical_replication_is_captured_where_the_trigger_always_fires(start_cluster, empty_database):
    subscriber = empty_database
    publisher = start_cluster("publisher", wal_level="logical").database()
    publisher.rows("CREATE TABLE note (id text PRIMARY KEY, body text, owner text)")
    prepare(subscriber)
    subscriber.rows("ALTER TABLE note ENABLE ALWAYS TRIGGER _rowsync_capture")
    publisher.rows("CREATE PUBLICATION notes FOR TABLE note")
    publisher.rows("INSERT INTO note VALUES ('a', 'before', 'ann')")
    subscriber.rows("CREATE SUBSCRIPTION notes CONNECTION %s PUBLICATION notes",
                    publisher.cluster.dsn(publisher.name))
    try:
        for statement in ("INSERT INTO note VALUES ('b', 'new', 'ann')",
                          "UPDATE note SET body = 'changed' WHERE id = 'a'",
                          "DELETE FROM note WHERE id = 'b'", "INSERT INTO note VALUES ('c', 'last', 'bob')"):
            publisher.rows(statement)
        while not subscriber.rows("SELECT 1 FROM note WHERE id = 'c'"):
            time.sleep(0.05)
        assert subscriber.rows("SELECT * FROM rowsync.verify()") == []
        assert subscriber.rows("SELECT scope, key, deleted FROM rowsync.row_version ORDER BY 2") in (
            [("ann", "a", False), ("ann", "b", True), ("bob", "c", False)],
            # The first copy may have come when the row had gone again.
            [("ann", "a", False), ("bob", "c", False)])
    finally:
        subscriber.rows("DROP SUBSCRIPTION notes")


def test_the_lines_for_cron(empty_database):
    database = empty_database
    prepare(database)
    assert upload(database, 1, 0, body="A") == ("applied", 1)
    assert upload(database, 2, 1, body="B") == ("applied", 2)
    database.rows("UPDATE rowsync.change_log SET ts = ts - interval '40 days'")
    database.rows("UPDATE rowsync.source SET last_seen = last_seen - interval '100 days'")
    lines = re.findall(r"^.*psql -X.*$", DOCS, re.MULTILINE)
    assert len(lines) == 2

    def run(line):
        """One of the lines, as the role that the page makes for them."""
        dsn = database.cluster.dsn(database.name, "dba")
        line = line.replace("psql ", f"{database.cluster.bin}/psql ").replace("-d app", f"-d '{dsn}'")
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    database.rows("CREATE ROLE dba LOGIN")
    try:
        for line in lines:
            assert run(line).returncode != 0
        grant, = re.findall(r"`(SELECT rowsync.grant_operator[^`]*)`", DOCS)
        database.rows(grant)
        for line in lines:
            done = run(line)
            assert done.returncode == 0 and done.stderr == "", done.stderr
        assert database.value("SELECT floor FROM rowsync.scope WHERE name = 'ann'") == 2

        # And what the page says of the history of a row.
        database.rows("CREATE SCHEMA business")
        database.rows("ALTER TABLE note SET SCHEMA business")
        history = "psql -X -A -t -v ON_ERROR_STOP=1 -d app -c \"SELECT version FROM rowsync.row_history('business.note', 'a')\""
        assert "permission denied for schema business" in run(history).stderr
        (grants,) = re.findall(r"^GRANT USAGE ON SCHEMA business TO dba;.*?(?=^```)", DOCS, re.MULTILINE | re.DOTALL)
        database.psql("-c", grants)
        assert run(history).stdout == "2\n"
        done = run(history.replace("SELECT version FROM rowsync.row_history('business.note', 'a')",
                                   "SELECT rowsync.restore_row('business.note', 'a', 2)"))
        assert done.returncode == 0, done.stderr
    finally:
        database.rows("DROP OWNED BY dba")
        database.rows("DROP ROLE dba")


def test_old_and_new_apps_while_the_tables_change(database, device):
    """The table of "Changing the tables", line by line; `old` and `new` are two versions of an app."""
    database.rows("CREATE TABLE business.task (id text PRIMARY KEY, title text NOT NULL)")
    database.rows("SELECT rowsync.register_table('business.task')")
    database.rows("GRANT ALL ON business.task TO business_gateway")
    old, new = device("ann", "old"), device("ann", "new")
    for one in (old, new):
        one.app.execute("CREATE TABLE task (id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL)")
        one.run("track", "task", "--schema", "business")
    old.rows("INSERT INTO task VALUES ('a', 'A')")
    old.sync()
    new.sync()

    def reasons(one):
        """Why changes of this device were refused; they are sent again by the next sync."""
        found = [row["reason"] for row in json.loads(one.run("rejected", "--json", check=False).stdout)]
        one.run("requeue")
        return found

    # A column comes: too early on a device, then on the server.
    new.app.execute("ALTER TABLE task ADD COLUMN stars INTEGER")
    new.rows("UPDATE task SET stars = 5")
    new.run("sync", check=False)
    assert reasons(new) == ["bad_payload"]
    database.rows("ALTER TABLE business.task ADD COLUMN stars integer NOT NULL DEFAULT 3")
    assert new.sync()["statuses"] == {"conflict": 1}, "the default has changed every row"
    new.rows("UPDATE task SET stars = 5")
    new.sync()
    old.rows("INSERT INTO task VALUES ('b', 'B')")
    old.sync()
    new.sync()
    assert new.rows("SELECT * FROM task ORDER BY id") == [("a", "A", 5), ("b", "B", 3)]
    database.rows("ALTER TABLE business.task ALTER stars DROP DEFAULT")
    old.rows("INSERT INTO task VALUES ('c', 'C')")
    old.run("sync", check=False)
    assert reasons(old) == ["constraint"]

    # A column goes: `new` is now the app that has it still.
    database.rows("ALTER TABLE business.task DROP COLUMN stars")
    assert old.sync()["statuses"] == {"applied": 1}
    new.rows("UPDATE task SET title = 'A of new' WHERE id = 'a'")
    assert new.sync()["statuses"] == {"applied": 1}
    new.rows("INSERT INTO task VALUES ('d', 'D', 1)")
    new.rows("UPDATE task SET stars = 1 WHERE id = 'a'")
    new.run("sync", check=False)
    assert reasons(new) == ["bad_payload", "bad_payload"]
    new.run("track", "task", "--local", "stars")
    report = new.sync()
    assert (report["statuses"], report["pending"]) == ({"applied": 1}, 0), "nothing is left of the edit"
    assert new.rows("SELECT stars FROM task WHERE id = 'd'") == [(1,)]

    # A table comes, and goes.
    database.rows("CREATE TABLE business.label (id text PRIMARY KEY)")
    database.rows("SELECT rowsync.register_table('business.label')")
    database.rows("INSERT INTO business.label VALUES ('x', 'ann')")
    old.sync()
    new.sync()
    new.app.execute("CREATE TABLE label (id TEXT PRIMARY KEY NOT NULL)")
    new.run("track", "label", "--schema", "business")
    new.sync()
    assert new.rows("SELECT * FROM label") == [("x",)]
    new.rows("INSERT INTO label VALUES ('y')")
    new.run("sync", check=False)
    assert reasons(new) == ["forbidden"]
    database.rows("GRANT ALL ON business.label TO business_gateway")
    assert new.sync()["statuses"] == {"applied": 1}
    database.rows("DROP TABLE business.label")
    new.rows("INSERT INTO label VALUES ('z')")
    new.run("sync", check=False)
    assert reasons(new) == ["unregistered_table"]
    assert new.rows("SELECT * FROM label ORDER BY id") == [("x",), ("y",), ("z",)]
    new.run("untrack", "label", "--force")
    assert new.sync()["rejected"] == 0


@pytest.mark.parametrize("how", ["unregistered", "dropped"])
def test_a_table_that_is_registered_again(database, device, how):
    """What its rows became meanwhile reaches the devices, though nobody captured it."""
    phone, tablet, bob = (device("ann", "phone"), device("ann", "tablet"), device("bob", "bob"))
    create = ("CREATE TABLE business.item (id text PRIMARY KEY, body text, owner text);"
              "GRANT ALL ON business.item TO business_gateway")
    database.rows(create)
    database.rows("SELECT rowsync.register_table('business.item', 'owner')")
    database.rows("INSERT INTO business.item SELECT id, 'old', 'ann' FROM unnest("
                  "'{gone,edited,given,kept}'::text[]) AS id")
    for one in (phone, tablet, bob):
        one.app.execute("CREATE TABLE item (id TEXT PRIMARY KEY NOT NULL, body TEXT)")
        one.run("track", "item", "--schema", "business")
        one.sync()
    assert len(phone.rows("SELECT * FROM item")) == 4
    if how == "unregistered":
        database.rows("SELECT rowsync.unregister_table('business.item')")
        database.rows("DELETE FROM business.item WHERE id IN ('gone', 'edited')")
        database.rows("UPDATE business.item SET owner = 'bob' WHERE id = 'given'")
    else:
        database.rows("DROP TABLE business.item")
        database.rows(create)
        database.rows("INSERT INTO business.item VALUES ('kept', 'old', 'ann'),"
                      " ('given', 'old', 'bob')")
    phone.rows("UPDATE item SET body = 'new' WHERE id = 'edited'")
    phone.rows("INSERT INTO item VALUES ('own', 'new')")
    phone.run("sync", check=False)
    database.rows("SELECT rowsync.register_table('business.item', 'owner')")
    phone.run("requeue")
    for one in (phone, tablet, bob):
        one.sync()
    here = database.rows("SELECT id, body FROM business.item WHERE owner = 'ann' ORDER BY 1")
    assert here == [("edited", "new"), ("kept", "old"), ("own", "new")], "an edit is not lost"
    for one in (phone, tablet):
        assert one.rows("SELECT * FROM item ORDER BY 1") == here
    assert bob.rows("SELECT * FROM item") == [("given", "old")]
    assert database.rows("SELECT * FROM rowsync.verify()") == []


def test_removed_and_installed_again(database, device):
    """Nothing of rowsync is left on the server; installed again, nothing of the devices is lost."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add = "INSERT INTO users (id, name, email) VALUES (?, ?, ?)"
    keys = [f"550e8400-e29b-41d4-a716-44665544000{n}" for n in range(3)]
    phone.rows(add, (keys[0], "Ann", "a"))
    for one in (phone, tablet):
        one.sync()
    phone.rows(add, (keys[1], "Bea", "b"))
    registered = [name for (name,) in database.rows("SELECT table_name::text FROM rowsync.table_status")]
    (steps,) = re.findall(r"```sql\n(SELECT rowsync.unregister_table.*?)```", DOCS, re.DOTALL)
    database.psql("-c", steps)
    assert database.rows("SELECT name FROM business.users") == [("Ann",)]
    for catalog, name in (("pg_class", "relname"), ("pg_proc", "proname"), ("pg_trigger", "tgname"),
                          ("pg_event_trigger", "evtname"), ("pg_namespace", "nspname")):
        assert database.rows(f"SELECT {name} FROM {catalog} WHERE {name} LIKE '%rowsync%'") == []
    assert phone.run("sync", check=False).returncode == 1
    assert phone.status()["pending"] == 1

    database.rows("CREATE EXTENSION rowsync")
    database.rows("SELECT rowsync.grant_gateway('business_gateway')")
    for name in registered:
        database.rows(f"SELECT rowsync.register_table('{name}')")
    database.rows("UPDATE business.users SET _rowsync_scope = 'ann'")
    tablet.rows(add, (keys[2], "Cy", "c"))
    for one in (phone, tablet, phone):
        one.sync()
    for one in (phone, tablet):
        assert one.rows("SELECT name FROM users ORDER BY 1") == [("Ann",), ("Bea",), ("Cy",)]
        one.run("verify", "--server")
    assert database.rows("SELECT * FROM rowsync.verify()") == []
