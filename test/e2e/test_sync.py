"""Devices, gateway and PostgreSQL together: who gets what, and what a cut connection costs."""

import json
import signal
import threading
import time
import uuid

import pytest
import rig
from client_parts import add_user, key, wait_for


def users(device):
    """The users on a device."""
    return device.rows("SELECT id, name, email, created_at, updated_at FROM users ORDER BY id")


def log(database):
    """The whole change log: (user, seq, op, key)."""
    return [(name, seq, op, str(uuid.UUID(bytes=bytes(row_key))))
            for name, seq, op, row_key in database.rows(
                """SELECT s.name, l.seq, l.op, l.row_key FROM rowsync.change_log l
                     JOIN rowsync.scope s USING (scope_id) ORDER BY 1, 2""")]


def test_second_device_of_the_user_gets_the_rows_and_another_user_none(device):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    stranger = device("bob", "phone")
    with phone.transaction():
        for name in ("ann", "amy"):
            add_user(phone, name)
        phone.rows("INSERT INTO posts VALUES (?, ?, 'Title', 'Text', 1, 1)",
                   (key("post"), key("ann")))
    phone.sync()
    tablet.sync()
    stranger.sync()
    assert len(users(phone)) == 2
    assert users(tablet) == users(phone)
    assert tablet.rows("SELECT * FROM posts") == phone.rows("SELECT * FROM posts")
    assert users(stranger) == []
    assert stranger.rows("SELECT * FROM posts") == []
    assert stranger.rows("SELECT * FROM _sync_row_meta") == []


def test_another_user_can_neither_see_nor_touch_a_row_whose_key_it_knows(device, gateway, database):
    phone = device("ann", "phone")
    add_user(phone, "ann")
    phone.sync()
    before = users(phone)
    bob = gateway.token("bob", "b1")

    def tries(pk, first):
        """What bob hears of one row by every door but INSERT; the post would refer to it."""
        there = dict(schema="business", table="users", pk=pk, server_version=1)
        post = {"id": key("bob's post"), "author_id": pk, "title": "t"}
        answer = gateway.upload(bob, [
            dict(there, source_change_id=first, op="UPDATE", payload={"name": "Bob"}),
            dict(there, source_change_id=first + 1, op="DELETE"),
            dict(there, source_change_id=first + 2, op="DELETE", server_version=0),
            dict(there, source_change_id=first + 3, op="INSERT", server_version=0, table="posts",
                 pk=post["id"], payload=post)]).body["statuses"]
        return [{name: value for name, value in status.items()
                 if name not in ("source_change_id", "new_server_version")} for status in answer]

    theirs, nobodys = tries(key("ann"), 1), tries(key("nobody"), 11)
    assert json.dumps(theirs).replace(key("ann"), "it") == json.dumps(nobodys).replace(
        key("nobody"), "it")
    update, _, _, post = theirs
    assert update["status"] == "conflict"
    assert update["server_row"] == {
        "schema_name": "business", "table_name": "users", "id": key("ann"), "server_version": 0,
        "deleted": True, "payload": None}
    assert post["invalid"] == {"reason": "fk_missing",
                               "details": {"missing": ["business.users:" + key("ann")]}}
    insert, = gateway.upload(bob, [dict(upload_of("ann", 21), payload={
        "id": key("ann"), "name": "Bob", "email": "bob@sync.example"})]).body["statuses"]
    assert insert["invalid"]["reason"] == "forbidden"
    assert "sync.example" not in json.dumps(insert)
    assert database.rows("SELECT name, email FROM business.users") == [("ann", "ann@sync.example")]
    phone.sync()
    assert users(phone) == before


def test_what_psql_does_reaches_both_devices_at_their_next_sync(device, database):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for name in ("ann", "amy"):
        add_user(phone, name)
    phone.sync()
    tablet.sync()
    database.psql("-c", "UPDATE business.users SET name = 'Ann of psql' WHERE name = 'ann'")
    database.psql("-c", "DELETE FROM business.users WHERE name = 'amy'")
    database.psql("-c", "SET rowsync.scope = 'ann'", "-c",
                  f"INSERT INTO business.users VALUES ('{key('eve')}', 'eve', 'eve@sync.example')")
    phone.sync()
    tablet.sync()
    expected = sorted([(key("ann"), "Ann of psql", "ann@sync.example", 1, 1),
                       (key("eve"), "eve", "eve@sync.example", 0, 0)])
    assert users(phone) == expected
    assert users(tablet) == expected
    assert phone.rows("SELECT * FROM _sync_pending") == []


