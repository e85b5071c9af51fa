"""The client against the real gateway: values, keys, conflicts, refusals, and held rows."""

import json
import time
import uuid

import pytest
from client_parts import add_post, add_user, everything, key, name_of, typed, wait_for

KINDS = """
CREATE TABLE business.kinds (
    id uuid PRIMARY KEY, i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision,
    num numeric, flag boolean, txt text, ref uuid, bin bytea, at timestamptz, day date, js jsonb,
    arr integer[]);
CREATE TABLE business.counters (id bigint PRIMARY KEY, v text);
CREATE TABLE business.settings (name text PRIMARY KEY, v text);
CREATE TABLE business.places (realm text, n integer, tag uuid, v text, PRIMARY KEY (realm, n, tag));
SELECT rowsync.register_table('business.kinds');
SELECT rowsync.register_table('business.counters');
SELECT rowsync.register_table('business.settings');
SELECT rowsync.register_table('business.places');
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA business TO business_gateway;
"""
KINDS_HERE = """
CREATE TABLE kinds (
    id BLOB PRIMARY KEY, i2 INTEGER, i4 INTEGER, i8 INTEGER, f4 REAL, f8 REAL, num TEXT, flag BOOLEAN,
    txt TEXT, ref BLOB, bin BLOB, at TEXT, day TEXT, js JSON, arr TEXT);
CREATE TABLE counters (id INTEGER PRIMARY KEY, v TEXT);
CREATE TABLE settings (name TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID;
CREATE TABLE places (realm TEXT, n INTEGER, tag BLOB, v TEXT, PRIMARY KEY (realm, n, tag)) STRICT;
"""
KIND_TABLES = ("kinds", "counters", "settings", "places")


@pytest.fixture
def kinds(device, database):
    """Makes devices that have a table with every type, and tables with every sort of key."""
    for statement in KINDS.strip().split(";\n"):
        database.rows(statement.rstrip(";"))

    def make(source):
        one = device("ann", source)
        one.app.executescript(KINDS_HERE)
        one.run("track", *KIND_TABLES, "--schema", "business")
        return one
    return make


def test_json_is_stored_alike_everywhere(device, database):
    """What an app writes into a JSON column, JSON or not, is afterwards what others have."""
    database.rows("""CREATE TABLE business.docs (
            id text PRIMARY KEY, n text NOT NULL, j json, b jsonb);
        SELECT rowsync.register_table('business.docs');
        GRANT ALL ON business.docs TO business_gateway""")
    phone, tablet, later = [device("ann", name) for name in ("phone", "tablet", "later")]
    for one in (phone, tablet, later):
        one.app.executescript("""CREATE TABLE docs (
            id TEXT PRIMARY KEY, n TEXT NOT NULL, j JSON TEXT, b JSON TEXT)""")
        one.run("track", "docs", "--schema", "business")
    stored = {"x": '"x"', "": '""', "tru": '"tru"', "null": None, " null ": None, "nul": '"nul"',
              b"\x01": '"AQ=="', "[1,2]": "[1,2]", "1.10": "1.10", '"x"': '"x"', "true": "true",
              None: None}
    for number, value in enumerate(stored):
        phone.rows("INSERT INTO docs VALUES (?, 'n', ?, NULL)", (f"{number:02}", value))
        tablet.rows("INSERT INTO docs VALUES (?, 'n', '{}', '{}')", (f"1{number:02}",))
    for one in (phone, tablet, phone):
        one.sync()
    for number, value in enumerate(stored):  # an UPDATE sends this column alone
        tablet.rows("UPDATE docs SET j = ? WHERE id = ?", (value, f"1{number:02}"))
    for one in (tablet, phone, later):
        assert one.sync()["pending"] == 0
    expected = [(f"{prefix}{number:02}", value) for prefix in ("", "1")
                for number, value in enumerate(stored.values())]
    for one in (phone, tablet, later):
        assert one.rows("SELECT id, j FROM docs ORDER BY length(id), id") == expected
        assert one.sync()["uploaded"] == 0, "taking it over is no edit"
    phone.rows("UPDATE docs SET j = 'y', n = 'one' WHERE id = '00'")
    tablet.rows("UPDATE docs SET n = 'other' WHERE id = '00'")
    for one in (tablet, phone, tablet):
        one.sync()
    assert phone.rows("SELECT n, j FROM docs WHERE id = '00'") == tablet.rows(
        "SELECT n, j FROM docs WHERE id = '00'") == [("other", '"x"')]


def test_booleans_in_a_text_column(device, database):
    """JSON's true is the text true, also where the column is a boolean, and equal to itself."""
    database.rows("""CREATE TABLE business.flags (id text PRIMARY KEY, n text, j jsonb, f boolean);
        SELECT rowsync.register_table('business.flags');
        GRANT ALL ON business.flags TO business_gateway; SET rowsync.scope = 'ann'""")
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for one in (phone, tablet):
        one.app.executescript(
            "CREATE TABLE flags (id TEXT PRIMARY KEY, n TEXT, j TEXT, f TEXT)")
        one.run("track", "flags", "--schema", "business", "--policy", "manual")
    database.rows("INSERT INTO business.flags VALUES ('a', '', 'true', true), ('b', '', 'false', false)")
    for one in (phone, tablet):
        one.sync()
        assert one.rows("SELECT j, f FROM flags ORDER BY id") == [("true", "true"), ("false", "false")]
    phone.rows("UPDATE flags SET n = 'mine' WHERE id = 'a'")
    tablet.rows("UPDATE flags SET n = 'theirs' WHERE id = 'a'")
    tablet.sync()
    assert phone.sync(check=False)["conflicts"] == 1
    (conflict,) = json.loads(phone.run("conflicts", "--json", check=False).stdout)
    here, there = [json.loads(conflict[side]) for side in ("local_payload", "server_payload")]
    assert here["f"] == there["f"] and here["j"] == there["j"], "no column but the one edited differs"


