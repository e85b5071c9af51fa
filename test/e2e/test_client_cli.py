"""The command line: what it says and exits with, and the commands that show the server."""

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import uuid

import pytest
import rig

ANN = "550e8400-e29b-41d4-a716-446655440000"


def add_user(device, name="Ann", key=ANN, email=None):
    """The app creates a user."""
    device.rows("INSERT INTO users VALUES (?, ?, ?, 1, 1)", (key, name, email or f"{name}@cli"))


def said(device, *arguments, code=0):
    """What a command prints on standard output, its exit status checked."""
    done = device.run(*arguments, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def complaint(device, *arguments, code=1):
    """What a command prints on standard error, its exit status checked."""
    done = device.run(*arguments, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def until(condition, seconds=30):
    """Waits for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_commands_say_what_they_did(device, gateway):
    phone = device("ann", "phone", attached=False)
    phone.app.execute("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, email TEXT)")
    phone.rows("INSERT INTO users VALUES ('x', 'X', 'x')")
    assert "is ready" in said(phone, "init")
    assert "already" in said(phone, "init")
    assert "tracking users as business.users on the server; in conflicts columns are merged; " \
        "1 row to upload" in said(phone, "track", "users", "--schema", "business",
                                  "--policy", "merge")
    assert "as business.users on the server; in conflicts columns are merged" in said(
        phone, "track", "users")
    assert f"attached to {gateway.url} as ann, source phone" in said(
        phone, "attach", "--url", gateway.url, "--user", "ann", "--source", "phone")
    assert json.loads(said(phone, "requeue", "--json")) == {"done": "nothing was refused",
                                                            "changes": 0}
    tracked = json.loads(said(phone, "track", "users", "--policy", "client", "--json"))
    assert tracked.pop("done").startswith("tracking users")
    assert tracked == {"table": "users", "server": "business.users", "policy": "client", "pending": 1}
    assert 'Edits of "users" would be lost: 1 pending, 0 in conflict, 0 refused.\n  First ' \
        "`rowsync sync`; or use --force" in complaint(phone, "untrack", "users")
    assert "its rows stay" in said(phone, "untrack", "users", "--force")
    assert "detached" in said(phone, "detach")
    assert "not attached" in said(phone, "status")


def test_refusals_are_shown_with_their_reasons(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, email="same@cli")
    assert said(phone, "sync").startswith("1 uploaded in 1 round, 0 downloaded in 0 pages; "
                                          "0 pending, 0 conflicts, 0 rejected\n")
    tablet.sync()
    tablet.run("detach")
    tablet.attach()
    for number in range(5):
        add_user(tablet, f"U{number}", str(uuid.UUID(int=number)), f"{number}@cli")
        tablet.rows("INSERT INTO posts VALUES (?, ?, '', ?, 1, 1)",
                    (str(uuid.UUID(int=100 + number)), str(uuid.UUID(int=number)), "a\x00b"))
    shown = said(tablet, "sync", code=3)
    assert "refused:\n  posts 00000000-0000-0000-0000-0000000000" in shown
    assert "(bad_payload)" in shown and "and 2 more" in shown and "`rowsync rejected " in shown
    status = said(tablet, "status", code=3)
    assert "business.posts" in status and "5 rejected" in status
    assert "TABLE         SERVER                 POLICY  PENDING" in status
    table = said(tablet, "rejected", code=3).splitlines()
    assert table[0].split() == ["TABLE", "KEY", "OP", "REASON", "COLUMN", "MESSAGE"]
    assert len(table) == 6 and table[1].index("bad_payload") == table[0].index("REASON")
    assert "1 change given up" in said(tablet, "discard", "posts", str(uuid.UUID(int=100)))
    assert "4 changes will be sent again" in said(tablet, "requeue")
    assert said(tablet, "diff").startswith("OP      TABLE  KEY")
    assert "`rowsync rejected`" in complaint(tablet, "requeue", "posts", str(uuid.UUID(int=100)))


def on_terminal(device, *arguments, **environment):
    """What a command shows on a terminal, both streams together."""
    controller, terminal = os.openpty()
    child = subprocess.Popen([rig.device.BINARY, arguments[0], device.path, *arguments[1:]],
                             stdin=terminal, stdout=terminal, stderr=terminal,
                             env={**device.environment(), "TERM": "xterm", **environment})
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(controller, 4096):
            shown += piece
    except OSError:  # how Linux ends a terminal that nobody has open any more
        pass
    os.close(controller)
    child.wait()
    return shown.decode()


def test_a_terminal_gets_colours_and_a_pipe_does_not(device):
    phone = device("ann", "phone")
    add_user(phone)
    shown = on_terminal(phone, "diff")
    assert "\x1b[1mOP " in shown and "\x1b[32mINSERT" in shown
    assert "\x1b[31mrowsync:" in on_terminal(phone, "untrack", "users")
    for plain in (on_terminal(phone, "diff", NO_COLOR="1"), on_terminal(phone, "diff", TERM="dumb"),
                  said(phone, "diff")):
        assert "INSERT  users" in plain and "\x1b" not in plain
    shown = on_terminal(phone, "sync")
    assert re.search(r"push\S* .*1", shown) and "1 uploaded" in shown.split("\x1b[K")[-1]


def test_what_waits_for_a_parent_is_named(device):
    phone = device("ann", "phone")
    phone.app.execute("PRAGMA foreign_keys = OFF")
    key = str(uuid.uuid4())
    phone.rows("INSERT INTO posts VALUES (?, ?, 'early', '', 1, 1)", (key, ANN))
    shown = said(phone, "sync", code=3)
    assert "1 pending" in shown
    assert f"`rowsync rejected {phone.path}`.\nWhat waits for another row, or for the server to work, " \
        "is sent again by every sync.\n" in shown
    assert f"posts {key}: the server has no business.users:{ANN} yet (fk_missing)\n" in shown
    assert f"the server has no business.users:{ANN} yet" in said(phone, "rejected", code=3)
    (table,) = (one for one in phone.status()["by_table"] if one["table"] == "posts")
    assert table == {"table": "posts", "server": "business.posts", "policy": "server", "pending": 1,
                     "held": 0, "conflicts": 0, "rejected": 1, "gone": 0}
    add_user(phone)
    assert "2 uploaded" in said(phone, "sync")


def test_a_conflict_shows_both_sides(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    tablet.run("track", "users", "--schema", "business", "--policy", "manual")
    add_user(phone)
    phone.sync()
    tablet.sync()
    phone.rows("UPDATE users SET name = 'Anna', updated_at = 2")
    tablet.rows("UPDATE users SET name = 'Anne'")
    phone.sync()
    assert "1 conflict, 0 rejected\nSee `rowsync conflicts" in said(tablet, "sync", code=3)
    lines = [line.split() for line in said(tablet, "conflicts", code=3).splitlines()]
    assert lines[0] == ["TABLE", "KEY", "COLUMN", "HERE", "SERVER"]
    assert ["users", ANN, "name", "Anne", "Anna"] in lines and len(lines) == 3
    (row,) = json.loads(said(tablet, "conflicts", "--json", code=3))
    assert json.loads(row["local_payload"])["name"] == "Anne"
    assert "1 conflict," in said(tablet, "status", code=3)
    for command in (("detach",), ("untrack", "users")):
        told = complaint(tablet, *command)
        assert "would be lost: 0 pending, 1 in conflict, 0 refused." in told
        assert "First `rowsync resolve` what is in conflict, then `rowsync sync`; or use --force" in told
    assert "the edit here will be sent" in said(
        tablet, "resolve", "users", ANN, "--policy", "client")
    assert said(tablet, "conflicts") == "no conflict waits\n"


def test_an_edit_that_lost_is_told(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone)
    phone.sync()
    tablet.sync()
    for one, name in ((phone, "Anna"), (tablet, "Anne")):
        one.rows("UPDATE users SET name = ?", (name,))
    assert phone.sync()["overwritten"] == 0
    assert "1 edit lost to the server: see `rowsync overwritten" in said(tablet, "sync")
    assert said(tablet, "overwritten").splitlines()[1].split()[1:4] == [
        "UPDATE", "users", ANN]


def test_wrong_command_lines_and_files(device, tmp_path):
    phone = device("ann", "phone")
    assert 'status has no use for "extra"' in complaint(phone, "status", "extra", code=2)
    assert 'resolve has no use for "c"' in complaint(phone, "resolve", "a", "b", "c", code=2)
    assert "status has no use for --policy" in complaint(
        phone, "status", "--policy", "client", code=2)
    assert "resolve needs: FILE TABLE KEY" in complaint(phone, "resolve", "users", code=2)
    assert "--policy is server, client" in complaint(phone, "track", "users", "--policy", "x", code=2)
    assert 'which row it is: it cannot stay local' in complaint(phone, "track", "users", "--local", "ID")
    phone.app.executescript("CREATE VIEW seen AS SELECT * FROM users;"
                            "CREATE VIRTUAL TABLE search USING fts5(words)")
    assert '"seen" is a view.' in complaint(phone, "track", "seen")
    assert '"search" is a virtual table.' in complaint(phone, "track", "search")
    assert '"SEEN" is a view.' in complaint(phone, "track", "SEEN")
    assert "Cannot read the token file nofile: No such file" in complaint(
        phone, "sync", "--token-file", "nofile")
    assert "The token command failed: false: exit status 1" in complaint(
        phone, "sync", "--token-command", "false")
    for arguments, code, name in ((("sync", "--token-file", "nofile"), 1, "unauthorized"),
                                  (("status", "extra"), 2, "usage"), (("untrack", "x"), 1, "misuse")):
        assert json.loads(said(phone, *arguments, "--json", code=code))["error"]["code"] == name
    refused = rig.mint("ann", "phone", secret="x" * 32)
    once = f"test ! -e {tmp_path}/asked && touch {tmp_path}/asked && echo {refused}"
    hint = complaint(phone, "sync", "--token-command", once)
    assert "There is no token." in hint and "Set ROWSYNC_TOKEN, or give" in hint and "()" not in hint
    text = tmp_path / "text.db"
    text.write_text("this is no database, and long enough to tell\n" * 100)
    other = rig.Device(text, phone.url, "ann", "x")
    assert "is not a SQLite database" in complaint(other, "status")
    empty = rig.Device(tmp_path / "empty.db", phone.url, "ann", "x")
    assert "`rowsync init` makes a new database" in complaint(empty, "status")
    sqlite3.connect(empty.path).execute("CREATE TABLE a (b)").connection.close()
    for command in ("status", "conflicts", "rejected", "diff", "sync"):
        hint = complaint(empty, command)
        assert "`rowsync init`" in hint and "()" not in hint
    empty.run("init")
    hint = complaint(empty, "sync")
    assert "`rowsync attach`" in hint and "()" not in hint
    nameless = rig.Device("", phone.url, "ann", "x")
    assert "one is empty" in complaint(nameless, "init", code=2)


def test_each_command_has_its_own_help():
    def shown(*arguments):
        """What a command line without a file prints."""
        return subprocess.run([rig.device.BINARY, *arguments], capture_output=True, text=True,
                              check=True).stdout
    assert "--policy" not in shown("--help") and shown("help") == shown("-h") == shown("--help")
    for command in re.findall(r"^  (\w+) ", shown("--help"), re.MULTILINE):
        about = shown(command, "--help")
        assert about.startswith(f"Usage: rowsync {command} ") and about == shown("help", command)
        assert ("--policy" in about) == (command in ("clone", "track", "resolve")), command
        assert "--json" in about and "  [" not in about.splitlines()[0]
    assert "manual" in shown("track", "--help") and "manual" not in shown("resolve", "--help")
    starts = {line.index(summary) for line in shown("help").splitlines() for summary in (
        "make a database", "edits that lost", "send them again", "print a development")
        if summary in line}
    assert len(starts) == 1


def test_completion_offers_what_a_command_takes():
    def offered(*words):
        """What bash would complete the last word to."""
        line = " ".join(f"'{word}'" for word in words)
        return subprocess.run(
            ["bash", "-c", f". {rig.place.ROOT}/client-sqlite/rowsync.bash; COMP_WORDS=({line});"
             f" COMP_CWORD={len(words) - 1}; _rowsync; echo \"${{COMPREPLY[@]}}\""],
            capture_output=True, text=True, check=True).stdout.split()
    assert offered("rowsync", "track", "f", "t", "--policy", "m") == ["merge", "manual"]
    assert offered("rowsync", "resolve", "f", "t", "k", "--policy", "m") == ["merge"]
    assert "overwritten" in offered("rowsync", "o")


def test_another_connection_is_waited_for_in_words(device):
    phone = device("ann", "phone")
    add_user(phone)
    phone.app.execute("BEGIN IMMEDIATE")
    with phone.start("sync") as running:
        told = running.stderr.readline()
        phone.app.execute("COMMIT")
        assert running.wait() == 0
    assert f"another connection holds {phone.path}; waiting" in told


def test_development_tokens(device):
    phone = device("ann", "phone")

    def token(*arguments):
        """Runs `rowsync token`, which takes no file."""
        return rig.device.subprocess.run(
            [rig.device.BINARY, "token", *arguments], capture_output=True, text=True,
            env={**os.environ, "ROWSYNC_JWT_SECRET": phone.secret})
    plain = token("--user", "ann", "--source", "x").stdout.strip()
    assert plain.count(".") == 2
    assert json.loads(token("--user", "ann", "--source", "x", "--json").stdout)["token"].count(".") == 2
    for wrong in ("0", "-5"):
        done = token("--user", "ann", "--ttl", wrong)
        assert done.returncode == 2 and "above 0" in done.stderr
    assert "--source is optional" in token().stderr
    phone.secret = "x" * 31
    done = token("--user", "ann")
    assert done.returncode == 1 and done.stdout == ""
    assert "at least 32 bytes" in done.stderr and "openssl rand" in done.stderr


def test_a_forgotten_schema_is_explained(device):
    phone = device("ann", "phone", attached=False)
    phone.app.execute("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, email TEXT)")
    phone.rows("INSERT INTO users VALUES (?, 'Ann', 'ann@cli')", (ANN,))
    said(phone, "init")
    said(phone, "track", "users")
    said(phone, "attach", "--url", phone.url, "--user", "ann", "--source", "phone")
    for command in ("sync", "rejected"):
        assert f"`rowsync track {phone.path} TABLE --schema NAME`" in said(phone, command, code=3)
    for command in (("detach",), ("untrack", "users")):
        told = complaint(phone, *command)
        assert "would be lost: 0 pending, 0 in conflict, 1 refused." in told
        assert "First `rowsync requeue` or `rowsync discard` what was refused, then `rowsync sync`; " \
            "or use --force, which gives these edits up." in told
    said(phone, "track", "users", "--schema", "business")
    said(phone, "requeue")
    assert "1 uploaded" in said(phone, "sync")
    assert "schema NAME" not in said(phone, "rejected")


@pytest.mark.parametrize("rows_before", [False, True])
def test_the_right_schema_brings_the_rows(device, rows_before):
    """A schema that was forgotten, or changed to a wrong one and back: nothing stays away unnoticed."""
    ann, ben = ANN, str(uuid.uuid4())
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone)
    phone.sync()
    if rows_before:
        tablet.sync()
    said(tablet, "track", "users", "--schema", "wrong")
    for command in ("sync", "status"):
        done = tablet.run(command)
        assert "the server syncs no table wrong.users\n" in done.stderr
        assert f"`rowsync track {tablet.path} users --schema NAME`" in done.stderr
    add_user(phone, "Ben", ben)
    phone.rows("UPDATE users SET name = 'Anna' WHERE id = ?", (ann,))
    phone.sync()
    if rows_before:
        tablet.rows("UPDATE users SET updated_at = 2 WHERE id = ?", (ann,))
    said(tablet, "track", "users", "--schema", "business", "--policy", "merge")
    assert "syncs no table" not in tablet.run("sync").stderr
    assert sorted(tablet.rows("SELECT name, updated_at FROM users")) == [
        ("Anna", 2 if rows_before else 1), ("Ben", 1)]
    assert "syncs no table" not in tablet.run("status").stderr
    assert "as the server has them" in said(tablet, "verify", "--server")


def test_a_table_of_another_schema_is_another_one(device, database):
    """The same key with a lower version: the row becomes that of the schema which is named now."""
    database.rows("""CREATE SCHEMA other;
        CREATE TABLE other.users (id uuid PRIMARY KEY, name text, email text, created_at bigint, updated_at bigint);
        SELECT rowsync.register_table('other.users');
        GRANT ALL ON SCHEMA other TO business_gateway;
        GRANT ALL ON other.users TO business_gateway;
        SET rowsync.scope = 'ann';""")
    database.rows("INSERT INTO other.users VALUES (%s, 'Other', 'o@cli', 7, 7)", ANN)
    phone = device("ann", "phone")
    for name, key in (("Ann", ANN), ("Ben", str(uuid.uuid4()))):
        add_user(phone, name, key)
    phone.sync()
    said(phone, "track", "users", "--schema", "other")
    phone.sync()
    assert phone.rows("SELECT name, updated_at FROM users") == [("Other", 7)]
    phone.rows("UPDATE users SET updated_at = 8")
    assert phone.sync()["statuses"] == {"applied": 1}
    assert database.rows("SELECT name, updated_at FROM other.users") == [("Other", 8)]


def test_a_token_for_another_source(device):
    phone = device("ann", "phone")
    phone._token = rig.mint("ann", "tablet")
    for command in ("sync", "log"):
        hint = complaint(phone, command)
        assert "another source than this database" in hint and "Is the URL" not in hint


def test_another_server_needs_force(device, gateway):
    phone = device("ann", "phone")
    phone.run("attach", "--url", "http://127.0.0.1:1", "--user", "ann")
    phone.attach()
    add_user(phone)
    phone.sync()
    phone.sync()
    phone.run("attach", "--url", gateway.url + "/", "--user", "ann")
    moved = ("attach", "--url", "http://127.0.0.1:1", "--user", "ann")
    assert "Use --force" in complaint(phone, *moved)
    phone.run(*moved, "--force")


def test_trying_again_is_told_and_ctrl_c_ends_it(device):
    phone = device("ann", "phone", url="http://127.0.0.1:1")
    assert "trying again" in complaint(phone, "sync")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        phone.run("attach", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--user", "ann")
        running = phone.start("sync")
        silent.accept()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 1 and "cancelled" in errors


def clone(device, *arguments, check=True):
    """Runs `rowsync clone URL FILE`."""
    return rig.device.subprocess.run(
        [rig.device.BINARY, "clone", device.url, device.path, *arguments], capture_output=True,
        text=True, env=device.environment(), check=check)


def test_clone_is_ready_to_work(device, database):
    phone, laptop = device("ann", "phone"), device("ann", "laptop", attached=False)
    add_user(phone)
    phone.rows("INSERT INTO posts VALUES (?, ?, 'one', '', 1, 1)", (str(uuid.uuid4()), ANN))
    phone.sync()
    assert "cloned 7 tables with 2 rows" in clone(laptop, "--policy", "merge").stdout
    assert {table["policy"] for table in laptop.status()["by_table"]} == {"merge"}
    assert laptop.rows("SELECT title FROM posts") == [("one",)]
    assert laptop.status()["source"] == "laptop" and laptop.status()["user"] == "ann"
    (sql,) = laptop.rows("SELECT sql FROM sqlite_schema WHERE name = 'file_reviews'")
    assert "ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED" in sql[0]
    with pytest.raises(sqlite3.IntegrityError):
        add_user(laptop, "Twin", str(uuid.uuid4()), "Ann@cli")
    with laptop.transaction():
        key = str(uuid.uuid4())
        laptop.rows("INSERT INTO posts VALUES (?, ?, 'two', '', 1, 1)", (str(uuid.uuid4()), key))
        add_user(laptop, "Bea", key)
    assert laptop.sync()["statuses"] == {"applied": 2}
    assert database.rows("SELECT count(*) FROM business.posts") == [(2,)]
    assert "is there already" in clone(laptop, check=False).stderr
    assert laptop.run("verify").returncode == 0


def test_a_clone_keeps_json_scalars(database, device):
    """A clone that takes json values of every sort to other rows sends what it has got, to the byte."""
    database.rows("""CREATE TABLE business.docs (id text PRIMARY KEY, js json, jb jsonb);
        SELECT rowsync.register_table('business.docs');
        GRANT ALL ON business.docs TO business_gateway""")
    scalars = ["true", "false", "0", "-0", "1.10", "-0.5", "123456789012345678901234567890", "0.1000", "1e400",
               "1." + "3" * 60, '"word"', '""', '"true"', '"null"', '"1"', '"x{"', '"é\\n\\"x"']
    database.rows("SET rowsync.scope = 'ann'")
    for number, value in enumerate(scalars):
        database.rows("INSERT INTO business.docs VALUES (%s, %s, %s)", f"a{number:02}", value, value)
    database.rows("INSERT INTO business.docs VALUES ('a97', NULL, NULL), ('a98', 'null', 'null')")
    phone = device("ann", "phone", attached=False)
    clone(phone)
    phone.rows("INSERT INTO docs SELECT 'b' || substr(id, 2), js, jb FROM docs")
    assert phone.sync()["statuses"] == {"applied": len(scalars) + 2}
    assert database.rows("""SELECT a.js::text, b.js::text, a.jb::text, b.jb::text FROM business.docs a
        JOIN business.docs b ON b.id = 'b' || substr(a.id, 2) WHERE a.id < 'a97'
        AND (a.js::text, a.jb::text) IS DISTINCT FROM (b.js::text, b.jb::text)""") == []
    assert database.rows("SELECT id FROM business.docs WHERE id > 'b96' AND (js, jb::text) IS NULL ORDER BY 1") == [
        ("b97",), ("b98",)], "null and NULL are one on the wire"
    assert database.value("SELECT jb::text FROM business.docs WHERE id = 'a98'") == "null"


def test_a_clone_keeps_unique_what_the_server_does_for_each_user(device, database):
    database.rows("CREATE TABLE business.labels (id text PRIMARY KEY, owner text, name text,"
                  " UNIQUE (owner, name))")
    database.rows("SELECT rowsync.register_table('business.labels', 'owner')")
    database.rows("GRANT ALL ON business.labels TO business_gateway")
    database.rows("INSERT INTO business.labels VALUES ('1', 'ann', 'red'), ('2', 'bob', 'red')")
    laptop = device("ann", "laptop", attached=False)
    told = json.loads(clone(laptop, "--json").stdout)
    assert (told["rows"], told["user"], told["source"]) == (1, "ann", "laptop")
    assert laptop.rows("SELECT * FROM labels") == [("1", "red")]
    with pytest.raises(sqlite3.IntegrityError):
        laptop.rows("INSERT INTO labels VALUES ('3', 'red')")


def test_a_clone_of_a_wrong_schema_or_path(device):
    one = device("ann", "laptop", attached=False)
    done = clone(one, "--schema", "nix", check=False)
    assert done.returncode == 1 and 'no table of a schema "nix"' in done.stderr
    assert "The server syncs tables of: business\n" in done.stderr
    one.url += "/api"
    assert "Give the gateway's URL alone" in clone(one, check=False).stderr


def test_a_refused_key_is_named_as_the_column_is(device):
    phone = device("ann", "phone")
    add_user(phone, key="no uuid")
    assert "users no uuid: key: expected a uuid, not " in said(phone, "sync", code=3)
    assert re.search(r"users +no uuid +INSERT +bad_payload +id ", said(phone, "rejected", code=3))


def test_a_forgotten_grant_is_explained(device, database):
    phone = device("ann", "phone")
    add_user(phone)
    phone.sync()
    database.rows("REVOKE DELETE ON business.users FROM business_gateway")
    phone.rows("DELETE FROM users")
    words = said(phone, "sync", code=3)
    assert "lacks a right on the server: GRANT USAGE" in words and "edit the row" not in words


def test_a_clone_that_fails_leaves_nothing(device, tmp_path):
    one = device("ann", "laptop", attached=False)
    for url, words in (("http://127.0.0.1:1", "was not reached"), ("ftp://x", "is no URL")):
        one.url = url
        done = clone(one, check=False)
        assert done.returncode == 1 and words in done.stderr
    one = device("ann", "laptop", attached=False)
    one._token = "abc"
    assert "The token is no JWT." in clone(one, check=False).stderr
    one._token = "not.a.token"
    assert "The token is no JWT." in clone(one, check=False).stderr
    assert "401" in clone(one, "--user", "ann", check=False).stderr
    assert [path.name for path in tmp_path.iterdir()] == []


WAITS = """
#include <stdio.h>
static int waits;
int usleep(unsigned us) { waits += us > 0; return 0; }
__attribute__((destructor)) static void tell(void) { fprintf(stderr, "waits: %d\\n", waits); }
"""


@pytest.fixture
def no_waits(tmp_path):
    """A library that lets waits for a lock take no time, and counts them."""
    shim = tmp_path / "waits.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", shim, "-"], input=WAITS, text=True,
                   check=True)
    return str(shim)


@pytest.mark.skipif("SANITIZE" in os.environ, reason="the sanitizer's library has to come first")
@pytest.mark.parametrize("how", ["PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE"])
def test_a_locked_file_is_waited_for_once(device, no_waits, how):
    """Half a minute, which is 3000 waits of 10 ms."""
    phone = device("ann", "phone", attached=False)
    phone.app.execute("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, email TEXT)")
    phone.run("init")
    phone.run("track", "users")
    phone.close()
    holder = sqlite3.connect(phone.path, isolation_level=None)
    holder.execute(how)
    holder.execute("INSERT INTO users VALUES ('a', 'a', 'a')")
    done = phone.start("verify", LD_PRELOAD=no_waits)
    _, told = done.communicate()
    holder.close()
    assert done.returncode == 1 and "Another connection holds" in told, told
    assert "waits: 3000\n" in told, told


def test_a_clone_that_is_killed_is_begun_anew(device, blocked):
    phone, laptop = device("ann", "phone"), device("ann", "laptop", attached=False)
    side = laptop.path.with_name(laptop.path.name + "-clone")
    filling = subprocess.Popen([rig.device.BINARY, "clone", laptop.url, laptop.path],
                               env=laptop.environment())
    try:
        until(lambda: side.exists() and side.stat().st_size > 0)
        assert "Another clone is at work" in clone(laptop, check=False).stderr
    finally:
        filling.kill()
        filling.wait()
    assert side.exists() and not laptop.path.exists()
    blocked()
    add_user(phone)
    phone.sync()
    assert "with 1 row" in clone(laptop).stdout
    assert laptop.rows("SELECT name FROM users") == [("Ann",)]
    laptop.close()
    assert sorted(path.name for path in side.parent.iterdir() if path.name.startswith(
        laptop.path.name)) == [laptop.path.name]


def test_control_characters_of_a_row_do_not_reach_the_terminal(device):
    phone = device("ann", "phone")
    phone.rows("INSERT INTO users VALUES (?, 'x', 'y', 1, 1)", ("a\x1b[31m",))
    for command in ("sync", "rejected"):
        assert "a [31m" in said(phone, command, code=3) and "\x1b" not in said(
            phone, command, code=3)
    shown = complaint(phone, "resolve", "users", "a\x1b[31m", "--policy", "server")
    assert "a [31m" in shown and "\x1b" not in shown


@pytest.mark.parametrize("body, words", [
    ("{}", "403.\n"), ("[]", "403.\n"), ('{"detail": 1}', "403.\n"),
    (r'{"detail": "a\u001b[31m", "hint": "b\u001b[0m"}', "403: a [31m\n  b [0m\n")])
def test_a_refusal_in_other_words(device, body, words):
    """A proxy may answer with JSON of its own."""
    laptop = device("ann", "laptop", attached=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        laptop.url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        cloning = subprocess.Popen([rig.device.BINARY, "clone", laptop.url, laptop.path],
                                   env=laptop.environment(), stderr=subprocess.PIPE, text=True)
        connection, _ = proxy.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(f"HTTP/1.1 403 No\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                               .encode())
            _, errors = cloning.communicate(timeout=30)
    assert f"The server answered {words}" in errors and "(null)" not in errors


def test_log_shows_the_latest_changes(device, database):
    phone = device("ann", "phone")
    assert "nothing has happened yet" in said(phone, "log")
    add_user(phone)
    phone.sync()
    database.rows("UPDATE business.users SET name = 'Ann of psql'")
    add_user(phone, "Bea", str(uuid.uuid4()))
    phone.sync()
    lines = [line.split() for line in said(phone, "log").splitlines()]
    assert lines[0] == ["SEQ", "AT", "OP", "TABLE", "KEY", "BY"]
    assert [(line[0], line[2], line[5]) for line in lines[1:]] == [
        ("3", "INSERT", "phone"), ("2", "UPDATE", "(server)")]
    (latest,) = json.loads(said(phone, "log", "--limit", "1", "--json"))
    assert list(latest) == ["seq", "at", "op", "table", "key", "by"] and latest["seq"] == 3
    assert "--limit" in complaint(phone, "log", "--limit", "0", code=2)
    database.rows("SELECT rowsync.prune(interval '0')")
    assert "nothing since 3: the server has pruned" in said(phone, "log")


def test_a_column_that_only_the_device_has_is_explained(device):
    phone = device("ann", "phone")
    phone.app.execute("ALTER TABLE users ADD colour TEXT")
    add = "INSERT INTO users VALUES (?, ?, ?, 1, 1, 'red')"
    phone.rows(add, (ANN, "Ann", "a@cli"))
    hint = said(phone, "sync", code=3)
    assert f"`rowsync track {phone.path} TABLE --local COLUMN`" in hint
    assert "the fourth argument of the SQL function" in hint
    assert "--local for each" in complaint(phone, "track", "users", "--local", "colour,name")
    said(phone, "track", "users", "--local", "colour")
    said(phone, "requeue")
    assert phone.sync()["statuses"] == {"applied": 1}
    said(phone, "track", "users", "--local", "")
    phone.rows(add, (str(uuid.uuid4()), "Bea", "b@cli"))
    assert 'no column "colour"' in said(phone, "sync", code=3)


def test_a_table_that_is_gone_is_told_and_can_be_forgotten(device):
    phone = device("ann", "phone")
    add_user(phone)
    phone.app.execute("ALTER TABLE users RENAME TO people")
    phone.app.execute("UPDATE people SET name = 'Anna'")
    told = complaint(phone, "status", code=3)
    assert f'the tracked table "users" is gone\n  No sync works until it is there again, or ' \
        f"`rowsync untrack {phone.path} users` has forgotten it.\n" in told
    status = json.loads(said(phone, "status", "--json", code=3))
    assert status["gone"] == 1
    assert [one["table"] for one in status["by_table"] if one["gone"]] == ["users"]
    assert 'table "users" is gone' in complaint(phone, "sync")
    assert "The table is gone: create it again; or use --force, which gives these edits up." in \
        complaint(phone, "untrack", "users")
    said(phone, "untrack", "users", "--force")
    assert complaint(phone, "status", code=0) == ""
    phone.app.executescript("CREATE TABLE tag (id TEXT PRIMARY KEY)")
    said(phone, "track", "tag")
    phone.app.executescript("DROP VIEW _sync_pending; DROP TABLE tag; CREATE TABLE tag (id TEXT)")
    assert 'the tracked table "tag" has lost its primary key\n' in complaint(phone, "status", code=3)


def test_a_wrong_key_is_named_at_once(device, database):
    database.rows("""CREATE TABLE business.cells (x int, y int, PRIMARY KEY (x, y));
        SELECT rowsync.register_table('business.cells');
        GRANT ALL ON business.cells TO business_gateway;
        SET rowsync.scope = 'ann'""")
    database.rows("INSERT INTO business.cells VALUES (1, 2)")
    phone = device("ann", "phone")
    phone.app.execute("CREATE TABLE cells (x INTEGER, y INTEGER, PRIMARY KEY (y, x))")
    said(phone, "track", "cells", "--schema", "business")
    words = complaint(phone, "sync")
    assert 'The key of "cells" is not that of the server, which is ("x", "y").' in words
    assert "trying again" not in words


def test_a_table_that_the_server_syncs_by_now_is_not_warned_of(device, database):
    database.rows("CREATE TABLE business.later (id uuid PRIMARY KEY)")
    phone = device("ann", "phone")
    phone.app.execute("CREATE TABLE later (id TEXT PRIMARY KEY)")
    said(phone, "track", "later", "--schema", "business")
    assert "the server syncs no table business.later" in phone.run("sync").stderr
    phone.rows("INSERT INTO later VALUES (?)", (ANN,))
    database.rows("SELECT rowsync.register_table('business.later')")
    done = phone.run("sync", check=False)
    assert "(forbidden)" in done.stdout and "syncs no table" not in done.stderr


@contextlib.contextmanager
def watch(device, *arguments, terminal=False, **environment):
    """A running `rowsync watch`, and its standard output to read line by line.

    Ctrl-C ends it, with status 0. Should lines fail to come, it is killed, and the output ends.
    """
    ours, theirs = os.openpty() if terminal else os.pipe()
    command = [rig.device.BINARY, "watch", device.path, *arguments]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs,
                               stderr=theirs if terminal else subprocess.DEVNULL,
                               env={**device.environment(), "TERM": "xterm", **environment})
    os.close(theirs)
    timer = threading.Timer(120, running.kill)
    timer.start()
    try:
        with open(ours, encoding="utf-8") as output:
            yield output
            running.send_signal(signal.SIGINT)
            assert running.wait() == 0
    finally:
        timer.cancel()
        running.kill()
        running.wait()


def line_with(output, words):
    """The next line that has these words."""
    for line in output:
        if words in line:
            return line
    raise AssertionError(f"no line has {words!r}")


def test_watch_stays_in_step_and_tells(device, start_gateway):
    gateway = start_gateway()
    phone, *others = [device("ann", name, url=gateway.url)
                      for name in ("phone", "tablet", "laptop", "desk")]
    with watch(others[0], "--json") as lines, watch(others[1]) as words, \
            watch(others[2], terminal=True) as colours:
        outputs = (lines, words, colours)
        first = [line_with(output, " 0 pending") for output in outputs[1:]]
        assert re.match(r"\d\d:\d\d:\d\d  0 uploaded in 0 rounds, 0 downloaded", first[0])
        said = [line_with(output, "watching") for output in outputs]
        began = json.loads(said[0])
        assert (began["event"], began["url"], began["source"]) == ("watching", gateway.url, "tablet")
        at = datetime.datetime.fromisoformat(began["at"].replace("Z", "+00:00"))
        assert abs(at.timestamp() - time.time()) < 120 and began["at"].endswith("Z")
        assert re.fullmatch(rf"\d\d:\d\d:\d\d  watching {gateway.url} as source laptop; Ctrl-C ends "
                            r"it\n", said[1])
        assert re.search(r"\d\d:\d\d:\d\d  \x1b\[32mwatching .*\x1b\[0m", said[2])
        for name in ("One", "Two"):
            add_user(phone, name, str(uuid.uuid4()))
            phone.sync()
            told = [line_with(output, "downloaded") for output in outputs]
            assert [json.loads(told[0])[key] for key in ("event", "downloaded", "uploaded")] == [
                "synced", 1, 0]
            assert "1 downloaded in 1 page; 0 pending" in told[1]
            assert others[0].value("SELECT 1 FROM users WHERE name = ?", (name,)) == 1
        gateway.stop()
        said = [line_with(output, words) for output, words in
                zip(outputs, ('"lost"', "connection lost", "connection lost"))]
        lost = json.loads(said[0])
        assert "not reached" in lost["reason"] and 200 <= lost["next_try_ms"] <= 800
        assert re.match(r"\d\d:\d\d:\d\d  connection lost, next try in 0\.\d s: The server was not",
                        said[1])
        assert "\x1b[31mconnection lost" in said[2] and "\x1b" not in said[1]
        again = start_gateway(ROWSYNC_LISTEN=gateway.url.removeprefix("http://"))
        assert again.url == gateway.url
        said = [line_with(output, words) for output, words in
                zip(outputs, ('"connected"', "connected again", "connected again"))]
        assert set(json.loads(said[0])) == {"event", "at"} and "\x1b[32mconnected" in said[2]
        add_user(phone, "Three", str(uuid.uuid4()))
        phone.sync()
        assert json.loads(line_with(lines, "synced"))["downloaded"] == 1
        for output in outputs[1:]:
            line_with(output, "1 downloaded")


def test_watch_begins_without_a_server_and_ends_where_none_is_rowsync(device, start_gateway):
    gateway = start_gateway()
    phone = device("ann", "phone", url=gateway.url)
    gateway.stop()
    with watch(phone, "--json") as lines:
        waits = [json.loads(line_with(lines, '"lost"'))["next_try_ms"] for _ in range(3)]
        assert waits[2] > waits[0] and all(
            200 << n <= wait <= 400 << n for n, wait in enumerate(waits)), waits
        start_gateway(ROWSYNC_LISTEN=gateway.url.removeprefix("http://"))
        assert json.loads(line_with(lines, '"synced"'))["downloaded"] == 0
        line_with(lines, '"watching"')
    phone._token = "no.good.token"
    done = phone.run("watch", "--json", check=False)
    assert done.returncode == 1 and json.loads(done.stdout)["error"]["code"] == "auth"


def test_watch_ends_with_its_token(device, start_gateway):
    phone = device("ann", "phone", url=start_gateway(ROWSYNC_JWT_LEEWAY=0).url)
    phone._token = rig.mint("ann", "phone", ttl=4)
    told = complaint(phone, "watch")
    assert re.match(r"rowsync: The server answered 401: The token expired (1 second|\d\d* seconds) ago\."
                    r"\n  Get a fresh token", told), told


def test_output_that_cannot_be_written_is_a_failure(device):
    phone = device("ann", "phone")
    for option in ([], ["--json"]):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([rig.device.BINARY, "status", phone.path, *option],
                                  env=phone.environment(), stdout=full, stderr=subprocess.PIPE,
                                  text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith(
            "rowsync: Standard output cannot be written.\n  What the command did is done"), done


def test_json_is_json_whatever_was_given(device, tmp_path):
    phone = device("ann", "phone")
    bare = os.fsencode(tmp_path) + b"/\xff\xc3\xa9\xe2\x82.db"

    def answer(*arguments, code):
        done = subprocess.run([rig.device.BINARY, *arguments, "--json"],
                              env=phone.environment(), capture_output=True, check=False)
        assert done.returncode == code, done
        return json.loads(done.stdout.decode())

    wanted = "/\ufffd\u00e9\ufffd\ufffd.db"
    assert wanted in answer("status", bare, code=1)["error"]["message"]
    assert wanted in answer("init", bare, code=0)["done"]
    attached = answer("attach", bare, "--url", phone.url, "--user", b"\xff", code=0)
    assert attached["user"] == "\ufffd" and attached["source"], attached
    assert answer("status", bare, code=0)["user"] == "\ufffd"
    assert answer("sync", phone.path, "--batch-size", "x", code=2)["error"]["code"] == "usage"


def test_watch_tells_once_what_waits(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    add_user(phone, "Nobody", "no-uuid")
    with watch(phone) as output:
        line_with(output, "1 rejected")
        assert "refused:" in next(output) and "no-uuid" in next(output)
        line_with(output, "watching")
        for count, name in ((1, "Bob"), (1, "Eve"), (0, "Kim")):
            if count == 0:
                phone.run("discard")
            add_user(tablet, name, str(uuid.uuid4()))
            tablet.sync()
            line = next(output)
            assert "1 downloaded" in line and f"{count} rejected" in line


@pytest.mark.skipif("SANITIZE" in os.environ, reason="the sanitizer's library has to come first")
def test_watch_waits_for_a_file_that_is_held(device, no_waits):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    with watch(phone, "--json", LD_PRELOAD=no_waits) as lines:
        line_with(lines, "watching")
        phone.rows("BEGIN IMMEDIATE")
        add_user(tablet)
        tablet.sync()
        assert "Another connection" in json.loads(line_with(lines, '"busy"'))["reason"]
        phone.rows("ROLLBACK")
        assert json.loads(line_with(lines, '"synced"'))["downloaded"] == 1
        line_with(lines, '"connected"')
