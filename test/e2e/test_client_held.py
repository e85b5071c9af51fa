"""Rows of the server that a device cannot store: what is lost of them (nothing), and who is told."""

import json

import pytest
from client_parts import add_post, add_user, everything, key

MEMO = """
CREATE TABLE business.memo (id uuid PRIMARY KEY, a text, b text, done boolean NOT NULL DEFAULT false);
SELECT rowsync.register_table('business.memo');
GRANT SELECT, INSERT, UPDATE, DELETE ON business.memo TO business_gateway;
"""
HERE = "CREATE TABLE memo (id TEXT PRIMARY KEY NOT NULL, a TEXT%s, b TEXT, done INTEGER DEFAULT 0)"
STRICT = " CONSTRAINT short CHECK (length(a) < 3)"
ROW = key("m")


@pytest.fixture
def devices(device, database):
    """`devices("merge")`: a phone whose table is stricter than the server's, and a tablet."""
    for statement in MEMO.strip().split(";\n"):
        database.rows(statement.rstrip(";"))

    def make(policy):
        phone, tablet = device("ann", "phone"), device("ann", "tablet")
        for one, more in ((phone, STRICT), (tablet, "")):
            one.rows(HERE % more)
            one.run("track", "memo", "--schema", "business", "--policy", policy)
        phone.rows("INSERT INTO memo VALUES (?, '1', 'x', 0)", (ROW,))
        phone.sync()
        tablet.sync()
        write(tablet, a="long")
        assert phone.run("sync", check=False).returncode == 3
        return phone, tablet
    return make


def write(one, **columns):
    """The app edits the row, and the device syncs."""
    for name, value in columns.items():
        one.rows(f"UPDATE memo SET {name} = ?", (value,))
    return one.sync(check=False)


def memo(one):
    """The row as a device has it."""
    return one.rows("SELECT a, b, done FROM memo")


def held(one):
    """What the server has of the rows that a device cannot store."""
    return [json.loads(payload) for payload, in one.rows(
        "SELECT payload FROM _sync_held WHERE state = 2")]


@pytest.mark.parametrize("policy", ["client", "merge"])
def test_an_edit_of_a_held_row_takes_nothing_back(devices, policy):
    """Only what was edited is sent, however often; the server's columns stay, and come in the end."""
    phone, tablet = devices(policy)
    for text in ("mine", "more"):
        report = write(phone, b=text)
        assert (report["pending"], report["overwritten"]) == (0, 0)
        assert memo(phone) == [("1", text, 0)]
        tablet.sync()
        assert memo(tablet) == [("long", text, 0)]
        assert [(row["a"], row["b"]) for row in held(phone)] == [("long", text)]
    write(tablet, done=1)
    phone.sync(check=False)
    assert (memo(phone), [row["done"] for row in held(phone)]) == ([("1", "more", 0)], [True])
    write(tablet, a="2")
    assert phone.run("sync").returncode == 0
    assert memo(phone) == memo(tablet) == [("2", "more", 1)]
    assert phone.run("verify", "--server").returncode == 0


@pytest.mark.parametrize("policy,result,lost", [
    ("client", "9", 0), ("merge", "long", 1), ("server", "long", 1)])
def test_the_column_that_the_server_changed_too(devices, policy, result, lost):
    """Nobody has seen the server's value here, so that it is a conflict like any other."""
    phone, tablet = devices(policy)
    assert write(phone, a="9")["overwritten"] == lost
    tablet.sync()
    assert memo(tablet) == [(result, "x", 0)]
    assert [row["a"] for row in held(phone)] == ["long"][:lost]
    assert memo(phone) == [("9", "x", 0)]


@pytest.mark.parametrize("how,result", [("client", ("long", "mine")), ("merge", ("long", "mine")),
                                        ("server", ("long", "x"))])