def test_every_value_is_exact_both_ways(kinds):
    phone, tablet = kinds("phone"), kinds("tablet")
    rows = [
        (-32768, -2147483648, -9223372036854775808, 0.1, 0.1 + 0.2, "0.1000000000000000000001",
         1, "ä\u0301€\U0001f600 \"\\\n\t\u0001", uuid.uuid4().bytes, b"\x00\xff" * 50,
         "2026-11-24T02:03:04.000005Z", "2026-02-28", '{"a": [1, 2.50, null]}', "{1,NULL,3}"),
        (32767, 2147483647, 9223372036854775807, 3.4e+38, 5e-324, "-0.00000000000000000001",
         0, "", None, b"", None, None, '"text"', "{}"),
        (0, 0, 2**53 + 1, -1.5, 1.7976931348623157e+308, "NaN", None, "' -- ;", None, None, None,
         None, "false", None),
        (1, 1, 1, float("inf"), float("-inf"), "123456789012345678901234567890", 1, "x", None, None,
         None, None, "7", None),
    ]
    for number, row in enumerate(rows):
        marks = ", ".join("?" * (len(row) + 1))
        phone.rows(f"INSERT INTO kinds VALUES ({marks})",
                   (uuid.UUID(key(str(number))).bytes, *row))
    assert phone.sync()["statuses"] == {"applied": len(rows)}
    tablet.sync()
    assert typed(tablet, "kinds") == typed(phone, "kinds")
    for column, position in (("i8", 2), ("f8", 4), ("txt", 7), ("bin", 9)):
        assert [row[0] for row in tablet.rows(f"SELECT {column} FROM kinds")].sort(key=repr) == [
            row[position] for row in rows].sort(key=repr)
    tablet.rows("UPDATE kinds SET txt = txt || '!', f8 = f8 / 3, bin = x'0102'")
    assert tablet.sync()["statuses"] == {"applied": len(rows)}
    phone.sync()
    assert typed(phone, "kinds") == typed(tablet, "kinds")


def test_a_column_added_on_the_device_gets_what_the_server_has(kinds, device):
    phone, tablet = kinds("phone"), device("ann", "tablet")
    phone.rows("INSERT INTO counters VALUES (1, 'one'), (2, 'two'), (3, 'three')")
    phone.sync()
    tablet.app.execute("CREATE TABLE counters (id INTEGER PRIMARY KEY)")
    tablet.run("track", "counters", "--schema", "business")
    tablet.sync()
    tablet.app.execute("ALTER TABLE counters ADD COLUMN v TEXT")
    tablet.rows("UPDATE counters SET v = 'mine' WHERE id = 2")
    assert tablet.sync()["statuses"] == {"applied": 1}
    phone.sync()
    for one in (tablet, phone):
        assert one.rows("SELECT * FROM counters ORDER BY id") == [
            (1, "one"), (2, "mine"), (3, "three")]


def test_what_psql_writes_arrives_exactly(kinds, database):
    phone = kinds("phone")
    phone.sync()
    database.rows("""SET rowsync.scope = 'ann'; INSERT INTO business.kinds (id, i8, f4, f8, num, flag,
        bin, js, arr) VALUES (%s, -1, 'NaN', 'Infinity', 1.50, true, '\\x00ff', '{"b":1}', '{1,2}')""",
                  key("psql"))
    phone.sync()
    assert phone.rows("SELECT id, i8, f4, f8, num, flag, bin, js, arr FROM kinds") == [
        (uuid.UUID(key("psql")).bytes, -1, "NaN", float("inf"), "1.50", 1, b"\x00\xff", '{"b": 1}',
         "{1,2}")]
    phone.rows("UPDATE kinds SET f4 = f4, i4 = 5")
    assert phone.sync()["statuses"] == {"applied": 1}
    assert database.value("SELECT f4::text || i4 FROM business.kinds") == "NaN5"


def test_keys_of_every_sort(kinds, database):
    phone, tablet = kinds("phone"), kinds("tablet")
    with phone.transaction():
        phone.rows("INSERT INTO counters VALUES (-5, 'a'), (9223372036854775807, 'b')")
        phone.rows("INSERT INTO settings VALUES ('läng \"uage', 'de'), ('', 'empty')")
        phone.rows("INSERT INTO places VALUES ('r,\"[', 7, ?, 'v'), ('', -1, ?, 'w')",
                   (uuid.UUID(key("a")).bytes, uuid.UUID(key("b")).bytes))
    assert phone.sync()["statuses"] == {"applied": 6}
    tablet.sync()
    for table in KIND_TABLES:
        assert typed(tablet, table) == typed(phone, table)
    tablet.rows("UPDATE counters SET v = 'changed'")
    tablet.rows("DELETE FROM settings WHERE name = ''")
    tablet.rows("UPDATE places SET n = 8 WHERE n = 7")
    assert tablet.sync()["statuses"] == {"applied": 5}
    phone.sync()
    for table in KIND_TABLES:
        assert typed(phone, table) == typed(tablet, table)
    assert database.value("SELECT count(*) FROM business.places") == 2


