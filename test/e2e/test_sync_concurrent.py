"""Many writers of one user at once, and a reader that must not miss a change."""

import json
import os
import random
import threading
import uuid

import pytest

WRITERS = 8
SEED = int(os.environ.get("ROWSYNC_SEED", random.randrange(2**32)))


def row(generator, name):
    """A new user as an upload's payload."""
    return {"id": str(uuid.UUID(int=generator.getrandbits(128), version=4)), "name": name,
            "email": f"{name}@concurrent.example", "created_at": 1, "updated_at": 1}


def insert(change_id, payload):
    """The change that inserts it."""
    return {"source_change_id": change_id, "schema": "business", "table": "users", "op": "INSERT",
            "pk": payload["id"], "server_version": 0, "payload": payload}


class GatewayDoor:
    """Uploads and downloads over HTTP."""

    def __init__(self, gateway):
        self.gateway = gateway

    def upload(self, source, changes):
        """The statuses of an upload."""
        answer = self.gateway.upload(self.gateway.token("ann", source), changes)
        assert answer.status == 200, answer
        return answer.body["statuses"]

    def download(self, source, after):
        """A page of changes, everybody's own included."""
        answer = self.gateway.download(self.gateway.token("ann", source),
                                       f"after={after}&limit=37&include_self=true")
        assert answer.status == 200, answer
        return answer.body


class SqlDoor:
    """The same by calling the functions, each thread on a connection of its own."""

    def __init__(self, database):
        self.database = database
        self.local = threading.local()

    def call(self, query, *values):
        """One function's JSON."""
        if not hasattr(self.local, "connection"):
            self.local.connection = self.database.connect()
        with self.local.connection.cursor() as cursor:
            cursor.execute(query, values)
            return json.loads(cursor.fetchone()[0])

    def upload(self, source, changes):
        """The statuses of an upload."""
        body = json.dumps({"last_server_seq_seen": 0, "changes": changes})
        return self.call("SELECT rowsync.upload('ann', %s, %s)", source, body)["statuses"]

    def download(self, source, after):
        """A page of changes, everybody's own included."""
        return self.call("SELECT rowsync.download('ann', %s, %s, 37, NULL, true, NULL)",
                         source, after)


@pytest.fixture(params=["gateway", "sql"])
def door(request, database):
    """Both ways in."""
    if request.param == "sql":
        return SqlDoor(database)
    return GatewayDoor(request.getfixturevalue("gateway"))


class Crew:
    """Threads whose failures are the test's."""

    def __init__(self):
        self.threads = []
        self.errors = []

    def start(self, task, *arguments):
        """Runs a task beside the others."""
        def guarded():
            try:
                task(*arguments)
            except BaseException as error:
                self.errors.append(error)
        self.threads.append(threading.Thread(target=guarded, daemon=True))
        self.threads[-1].start()

    def join(self):
        """Waits for all; raises the first failure."""
        for thread in self.threads:
            thread.join(300)
            assert not thread.is_alive(), f"a thread hangs; seed {SEED}"
        if self.errors:
            raise self.errors[0]


def server_writer(database, number, generator):
    """Writes with plain SQL, capturing included; now and then dawdles inside its transaction."""
    connection = database.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        for turn in range(100):
            cursor.execute("SET LOCAL rowsync.scope = 'ann'")
            for one in range(generator.randint(1, 5)):
                user = row(generator, f"server{number}.{turn}.{one}")
                cursor.execute("INSERT INTO business.users VALUES (%s, %s, %s, 1, 1)",
                               (user["id"], user["name"], user["email"]))
                if generator.random() < 0.3:
                    cursor.execute("SELECT pg_sleep(0.005)")
            connection.commit()
    connection.close()


