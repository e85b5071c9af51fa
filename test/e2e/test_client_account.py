"""The client as users come and go: sign-in and sign-off, a new installation."""

import json

import pytest
import rig
from client_parts import add_post, add_user, everything, key, name_of, push_unheard


@pytest.mark.parametrize("command", ["sync", "push"])
def test_an_app_that_writes_before_its_first_sync(device, database, command):
    """Installed again under its old source id: what the server has is no edit of its own to be replaced."""
    phone = device("ann", "phone")
    add_user(phone, "ann")
    phone.rows("UPDATE users SET name = 'kept'")
    phone.sync()
    again = device("ann", "phone")
    add_user(again, "ann")
    add_user(again, "new")
    again.run(command)
    again.sync()
    assert name_of(again, "ann") == "kept"
    assert sorted(database.rows("SELECT name FROM business.users")) == [("kept",), ("new",)]
    ((pk, payload),) = again.rows("SELECT pk_uuid, payload FROM _sync_overwritten")
    assert (pk, json.loads(payload)["name"]) == (key("ann"), "ann")


def test_a_token_of_another_user(device, database):
    phone, other = device("ann", "phone"), device("bob", "phone")
    phone.sync()
    add_user(phone, "ann")
    phone._token = other.mint()
    done = phone.run("sync", check=False)
    assert (done.returncode, 'The token is of user "bob"' in done.stderr) == (1, True), done.stderr
    assert database.value("SELECT count(*) FROM business.users") == 0


@pytest.mark.parametrize("left", [
    "SELECT RAISE(IGNORE)", "INSERT INTO users SELECT hex(randomblob(9)), 'gone', OLD.id, 1, 1"])
def test_a_trigger_that_keeps_deleted_rows_lets_nobody_sign_off(device, left):
    """The next user would see them. One that knows when rows come and go of themselves is no harm."""
    phone = device("ann", "phone")
    add_user(phone, "ann")
    phone.sync()
    trigger = "CREATE TRIGGER keep BEFORE DELETE ON users %s BEGIN " + left + "; END"
    phone.app.execute(trigger % "")
    done = phone.run("detach", check=False)
    assert (done.returncode, 'leaves rows of the user in "users"' in done.stderr) == (1, True)
    assert name_of(phone, "ann") == "ann"
    phone.app.execute("DROP TRIGGER keep")
    phone.app.execute(trigger % "WHEN (SELECT apply_mode FROM _sync_client_info) = 0")
    phone.run("detach")
    assert phone.rows("SELECT * FROM users") == []


def test_sign_off_and_another_user(device):
    phone = device("ann", "phone")
    add_user(phone, "ann")
    refused = phone.run("attach", "--url", phone.url, "--user", "bob", check=False)
    assert refused.returncode == 1
    assert 'belongs to user "ann"' in refused.stderr
    assert phone.run("detach", check=False).returncode == 1
    phone.sync()
    phone.run("detach")
    assert phone.rows("SELECT * FROM users") == []
    assert phone.rows("SELECT * FROM _sync_pending") == []
    phone.user, phone._token = "bob", None
    phone.attach()
    phone.sync()
    assert phone.rows("SELECT * FROM users") == []
    phone.run("detach")
    phone.user, phone._token = "ann", None
    phone.attach()
    phone.sync()
    assert name_of(phone, "ann") == "ann"


def test_signing_off_with_references_that_forbid_it(device):
    """Children go before parents; rows of a table that is not synced keep all of it."""
    phone = device("ann", "phone")
    phone.app.executescript("""DROP VIEW _sync_pending; DROP TABLE posts; CREATE TABLE posts (id TEXT
        PRIMARY KEY, author_id TEXT REFERENCES users (id) ON DELETE RESTRICT, title TEXT, content TEXT,
        created_at INTEGER, updated_at INTEGER);
        CREATE TABLE drafts (id INTEGER PRIMARY KEY, u TEXT REFERENCES users (id))""")
    phone.status()
    add_user(phone, "ann")
    add_post(phone, "post", "ann")
    phone.sync()
    phone.rows("INSERT INTO drafts VALUES (1, ?)", (key("ann"),))
    done = phone.run("detach", check=False)
    assert (done.returncode, "a table that is not tracked refer" in done.stderr) == (1, True), done.stderr
    assert phone.value("SELECT count(*) FROM posts") == 1
    phone.rows("DELETE FROM drafts")
    phone.run("detach")
    assert phone.rows("SELECT id FROM users UNION ALL SELECT id FROM posts") == []