def test_verify_proves_that_a_device_has_what_the_server_has(device, database):
    for statement in KINDS.strip().split(";\n"):
        database.rows(statement.rstrip(";"))
    phone = device("ann", "phone")
    phone.app.executescript(KINDS_HERE)
    phone.run("track", *KIND_TABLES, "--schema", "business")
    with phone.transaction():
        phone.rows("INSERT INTO counters VALUES (-5, 'a'), (9223372036854775807, 'b')")
        phone.rows("INSERT INTO settings VALUES ('l\u00e4ng \"\\\n\u0001/ uage', 'de'), ('', 'e')")
        phone.rows("INSERT INTO places VALUES ('r,\"[\\\t\u20ac', 7, ?, 'v'), ('', -1, ?, 'w')",
                   (uuid.UUID(key("a")).bytes, uuid.UUID(key("b")).bytes))
        phone.rows("INSERT INTO files VALUES (?, 'f', x'00')", (uuid.UUID(key("f")).bytes,))
    phone.sync()
    proof = json.loads(phone.run("verify", "--server", "--json").stdout)
    assert (proof["at"], proof["rows"]) == (7, 7)
    phone.rows("UPDATE counters SET v = 'pending' WHERE id = -5")
    phone.rows("DELETE FROM files")
    assert json.loads(phone.run("verify", "--server", "--json").stdout) == proof
    phone.sync()
    assert "6 rows at 9, as the server has them" in phone.run("verify", "--server").stdout

    phone.rows("UPDATE _sync_version SET server_version = 1 WHERE server_version = 8")
    done = phone.run("verify", "--server", check=False)
    assert (done.returncode, "on the server 6 with" in done.stderr) == (3, True), done.stderr
    phone.run("hydrate")
    assert phone.run("verify", "--server").returncode == 0
    phone.run("untrack", "settings")
    told = phone.run("verify", "--server", check=False).stderr
    assert "tables that are not tracked here: business.settings." in told, told
    told = json.loads(phone.run("verify", "--server", "--json", check=False).stdout.splitlines()[-1])
    assert told.pop("untracked") == ["business.settings"]
    assert told.pop("error")["code"] == "different" and told.pop("digest_here") != told.pop("digest_there")
    assert told == {"at": 9, "rows_here": 4, "rows_there": 6, "held": 0}, told


@pytest.mark.parametrize("size", [1, 200])
def test_keys_that_the_server_spells_otherwise(device, database, size):
    """uuids in capitals: the device takes over the server's spelling, and there is one row."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    phone.app.executescript(
        "CREATE TABLE drafts (id INTEGER PRIMARY KEY, u TEXT REFERENCES users (id) ON UPDATE RESTRICT)")
    with phone.transaction():
        for name in "ab":
            phone.rows("INSERT INTO users VALUES (?, ?, ?, 1, 1)",
                       (key(name).upper(), name, f"{name}@sync.example"))
            phone.rows("INSERT INTO posts VALUES (?, ?, 't', '', 1, 1)",
                       (key("of " + name).upper(), key(name).upper()))
    phone.rows("INSERT INTO drafts VALUES (1, ?)", (key("a").upper(),))
    assert phone.sync("--batch-size", size)["statuses"] == {"applied": 4}
    assert phone.rows("SELECT id FROM users ORDER BY name") == [(key("a"),), (key("b"),)]
    assert phone.rows("SELECT u FROM drafts") == [(key("a"),)]
    assert phone.rows("PRAGMA foreign_key_check") == []
    tablet.sync()
    assert everything(tablet) == everything(phone)
    tablet.rows("UPDATE users SET name = 'edited' WHERE id = ?", (key("a"),))
    tablet.sync()
    phone.rows("UPDATE posts SET title = 'mine' WHERE author_id = ?", (key("a"),))
    assert phone.sync()["statuses"] == {"applied": 1}
    tablet.sync()
    assert name_of(phone, "a") == "edited"
    assert everything(tablet) == everything(phone)
    assert phone.run("verify", "--server").returncode == 0
    assert phone.rows("SELECT * FROM _sync_pending") == phone.rows("SELECT * FROM _sync_rejected") == []
    assert database.value("SELECT count(*) FROM business.users") == 2


def test_blob_keys_and_references(device, database):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    file, review = uuid.uuid4(), uuid.uuid4()
    phone.rows("INSERT INTO files VALUES (?, 'f', x'00ff10')", (file.bytes,))
    phone.rows("INSERT INTO file_reviews VALUES (?, ?, 'good')", (review.bytes, file.bytes))
    assert phone.sync()["statuses"] == {"applied": 2}
    tablet.sync()
    assert everything(tablet) == everything(phone)
    assert database.rows("SELECT file_id::text FROM business.file_reviews") == [(str(file),)]
    tablet.rows("DELETE FROM files")
    tablet.sync()
    phone.sync()
    assert phone.rows("SELECT * FROM file_reviews") == []


@pytest.mark.parametrize("policy, name, updated", [
    ("server", "phone's", 1), ("client", "tablet's", 2), ("merge", "phone's", 2)])
def test_policies_of_conflicts(device, policy, name, updated):
    """Both change the name; the tablet changes another column as well, and syncs later."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.run("track", "users", "--schema", "business", "--policy", policy)
    add_user(phone, "ann")
    phone.sync()
    tablet.sync()
    phone.rows("UPDATE users SET name = 'phone''s'")
    tablet.rows("UPDATE users SET name = 'tablet''s', updated_at = 2")
    phone.sync()
    report = tablet.sync()
    assert report["statuses"]["conflict"] == 1
    tablet.sync()
    phone.sync()
    for one in (phone, tablet):
        assert one.rows("SELECT name, updated_at FROM users") == [(name, updated)]
        assert one.rows("SELECT * FROM _sync_pending") == []


@pytest.mark.parametrize("policy, left", [
    ("server", ["phone's"]), ("client", ["tablet's"]), ("merge", ["phone's"])])