def test_a_decision_on_a_held_row(devices, how, result):
    phone, tablet = devices("manual")
    assert write(phone, b="mine")["conflicts"] == 1
    assert held(phone) == []
    phone.run("resolve", "memo", ROW, "--policy", how)
    assert phone.sync(check=False)["conflicts"] == 0
    tablet.sync()
    assert memo(tablet) == [(*result, 0)]
    assert [(row["a"], row["b"]) for row in held(phone)] == [result]


@pytest.mark.parametrize("keep", [[], ["--local", "gone"]], ids=["left", "local"])
def test_a_column_that_the_server_drops(devices, device, database, keep):
    """It is NOT NULL here: rows that are there go on, both ways; only new ones cannot come."""
    old, new = device("ann", "old"), device("ann", "new")
    old.rows(HERE % ", gone TEXT NOT NULL")
    new.rows(HERE % "")
    database.rows("ALTER TABLE business.memo ADD gone text")
    old.run("track", "memo", "--schema", "business")
    old.rows("INSERT INTO memo (id, a, gone) VALUES (?, '1', 'kept')", (ROW,))
    old.sync()
    database.rows("ALTER TABLE business.memo DROP COLUMN gone")
    if keep:
        old.run("track", "memo", *keep)
    new.run("track", "memo", "--schema", "business")
    new.sync()
    write(new, a="2")
    old.sync()
    assert old.rows("SELECT a, gone FROM memo") == [("2", "kept")]
    write(old, a="3")
    new.sync()
    write(new, b="x")
    old.run("hydrate")
    assert old.rows("SELECT a, b, gone FROM memo") == [("3", "x", "kept")]
    new.rows("INSERT INTO memo (id, a) VALUES (?, 'new')", (key("n"),))
    new.sync()
    assert old.run("sync", check=False).returncode == 3
    assert old.rows("SELECT reason FROM _sync_held") == [("NOT NULL constraint failed: memo.gone",)]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("how,left", [("server", 0), ("client", 1)])
def test_a_row_is_deleted_and_forgotten_while_a_decision_is_waited_for(device, database, how, left, known):
    """The server's side is then that it is gone, not what it was when the conflict came."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    phone.run("track", "users", "--schema", "business", "--policy", "manual")
    add_user(tablet, "ann", "tablet@sync.example")
    tablet.sync()
    if known:
        phone.sync()
        for name in ("once", "theirs"):
            tablet.rows("UPDATE users SET name = ?", (name,))
            tablet.sync()
        phone.rows("UPDATE users SET name = 'mine'")
    else:
        add_user(phone, "ann", "phone@sync.example")
    assert phone.sync(check=False)["conflicts"] == 1
    tablet.rows("DELETE FROM users")
    tablet.sync()
    database.rows("SELECT rowsync.prune(interval '0', interval '0')")
    phone.run("hydrate", check=False)
    assert phone.rows("SELECT server_deleted, server_payload FROM _sync_conflict") == [(1, None)]
    phone.run("resolve", "users", key("ann"), "--policy", how)
    assert len(phone.rows("SELECT * FROM users")) == left
    for one in (phone, tablet):
        assert one.sync()["pending"] == 0
        assert one.run("verify", "--server").returncode == 0
    assert everything(phone) == everything(tablet)
    assert database.value("SELECT count(*) FROM business.users") == left


def test_a_conflict_whose_row_loses_its_parent(device, database):
    """It is a dead letter then, which `resolve` has no say in: nothing of it is lost."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    phone.run("track", "posts", "--schema", "business", "--policy", "manual")
    add_user(phone, "ann")
    add_post(phone, "post", "ann")
    for one in (phone, tablet):
        one.sync()
    for one in (tablet, phone):
        one.rows("UPDATE posts SET content = ?", (one.source,))
        one.sync(check=False)
    assert phone.status()["conflicts"] == 1
    tablet.rows("DELETE FROM posts")
    tablet.rows("DELETE FROM users")
    tablet.sync()
    phone.sync(check=False)
    assert (phone.status()["conflicts"], phone.status()["rejected"]) == (0, 1)
    assert "waits for no decision" in phone.run("resolve", "posts", key("post"), "--policy", "server", check=False).stderr
    assert [json.loads(row)["content"] for row, in phone.rows("SELECT payload FROM _sync_rejected")] == ["phone"]
    phone.run("discard")
    for one in (phone, tablet):
        assert one.sync()["held"] == 0
        assert one.run("verify", "--server").returncode == 0
    assert everything(phone) == everything(tablet)