def test_rows_from_before_the_sign_in_are_the_first_users(device, database):
    """A guest writes, signs in, and what the guest wrote is the user's, beside what was there."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet", attached=False)
    add_user(phone, "ann")
    phone.sync()
    tablet.app.executescript(rig.device.BUSINESS.read_text())
    add_user(tablet, "guest")
    tablet.run("init")
    tablet.run("track", *rig.device.TABLES, "--schema", "business")
    add_post(tablet, "note", "guest")
    assert [row[0] for row in tablet.rows("SELECT op FROM _sync_pending")] == ["INSERT", "INSERT"]
    tablet.attach()
    assert tablet.sync()["statuses"] == {"applied": 2}
    phone.sync()
    assert everything(phone) == everything(tablet)
    assert sorted(database.rows("SELECT name FROM business.users")) == [("ann",), ("guest",)]


def test_reinstalled_with_the_same_source(device):
    """What the lost installation had uploaded arrives, and new edits get numbers of their own."""
    phone = device("ann", "phone")
    for name in "abc":
        add_user(phone, name)
    phone.sync()
    phone.rows("DELETE FROM users WHERE name = 'c'")
    phone.sync()
    again = device("ann", "phone")
    again.sync()
    assert everything(again) == everything(phone)
    again.rows("UPDATE users SET name = 'new' WHERE name = 'a'")
    add_user(again, "d")
    assert again.sync()["statuses"] == {"applied": 2}
    fresh = device("ann", "another")
    fresh.sync()
    assert everything(fresh) == everything(again)


def test_a_lost_answer_is_no_change_twice(device, wire, database):
    """The server takes an upload, the device dies before the answer, and edits a row afterwards."""
    phone = device("ann", "phone", url=wire.url)
    for name in "abc":
        add_user(phone, name)
    push_unheard(phone, wire, database)
    phone.rows("UPDATE users SET name = 'edited' WHERE name = 'a'")
    assert phone.sync()["statuses"] == {"applied": 3}
    assert sorted(database.rows("SELECT name FROM business.users")) == [("b",), ("c",), ("edited",)]
    assert phone.run("verify", "--server").returncode == 0


def test_a_device_that_was_away_for_too_long_keeps_its_edits(device, database):
    """History is pruned (410): the device hydrates, and pending edits are decided like any other."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for name in "abcd":
        add_user(phone, name)
    for one in (phone, tablet):
        one.sync()
    phone.rows("UPDATE users SET name = 'theirs' WHERE name IN ('a', 'b')")
    phone.rows("DELETE FROM users WHERE name = 'd'")
    phone.sync()
    tablet.rows("UPDATE users SET name = 'mine' WHERE name IN ('b', 'c')")
    add_user(tablet, "e")
    database.rows("SELECT rowsync.prune(interval '0', interval '0')")
    assert database.value("SELECT floor FROM rowsync.scope") > tablet.value(
        "SELECT last_server_seq_seen FROM _sync_client_info")
    tablet.run("pull")
    assert sorted(row[0] for row in tablet.rows("SELECT name FROM users")) == [
        "e", "mine", "mine", "theirs"]
    tablet.sync()
    phone.sync()
    assert everything(phone) == everything(tablet)
    assert sorted(row[0] for row in tablet.rows("SELECT name FROM users")) == [
        "e", "mine", "theirs", "theirs"]
    ((payload,),) = tablet.rows("SELECT payload FROM _sync_overwritten")
    assert json.loads(payload)["name"] == "mine"
