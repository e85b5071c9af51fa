"""Reading while others write: a window is the state at its end, a snapshot the state at its seq."""

import concurrent.futures
import itertools
import json
import os
import random
import sqlite3
import threading

import psycopg2
import pytest

SEED = int(os.environ.get("ROWSYNC_SEED", random.randrange(2**32)))
WINDOWS = 100
ROWS = 60
SCHEMA = """
    CREATE SCHEMA app;
    CREATE TABLE app.parent (id integer PRIMARY KEY, value text);
    CREATE TABLE app.child (id integer PRIMARY KEY, parent_id integer NOT NULL
        REFERENCES app.parent ON DELETE CASCADE DEFERRABLE, up_id integer REFERENCES app.child DEFERRABLE, value text);
    SELECT rowsync.register_table('app.parent');
    SELECT rowsync.register_table('app.child');
"""


def upload(cursor, source, changes):
    """The statuses of an upload by ann, in the order of the changes."""
    cursor.execute("SELECT rowsync.upload('ann', %s, %s)", (source, json.dumps({"changes": changes})))
    return json.loads(cursor.fetchone()[0])["statuses"]


def change(number, op, table, key, version, **payload):
    """One change."""
    return {"source_change_id": number, "schema": "app", "table": table, "op": op, "pk": str(key),
            "server_version": version, "payload": None if op == "DELETE" else payload}


def write_once(cursor, number, written, generator):
    """One transaction of a writer."""
    key = generator.randrange(ROWS)
    kind = generator.randrange(7)
    if kind == 0:
        cursor.execute("DELETE FROM app.child WHERE up_id = %s OR id = %s AND NOT EXISTS "
                       "(SELECT FROM app.child c WHERE c.up_id = %s)", (key, key, key))
    elif kind == 1:
        cursor.execute("UPDATE app.parent SET value = %s WHERE id %% 7 = %s", (written, key % 7))
    elif kind == 2:
        # Its children go with it.
        cursor.execute("DELETE FROM app.parent p WHERE id = %s", (key,))
    elif kind == 3:
        # It has read everything, so that what the reader needs no more may be pruned.
        cursor.execute("SELECT rowsync.download('ann', %s, head) FROM rowsync.scope "
                       "WHERE name = 'ann'", (f"writer {number}",))
        cursor.execute("SELECT rowsync.prune('0', '1 day', 'ann')")
    else:
        upload(cursor, f"writer {number}", [
            change(3 * written, "INSERT", "parent", key, 0, value=f"{number}.{written}"),
            change(3 * written + 1, "INSERT", "child", key, 0, parent_id=key,
                   value=f"{number}.{written}"),
            change(3 * written + 2, generator.choice(["DELETE", "INSERT"]), "child",
                   generator.randrange(ROWS), 0, parent_id=key, up_id=key, value="w")])


def write(database, number, done):
    """One of the others: uploads and plain SQL, until told to stop."""
    generator = random.Random(SEED + number)
    connection = database.connect()
    written = 0
    with connection.cursor() as cursor:
        cursor.execute("SET rowsync.scope = 'ann'")
        while not done.is_set():
            written += 1
            try:
                write_once(cursor, number, written, generator)
            except (psycopg2.errors.ForeignKeyViolation, psycopg2.errors.DeadlockDetected):
                pass
    connection.close()
    return written


def rows_now(cursor):
    """The rows of ann's scope as this transaction sees the tables themselves."""
    cursor.execute("""
        SELECT 'parent', id, NULL, NULL, value FROM app.parent WHERE _rowsync_scope = 'ann'
        UNION ALL SELECT 'child', id, parent_id, up_id, value FROM app.child WHERE _rowsync_scope = 'ann'""")
    return sorted(cursor.fetchall(), key=str)


class Mirror:
    """A device's tables, with their foreign keys on."""

    def __init__(self):
        self.versions = {}
        self.file = sqlite3.connect(":memory:", isolation_level=None)
        self.file.executescript("""
            PRAGMA foreign_keys = ON;
            CREATE TABLE parent (id INTEGER PRIMARY KEY, value TEXT);
            CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL
                REFERENCES parent DEFERRABLE INITIALLY DEFERRED,
                up_id INTEGER REFERENCES child DEFERRABLE INITIALLY DEFERRED, value TEXT);""")

    def put(self, table, row):
        """A row that is there now."""
        columns = ", ".join(row)
        self.file.execute(f"DELETE FROM {table} WHERE id = ?", (row["id"],))
        self.file.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})",
                          tuple(row.values()))

    def apply(self, changes):
        """Changes of a page, or one's own."""
        for one in changes:
            if one["op"] == "DELETE":
                self.file.execute(f"DELETE FROM {one['table']} WHERE id = ?", (one["pk"],))
            elif "id" in one["payload"]:
                self.put(one["table"], one["payload"])
            elif self.file.execute(f"UPDATE {one['table']} SET value = ? WHERE id = ?",
                                   (one["payload"]["value"], one["pk"])).rowcount == 0:
                self.put(one["table"], {"id": int(one["pk"]), **one["payload"]})
            self.versions[one["table"], one["pk"]] = one["server_version"]

    def rows(self):
        """As rows_now has them."""
        return sorted(self.file.execute("""
            SELECT 'parent', id, NULL, NULL, value FROM parent
            UNION ALL SELECT 'child', id, parent_id, up_id, value FROM child""").fetchall(), key=str)