def test_policies_of_rows_that_one_side_deleted(device, database, policy, left):
    """The tablet edits what the phone deletes, and deletes what the phone edits. No row comes back by
    itself, and none that the policy keeps is lost."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.run("track", "users", "--schema", "business", "--policy", policy)
    for name in ("a", "b"):
        add_user(phone, name)
    for one in (phone, tablet):
        one.sync()
    phone.rows("DELETE FROM users WHERE name = 'a'")
    phone.rows("UPDATE users SET name = 'phone''s' WHERE name = 'b'")
    tablet.rows("UPDATE users SET name = 'tablet''s' WHERE name = 'a'")
    tablet.rows("DELETE FROM users WHERE name = 'b'")
    phone.sync()
    assert tablet.sync()["statuses"]["conflict"] == 2
    for one in (tablet, phone, tablet):
        one.sync()
        assert [name for (name,) in one.rows("SELECT name FROM users")] == left
        assert one.rows("SELECT * FROM _sync_pending") == []
    assert tablet.value("SELECT count(*) FROM _sync_overwritten") == (2 if policy != "client" else 0)
    assert database.rows("SELECT name FROM business.users") == [(name,) for name in left]


def test_a_manual_conflict_waits_for_the_user(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.run("track", "users", "--schema", "business", "--policy", "manual")
    add_user(phone, "ann")
    phone.sync()
    tablet.sync()
    phone.rows("UPDATE users SET name = 'phone'")
    tablet.rows("UPDATE users SET name = 'tablet'")
    phone.sync()
    assert tablet.run("sync", check=False).returncode == 3
    shown = tablet.run("conflicts", "--json", check=False)
    (conflict,) = json.loads(shown.stdout)
    assert shown.returncode == 3
    assert (conflict["pk"], json.loads(conflict["server_payload"])["name"]) == (
        key("ann"), "phone")
    assert name_of(tablet, "ann") == "tablet"
    tablet.run("resolve", "users", key("ann"), "--policy", "client")
    tablet.sync()
    phone.sync()
    assert name_of(phone, "ann") == "tablet"


def test_an_edit_of_a_row_that_was_held_back_is_a_conflict(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.run("track", "users", "--schema", "business", "--policy", "manual")
    tablet.rows("CREATE UNIQUE INDEX one_of_a_name ON users (name)")
    add_user(phone, "bob")
    phone.sync()
    add_user(tablet, "ann")
    tablet.rows("UPDATE users SET name = 'bob'")
    tablet.run("pull", check=False)
    assert tablet.value("SELECT count(*) FROM users") == 1
    tablet.rows("UPDATE users SET name = 'ann'")
    tablet.rows("INSERT INTO users VALUES (?, 'another bob', 'b@sync.example', 1, 1)",
                (key("bob"),))
    assert tablet.run("sync", check=False).returncode == 3
    (conflict,) = json.loads(tablet.run("conflicts", "--json", check=False).stdout)
    assert conflict["pk"] == key("bob")
    tablet.run("resolve", "users", key("bob"), "--policy", "server")
    tablet.sync()
    assert name_of(tablet, "bob") == name_of(phone, "bob")


SIDES = {  # column: written here, written on the server, both as the conflict shows them
    "i2": (3, "4", 3, 4), "f8": (0.1, "0.25", 0.1, 0.25), "num": ("1.5", "'1.7'", "1.5", "1.7"),
    "flag": (1, "false", True, False), "txt": ("1", "'2'", "1", "2"),
    "ref": (uuid.UUID(int=1).bytes, "'" + str(uuid.UUID(int=2)) + "'", str(uuid.UUID(int=1)),
            str(uuid.UUID(int=2))),
    "bin": (b"\x00\xff", "'\\x0100'", "AP8=", "AQA="),
    "js": ('{"a":  1}', "'{\"a\":2}'", {"a": 1}, {"a": 2}),
}


def sides(conflict):
    """The two payloads of a conflict as its list tells them."""
    return (json.loads(conflict["local_payload"]), json.loads(conflict["server_payload"]))


def test_a_conflict_shows_equal_values_alike(kinds, database):
    phone = kinds("phone")
    phone.run("track", "kinds", "--schema", "business", "--policy", "manual")
    row = uuid.UUID(key("row")).bytes
    written = {"i2": 7, "i4": -1, "i8": 2**53 + 1, "f4": 0.1, "f8": 0.1 + 0.2, "num": "1.50", "flag": 0,
               "txt": "007", "ref": uuid.uuid4().bytes, "bin": b"\x00\xff\x00", "arr": "{1,2}",
               "js": '{"b":  [1.0, 1e2, {"x": null}], "a": "\\u00e9\\/"}', "day": "2026-02-28"}
    phone.rows(f"INSERT INTO kinds (id, {', '.join(written)}) VALUES (?{', ?' * len(written)})",
               (row, *written.values()))
    phone.sync()
    database.rows("UPDATE business.kinds SET at = now()")
    phone.rows("UPDATE kinds SET at = '2020-01-01T00:00:00Z'")
    phone.sync(check=False)
    (conflict,) = json.loads(phone.run("conflicts", "--json", check=False).stdout)
    here, there = sides(conflict)
    assert [name for name in here if here[name] != there[name]] == ["at"]
    assert here["flag"] is False and here["ref"] == str(uuid.UUID(bytes=written["ref"]))
    shown = phone.run("conflicts", check=False).stdout.splitlines()
    assert [line.split()[2] for line in shown[1:]] == ["at"]


@pytest.mark.parametrize("column", SIDES)
def test_a_conflict_shows_what_differs_in_one_form(kinds, database, column):
    mine, theirs, here, there = SIDES[column]
    phone = kinds("phone")
    phone.run("track", "kinds", "--schema", "business", "--policy", "manual")
    phone.rows("INSERT INTO kinds (id) VALUES (?)", (uuid.UUID(key("row")).bytes,))
    phone.sync()
    database.rows(f"UPDATE business.kinds SET {column} = {theirs}")
    phone.rows(f"UPDATE kinds SET {column} = ?", (mine,))
    phone.sync(check=False)
    (conflict,) = json.loads(phone.run("conflicts", "--json", check=False).stdout)
    assert repr([side[column] for side in sides(conflict)]) == repr([here, there])
    assert len(phone.run("conflicts", check=False).stdout.splitlines()) == 2


def test_a_download_leaves_pending_edits_alone(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "ann")
    phone.sync()
    tablet.sync()
    phone.rows("UPDATE users SET name = 'phone'")
    phone.sync()
    tablet.rows("UPDATE users SET updated_at = 7")
    tablet.run("pull")
    assert tablet.rows("SELECT name, updated_at FROM users") == [("ann", 7)]
    tablet.sync()
    assert tablet.rows("SELECT name, updated_at FROM users") == [("phone", 1)]


def test_a_refused_change_blocks_nothing_and_can_be_corrected(device, database):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "first", "same@sync.example")
    phone.sync()
    add_user(tablet, "second", "same@sync.example")
    tablet.run("push", check=False)
    refused = tablet.run("rejected", "--json", check=False)
    assert refused.returncode == 3
    (letter,) = json.loads(refused.stdout)
    assert (letter["reason"], letter["op"], letter["pk"]) == ("constraint", "INSERT", key("second"))
    assert json.loads(letter["payload"])["email"] == "same@sync.example"
    add_user(tablet, "third")
    done = tablet.run("sync", check=False)
    assert done.returncode == 3
    assert database.value("SELECT count(*) FROM business.users") == 2
    tablet.rows("UPDATE users SET email = 'second@sync.example' WHERE id = ?", (key("second"),))
    tablet.sync()
    phone.sync()
    assert database.value("SELECT count(*) FROM business.users") == 3
    assert everything(phone) == everything(tablet)


def test_a_refused_change_can_be_given_up(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "first", "same@sync.example")
    phone.sync()
    add_user(tablet, "second", "same@sync.example")
    assert tablet.run("sync", check=False).returncode == 3
    tablet.run("discard", "users", key("second"))
    tablet.sync()
    assert everything(phone) == everything(tablet)


def test_an_edit_after_what_was_given_up_is_one_of_its_columns(device):
    """Nobody else touched the row: nothing of it is a conflict, and nothing that was given up is left."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for one, name in ((phone, "first"), (tablet, "second")):
        add_user(one, name)
        one.sync()
    update = "UPDATE users SET {} WHERE id = ?"
    phone.rows(update.format("email = 'second@sync.example', updated_at = 2"), (key("first"),))
    assert phone.sync(check=False)["rejected"] == 1
    assert "the next sync fetches what the server has" in phone.run("discard").stdout
    assert json.loads(phone.run("status", "--json", check=False).stdout)["hydrated"] is True
    phone.rows(update.format("name = 'changed'"), (key("first"),))
    assert [row["op"] for row in json.loads(phone.run("diff", "--json").stdout)] == ["UPDATE"]
    report = phone.sync()
    assert (report["uploaded"], report["overwritten"]) == (1, 0)
    tablet.sync()
    assert everything(phone) == everything(tablet)
    assert phone.rows("SELECT name, email, updated_at FROM users WHERE id = ?", (key("first"),)) == [
        ("changed", "first@sync.example", 1)]
    assert phone.run("verify", "--server").returncode == 0