@pytest.mark.parametrize("policy,left", [("client", 0), ("merge", 1)])
def test_a_held_row_is_deleted_here(devices, policy, left):
    phone, tablet = devices(policy)
    phone.rows("DELETE FROM memo")
    phone.sync(check=False)
    tablet.sync()
    assert (memo(phone), len(memo(tablet)), len(held(phone))) == ([], left, left)
    tablet.rows("DELETE FROM memo")
    tablet.sync()
    phone.sync()
    assert held(phone) == []
    assert phone.run("verify", "--server").returncode == 0


@pytest.mark.parametrize("policy", ["client", "merge"])
def test_a_unique_value_that_is_in_use(device, policy):
    """The row with that value here was refused; the edit of the other one is not that row's fate."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for one in (phone, tablet):
        one.run("track", "users", "--policy", policy)
    phone.rows("INSERT INTO users VALUES (?, 'one', 'old@sync.example', 1, 1)", (ROW,))
    phone.sync()
    tablet.sync()
    tablet.rows("UPDATE users SET email = 'new@sync.example'")
    tablet.sync()
    phone.rows("INSERT INTO users VALUES (?, 'two', 'new@sync.example', 1, 1)", (key("two"),))
    phone.run("sync", check=False)
    phone.rows("UPDATE users SET name = 'mine' WHERE id = ?", (ROW,))
    assert phone.sync(check=False)["overwritten"] == 0
    tablet.sync()
    assert tablet.rows("SELECT name, email FROM users") == [("mine", "new@sync.example")]
    phone.run("discard")
    phone.sync()
    assert everything(phone) == everything(tablet)


def test_a_held_row_is_told_of(devices):
    phone, tablet = devices("server")
    reason = "CHECK constraint failed: short"
    assert phone.rows("SELECT reason FROM _sync_held") == [(reason,)]
    told = phone.run("verify", "--server", check=False)
    assert (told.returncode, f"1 of the server's rows cannot be stored here: memo {ROW} ({reason})"
            in told.stderr) == (3, True), told.stderr
    for column in ("reason", "changed", "changed_version"):
        phone.rows(f"ALTER TABLE _sync_held DROP COLUMN {column}")
    assert phone.run("sync", check=False).returncode == 3
    assert phone.rows("SELECT reason FROM _sync_held") == [(reason,)]
    write(tablet, a="2")
    phone.sync()
    assert phone.run("verify", "--server").returncode == 0


@pytest.fixture
def local(device, database):
    """A phone with a post whose columns of its own the app has filled, by ann, who is about to go; and the server."""
    phone = device("ann", "phone")
    phone.rows("ALTER TABLE posts ADD COLUMN mine TEXT DEFAULT 'default'")
    phone.rows("ALTER TABLE posts ADD COLUMN n")
    phone.run("track", "posts", "--schema", "business", "--local", "mine", "--local", "n")
    add_user(phone, "ann")
    phone.rows("INSERT INTO posts VALUES (?, ?, 'post', '', 1, 1, 'it''s mine', x'00ff')", (key("post"), key("ann")))
    phone.sync()
    database.rows("SET rowsync.scope = 'ann'")
    return phone


LOCAL = [("it's mine", b"\x00\xff")]


def move_post(database, author):
    """The server gives the post to somebody new, and ann goes."""
    database.rows("INSERT INTO business.users VALUES (%s, %s, %s, 1, 1)", key(author), author, f"{author}@sync.example")
    database.rows("UPDATE business.posts SET author_id = %s, title = 'moved'", key(author))
    database.rows("DELETE FROM business.users WHERE name = 'ann'")


@pytest.mark.parametrize("meanwhile", [None, "newer", "hydrate", "gone"])
def test_local_columns_of_a_row_that_waits_for_its_parent(local, database, meanwhile):
    """They are the device's alone: no newer version and no hydration brings them; a deletion ends them."""
    local.rows("CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.name = 'bea' BEGIN SELECT RAISE(ABORT, 'no'); END")
    move_post(database, "bea")
    assert local.sync(check=False)["held"] == 2
    assert local.rows("SELECT * FROM posts") == []
    if meanwhile == "gone":
        database.rows("CREATE TABLE kept AS SELECT * FROM business.posts; DELETE FROM business.posts")
        local.sync(check=False)
        database.rows("INSERT INTO business.posts SELECT * FROM kept")
    elif meanwhile:
        database.rows("UPDATE business.posts SET content = 'newer'")
        local.run("sync" if meanwhile == "newer" else meanwhile, check=False)
    local.rows("DROP TRIGGER no")
    local.sync()
    assert local.rows("SELECT title, content FROM posts") == database.rows("SELECT title, content FROM business.posts")
    assert local.rows("SELECT mine, n FROM posts") == ([("default", None)] if meanwhile == "gone" else LOCAL)
    assert local.rows("SELECT * FROM _sync_local") == local.rows("SELECT * FROM _sync_pending") == []
    assert local.run("verify", "--server").returncode == 0


