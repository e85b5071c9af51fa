"""A server that was restored from a backup: what devices know of its lost history comes back, or is kept."""

import json
import subprocess
import tempfile
import uuid

import pytest
from client_parts import add_user, everything, key, name_of


def tool(database, name, *arguments):
    """Runs one of PostgreSQL's own programs."""
    done = subprocess.run([database.cluster.bin / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def backup(database, tmp_path):
    """`backup()` dumps the database; what it returns puts the database back to that, under its name, and declares it."""
    def dump():
        path = tempfile.mktemp(dir=tmp_path)
        tool(database, "pg_dump", "-Fc", "-f", path, database.dsn)

        def restore(declare=True):
            database.drop()
            database.cluster.database("template0", database.name)
            tool(database, "pg_restore", "--exit-on-error", "-d", database.dsn, path)
            return database.value("SELECT rowsync.declare_restored()") if declare else None
        return restore
    return dump


@pytest.fixture
def ahead(device, backup):
    """`ahead("ann", …)`: a phone that has uploaded these users, which are in a backup, and then an edit of the first
    one, which is not. `later` does something else in its place. With the phone comes what restores the backup."""
    def build(*names, policy="server", later=lambda phone: edit(phone, "ann", "phone")):
        phone = device("ann", "phone")
        phone.run("track", "users", "--schema", "business", "--policy", policy)
        for name in names:
            add_user(phone, name)
        phone.sync()
        restore = backup()
        later(phone)
        phone.sync()
        return phone, restore
    return build


def edit(device, user, name, updated=2):
    """The app changes two columns of a user."""
    device.rows("UPDATE users SET name = ?, updated_at = ? WHERE id = ?", (name, updated, key(user)))


def cron(database, user, name):
    """Something on the server changes the name of a user."""
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("UPDATE business.users SET name = %s WHERE id = %s", name, key(user))


def heads(database):
    """Where the log stood when each epoch of the one scope began; epochs count up."""
    (epoch, epochs), = database.rows("SELECT epoch, epochs FROM rowsync.scope")
    assert epochs[::2] == sorted(set(epochs[::2])) and epochs[-2] == epoch
    return epochs[1::2]


def test_a_backup_from_before_the_first_upload(device, database, backup):
    """A device that has only pushed knows of the log by the answer to that."""
    phone = device("ann", "phone")
    phone.sync()
    restore = backup()
    add_user(phone, "ann")
    phone.run("push")
    restore()
    database.rows("SELECT rowsync.declare_restored()")
    add_user(phone, "bob")
    phone.sync()
    assert sorted(database.rows("SELECT name FROM business.users")) == [("ann",), ("bob",)]
    phone.run("verify", "--server")


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("policy, row", [
    ("server", ("cron", 1)), ("client", ("phone", 2)), ("merge", ("cron", 2)), ("manual", ("phone", 2))])
def test_a_lost_edit_meets_one_of_the_restored_server(device, database, ahead, policy, row, pending):
    """The phone's edit was acknowledged as version 2, and what the server did later is version 2 too.

    Pending: what the phone uploads next was made on that version 2.
    """
    (phone, restore), tablet = ahead("ann", policy=policy), device("ann", "tablet")
    if pending:
        edit(phone, "ann", "phone", 3)
        row = (row[0], 3 if row[1] == 2 else row[1])
    assert restore() == 1
    cron(database, "ann", "cron")
    assert heads(database) == [0, 1]
    done = phone.run("sync", "--json", check=False)
    report = json.loads(done.stdout)
    assert phone.rows("SELECT name, updated_at FROM users") == [row]
    kept = [json.loads(payload) for (payload,) in phone.rows("SELECT payload FROM _sync_overwritten")]
    if policy == "manual":
        assert done.returncode == 3
        (conflict,) = json.loads(phone.run("conflicts", "--json", check=False).stdout)
        assert json.loads(conflict["local_payload"])["name"] == "phone"
        assert json.loads(conflict["server_payload"])["name"] == "cron"
        phone.run("resolve", "users", key("ann"), "--policy", "client")
        phone.sync()
    elif policy == "client":
        assert kept == []
    else:
        assert [(one["name"], one["updated_at"]) for one in kept] == [("phone", 2 + pending)]
        assert report["overwritten"] == 1
    tablet.sync()
    phone.sync()
    assert everything(phone) == everything(tablet)
    assert phone.rows("SELECT * FROM _sync_pending") == []
    assert phone.run("verify", "--server").returncode == 0


def test_what_was_lost_comes_back(device, database, backup):
    """Rows made, changed and deleted after the backup; one of them made the same on both sides."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for name in ("changed", "deleted", "left", "same"):
        add_user(phone, name)
    for one in (phone, tablet):
        one.sync()
    restore = backup()
    add_user(phone, "made")
    edit(phone, "changed", "phone's")
    edit(phone, "same", "agreed", 1)
    phone.rows("DELETE FROM users WHERE id = ?", (key("deleted"),))
    phone.sync()
    restore()
    cron(database, "left", "cron's")
    cron(database, "same", "agreed")
    add_user(tablet, "new")
    for one in (tablet, phone, tablet):
        one.sync()
    assert sorted(phone.rows("SELECT name FROM users")) == [
        ("agreed",), ("cron's",), ("made",), ("new",), ("phone's",)]
    assert everything(phone) == everything(tablet)
    assert phone.rows("SELECT * FROM _sync_overwritten") == []
    assert database.value("SELECT count(*) FROM business.users") == 5
    assert database.value("SELECT max(version) FROM rowsync.row_history('business.users', %s)",
                          key("same")) == 6, "what both sides have is not sent"


@pytest.mark.parametrize("policy, edited", [("server", False), ("manual", False), ("merge", True)])
def test_a_row_deleted_before_the_backup_and_made_again_after_it(device, database, backup, policy, edited):
    """The tombstone in the backup is known to the phone: it is nobody's edit, and no conflict."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for one in (phone, tablet):
        one.run("track", "users", "--schema", "business", "--policy", policy)
    add_user(phone, "ann")
    for one in (phone, tablet):
        one.sync()
    tablet.rows("DELETE FROM users")
    for one in (tablet, phone):
        one.sync()
    restore = backup()
    add_user(phone, "ann", "again@sync.example")
    for one in (phone, tablet):
        one.sync()
    if edited:
        edit(phone, "ann", "edited")
    restore()
    for one in (phone, tablet, phone) if not edited else (phone, phone):
        one.sync()
    assert database.rows("SELECT name, email FROM business.users") == [
        ("edited" if edited else "ann", "again@sync.example")]
    for one in (phone, tablet) if not edited else (phone,):
        assert name_of(one, "ann") == ("edited" if edited else "ann")
        assert one.rows("SELECT payload FROM _sync_overwritten") == []
        assert one.run("verify", "--server").returncode == 0


def test_deletions_on_either_side_of_a_backup(device, database, backup):
    """Rows that others deleted on the restored server go; a lost deletion does not outlive its row."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    phone.run("track", "users", "--schema", "business", "--policy", "client")
    for name in ("kept", "gone"):
        add_user(phone, name)
    for one in (phone, tablet):
        one.sync()
    restore = backup()
    add_user(phone, "short")
    phone.sync()
    phone.rows("DELETE FROM users WHERE id = ?", (key("short"),))
    phone.sync()
    restore()
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("DELETE FROM business.users WHERE id = %s", key("gone"))
    phone.sync()
    assert [name for (name,) in phone.rows("SELECT name FROM users")] == ["kept"]
    add_user(tablet, "short")
    for one in (tablet, phone):
        one.sync()
    assert name_of(phone, "short") == "short", "its version is below that of the lost deletion"
    assert everything(phone) == everything(tablet)
    assert phone.rows("SELECT payload FROM _sync_overwritten") == []
    assert database.value("SELECT count(*) FROM business.users") == 2


def test_a_restore_that_nobody_declared(database, ahead):
    """The log ends before the place up to which the phone has read it: nothing is done until it is declared."""
    phone, restore = ahead("ann")
    restore(declare=False)
    before = everything(phone)
    for command in (("sync",), ("pull",), ("verify", "--server")):
        refused = phone.run(*command, check=False)
        assert refused.returncode == 1
        assert "The server's log ends at 1, this database has read it up to 2." in refused.stderr
        assert "rowsync.declare_restored()" in refused.stderr
    assert everything(phone) == before
    database.rows("SELECT rowsync.declare_restored()")
    phone.sync()
    assert database.value("SELECT name FROM business.users") == "phone"


def test_nothing_is_uploaded_before_it_is_declared(database, ahead):
    """An edit on a version that the server has lost, and one of a row that it knows."""
    phone, restore = ahead("ann", "bea")
    restore(declare=False)
    phone.rows("UPDATE users SET updated_at = 3")
    for command in ("sync", "push"):
        refused = phone.run(command, check=False)
        assert refused.returncode == 1 and "rowsync.declare_restored()" in refused.stderr
    assert database.value("SELECT head FROM rowsync.scope") == 2
    database.rows("SELECT rowsync.declare_restored()")
    phone.run("push")
    assert sorted(database.rows("SELECT name, updated_at FROM business.users")) == [("bea", 3), ("phone", 3)]


def test_one_backup_restored_twice(device, database, backup):
    """What came after the first restore is lost as well; the number of an epoch is not used again."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for name in ("ann", "bea"):
        add_user(phone, name)
    phone.sync()
    restore = backup()
    restore()
    phone.sync()
    edit(phone, "ann", "phone")
    phone.sync()
    restore()
    assert heads(database) == [0, 2]
    cron(database, "bea", "cron")
    for one in (phone, tablet):
        one.sync()
    assert sorted(tablet.rows("SELECT name FROM users")) == [("cron",), ("phone",)]
    assert everything(phone) == everything(tablet)
    assert phone.run("verify", "--server").returncode == 0


def test_the_wrong_backup_first(device, database, backup):
    """The older of two backups, then the newer: what both sides know ends at the older one."""
    phone = device("ann", "phone")
    add_user(phone, "ann")
    phone.sync()
    older = backup()
    cron(database, "ann", "cron")
    newer = backup()
    older()
    phone.sync()
    edit(phone, "ann", "phone")
    phone.sync()
    newer()
    assert heads(database) == [0, 2]
    phone.sync()
    assert name_of(phone, "ann") == "cron"
    assert [json.loads(payload)["name"] for (payload,) in phone.rows(
        "SELECT payload FROM _sync_overwritten")] == ["phone"]


@pytest.mark.parametrize("first", ["phone", "tablet"])
def test_a_backup_from_before_the_user_was_there(device, database, backup, first):
    """The scope begins anew, and nobody needs to declare anything. Whoever comes first has the rows; what the
    other one has of them is kept where it differs."""
    restore = backup()
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for name in ("ann", "bea"):
        add_user(phone, name)
    for one in (phone, tablet):
        one.sync()
    restore(declare=False)
    edit(phone, "ann", "phone")
    add_user(tablet, "new")
    if first == "tablet":
        tablet.sync()
    for one in (phone, tablet, phone):
        one.sync()
    won, lost = ("phone", "ann") if first == "phone" else ("ann", "phone")
    assert {name for (name,) in database.rows("SELECT name FROM business.users")} == {won, "bea", "new"}
    assert everything(phone) == everything(tablet)
    assert heads(database) == [0]
    second = tablet if first == "phone" else phone
    assert [json.loads(payload)["name"] for (payload,) in second.rows(
        "SELECT payload FROM _sync_overwritten")] == [lost]
    for one in (phone, tablet):
        assert one.run("verify", "--server").returncode == 0


@pytest.mark.parametrize("told", [False, True])
def test_declared_late(device, database, backup, told):
    """Devices have gone on with the restored server. A lost edit of a row that was written since gives way,
    unless one says since when."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for name in ("ann", "bea", "carl"):
        add_user(phone, name)
    for one in (phone, tablet):
        one.sync()
    restore = backup()
    edit(phone, "ann", "phone")
    edit(phone, "carl", "phone's carl")
    phone.sync()
    restore(declare=False)
    restored_at = database.value("SELECT clock_timestamp()")
    edit(tablet, "ann", "tablet")
    tablet.sync()
    for name in ("bea", "bea's"):
        cron(database, "bea", name)
    phone.sync()
    database.rows("SELECT rowsync.declare_restored(restored_at => %s)", restored_at if told else None)
    assert heads(database) == [0, 3 if told else 6]
    for one in (phone, tablet, phone):
        one.sync()
    assert everything(phone) == everything(tablet)
    assert set(phone.rows("SELECT name FROM users")) == {
        ("tablet",), ("bea's",), ("phone's carl",)}
    assert [json.loads(payload)["name"] for (payload,) in phone.rows(
        "SELECT payload FROM _sync_overwritten")] == (["phone"] if told else [])
    assert phone.run("verify", "--server").returncode == 0


def test_a_new_hydration_of_a_restored_server(database, ahead):
    """Asked for before anything else has told that it was restored."""
    phone, restore = ahead("ann", later=lambda phone: add_user(phone, "made"))
    restore(declare=False)
    refused = phone.run("hydrate", check=False)
    assert refused.returncode == 1 and "rowsync.declare_restored()" in refused.stderr
    database.rows("SELECT rowsync.declare_restored()")
    phone.run("hydrate")
    assert name_of(phone, "made") == "made"
    phone.sync()
    assert database.value("SELECT count(*) FROM business.users") == 2


def test_restored_twice_before_the_device_comes(database, ahead, backup):
    """What both know ends at the older of the two backups."""
    phone, restore = ahead("ann")
    restore()
    cron(database, "ann", "cron")
    backup()()
    assert heads(database) == [0, 1, 2]
    phone.sync()
    assert name_of(phone, "ann") == "cron"
    assert [json.loads(payload)["name"] for (payload,) in phone.rows(
        "SELECT payload FROM _sync_overwritten")] == ["phone"]


@pytest.mark.parametrize("how, row", [("server", "cron"), ("client", "phone"), (None, "phone")])
def test_a_conflict_that_stands_while_the_server_is_restored(device, database, backup, how, row):
    """What it was with is lost: it is a conflict with what the server has now, or none any more."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    phone.run("track", "users", "--schema", "business", "--policy", "manual")
    add_user(phone, "ann")
    for one in (phone, tablet):
        one.sync()
    restore = backup()
    edit(tablet, "ann", "lost")
    tablet.sync()
    edit(phone, "ann", "phone")
    assert phone.run("sync", check=False).returncode == 3
    restore()
    if how:
        cron(database, "ann", "cron")
    assert phone.run("sync", check=False).returncode == (3 if how else 0)
    if how:
        (conflict,) = json.loads(phone.run("conflicts", "--json", check=False).stdout)
        assert json.loads(conflict["local_payload"])["name"] == "phone"
        assert json.loads(conflict["server_payload"])["name"] == "cron"
        phone.run("resolve", "users", key("ann"), "--policy", how)
        phone.sync()
    assert name_of(phone, "ann") == row
    assert database.rows("SELECT name FROM business.users") == [(row,)]
    assert phone.run("verify", "--server").returncode == 0


MEMO = """
CREATE TABLE business.memo (id uuid PRIMARY KEY, a text, b text, done boolean NOT NULL DEFAULT false);
SELECT rowsync.register_table('business.memo');
GRANT SELECT, INSERT, UPDATE, DELETE ON business.memo TO business_gateway"""


@pytest.fixture
def memos(device, database):
    """`memos("client")`: a phone whose table is stricter than the server's, and a tablet, with a row that both have."""
    for statement in MEMO.split(";"):
        database.rows(statement)

    def make(policy):
        phone, tablet = device("ann", "phone"), device("ann", "tablet")
        for one, check in ((phone, " CHECK (length(a) < 3)"), (tablet, "")):
            one.rows(f"CREATE TABLE memo (id TEXT PRIMARY KEY NOT NULL, a TEXT{check}, b TEXT, done INTEGER DEFAULT 0)")
            one.run("track", "memo", "--schema", "business", "--policy", policy)
        phone.rows("INSERT INTO memo VALUES (?, '1', 'x', 0)", (key("m"),))
        for one in (phone, tablet):
            one.sync()
        return phone, tablet
    return make


def write(one, columns):
    """The app edits all memos, and the device syncs."""
    one.rows(f"UPDATE memo SET {columns}")
    return one.sync(check=False)


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("policy", ["client", "merge"])
def test_an_edit_of_a_held_row_that_the_server_took_and_lost(memos, database, backup, policy, pending):
    """It is sent again, alone; edits that the backup has are not, and nothing of others beside it."""
    phone, tablet = memos(policy)
    write(tablet, "a = 'long'")
    assert write(phone, "done = 1")["held"] == 1
    tablet.sync()
    restore = backup()
    write(phone, "b = 'mine'")
    if pending:
        phone.rows("UPDATE memo SET b = 'more'")
    restore()
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("UPDATE business.memo SET a = 'longer'")
    assert phone.sync(check=False)["held"] == 1
    assert database.rows("SELECT a, b, done FROM business.memo") == [
        ("longer", "more" if pending else "mine", True)]
    assert phone.rows("SELECT payload FROM _sync_overwritten") == []
    database.rows("UPDATE business.memo SET a = '2'")
    for one in (phone, tablet):
        one.sync()
    assert phone.rows("SELECT * FROM memo") == tablet.rows("SELECT * FROM memo")
    for one in (phone, tablet):
        assert one.run("verify", "--server").returncode == 0


def test_a_held_row_that_nobody_edited_here(memos, database, backup):
    """What others wrote, and lost, is not sent from here, over what they wrote after the restore."""
    phone, tablet = memos("client")
    restore = backup()
    write(tablet, "a = 'long', b = 'lost'")
    phone.sync(check=False)
    restore()
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("UPDATE business.memo SET b = 'new'")
    phone.sync()
    assert database.rows("SELECT a, b FROM business.memo") == phone.rows("SELECT a, b FROM memo") == [("1", "new")]


@pytest.mark.parametrize("freed", [False, True])
def test_a_held_row_that_is_in_no_table(memos, database, backup, freed):
    """The phone cannot store it, and the restored server has lost it: it is sent as new once it can, else kept."""
    phone, tablet = memos("server")
    restore = backup()
    tablet.rows("INSERT INTO memo VALUES (?, 'long', 'new', 0)", (key("new"),))
    tablet.sync()
    assert phone.sync(check=False)["held"] == 1
    if freed:
        phone.app.executescript("""DROP VIEW _sync_pending; CREATE TABLE two (id TEXT PRIMARY KEY NOT NULL, a TEXT, b TEXT,
            done INTEGER DEFAULT 0); INSERT INTO two SELECT * FROM memo; DROP TABLE memo; ALTER TABLE two RENAME TO memo""")
    restore()
    phone.sync()
    assert [b for b, in database.rows("SELECT b FROM business.memo ORDER BY b")] == ["new"] * freed + ["x"]
    assert [json.loads(payload)["b"] for payload, in phone.rows("SELECT payload FROM _sync_overwritten")] == (
        [] if freed else ["new"])
    tablet.sync()
    phone.sync(check=False)
    assert len(tablet.rows("SELECT * FROM memo")) == 2


@pytest.mark.parametrize("policy", ["server", "client"])
def test_a_lost_row_whose_parent_was_deleted_since_the_restore(device, database, backup, policy):
    """The review is known to the phone alone, and cannot be sent without its file, which takes it along: it is kept."""
    phone = device("ann", "phone")
    for table in ("files", "file_reviews"):
        phone.run("track", table, "--schema", "business", "--policy", policy)
    ids = {name: uuid.uuid5(uuid.NAMESPACE_URL, name).bytes for name in ("gone", "kept", "lost", "sent")}
    for name in ("gone", "kept"):
        phone.rows("INSERT INTO files VALUES (?, ?, x'')", (ids[name], name))
    phone.sync()
    restore = backup()
    for name, file in (("lost", "gone"), ("sent", "kept")):
        phone.rows("INSERT INTO file_reviews VALUES (?, ?, ?)", (ids[name], ids[file], name))
    phone.sync()
    restore()
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("DELETE FROM business.files WHERE name = 'gone'")
    for _ in range(2):
        phone.sync()
    assert database.rows("SELECT review FROM business.file_reviews") == phone.rows(
        "SELECT review FROM file_reviews") == [("sent",)]
    assert [(op, json.loads(payload)["review"]) for op, payload in phone.rows(
        "SELECT op, payload FROM _sync_overwritten")] == [("INSERT", "lost")]
    assert phone.run("verify", "--server").returncode == 0