@pytest.mark.parametrize("gone", [False, True])
def test_a_refused_deletion_is_given_up(device, database, gone):
    """The row comes back at once; should the server have deleted it meanwhile, it goes for good."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "first")
    phone.sync()
    tablet.sync()
    database.rows("CREATE FUNCTION business.no() RETURNS trigger LANGUAGE plpgsql AS"
                  " $$BEGIN RAISE check_violation; END$$")
    database.rows("CREATE TRIGGER no BEFORE DELETE ON business.users FOR EACH ROW"
                  " EXECUTE FUNCTION business.no()")
    phone.rows("DELETE FROM users")
    assert phone.sync(check=False)["rejected"] == 1
    database.rows("DROP TRIGGER no ON business.users")
    if gone:
        tablet.rows("DELETE FROM users")
        tablet.sync()
    phone.run("discard")
    assert name_of(phone, "first") == "first"
    phone.sync()
    tablet.sync()
    assert len(phone.rows("SELECT * FROM users")) == (0 if gone else 1)
    assert everything(phone) == everything(tablet)
    assert phone.run("verify", "--server").returncode == 0


def test_text_that_the_server_cannot_hold_is_refused_by_itself(device, database):
    """NUL is refused by the server, what is not UTF-8 before it leaves; the others go through."""
    phone = device("ann", "phone")
    add_user(phone, "good")
    add_user(phone, "nul")
    add_user(phone, "bytes")
    phone.rows("UPDATE users SET name = 'a' || char(0) || 'b' WHERE id = ?", (key("nul"),))
    phone.rows("UPDATE users SET name = CAST(x'61ff' AS TEXT) WHERE id = ?", (key("bytes"),))
    assert phone.run("sync", check=False).returncode == 3
    assert database.rows("SELECT name FROM business.users") == [("good",)]
    refused = phone.rows("SELECT pk_text, reason FROM _sync_rejected ORDER BY reason, pk_text")
    assert refused == sorted([(key("nul"), "bad_payload"), (key("bytes"), "bad_payload")])
    assert phone.rows("SELECT * FROM _sync_pending") == []


def test_keys_that_no_server_can_hold_are_refused_by_themselves(kinds, database):
    """They hold nothing up, are shown as far as that is possible, and can be deleted or given up."""
    phone = kinds("phone")
    phone.sync()
    phone.rows("INSERT INTO counters VALUES (1, 'good')")
    phone.rows("""INSERT INTO settings VALUES ('good', 'good'), (CAST(x'6bff' AS TEXT), 'bytes'),
        ('k' || char(0), 'nul'), (x'6b', 'blob'), (CAST(x'ff' AS TEXT), 'gone')""")
    phone.rows("INSERT INTO places VALUES (CAST(x'6bff' AS TEXT), 1, ?, 'bytes')",
               (uuid.UUID(key("tag")).bytes,))
    phone.rows("DELETE FROM settings WHERE v = 'gone'")
    assert phone.run("sync", check=False).returncode == 3
    assert database.rows("SELECT name FROM business.settings") == [("good",)]
    assert database.value("SELECT count(*) FROM business.counters") == 1
    refused = json.loads(phone.run("rejected", "--json", check=False).stdout)
    assert sorted((row["table_name"], row["pk"], row["reason"]) for row in refused) == [
        ("places", f'["k\ufffd",1,"{key("tag")}"]', "bad_payload"),
        ("settings", "aw==", "bad_payload"), ("settings", "k\ufffd", "bad_payload"),
        ("settings", "k\ufffd", "bad_payload")]
    phone.rows("DELETE FROM settings WHERE v = 'bytes'")
    phone.run("discard")
    phone.sync()
    assert phone.rows("SELECT name FROM settings") == [("good",)]
    assert phone.rows("SELECT * FROM places") == []


def test_a_key_that_is_no_number_is_refused(device, database):
    database.rows("CREATE TABLE business.points (id bigint PRIMARY KEY)")
    database.rows("SELECT rowsync.register_table('business.points')")
    database.rows("GRANT ALL ON business.points TO business_gateway")
    phone = device("ann", "phone")
    phone.app.execute("CREATE TABLE points (id INT PRIMARY KEY NOT NULL)")
    phone.run("track", "points", "--schema", "business")
    phone.rows("INSERT INTO points VALUES (1), (1.5), (9223372036854775808)")
    assert phone.sync(check=False)["statuses"] == {"applied": 1, "bad_payload": 2}
    assert phone.rows("SELECT pk_text FROM _sync_rejected ORDER BY pk") == [
        ("1.5",), ("9.223372036854776e+18",)]
    phone.run("discard")
    phone.sync()
    assert phone.rows("SELECT id FROM points") == database.rows("SELECT id FROM business.points")


@pytest.mark.parametrize("deep", [64, 10_000])
def test_json_as_deep_as_the_server_takes_it(kinds, database, deep):
    """No row keeps the others from coming, by the log or in a snapshot."""
    phone, tablet = kinds("phone"), kinds("tablet")
    tablet.sync()
    nested = "[" * deep + '{"a": 1}' + "]" * deep
    phone.rows("INSERT INTO kinds (id, js) VALUES (?, ?)", (uuid.UUID(key("a")).bytes, nested))
    phone.sync()
    database.rows("SET rowsync.scope = 'ann'; INSERT INTO business.kinds (id, js) VALUES (%s, %s)",
                  key("b"), nested)
    tablet.sync()
    clone = kinds("clone")
    clone.sync()
    for one in (tablet, clone):
        assert one.rows("SELECT js FROM kinds") == [(nested,), (nested,)]


def test_tables_of_any_name(device, database):
    """Names that JSON or SQL write with escapes; by the log and in a snapshot."""
    names = ['we"ird', "new\nline", "täb\\le", "o'x", "per%cent.do t"]
    quoted = ['"%s"' % name.replace('"', '""') for name in names]
    for table in quoted:
        database.rows(f'CREATE TABLE business.{table} (id text PRIMARY KEY, "a""b\\c" text)')
        database.rows("SELECT rowsync.register_table(%s::regclass)", f"business.{table}")
        database.rows(f"GRANT ALL ON business.{table} TO business_gateway")

    def make(source):
        one = device("ann", source)
        for table in quoted:
            one.app.execute(f'CREATE TABLE {table} (id TEXT PRIMARY KEY NOT NULL, "a""b\\c" TEXT)')
        one.run("track", *names, "--schema", "business")
        return one

    phone, tablet = make("phone"), make("tablet")
    tablet.sync()
    for table in quoted:
        phone.rows(f"INSERT INTO {table} VALUES ('k', 'v')")
    phone.sync()
    for one in (tablet, make("clone")):
        one.sync()
        for table in quoted:
            assert one.rows(f"SELECT * FROM {table}") == [("k", "v")]


def test_an_edit_during_the_upload_stays_pending(device, wire):
    phone = device("ann", "phone", url=wire.url)
    add_user(phone, "ann")
    wire.hold()
    running = phone.start("sync")
    wait_for("the upload", lambda: any(exchange.path == "/sync/upload" for exchange in wire.exchanges))
    phone.rows("UPDATE users SET name = 'later'")
    wire.release()
    running.communicate(timeout=60)
    assert phone.rows("SELECT op, base_version FROM _sync_pending") == [("UPDATE", 1)]
    assert phone.sync()["statuses"] == {"applied": 1}
    assert phone.rows("SELECT * FROM _sync_pending") == []


def test_unique_values_that_devices_pass_on(device):
    """Two users swap their addresses on the phone; the tablet sees only the outcome."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "a", "one@sync.example")
    add_user(phone, "b", "two@sync.example")
    phone.sync()
    tablet.sync()
    with phone.transaction():
        phone.rows("UPDATE users SET email = 'x' WHERE id = ?", (key("a"),))
        phone.rows("UPDATE users SET email = 'one@sync.example' WHERE id = ?", (key("b"),))
    phone.sync()
    with phone.transaction():
        phone.rows("UPDATE users SET email = 'two@sync.example' WHERE id = ?", (key("a"),))
    phone.sync()
    tablet.sync()
    assert everything(tablet) == everything(phone)


