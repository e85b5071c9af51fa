"""A server that was restored from a backup: what devices know of its lost history comes back, or is kept."""

import json
import subprocess

import pytest
from client_parts import add_user, everything, key, name_of


def tool(database, name, *arguments):
    """Runs one of PostgreSQL's own programs."""
    done = subprocess.run([database.cluster.bin / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def backup(database, tmp_path):
    """`backup()` dumps the database; what it returns puts the database back to that, under its name."""
    def dump():
        path = str(tmp_path / "backup")
        tool(database, "pg_dump", "-Fc", "-f", path, database.dsn)

        def restore():
            database.drop()
            database.cluster.database("template0", database.name)
            tool(database, "pg_restore", "--exit-on-error", "-d", database.dsn, path)
        return restore
    return dump


def edit(device, user, name, updated=2):
    """The app changes two columns of a user."""
    device.rows("UPDATE users SET name = ?, updated_at = ? WHERE id = ?", (name, updated, key(user)))


def cron(database, user, name):
    """Something on the server changes the name of a user."""
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("UPDATE business.users SET name = %s WHERE id = %s", name, key(user))


@pytest.mark.parametrize("policy, row", [
    ("server", ("cron", 1)), ("client", ("phone", 2)), ("merge", ("cron", 2)), ("manual", ("phone", 2))])
def test_a_lost_edit_meets_one_of_the_restored_server(device, database, backup, policy, row):
    """The phone's edit was acknowledged as version 2, and what the server did later is version 2 too."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    phone.run("track", "users", "--schema", "business", "--policy", policy)
    add_user(phone, "ann")
    phone.sync()
    restore = backup()
    edit(phone, "ann", "phone")
    phone.sync()
    restore()
    assert database.value("SELECT rowsync.declare_restored()") == 1
    cron(database, "ann", "cron")
    assert database.rows("SELECT head, epoch, restores FROM rowsync.scope") == [(2, 2, [1])]
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
        assert [(one["name"], one["updated_at"]) for one in kept] == [("phone", 2)]
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
    database.rows("SELECT rowsync.declare_restored()")
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
    database.rows("SELECT rowsync.declare_restored()")
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
    database.rows("SELECT rowsync.declare_restored()")
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


def test_a_restore_that_nobody_declared(device, database, backup):
    """The log ends before the place up to which the phone has read it: nothing is done until it is declared."""
    phone = device("ann", "phone")
    add_user(phone, "ann")
    phone.sync()
    restore = backup()
    edit(phone, "ann", "phone")
    phone.sync()
    restore()
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


def test_restored_twice_before_the_device_comes(device, database, backup):
    """What both know ends at the older of the two backups."""
    phone = device("ann", "phone")
    add_user(phone, "ann")
    phone.sync()
    restore = backup()
    edit(phone, "ann", "phone")
    phone.sync()
    restore()
    database.rows("SELECT rowsync.declare_restored()")
    cron(database, "ann", "cron")
    backup()()
    database.rows("SELECT rowsync.declare_restored()")
    assert database.value("SELECT restores FROM rowsync.scope") == [1, 2]
    phone.sync()
    assert name_of(phone, "ann") == "cron"
    assert [json.loads(payload)["name"] for (payload,) in phone.rows(
        "SELECT payload FROM _sync_overwritten")] == ["phone"]
