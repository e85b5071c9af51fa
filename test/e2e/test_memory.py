"""Memory of a backend: it does not grow with the uploads that it has served, nor with a snapshot's size.

ROWSYNC_UPLOADS=100000 /usr/bin/python3 -m pytest -s test/e2e/test_memory.py is the long version.
"""

import json
import os
import random
import re

UPLOADS = int(os.environ.get("ROWSYNC_UPLOADS", "1500"))
WARM_UP = 500
USERS = 20
# One more block of a memory context, or a few pages of the heap, are no growth.
SLACK = 256 * 1024


def private_bytes(pid):
    """The memory that a process has for itself, shared buffers left out."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"RssAnon:\s+(\d+) kB", status.read()).group(1)) * 1024


def contexts(cursor):
    """Bytes of each kind of memory context of the backend."""
    cursor.execute("SELECT name, sum(total_bytes)::bigint FROM pg_backend_memory_contexts GROUP BY 1")
    return dict(cursor.fetchall())


def requests(generator):
    """Endless uploads of everything that an upload may have: (user, source, changes)."""
    numbers = {}
    sent = []
    while True:
        user = f"user {generator.randrange(USERS)}"
        if sent and generator.random() < 0.1:
            yield generator.choice(sent)
            continue
        changes = []
        for _ in range(generator.choice([1, 1, 5, 20])):
            number = numbers[user] = numbers.get(user, 0) + 1
            key = f"{generator.randrange(200):08x}-0000-4000-8000-{USERS:012x}"
            key = key[:-4] + f"{int(user[5:]):04x}"
            one = {"source_change_id": number, "schema": "business", "op": "INSERT", "pk": key,
                   "table": "users", "server_version": generator.choice([0, 0, number]),
                   "payload": {"name": "N" * generator.randrange(300), "email": f"{key}{number}"}}
            kind = generator.randrange(10)
            if kind == 0:
                one.update(op="DELETE", payload=None)
            elif kind == 1:
                one["payload"] = {"name": "changed"}
                one["op"] = "UPDATE"
            elif kind == 2:
                one.update(table="posts", payload={"author_id": key, "title": "T"})
            elif kind == 3:
                one["payload"]["email"] = "the same for all"
            elif kind == 4:
                one["payload"]["created_at"] = "no number"
            elif kind == 5:
                one.update(table="files", payload={"name": "f", "data": "AAAA" * 2000})
            changes.append(one)
        sent = sent[-50:] + [(user, f"source of {user}", changes)]
        yield sent[-1]


def test_a_backend_does_not_grow_with_uploads(database):
    seed = int(os.environ.get("ROWSYNC_SEED", random.randrange(2**32)))
    connection = database.connect()
    told = {}
    with connection.cursor() as cursor:
        for count, (user, source, changes) in enumerate(requests(random.Random(seed)), 1):
            cursor.execute("SELECT rowsync.upload(%s, %s, %s)",
                           (user, source, json.dumps({"changes": changes})))
            for status in json.loads(cursor.fetchone()[0])["statuses"]:
                told[status["status"]] = told.get(status["status"], 0) + 1
            if count % 10 == 0:
                cursor.execute("SELECT length(rowsync.download(%s, 'reader', 0, 50))", (user,))
            if count == WARM_UP:
                before = contexts(cursor)
                private = private_bytes(connection.info.backend_pid)
            if count == WARM_UP + UPLOADS:
                break
        after = contexts(cursor)
        grown = {name: size - before.get(name, 0) for name, size in after.items()
                 if size > before.get(name, 0)}
        print(f"\n{UPLOADS} uploads: contexts {sum(before.values())} -> {sum(after.values())} bytes, "
              f"private {private} -> {private_bytes(connection.info.backend_pid)} bytes; {told}")
        assert min(told.get(status, 0) for status in ("applied", "conflict", "invalid")) > 100, told
        assert sum(after.values()) <= sum(before.values()) + SLACK, (seed, grown)
        assert private_bytes(connection.info.backend_pid) <= private + 4 * SLACK, seed
    connection.close()


class Stream:
    """Takes what COPY sends, and looks now and then at the memory of who sends it."""

    def __init__(self, pid):
        self.pid = pid
        self.bytes = 0
        self.writes = 0
        self.most = 0

    def write(self, data):
        """Called by psycopg2 for each piece."""
        self.bytes += len(data)
        self.writes += 1
        if self.writes % 4 == 0:
            self.most = max(self.most, private_bytes(self.pid))


def test_a_snapshot_of_any_size_takes_the_same_memory(empty_database):
    empty_database.rows("CREATE EXTENSION rowsync")
    empty_database.rows("CREATE TABLE note (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), body text)")
    empty_database.rows("SELECT rowsync.register_table('note')")
    empty_database.rows("SET work_mem = '64MB'")
    most = {}
    size = {}
    for rows in 5_000, 100_000:
        empty_database.rows(f"SET rowsync.scope = 'user of {rows}'")
        empty_database.rows("INSERT INTO note (body) SELECT repeat(md5(n::text), 6) "
                            f"FROM generate_series(1, {rows}) AS n")
        connection = empty_database.connect()
        stream = Stream(connection.info.backend_pid)
        with connection.cursor() as cursor:
            cursor.execute(f"SET rowsync.user_id = 'user of {rows}'")
            cursor.copy_expert("COPY (SELECT rowsync.snapshot(current_setting('rowsync.user_id'), "
                               "'x')) TO STDOUT", stream)
        connection.close()
        most[rows], size[rows] = stream.most, stream.bytes
    print(f"\nsnapshots of {size} bytes: at most {most} bytes private")
    assert size[100_000] > 20_000_000 and most[5_000] > 0
    assert most[100_000] <= most[5_000] + 4 * SLACK, most