@pytest.fixture
def busy(empty_database):
    """A database on which three others write until the test is over."""
    database = empty_database
    database.rows("CREATE EXTENSION rowsync")
    database.rows(SCHEMA)
    # The reader is known before anything can be pruned.
    database.rows("INSERT INTO app.parent VALUES (0, 'first', 'ann')")
    database.rows("SELECT rowsync.download('ann', 'reader')")
    done = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, database, number, done) for number in range(3)]
        try:
            yield database
        finally:
            done.set()
        for writer in writers:
            writer.result()
    assert database.rows("SELECT * FROM rowsync.verify()") == [], SEED


def test_a_window_is_the_state_at_its_end(busy):
    """Also when the reader itself writes between windows, whose changes do not come to it again."""
    generator = random.Random(SEED)
    connection = busy.connect()
    mirror = Mirror()
    after = 0
    number = 0
    most_behind = 0
    own_applied = 0
    floor = 0
    with connection.cursor() as cursor:
        for window in itertools.count(1):
            # Until the others have written, something was pruned and the reader had its say.
            if window > WINDOWS and most_behind > 10 and own_applied > 10 and floor > 0:
                break
            own = []
            for _ in range(generator.randrange(4)):
                number += 1
                key = generator.randrange(ROWS)
                table = generator.choice(["parent", "child"])
                own.append(change(number, "DELETE" if generator.random() < 0.3 else "UPDATE", table,
                                  key, mirror.versions.get((table, str(key)), 0),
                                  value=f"own {number}"))
            statuses = upload(cursor, "reader", own)
            # What lost takes the row that won, which is still to be read, and goes again upon it.
            won = [status["server_row"] for status in statuses if status["status"] == "conflict"]
            lost = [{**one, "source_change_id": one["source_change_id"] + 1000000,
                     "server_version": status["server_row"]["server_version"]}
                    for one, status in zip(own, statuses) if status["status"] == "conflict"]
            own += lost
            statuses += upload(cursor, "reader", lost)

            # The state as the tables have it, and the number that belongs to it.
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT head FROM rowsync.scope WHERE name = 'ann'")
            ((until,),) = cursor.fetchall()
            truth = rows_now(cursor)
            cursor.execute("SELECT rowsync.digest('ann')::json ->> 'digest'")
            digest = cursor.fetchone()
            cursor.execute("COMMIT")

            mirror.file.execute("BEGIN")
            mirror.apply([{"op": "DELETE" if row["deleted"] else "INSERT", "table": row["table_name"],
                           "pk": row["id"], **row} for row in won])
            for one, status in zip(own, statuses):
                if status["status"] == "applied" and status["new_server_version"] > after:
                    own_applied += 1
                    mirror.apply([{**one, "server_version": status["new_server_version"]}])
            more = True
            while more:
                cursor.execute("SELECT rowsync.download('ann', 'reader', %s, %s, %s)",
                               (after, generator.randrange(1, 40), until))
                page = json.loads(cursor.fetchone()[0])
                assert page["window_until"] == until
                ids = [one["server_id"] for one in page["changes"]]
                assert ids == sorted(set(ids)) and all(after < one <= page["next_after"] for one in ids)
                assert not [one for one in page["changes"] if one["source_id"] == "reader"]
                mirror.apply(page["changes"])
                after = page["next_after"]
                more = page["has_more"]
            mirror.file.execute("COMMIT")
            assert after == until
            assert mirror.rows() == truth, SEED
            cursor.execute("SELECT rowsync.digest('ann', %s)::json ->> 'digest'", (until,))
            assert cursor.fetchone() == digest, SEED
            cursor.execute("SELECT head - %s, floor FROM rowsync.scope WHERE name = 'ann'", (until,))
            behind, floor = cursor.fetchone()
            most_behind = max(most_behind, behind)
    connection.close()


def test_a_snapshot_is_the_state_at_its_seq(busy):
    connection = busy.connect()
    with connection.cursor() as cursor:
        for _ in range(WINDOWS):
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            truth = rows_now(cursor)
            cursor.execute("SELECT rowsync.snapshot('ann', 'reader')")
            lines = [json.loads(line) for chunk, in cursor.fetchall() for line in chunk.splitlines()]
            cursor.execute("SELECT rowsync.digest('ann')::json ->> 'digest'")
            (digest,) = cursor.fetchone()
            cursor.execute("COMMIT")
            head, *rows, end = lines
            assert [table["table"] for table in head["tables"]] == ["parent", "child"]
            assert [row[0] for row in rows] == sorted(row[0] for row in rows), "parents first"
            mirror = Mirror()
            mirror.file.execute("BEGIN")
            for table, _, *values in rows:
                mirror.put(head["tables"][table]["table"],
                           dict(zip(head["tables"][table]["columns"], values)))
            mirror.file.execute("COMMIT")
            assert mirror.rows() == truth, SEED
            assert end == {"end": True, "rows": len(truth), "digest": digest}

            # And downloading goes on from there.
            cursor.execute("SELECT rowsync.download('ann', 'reader', %s, 10000)", (head["seq"],))
            page = json.loads(cursor.fetchone()[0])
            assert not page["has_more"]
            mirror.file.execute("BEGIN")
            mirror.apply(page["changes"])
            mirror.file.execute("COMMIT")
            cursor.execute("SELECT rowsync.digest('ann', %s)::json ->> 'rows'", (page["next_after"],))
            assert int(cursor.fetchone()[0]) == len(mirror.rows()), SEED
    connection.close()