SEATS = """
CREATE TABLE seats (
    id TEXT PRIMARY KEY NOT NULL, name TEXT CHECK (length(name) < 4), n INT NOT NULL UNIQUE,
    x REAL NOT NULL UNIQUE, b BLOB NOT NULL UNIQUE, t TEXT NOT NULL UNIQUE CHECK (length(t) < 4),
    mine TEXT UNIQUE) STRICT;
CREATE UNIQUE INDEX seats_by_name ON seats (lower(name));
"""


@pytest.fixture
def seats(device, database):
    """Two devices with a table full of unique columns, and two rows in it."""
    database.rows("""CREATE TABLE business.seats (id text PRIMARY KEY, name text, n integer NOT NULL,
        x double precision NOT NULL, b bytea NOT NULL, t text NOT NULL)""")
    database.rows("SELECT rowsync.register_table('business.seats')")
    database.rows("GRANT ALL ON business.seats TO business_gateway")
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for one in (phone, tablet):
        one.app.executescript(SEATS)
        one.run("track", "seats", "--schema", "business", "--local", "mine")
    phone.rows("""INSERT INTO seats VALUES ('1', 'A', 1, 1.5, x'01', 'aaa', NULL),
        ('2', 'B', 2, 2.5, x'02', 'bbb', NULL)""")
    phone.sync()
    tablet.sync()
    return phone, tablet