@pytest.mark.parametrize("edited", [False, True])
def test_local_columns_of_a_row_that_another_one_takes_along(local, database, edited):
    """The post is back with the same sync, or, where an edit of it was given up, with the next."""
    local.rows("CREATE TRIGGER along AFTER DELETE ON users BEGIN DELETE FROM posts WHERE author_id = OLD.id; END")
    if edited:
        local.rows("UPDATE posts SET content = 'edited'")
    move_post(database, "bea")
    database.rows("UPDATE business.posts SET content = 'later'")
    local.run("pull")
    for _ in range(2):
        local.sync()
    assert local.rows("SELECT title, content FROM posts") == [("moved", "later")]
    assert local.rows("SELECT mine, n FROM posts") == LOCAL
    assert local.run("verify", "--server").returncode == 0


def test_local_columns_of_a_dead_letter(local, database):
    """An edit whose parent is gone takes its row out; it is made again when that is back."""
    local.rows("UPDATE posts SET content = 'edited'")
    database.rows("DELETE FROM business.posts")
    database.rows("DELETE FROM business.users")
    local.run("pull", check=False)
    assert (local.rows("SELECT * FROM posts"), local.status()["rejected"]) == ([], 1)
    add_user(local, "ann")
    local.run("requeue")
    assert local.rows("SELECT content, mine, n FROM posts") == [("edited", *LOCAL[0])]


def test_what_a_local_column_refers_to_is_gone(local, database):
    """The row comes back without it."""
    local.app.executescript("""CREATE TABLE shelves (id INTEGER PRIMARY KEY); INSERT INTO shelves VALUES (1);
        ALTER TABLE posts ADD COLUMN shelf INTEGER REFERENCES shelves DEFERRABLE INITIALLY DEFERRED""")
    local.run("track", "posts", "--local", "mine", "--local", "n", "--local", "shelf")
    local.app.executescript("""UPDATE posts SET shelf = 1;
        CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.name = 'bea' BEGIN SELECT RAISE(ABORT, 'no'); END""")
    move_post(database, "bea")
    local.sync(check=False)
    local.rows("DELETE FROM shelves")
    local.rows("DROP TRIGGER no")
    local.sync()
    assert local.rows("SELECT title, mine, n, shelf FROM posts") == [("moved", *LOCAL[0], None)]


def test_a_file_of_an_earlier_version(local):
    local.rows("DROP TABLE _sync_local")
    local.sync()
    assert local.rows("SELECT mine, n FROM posts") == LOCAL
    assert local.rows("SELECT * FROM _sync_local") == []