def test_a_reader_beside_eight_writers_sees_every_change_in_order(door, database):
    """All rows are different, so that nothing is superseded: the reader must see 1, 2, 3, ..."""
    generator = random.Random(SEED)
    writing = threading.Event()
    writing.set()
    seen = []

    def upload(number, own):
        change_id = 0
        for turn in range(100):
            batch = []
            for _ in range(own.randint(1, 9)):
                change_id += 1
                batch.append(insert(change_id, row(own, f"w{number}.{change_id}")))
            statuses = door.upload(f"source{number}", batch)
            assert [status["status"] for status in statuses] == ["applied"] * len(batch)

    def read():
        after = 0
        while True:
            last = not writing.is_set()
            page = door.download("reader", after)
            seen.extend(change["server_id"] for change in page["changes"])
            assert page["next_after"] >= after
            if page["changes"]:
                assert page["next_after"] == page["changes"][-1]["server_id"]
            after = page["next_after"]
            if last and not page["has_more"]:
                return

    readers, writers = Crew(), Crew()
    readers.start(read)
    for number in range(WRITERS - 2):
        writers.start(upload, number, random.Random(generator.random()))
    for number in range(2):
        writers.start(server_writer, database, number, random.Random(generator.random()))
    try:
        writers.join()
    finally:
        writing.clear()
    readers.join()
    head = database.value("SELECT head FROM rowsync.scope WHERE name = 'ann'")
    assert head > 100
    assert seen == list(range(1, head + 1)), f"seed {SEED}"
    assert database.value("SELECT count(*) FROM business.users") == head
    assert [seq for seq, in database.rows(
        "SELECT seq FROM rowsync.change_log ORDER BY seq")] == seen


def test_a_reader_beside_writers_of_the_same_rows_ends_with_the_servers_state(door, database):
    """Inserts, updates and deletes of shared rows, conflicts included: the replica converges."""
    generator = random.Random(SEED)
    shared = [row(generator, f"shared{number}") for number in range(12)]
    writing = threading.Event()
    writing.set()
    replica = {}

    def upload(number, own):
        versions = {}
        for change_id in range(1, 400, 3):
            batch = []
            for place, target in enumerate(own.sample(shared, 3)):
                change = insert(change_id + place,
                                {**target, "name": f"{number}.{change_id}.{place}"})
                change["op"] = own.choice(("INSERT", "UPDATE", "UPDATE", "DELETE"))
                change["server_version"] = versions.get(target["id"], 0)
                if change["op"] == "DELETE":
                    change["payload"] = None
                batch.append(change)
            for change, status in zip(batch, door.upload(f"source{number}", batch)):
                assert status["status"] in ("applied", "conflict"), status
                versions[change["pk"]] = (
                    status["new_server_version"] if status["status"] == "applied"
                    else status["server_row"]["server_version"])

    def read():
        after = 0
        while True:
            last = not writing.is_set()
            page = door.download("reader", after)
            order = [change["server_id"] for change in page["changes"]]
            assert order == sorted(set(order)) and all(after < one for one in order)
            for change in page["changes"]:
                if change["op"] == "DELETE":
                    replica.pop(change["pk"], None)
                else:
                    replica[change["pk"]] = (change["payload"], change["server_version"])
            after = page["next_after"]
            if last and not page["has_more"]:
                return

    readers, writers = Crew(), Crew()
    readers.start(read)
    for number in range(WRITERS):
        writers.start(upload, number, random.Random(generator.random()))
    try:
        writers.join()
    finally:
        writing.clear()
    readers.join()
    rows = database.rows(
        """SELECT u.id::text, u.name, u.email, u.created_at, u.updated_at, m.version
             FROM business.users u
             JOIN rowsync.row_meta m ON m.row_key = uuid_send(u.id) AND NOT m.deleted""")
    expected = {one[0]: (dict(zip(("id", "name", "email", "created_at", "updated_at"), one)),
                         one[5]) for one in rows}
    assert replica == expected, f"seed {SEED}"
    head, entries, top = database.rows(
        """SELECT s.head, count(*), max(l.seq) FROM rowsync.scope s
             JOIN rowsync.change_log l USING (scope_id) GROUP BY s.head""")[0]
    assert head == entries == top


class Replica:
    """What a device that only reads makes of a scope."""

    def __init__(self, database, user):
        self.door = SqlDoor(database)
        self.user = user
        self.after = 0
        self.rows = {}

    def follow(self, writing):
        """Reads page by page until nobody writes and all is read."""
        while True:
            last = not writing.is_set()
            page = self.door.call("SELECT rowsync.download(%s, 'reader', %s, 37)", self.user, self.after)
            for change in page["changes"]:
                assert change["server_id"] > self.after
                if change["op"] == "DELETE":
                    self.rows.pop(change["pk"], None)
                else:
                    self.rows[change["pk"]] = (change["payload"]["name"], change["server_version"])
            self.after = page["next_after"]
            if last and not page["has_more"]:
                return