def swap_seats(phone):
    """The two rows pass all their values on to each other, on the phone and the server."""
    values = "name, n, x, b, t"
    (one,), (two,) = (phone.rows(f"SELECT {values} FROM seats WHERE id = ?", (seat,))
                      for seat in "12")
    with phone.transaction():
        phone.rows("UPDATE seats SET name = 'x', n = 9, x = 9, b = x'09', t = 'x' WHERE id = '1'")
        for row, seat in ((one, "2"), (two, "1")):
            phone.rows(f"UPDATE seats SET ({values}) = (?, ?, ?, ?, ?) WHERE id = ?", (*row, seat))
    phone.sync(check=False)


def test_unique_values_of_every_sort_that_rows_pass_on(seats, database):
    """In STRICT tables, under CHECKs and by expressions; what is held for good stands not in the way,
    and what stays on the device is left alone."""
    phone, tablet = seats
    tablet.rows("UPDATE seats SET mine = 'my ' || id")
    database.rows("""SET rowsync.scope = 'ann';
        INSERT INTO business.seats VALUES ('3', 'too long', 3, 3, '\\x03', 'ccc')""")
    assert tablet.sync(check=False)["held"] == 1
    swap_seats(phone)
    tablet.sync(check=False)
    assert tablet.rows("SELECT id, name, n, x, b, t, mine FROM seats ORDER BY id") == [
        ("1", "B", 2, 2.5, b"\x02", "bbb", "my 1"), ("2", "A", 1, 1.5, b"\x01", "aaa", "my 2")]
    assert tablet.status()["held"] == 1


def test_a_trigger_that_keeps_unique_values_blocks_nothing(seats):
    phone, tablet = seats
    tablet.app.execute("""CREATE TRIGGER seats_stay BEFORE UPDATE OF n ON seats WHEN NEW.n <> OLD.n
        BEGIN SELECT RAISE(ABORT, 'seats stay'); END""")
    swap_seats(phone)
    add_user(phone, "ann")
    phone.sync()
    assert tablet.sync(check=False)["held"] == 2
    assert name_of(tablet, "ann") == "ann"
    tablet.app.execute("DROP TRIGGER seats_stay")
    tablet.sync()
    assert typed(tablet, "seats") == typed(phone, "seats")


def test_a_child_of_a_deleted_parent(device, database):
    """The phone deletes a user for whom the tablet, offline, has written a post."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "ann")
    phone.sync()
    tablet.sync()
    phone.rows("DELETE FROM users")
    phone.sync()
    add_post(tablet, "post", "ann")
    for one in (tablet, phone, tablet, phone):
        one.run("sync", check=False)
    assert everything(phone) == everything(tablet)
    assert tablet.rows("PRAGMA foreign_key_check") == []
    assert json.loads(tablet.run("rejected", "--json", check=False).stdout) != []


def test_a_parent_deleted_here_and_used_there(device):
    """The other way round: the post is first, the deletion cannot be taken by the server."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "ann")
    phone.sync()
    tablet.sync()
    add_post(tablet, "post", "ann")
    tablet.sync()
    phone.rows("DELETE FROM users")
    assert phone.run("sync", check=False).returncode == 3
    assert phone.rows("PRAGMA foreign_key_check") == []
    phone.run("discard")
    phone.sync()
    assert everything(phone) == everything(tablet)


def test_a_conflict_whose_row_needs_a_new_parent(device):
    """The answer to the upload has a row that refers to one which only the pull brings."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "old")
    add_post(phone, "post", "old")
    phone.sync()
    tablet.sync()
    add_user(phone, "new")
    phone.rows("UPDATE posts SET author_id = ?", (key("new"),))
    phone.sync()
    tablet.rows("UPDATE posts SET title = 'mine'")
    assert tablet.sync()["statuses"]["conflict"] == 1
    assert everything(tablet) == everything(phone)


def test_a_conflict_that_deletes_a_parent(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "ann")
    add_post(phone, "post", "ann")
    phone.sync()
    tablet.sync()
    phone.rows("DELETE FROM posts")
    phone.rows("DELETE FROM users")
    phone.sync()
    tablet.rows("UPDATE users SET name = 'mine'")
    assert tablet.sync()["statuses"]["conflict"] == 1
    assert everything(tablet) == everything(phone)
    assert tablet.rows("SELECT * FROM _sync_held") == []


def test_a_refused_parent_can_be_given_up(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "first", "same@sync.example")
    phone.sync()
    add_user(tablet, "second", "same@sync.example")
    add_post(tablet, "post", "second")
    assert tablet.run("sync", check=False).returncode == 3
    tablet.run("discard", "users", key("second"))
    assert tablet.rows("SELECT pk_text, reason FROM _sync_rejected") == [
        (key("post"), "parent_deleted")]
    tablet.run("discard")
    tablet.sync()
    assert everything(phone) == everything(tablet)


def test_held_rows_that_refer_to_each_other(device):
    """A team and its captain, whom a unique name of the tablet keeps out for a while."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.app.execute("CREATE UNIQUE INDEX one_name ON team_members (name)")
    phone.rows("INSERT INTO teams VALUES (?, 'first', NULL)", (key("t"),))
    phone.rows("INSERT INTO team_members VALUES (?, ?, 'N')", (key("m"), key("t")))
    phone.sync()
    tablet.sync()
    with phone.transaction():
        phone.rows("INSERT INTO teams VALUES (?, 'second', ?)", (key("t2"), key("m2")))
        phone.rows("INSERT INTO team_members VALUES (?, ?, 'N')", (key("m2"), key("t2")))
    phone.sync()
    assert tablet.sync(check=False)["held"] == 2
    tablet.rows("UPDATE team_members SET name = 'other'")
    for one in (tablet, phone):
        one.sync()
    assert everything(phone) == everything(tablet)
    assert tablet.rows("SELECT * FROM _sync_held") == []


