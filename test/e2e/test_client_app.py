"""What an app may do to its file while it is synced, and what the file may meet."""

import resource
import signal
import sqlite3
import subprocess
import threading
import time
import uuid

import pytest
import rig
from rig.build import BUILD


def add(device, name, count=1):
    """The app creates users, each in a transaction."""
    for _ in range(count):
        key = str(uuid.uuid4())
        device.rows("INSERT INTO users (id, name, email) VALUES (?, ?, ?)", (key, name, key))


def same(device, database):
    """The device and the server have the same users."""
    return sorted(device.rows("SELECT id, name FROM users")) == sorted(
        database.rows("SELECT id::text, name FROM business.users"))


def test_the_app_writes_all_the_time(device, database):
    phone = device("ann", "phone")
    writer = sqlite3.connect(phone.path, isolation_level=None, timeout=60)
    stop, failures, written = threading.Event(), [], []

    def write():
        own = sqlite3.connect(phone.path, isolation_level=None, timeout=60)
        try:
            while not stop.is_set():
                key = str(uuid.uuid4())
                own.execute("INSERT INTO users (id, name, email) VALUES (?, 'w', ?)", (key, key))
                own.execute("UPDATE users SET name = 'x' WHERE id = ?", (key,))
                written.append(key)
                time.sleep(0.005)
        except sqlite3.Error as error:
            failures.append(error)
        own.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            phone.sync()
    finally:
        stop.set()
        thread.join()
    writer.close()
    phone.sync()
    assert failures == []
    assert len(written) > 3
    assert same(phone, database)