@pytest.mark.parametrize("scopes", [1, 8])
def test_uploads_and_transactions_that_lock_the_same_rows_never_deadlock(database, scopes):
    """Uploads lock scope and rows, everybody else rows and scopes; of two such, an upload gives way.

    The transactions lock their rows in one order, so that a deadlock among themselves is none of ours.
    """
    generator = random.Random(SEED)
    users = [f"user{number}" for number in range(scopes)]
    shared = {user: [row(generator, f"{user}.{number}") for number in range(10)] for user in users}
    everything = sorted(one["id"] for rows in shared.values() for one in rows)
    writing = threading.Event()
    writing.set()
    outcomes = []

    def upload(number, own):
        door = SqlDoor(database)
        user = users[number % scopes]
        versions = {}
        for change_id in range(1, 200, 5):
            batch = []
            for place, target in enumerate(own.sample(shared[user], 5)):
                change = insert(change_id + place,
                                {**target, "name": f"{number}.{change_id}.{place}"})
                change["server_version"] = versions.get(target["id"], 0)
                if own.random() < 0.2:
                    change.update(op="DELETE", payload=None)
                batch.append(change)
            answer = door.call("SELECT rowsync.upload(%s, %s, %s)", user, f"source{number}",
                               json.dumps({"changes": batch}))
            for change, status in zip(batch, answer["statuses"]):
                outcome = status["status"]
                if outcome == "invalid":
                    outcome = status["invalid"]["details"]["sqlstate"]
                else:
                    versions[change["pk"]] = (status["new_server_version"] if outcome == "applied"
                                              else status["server_row"]["server_version"])
                outcomes.append(outcome)

    def transactions(number, own):
        connection = database.connect()
        connection.autocommit = False
        with connection.cursor() as cursor:
            for turn in range(60):
                for key in sorted(own.sample(everything, 4)):
                    cursor.execute("UPDATE business.users SET name = %s WHERE id = %s",
                                   (f"sql{number}.{turn}", key))
                    cursor.execute("SELECT pg_sleep(%s)", (own.random() * 0.004,))
                connection.commit()
        connection.close()

    replicas = [Replica(database, user) for user in users]
    readers, writers = Crew(), Crew()
    for replica in replicas:
        readers.start(replica.follow, writing)
    for number in range(WRITERS):
        writers.start(upload, number, random.Random(generator.random()))
    for number in range(2):
        writers.start(transactions, number, random.Random(generator.random()))
    try:
        writers.join()
    finally:
        writing.clear()
    readers.join()
    assert set(outcomes) <= {"applied", "conflict", "55P03"}, f"seed {SEED}: {set(outcomes)}"
    assert outcomes.count("applied") > len(outcomes) / 20
    assert not database.rows("SELECT * FROM rowsync.verify()"), f"seed {SEED}"
    for replica in replicas:
        head, entries, top = database.rows(
            """SELECT s.head, count(*), max(l.seq) FROM rowsync.scope s
                 JOIN rowsync.change_log l USING (scope_id) WHERE s.name = %s GROUP BY s.head""",
            replica.user)[0]
        assert head == entries == top == replica.after
        rows = database.rows(
            """SELECT u.id::text, u.name, m.version FROM business.users u
                 JOIN rowsync.row_meta m ON m.row_key = uuid_send(u.id) AND NOT m.deleted
                 JOIN rowsync.scope s USING (scope_id) WHERE s.name = %s""", replica.user)
        assert replica.rows == {key: (name, version) for key, name, version in rows}, f"seed {SEED}"


def test_a_file_that_grows_is_no_lock_to_give_way_to(database):
    """Uploads into one table wait for each other's new pages, but no row of theirs is locked."""
    database.rows("""CREATE TABLE business.scraps (id uuid PRIMARY KEY, a text, b text);
                     CREATE INDEX ON business.scraps (a);
                     CREATE INDEX ON business.scraps (b, a)""")
    database.rows("SELECT rowsync.register_table('business.scraps')")
    outcomes = []

    def upload(number, own):
        door = SqlDoor(database)
        for first in range(1, 3000, 300):
            batch = []
            for change_id in range(first, first + 300):
                key = str(uuid.UUID(int=own.getrandbits(128), version=4))
                batch.append({"source_change_id": change_id, "schema": "business",
                              "table": "scraps", "op": "INSERT", "pk": key, "server_version": 0,
                              "payload": {"a": key[::-1], "b": key * 40}})
            answer = door.call("SELECT rowsync.upload(%s, 'phone', %s)", f"user{number}",
                               json.dumps({"changes": batch}))
            outcomes.extend(str(status.get("message", status["status"]))
                            for status in answer["statuses"])

    generator = random.Random(SEED)
    writers = Crew()
    for number in range(WRITERS + 4):
        writers.start(upload, number, random.Random(generator.random()))
    writers.join()
    assert set(outcomes) == {"applied"}, f"seed {SEED}"