def test_rows_outside_that_refer_to_a_deleted_one(device):
    """A table that is not synced holds on to its parent, and to nothing else."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.app.executescript(
        "CREATE TABLE drafts (id INTEGER PRIMARY KEY, u TEXT REFERENCES users (id)) ")
    add_user(phone, "ann")
    phone.sync()
    tablet.sync()
    tablet.rows("INSERT INTO drafts VALUES (1, ?)", (key("ann"),))
    phone.rows("DELETE FROM users")
    add_user(phone, "new")
    phone.sync()
    assert tablet.sync(check=False)["held"] == 1
    assert tablet.rows("SELECT name FROM users ORDER BY name") == [("ann",), ("new",)]
    tablet.rows("DELETE FROM drafts")
    tablet.sync()
    assert everything(phone) == everything(tablet)


@pytest.mark.parametrize("way", ["pull", "conflict", "hydrate"])
def test_rows_outside_hold_on_to_a_row_and_so_to_its_parent(device, way):
    """Both stay while that reference stands, and hold up nothing; then both go."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.app.executescript(
        "CREATE TABLE drafts (id INTEGER PRIMARY KEY, p TEXT REFERENCES posts (id)) ")
    add_user(phone, "ann")
    add_post(phone, "post", "ann")
    phone.sync()
    tablet.sync()
    tablet.rows("INSERT INTO drafts VALUES (1, ?)", (key("post"),))
    phone.rows("DELETE FROM posts")
    phone.rows("DELETE FROM users")
    add_user(phone, "new")
    phone.sync()
    if way == "conflict":
        tablet.rows("UPDATE users SET name = 'mine'")
    assert tablet.run("hydrate" if way == "hydrate" else "sync", check=False).returncode == 3
    assert tablet.value("SELECT count(*) FROM users") == 2
    assert tablet.rows("SELECT * FROM _sync_pending") == []
    told = tablet.run("verify", "--server", check=False).stderr
    assert "2 of the server's rows cannot be stored here" in told
    assert "a row that stays here refers to it" in told
    tablet.rows("DELETE FROM drafts")
    tablet.sync()
    assert everything(phone) == everything(tablet)
    assert tablet.rows("SELECT * FROM _sync_held") == []


def test_a_table_tracked_later_gets_its_rows(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "ann")
    phone.rows("INSERT INTO categories VALUES (?, NULL, 'c')", (key("c"),))
    phone.sync()
    tablet.run("untrack", "categories")
    tablet.sync()
    assert tablet.rows("SELECT * FROM categories") == []
    tablet.run("track", "categories", "--schema", "business")
    tablet.sync()
    assert everything(tablet) == everything(phone)


def test_the_command_line_says_what_is_wrong(device, tmp_path):
    phone = device("ann", "phone")
    for arguments, code, words in (
            (("track",), 2, "track needs: FILE TABLE..."),
            (("track", "nothing"), 1, 'There is no table "nothing".'),
            (("attach",), 2, "attach needs --url and --user"),
            (("attach", "--url", "ftp://x", "--user", "u"), 1, '"ftp://x" is no URL'),
            (("frobnicate",), 2, 'there is no command "frobnicate"'),
            (("sync", "--batch-size", "-1"), 1, "Batches and pages have 1 to 10000 changes."),
            (("sync", "--nonsense"), 2, "--nonsense")):
        done = phone.run(*arguments, check=False)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    phone._token = "not.a.token"
    done = phone.run("sync", check=False)
    assert done.returncode == 1
    assert "The server answered 401" in done.stderr


@pytest.mark.parametrize("policy", ["server", "client", "merge", "manual"])
def test_an_edit_whose_row_a_cascade_takes_deletes_nothing(device, database, policy):
    """The server deletes a parent, and has a row of its own under the key of the phone's new child."""
    phone = device("ann", "phone")
    phone.app.executescript("""DROP VIEW _sync_pending; DROP TABLE categories;
        CREATE TABLE categories (id TEXT PRIMARY KEY NOT NULL, parent_id TEXT REFERENCES categories (id)
            ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, name TEXT NOT NULL)""")
    phone.run("track", "categories", "--schema", "business", "--policy", policy)
    phone.rows("INSERT INTO categories VALUES (?, NULL, 'root')", (key("root"),))
    phone.sync()
    phone.rows("INSERT INTO categories VALUES (?, ?, 'mine')", (key("child"), key("root")))
    database.rows("SET rowsync.scope = 'ann'")
    database.rows("DELETE FROM business.categories")
    database.rows("INSERT INTO business.categories VALUES (%s, NULL, 'theirs')", key("child"))
    phone.run("sync", check=False)
    if policy == "manual":
        (conflict,) = json.loads(phone.run("conflicts", "--json", check=False).stdout)
        assert json.loads(conflict["local_payload"])["name"] == "mine"
        phone.run("resolve", "categories", key("child"), "--policy", "server")
    phone.sync()
    assert [json.loads(payload)["name"] for (payload,) in phone.rows(
        "SELECT payload FROM _sync_overwritten")] == ["mine"]
    assert phone.rows("SELECT name FROM categories") == [("theirs",)]
    assert database.rows("SELECT name FROM business.categories") == [("theirs",)]
    assert phone.run("verify", "--server").returncode == 0