def test_psql_insert_without_a_scope_is_refused_with_a_hint(database):
    done = database.psql("-c", f"INSERT INTO business.users VALUES ('{key('x')}', 'x', 'x@y')",
                         check=False)
    assert done.returncode != 0
    assert "rowsync.scope" in done.stderr and "HINT" in done.stderr
    assert database.value("SELECT count(*) FROM business.users") == 0
    assert log(database) == []


def test_edits_travel_both_ways_and_deletes_too(device, database):
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    for name in ("ann", "amy", "ada"):
        add_user(phone, name)
    phone.sync()
    tablet.sync()
    tablet.rows("UPDATE users SET name = 'Amy' WHERE name = 'amy'")
    tablet.rows("DELETE FROM users WHERE name = 'ada'")
    tablet.sync()
    phone.sync()
    assert [row[1] for row in sorted(users(phone), key=lambda row: row[2])] == ["Amy", "ann"]
    assert users(phone) == users(tablet)
    assert [entry[:3] for entry in log(database)] == [
        ("ann", 1, "I"), ("ann", 2, "I"), ("ann", 3, "I"), ("ann", 4, "U"), ("ann", 5, "D")]


def test_every_shape_of_the_example_schema_travels(device, database):
    """A self-reference, a cycle, BLOB keys, binary data and a cascade, children written first."""
    phone, tablet = device("ann", "phone"), device("ann", "tablet")
    file, review = uuid.UUID(key("file")), uuid.UUID(key("review"))
    every_byte = bytes(range(256))
    with phone.transaction() as app:
        app.execute("INSERT INTO categories VALUES (?, ?, 'leaf')", (key("leaf"), key("root")))
        app.execute("INSERT INTO categories VALUES (?, NULL, 'root')", (key("root"),))
        app.execute("INSERT INTO team_members VALUES (?, ?, 'cap')", (key("cap"), key("team")))
        app.execute("INSERT INTO teams VALUES (?, 'team', ?)", (key("team"), key("cap")))
        app.execute("INSERT INTO file_reviews VALUES (?, ?, 'fine')", (review.bytes, file.bytes))
        app.execute("INSERT INTO files VALUES (?, 'f.bin', ?)", (file.bytes, every_byte))
    report = phone.sync()
    assert report["statuses"] == {"applied": 6}
    assert report["rounds"] == 1
    tablet.sync()
    tables = ("categories", "teams", "team_members", "files", "file_reviews")
    for table in tables:
        rows = phone.rows(f"SELECT * FROM {table} ORDER BY id")
        assert rows and tablet.rows(f"SELECT * FROM {table} ORDER BY id") == rows, table
    assert tablet.rows("SELECT data, typeof(id) FROM files") == [(every_byte, "blob")]
    assert bytes(database.value("SELECT data FROM business.files")) == every_byte

    # The cascade of the server deletes the review; the tablet hears of both.
    phone.rows("DELETE FROM files")
    phone.sync()
    tablet.sync()
    for where in (phone, tablet):
        assert where.rows("SELECT * FROM files") == where.rows("SELECT * FROM file_reviews") == []
    assert database.rows("SELECT * FROM business.file_reviews") == []


def upload_of(name, change_id=1, version=0):
    """A change as it travels."""
    return {"source_change_id": change_id, "schema": "business", "table": "users", "op": "INSERT",
            "pk": key(name), "server_version": version,
            "payload": {"id": key(name), "name": name, "email": f"{name}@sync.example",
                        "created_at": 1, "updated_at": 1}}


def test_a_change_sent_twice_is_applied_once_and_answered_alike(gateway, database):
    token = gateway.token("ann", "phone")
    first = gateway.upload(token, [upload_of("ann", 1), upload_of("amy", 2)])
    again = gateway.upload(token, [upload_of("ann", 1), upload_of("amy", 2)])
    mixed = gateway.upload(token, [upload_of("eve", 3), upload_of("amy", 2)])
    assert [status["status"] for status in first.body["statuses"]] == ["applied", "applied"]
    assert again.body["statuses"] == first.body["statuses"]
    assert mixed.body["statuses"][1] == first.body["statuses"][1]
    entries = log(database)
    assert [entry[1:3] for entry in entries] == [(1, "I"), (2, "I"), (3, "I")]
    assert {entry[3] for entry in entries} == {key("ann"), key("amy"), key("eve")}
    assert database.value("SELECT count(*) FROM business.users") == 3


