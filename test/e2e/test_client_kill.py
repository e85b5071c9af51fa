"""Kill -9 wherever it hurts: nothing is lost, and the next sync ends equal to the server.

In `make check` a selection. All of it (a quarter of an hour):

    /usr/bin/python3 -m pytest test/e2e/test_client_kill.py --kills=1000 --stride=1
"""

import hashlib
import os
import random
import signal
import subprocess
import time
import uuid

import pytest
import rig

SHIM = rig.ROOT / "build" / "test" / "kill.so"
TABLES = ("users", "posts")
# Small ones, so that a sync has several requests and transactions.
SMALL = ("--batch-size", 3, "--page-size", 3)


def digest(rows):
    """The protocol's digest of (table, key, version), reckoned here from its description."""
    sums = [0, 0]
    for table, key, version in rows:
        sha = hashlib.sha256(f"business\x1f{table}\x1f{key}\x1f{version}".encode()).digest()
        for half in (0, 1):
            sums[half] += int.from_bytes(sha[8 * half:8 * half + 8], "big")
    return "%016x%016x" % (sums[0] % 2**64, sums[1] % 2**64)


class World:
    """A device, what is done there and on the server, and what therefore has to be everywhere."""

    def __init__(self, folder, gateway, kills):
        self.folder = folder
        self.gateway = gateway
        self.database = gateway.database
        self.rng = random.Random(kills)
        self.names = {}  # what every user is called in the end
        self.turn = 0
        self.phone = self.device("phone")

    def device(self, source):
        """A device of ann's."""
        return rig.business_device(self.folder / f"{source}.db", self.gateway.url, "ann", source)

    def key(self):
        """A key that was never used."""
        return str(uuid.UUID(int=self.rng.getrandbits(128)))

    def on_server(self, statement, *values):
        """Somebody writes to the server, as a row of ann's."""
        self.database.rows("SET rowsync.scope = 'ann'; " + statement, *values)

    def insert(self, where, name):
        """A new user there, with a post."""
        user, post = self.key(), self.key()
        self.names[user] = name
        if where is self.database:
            self.on_server("INSERT INTO business.users (id, name, email) VALUES (%s, %s, %s);"
                           "INSERT INTO business.posts (id, author_id, title) VALUES (%s, %s, 't')",
                           user, name, user, post, user)
        else:
            with where.transaction():
                where.rows("INSERT INTO users (id, name, email) VALUES (?, ?, ?)",
                           (user, name, user))
                where.rows("INSERT INTO posts (id, author_id, title) VALUES (?, ?, 't')",
                           (post, user))

    def drop(self, where, user):
        """A user goes, with posts."""
        del self.names[user]
        if where is self.database:
            self.on_server("DELETE FROM business.posts WHERE author_id = %s;"
                           "DELETE FROM business.users WHERE id = %s", user, user)
        else:
            with where.transaction():
                where.rows("DELETE FROM posts WHERE author_id = ?", (user,))
                where.rows("DELETE FROM users WHERE id = ?", (user,))

    def edit(self):
        """A few edits on both sides: of rows of their own, and of one that both write to."""
        name = f"turn {self.turn}"
        known = [user for (user,) in self.phone.rows("SELECT id FROM users")]
        self.rng.shuffle(known)
        # Only rows that the other side has not touched meanwhile have a predictable end.
        calm = [user for user in known if self.database.rows(
            "SELECT 1 FROM business.users WHERE id = %s AND name = %s", user, self.names[user])]
        for where in (self.phone, self.database):
            self.insert(where, name)
            self.insert(where, name)
        if len(calm) < 6:
            return
        for user in calm[40:]:
            self.drop(self.database, user)
        here, there, both, gone_here, gone_there = calm[:5]
        self.phone.rows("UPDATE users SET name = ? WHERE id = ?", (name + " here", here))
        self.on_server("UPDATE business.users SET name = %s WHERE id = %s", name + " there", there)
        self.phone.rows("UPDATE users SET name = ? WHERE id = ?", (name + " lost", both))
        self.on_server("UPDATE business.users SET name = %s WHERE id = %s", name + " wins", both)
        self.drop(self.phone, gone_here)
        self.drop(self.database, gone_there)
        self.names.update({here: name + " here", there: name + " there", both: name + " wins"})

    def sound(self, device):
        """Right after the kill: a sound file, capture on, and what the app wrote is there."""
        assert device.value("PRAGMA integrity_check") == "ok"
        assert device.rows("PRAGMA foreign_key_check") == []
        assert device.value("SELECT apply_mode FROM _sync_client_info") == 0
        for user, name in device.rows(
                "SELECT id, name FROM users JOIN _sync_pending ON pk_uuid = id"):
            assert name in (self.names[user], self.names[user].replace("wins", "lost"))

    def settled(self, device):
        """Syncs once: now both sides have what has to be there, row by row and by digest."""
        report = device.sync()
        assert (report["pending"], report["rejected"]) == (0, 0), report
        assert dict(self.database.rows("SELECT id::text, name FROM business.users")) == self.names
        for table in TABLES:
            columns = ", ".join(name for _, name, *_ in device.rows(f"PRAGMA table_info({table})"))
            cast = columns.replace("author_id", "author_id::text").replace("id,", "id::text,", 1)
            assert sorted(device.rows(f"SELECT {columns} FROM {table}")) == sorted(
                self.database.rows(f"SELECT {cast} FROM business.{table}")), table
        answer = self.gateway.request("GET", "/sync/digest", token=self.gateway.token(
            "ann", device.source)).body
        rows = device.rows("SELECT table_name, pk_uuid, server_version FROM _sync_row_meta"
                           " WHERE NOT deleted")
        assert (len(rows), digest(rows)) == (answer["rows"], answer["digest"])

    def run(self, command, kill):
        """Has `kill` end a command on the phone, or the first hydration of a device with an edit."""
        self.turn += 1
        if command == "hydrate":
            total = self.database.value("SELECT count(*) FROM business.users")
            device = self.device(f"guest-{self.turn}")
            self.insert(device, "guest")
        else:
            self.edit()
            device = self.phone
        killed = kill(device, command)
        self.sound(device)
        if command == "hydrate":
            assert device.value("SELECT count(*) FROM users") in (1, total + 1)
        self.settled(device)
        device.close()
        return killed