@pytest.mark.parametrize("how", ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE"))
def test_a_file_that_another_connection_holds(device, database, how):
    phone = device("ann", "phone")
    phone.close()
    one = sqlite3.connect(phone.path, isolation_level=None, timeout=0.1)
    one.enable_load_extension(True)
    one.load_extension(str(BUILD / "lib" / "rowsync"))
    one.execute("SELECT rowsync_token(?)", (phone.mint(),))
    holder = sqlite3.connect(phone.path, isolation_level=None)
    holder.execute(how)
    holder.execute("INSERT INTO users (id, name, email) VALUES (?, 'h', 'h')", (str(uuid.uuid4()),))
    with pytest.raises(sqlite3.OperationalError, match="Another connection holds the database"):
        one.execute("SELECT rowsync_sync()")
    if holder.in_transaction:
        holder.execute("COMMIT")
    holder.close()
    one.execute("SELECT rowsync_sync()")
    one.close()
    assert same(phone, database)


@pytest.mark.parametrize("journal", ("DELETE", "WAL"))
def test_a_disk_that_is_full(device, database, journal):
    """The limit for files stands for the disk: writes beyond it fail."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    with phone.transaction():
        add(phone, "a", 600)
    phone.sync()
    tablet.rows(f"PRAGMA journal_mode = {journal}")
    add(tablet, "mine")
    size = tablet.path.stat().st_size

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, size + 8192))

    done = subprocess.run([rig.device.BINARY, "sync", tablet.path], env=tablet.environment(),
                          capture_output=True, text=True, restore_signals=False, preexec_fn=limit)
    assert done.returncode == 1, done.stdout
    assert "SQLite refused" in done.stderr
    assert tablet.value("PRAGMA integrity_check") == "ok"
    assert tablet.rows("SELECT name FROM users") == [("mine",)]
    tablet.sync()
    assert same(tablet, database)


@pytest.mark.parametrize("encoding", ("UTF-16le", "UTF-16be"))
def test_a_database_in_utf16(device, database, tmp_path, encoding):
    phone = device("ann", "phone")
    add(phone, "ä\u0301€\U0001f600")
    phone.sync()
    path = tmp_path / "wide.db"
    wide = sqlite3.connect(path, isolation_level=None)
    wide.execute(f"PRAGMA encoding = '{encoding}'")
    wide.execute("CREATE TABLE seen (x)")
    wide.close()
    other = rig.business_device(path, phone.url, "ann", "wide")
    assert other.value("PRAGMA encoding") == encoding
    add(other, "\U0001f600 wide")
    other.rows("DELETE FROM users WHERE name = 'nobody'")
    other.sync()
    other.rows("UPDATE users SET name = name || '!'")
    assert other.sync()["statuses"] == {"applied": 2}
    phone.sync()
    assert same(other, database) and same(phone, database)
    assert other.run("verify", check=False).returncode == 0
    other.close()


def test_names_that_stand_for_something_else(device, database, tmp_path):
    """Attached and temporary tables of the same names are not taken for those of the file."""
    phone = device("ann", "phone")
    add(phone, "real")
    phone.app.execute("ATTACH ? AS other", (str(tmp_path / "other.db"),))
    phone.app.execute("CREATE TABLE other.users AS SELECT * FROM users")
    phone.app.execute("CREATE TEMP TABLE posts (id)")
    phone.rows("UPDATE other.users SET name = 'other'")
    phone.rows("DELETE FROM other.users")
    add(phone, "second")
    phone.sync()
    assert same(phone, database)


def test_values_of_some_size(device, database):
    """A large BLOB goes both ways; one larger than the gateway takes is a dead letter, and no more."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    large = bytes(range(256)) * 8192
    phone.rows("INSERT INTO files VALUES (?, 'large', ?)", (uuid.uuid4().bytes, large))
    phone.rows("INSERT INTO files VALUES (?, 'huge', zeroblob(30000000))", (uuid.uuid4().bytes,))
    add(phone, "beside")
    assert phone.run("sync", check=False).returncode == 3
    assert phone.rows("SELECT reason FROM _sync_rejected") == [("bad_payload",)]
    tablet.sync()
    assert tablet.rows("SELECT name, data FROM files") == [("large", large)]
    assert same(tablet, database)


@pytest.mark.parametrize("source", ["phone", "phone-again"])
@pytest.mark.parametrize("pending", [True, False])
def test_a_copy_of_the_file_put_back(device, database, tmp_path, source, pending):
    """A backup of the device's file, put back: it gets what the file uploaded since, and sends what
    is new, as the same source or as another one."""
    phone = device("ann", "phone")
    add(phone, "before", 3)
    phone.sync()
    if pending:
        phone.rows("UPDATE users SET name = 'pending' WHERE rowid = 1")
    copy = tmp_path / "copy.db"
    phone.rows("VACUUM INTO ?", (str(copy),))
    phone.rows("UPDATE users SET name = 'later' WHERE rowid = 2")
    add(phone, "after")
    phone.sync()
    phone.close()
    old = rig.Device(copy, phone.url, "ann", source)
    add(old, "from the copy")
    old.attach()
    old.sync()
    assert same(old, database)
    assert [name for (name,) in old.rows("SELECT name FROM users ORDER BY name")] == [
        "after", "before", *["before"] * (not pending), "from the copy", "later",
        *["pending"] * pending]
    old.run("verify", "--server")
    old.close()


def test_a_table_that_goes_and_comes_back(device, database):
    phone = device("ann", "phone")
    add(phone, "a")
    phone.sync()
    phone.rows("DROP VIEW _sync_pending")
    phone.rows("ALTER TABLE users RENAME TO people")
    done = phone.run("sync", check=False)
    assert done.returncode == 1
    assert 'The tracked table "users" is gone.' in done.stderr
    phone.rows("DROP VIEW IF EXISTS _sync_pending")
    phone.rows("ALTER TABLE people RENAME TO users")
    add(phone, "b")
    phone.sync()
    assert same(phone, database)


@pytest.mark.parametrize("edited", [False, True])
def test_the_server_deletes_what_an_untracked_table_takes_along(device, database, edited):
    """A category goes, with it a shelf that only the phone knows, and with that the user on the shelf."""
    phone = device("ann", "phone")
    phone.run("untrack", "users")
    phone.app.executescript("""DROP VIEW _sync_pending;
        CREATE TABLE shelves (id INTEGER PRIMARY KEY, c TEXT REFERENCES categories ON DELETE CASCADE);
        ALTER TABLE users ADD COLUMN shelf INTEGER REFERENCES shelves ON DELETE CASCADE""")
    phone.run("track", "users", "--schema", "business", "--local", "shelf")
    phone.rows("INSERT INTO categories (id, name) VALUES ('00000000-0000-0000-0000-000000000001', 'c')")
    phone.rows("INSERT INTO shelves VALUES (1, '00000000-0000-0000-0000-000000000001')")
    add(phone, "ann")
    phone.rows("UPDATE users SET shelf = 1")
    phone.sync()
    if edited:
        phone.rows("UPDATE users SET name = 'mine'")
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("DELETE FROM business.categories")
    for command in ("pull", "sync", "sync"):
        phone.run(command)
    assert phone.rows("SELECT * FROM shelves") == []
    assert database.rows("SELECT name FROM business.users") == [("ann",)], "the phone has deleted nothing"
    assert phone.rows("SELECT name, shelf FROM users") == [("ann", None)]
    assert [op for (op,) in phone.rows("SELECT op FROM _sync_overwritten")] == ["UPDATE"] * edited
    assert phone.run("verify", "--server").returncode == 0


@pytest.mark.parametrize("rows_first", [False, True])
def test_a_table_that_is_dropped_and_made_anew_is_filled_again(device, database, rows_first):
    """Nobody has deleted its rows: they come back, but for one that was deleted before."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add(phone, "a", 5)
    for one in (phone, tablet):
        one.sync()
    keys = [key for (key,) in phone.rows("SELECT id FROM users ORDER BY id")]
    phone.rows("UPDATE users SET name = 'never sent' WHERE id = ?", (keys[0],))
    phone.rows("DELETE FROM users WHERE id = ?", (keys[1],))
    phone.rows("INSERT INTO users (id, name, email) VALUES ('gone', 'with its table', 'g')")
    ((made,),) = phone.rows("SELECT sql FROM sqlite_schema WHERE name = 'users'")
    phone.rows("PRAGMA foreign_keys = OFF")
    phone.rows("DROP TABLE users")
    assert phone.run("sync", check=False).returncode == 1
    phone.rows(made)
    phone.rows("PRAGMA foreign_keys = ON")
    if rows_first:
        assert phone.status()["pending"] == 1
        phone.rows("INSERT INTO users (id, name, email) VALUES (?, 'other', 'o')", (keys[2],))
        tablet.rows("UPDATE users SET name = 'newer' WHERE id = ?", (keys[2],))
        tablet.sync()
    phone.run("sync", check=False)
    for one in (phone, tablet):
        one.sync()
        assert same(one, database)
        one.run("verify", "--server")
    names = dict(phone.rows("SELECT id, name FROM users"))
    assert sorted(names) == sorted(set(keys) - {keys[1]})
    assert names[keys[0]] == "a" and names[keys[2]] == ("newer" if rows_first else "a")