def test_a_change_sent_again_does_not_undo_what_came_after_it(gateway, database):
    """The row has moved on, by psql; the late repetition gets its old answer and writes nothing."""
    token = gateway.token("ann", "phone")
    first = gateway.upload(token, [upload_of("ann")])
    database.rows("UPDATE business.users SET name = 'moved on'")
    again = gateway.upload(token, [upload_of("ann")])
    assert again.body["statuses"] == first.body["statuses"]
    assert database.value("SELECT name FROM business.users") == "moved on"
    assert len(log(database)) == 2


def test_what_is_worth_it_travels_as_gzip_both_ways(device, wire):
    phone, tablet = device("ann", "phone", url=wire.url), device("ann", "tablet", url=wire.url)
    with phone.transaction():
        for number in range(100):
            add_user(phone, f"user{number}")
    phone.sync()
    tablet.sync()
    assert [one.packed[0] for one in wire.exchanges if one.method == "POST"] == [True]
    assert any(one.packed[1] for one in wire.exchanges if one.path.startswith("/sync/snapshot"))
    assert users(phone) == users(tablet)


def test_an_upload_cut_between_commit_and_answer_is_applied_once(device, wire, database):
    phone = device("ann", "phone", url=wire.url)
    names = [f"user{number}" for number in range(20)]
    with phone.transaction():
        for name in names:
            add_user(phone, name)
    wire.cut_uploads(1)
    phone.run("sync", check=False)
    assert wire.cuts == 0
    assert sorted(entry[3] for entry in log(database)) == sorted(key(name) for name in names)
    phone.sync()
    assert [entry[1] for entry in log(database)] == list(range(1, 21))
    assert phone.rows("SELECT * FROM _sync_pending") == []
    assert sorted(phone.rows("SELECT pk_uuid, server_version FROM _sync_row_meta")) == sorted(
        (entry[3], entry[1]) for entry in log(database))


def test_a_row_edited_after_the_cut_keeps_its_edit(device, wire, database):
    """The lost answer was for the first edit; the second one must neither vanish nor conflict."""
    phone = device("ann", "phone", url=wire.url)
    add_user(phone, "ann")
    wire.cut_uploads(100)
    phone.run("sync", check=False, timeout=120)
    wire.cut_uploads(0)
    phone.rows("UPDATE users SET name = 'edited'")
    report = phone.sync()
    assert report["statuses"] == {"applied": 1}
    assert database.value("SELECT name FROM business.users") == "edited"
    assert [entry[1:3] for entry in log(database)] == [(1, "I"), (2, "U")]
    assert phone.rows("SELECT * FROM _sync_pending") == []


def test_a_device_killed_between_commit_and_answer_loses_and_doubles_nothing(
        device, wire, database):
    phone = device("ann", "phone", url=wire.url)
    for name in ("ann", "amy"):
        add_user(phone, name)
    wire.hold()
    running = phone.start("sync")
    wait_for("the commit of the upload", lambda: len(log(database)) == 2)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    running.stdout.close()
    running.stderr.close()
    wire.release()
    assert len(phone.rows("SELECT * FROM _sync_pending")) == 2
    phone.sync()
    assert [entry[1] for entry in log(database)] == [1, 2]
    assert phone.rows("SELECT * FROM _sync_pending") == []


def test_a_gateway_killed_in_the_middle_loses_and_doubles_nothing(
        device, start_gateway, database):
    """The upload waits for a lock when its gateway dies; nobody knows what became of it."""
    first = start_gateway()
    phone = device("ann", "phone", url=first.url)
    add_user(phone, "ann")
    blocker = database.connect()
    blocker.autocommit = False
    with blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE business.users IN ACCESS EXCLUSIVE MODE")
    running = phone.start("sync")
    wait_for("the upload to wait for the lock", lambda: database.rows(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s",
        database.name))
    first.stop(signal.SIGKILL)
    running.communicate(timeout=120)
    assert running.returncode == 1
    blocker.rollback()
    blocker.close()
    second = start_gateway()
    phone.run("attach", "--url", second.url, "--user", "ann", "--source", "phone", "--force")
    phone.sync()
    assert [entry[1] for entry in log(database)] == [1]
    assert phone.rows("SELECT * FROM _sync_pending") == []


def test_concurrent_syncs_of_one_device_do_not_harm_each_other(device, database):
    """An app that syncs from two processes at once: each row is applied once, nothing stays."""
    phone = device("ann", "phone")
    names = [f"user{number}" for number in range(50)]
    for name in names:
        add_user(phone, name)
    results = []
    threads = [threading.Thread(target=lambda: results.append(phone.run("sync", check=False)))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    phone.sync()
    assert [entry[1] for entry in log(database)] == list(range(1, 51))
    assert phone.rows("SELECT * FROM _sync_pending") == []