@pytest.fixture(scope="module")
def world(shared, tmp_path_factory, request):
    """A world in which everything is in step."""
    made = World(tmp_path_factory.mktemp("kill"), shared, request.config.getoption("--kills"))
    for _ in range(3):
        made.edit()
        made.settled(made.phone)
    yield made
    made.phone.close()


def ended_by(running):
    """Waits for a process; true where it was killed. What else went wrong is shown."""
    output, errors = running.communicate(timeout=120)
    assert running.returncode in (0, 3, -signal.SIGKILL), output + errors
    return running.returncode == -signal.SIGKILL


def test_at_random_moments(world, request):
    """The moments lie anywhere in the time that the command takes."""
    kills = request.config.getoption("--kills")
    took = {}
    killed = turn = 0

    def kill(device, command):
        begun = time.monotonic()
        running = device.start(command, *SMALL)
        time.sleep(world.rng.random() * 1.1 * took.get(command, 0.05))
        running.send_signal(signal.SIGKILL)
        if not ended_by(running):
            took[command] = time.monotonic() - begun
            return 0
        return 1

    while killed < kills:
        turn += 1
        if turn % 40 == 0:
            world.phone.rows(f"PRAGMA journal_mode = {('WAL', 'DELETE')[turn // 40 % 2]}")
        killed += world.run(("push", "pull", "sync", "hydrate")[turn % 4], kill)
    assert turn < 3 * kills + 20, "the moments were badly chosen"


@pytest.mark.skipif("SANITIZE" in os.environ, reason="the sanitizer's library has to come first")
@pytest.mark.parametrize("half", (False, True), ids=("after", "within"))
@pytest.mark.parametrize("journal", ("DELETE", "WAL"))
@pytest.mark.parametrize("command", ("push", "pull", "hydrate"))
def test_at_system_calls_that_write(world, request, command, journal, half):
    """One after the other, until the command comes to its end."""
    stride = request.config.getoption("--stride")
    at = 1 + world.rng.randrange(stride)

    def kill(device, name):
        device.rows(f"PRAGMA journal_mode = {journal}")
        options = {"KILL_HALF": "1"} if half else {}
        return ended_by(device.start(name, *SMALL, LD_PRELOAD=str(SHIM), KILL_AT=str(at),
                                     **options))

    while world.run(command, kill):
        at += stride
    assert at > 40, "the command wrote next to nothing"
