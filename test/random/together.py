"""Processes that work on one SQLite file at the same time, beside another device and the server.

    together.py [--seed N] [--worlds N] [--world N] [--steps N]

Three of them have the library loaded into SQLite; they edit, and sync whenever they like. The command
line does too. Some are killed in the middle of it. In the end nobody has lost anything: rows that only
this file writes are on the server as its journal says, edits of rows that everybody writes have been
there or are listed as overwritten, and both devices have what the server has.

A failure prints the seed and the number of its world, which `--world` plays again; when each process
does what is chance, of course. What the processes did is left in .run/.
"""

import argparse
import json
import os
import pathlib
import random
import re
import signal
import sqlite3
import sys
import time
import traceback

sys.dont_write_bytecode = True
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from mirror import Difference, expect  # noqa: E402  the line above makes the rig importable
from rig.build import BUILD  # noqa: E402
from rig.cluster import Cluster  # noqa: E402
from rig.device import Device  # noqa: E402
from rig.gateway import Gateway  # noqa: E402
from rig.place import RUN, Place  # noqa: E402
from rig.process import raise_on_termination, spawn, stop  # noqa: E402

STEPS = 60  # of one world
POLICIES = ("server", "client", "merge", "manual")
SERVER = """
    CREATE TABLE p (id text PRIMARY KEY, a text, b text);
    CREATE TABLE c (id text PRIMARY KEY, p text REFERENCES p ON DELETE CASCADE, a text, b text);
    SELECT rowsync.register_table('p'), rowsync.register_table('c');
    GRANT ALL ON p, c TO business_gateway"""
# Every edit has its line in `journal`, by the transaction that makes it. The field `gone` is a deletion.
DEVICE = """
    CREATE TABLE p (id TEXT PRIMARY KEY NOT NULL, a TEXT, b TEXT);
    CREATE TABLE c (id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p ON DELETE CASCADE, a TEXT,
                    b TEXT);
    CREATE TABLE journal (n INTEGER PRIMARY KEY, name TEXT, id TEXT, field TEXT, value TEXT)"""
ROWS = "SELECT 'p', id, NULL, a, b FROM p UNION ALL SELECT 'c', id, p, a, b FROM c"
TOKEN = re.compile(r"t\d+-\d+z")
# Rows that the phone alone writes, and those of everybody.
MINE = [f"m{i}" for i in range(12)]
SHARED = [f"s{i}" for i in range(6)]


def edit(connection, rng, token, rows, begin="BEGIN IMMEDIATE"):
    """One transaction of an app on some of these rows."""
    def note(name, key, **fields):
        connection.executemany("INSERT INTO journal (name, id, field, value) VALUES (?, ?, ?, ?)",
                               [(name, key, field, value) for field, value in fields.items()])

    connection.execute(begin)
    try:
        for _ in range(rng.choice((1, 1, 2, 5))):
            name, key, what = rng.choice("pc"), rng.choice(rows), rng.random()
            if what < .4:
                a, b = token(), token()
                parent = rng.choice([row for row in rows if row[0] == key[0]])
                if name == "p":
                    made = connection.execute("INSERT OR IGNORE INTO p VALUES (?, ?, ?)",
                                              (key, a, b)).rowcount
                else:
                    made = connection.execute(
                        "INSERT OR IGNORE INTO c SELECT ?, id, ?, ? FROM p WHERE id = ?",
                        (key, a, b, parent)).rowcount
                if made:
                    note(name, key, a=a, b=b, **({"p": parent} if name == "c" else {}))
            elif what < .85:
                field, value = rng.choice("ab"), token()
                if connection.execute(f"UPDATE {name} SET {field} = ? WHERE id = ?",
                                      (value, key)).rowcount:
                    note(name, key, **{field: value})
            else:
                for child, in connection.execute("SELECT id FROM c WHERE p = ?", (key,)).fetchall():
                    if name == "p":
                        note("c", child, gone=None)
                if connection.execute(f"DELETE FROM {name} WHERE id = ?", (key,)).rowcount:
                    note(name, key, gone=None)
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.rollback()
        raise


def work(path, number):
    """A process of the app: edits and syncs until it is told to stop. Says each thing it did."""
    rng = random.Random(number)
    tokens = iter(range(1 << 30))
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.enable_load_extension(True)
    connection.load_extension(str(BUILD / "lib" / "rowsync"))
    connection.execute("SELECT rowsync_token(?)", (os.environ["ROWSYNC_TOKEN"],))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        what = rng.choice(("edit",) * 12 + ("rowsync_sync",) * 4 + (
            "rowsync_push", "rowsync_push", "rowsync_pull", "rowsync_pull", "rowsync_hydrate",
            "rowsync_status", "rowsync_verify"))
        try:
            if what == "edit":
                edit(connection, rng, lambda: f"t{number}-{next(tokens)}z", MINE + SHARED,
                     rng.choice(("BEGIN", "BEGIN IMMEDIATE", "BEGIN IMMEDIATE")))
            else:
                print(what, connection.execute(f"SELECT {what}()").fetchone()[0], flush=True)
        except sqlite3.Error as error:
            print("failed:", what, error, flush=True)
        time.sleep(rng.random() * .02)


class World:
    """A server with a gateway, and two devices of one user; many processes share the first one's file."""

    def __init__(self, database, folder, seed, number):
        self.rng = random.Random(f"{seed} {number}")
        self.number = number
        self.tokens = iter(range(1 << 30))
        self.database = database
        database.rows(SERVER)
        database.rows("SET rowsync.scope = 'ann'")
        # Killed processes count as receivers until the gateway notices.
        self.gateway = Gateway.start(database, ROWSYNC_STREAM_POOL_SIZE=40)
        self.policy = self.rng.choice(POLICIES)
        self.lists = []
        self.log = open(RUN / f"together-{seed}-{number}.log", "w+", encoding="utf-8")
        self.phone, self.tablet = (self.device(folder, name) for name in ("phone", "tablet"))
        self.workers = [self.worker() for _ in range(3)]
        self.running = []

    def device(self, folder, name):
        """A device with the tables, that tracks and is attached."""
        device = Device(folder / f"{name}.db", self.gateway.url, "ann", name)
        device.app.execute(f"PRAGMA journal_mode = {self.rng.choice(('WAL', 'DELETE'))}")
        device.app.executescript(DEVICE)
        device.run("init")
        device.run("track", "p", "c", "--schema", "public", "--policy", self.policy)
        device.attach()
        return device

    def worker(self):
        """Another process on the phone's file."""
        return spawn([sys.executable, __file__, "--work", self.phone.path, "--seed",
                      str(self.rng.getrandbits(32))], env=self.phone.environment(),
                     on_death=signal.SIGKILL, stdout=self.log, stderr=self.log)

    def token(self):
        """A value that was never written."""
        return f"t0-{next(self.tokens)}z"

    def on_server(self):
        """Somebody writes to a row on the server."""
        key, value = self.rng.choice(SHARED), self.token()
        self.database.rows(*self.rng.choice((
            ("INSERT INTO p VALUES (%s, %s) ON CONFLICT DO NOTHING", key, value),
            ("UPDATE p SET a = %s WHERE id = %s", value, key),
            ("UPDATE c SET b = %s WHERE id = %s", value, key),
            ("DELETE FROM p WHERE id = %s", key))))

    def step(self):
        """Something happens, while the processes work."""
        what = self.rng.random()
        if what < .15:
            at = self.rng.randrange(len(self.workers))
            self.workers[at].kill()
            self.workers[at].wait()
            self.workers[at] = self.worker()
        elif what < .35:
            self.running.append(spawn_command(self.phone, self.rng.choice(
                ("sync", "sync", "push", "pull", "hydrate", "verify")), self.log))
        elif what < .4 and self.running:
            self.rng.choice(self.running).kill()
        elif what < .6:
            edit(self.tablet.app, self.rng, self.token, SHARED)
        elif what < .75:
            spawn_command(self.tablet, self.rng.choice(("sync", "push", "pull")), self.log).wait()
        else:
            self.on_server()
        time.sleep(self.rng.random() * .08)

    def play(self, steps):
        """Lets everything happen, waits for silence, and looks at what has come of it."""
        for _ in range(steps):
            self.step()
        for process in self.workers:
            stop(process)
        for process in self.running:
            process.wait()
        self.complaints()
        self.settle()
        self.check()

    def complaints(self):
        """Nobody may have failed, but for what another process held."""
        self.log.flush()
        self.log.seek(0)
        for line in self.log:
            if line.startswith(("failed:", "rowsync:", "Traceback")):
                expect(re.search("locked|busy|another process", line), "a process failed:", line)

    def settle(self):
        """Everybody syncs; what was refused or waits is noted, and given up for the server's."""
        for turn in range(6):
            for device in (self.phone, self.tablet):
                done = device.run("sync", check=False)
                expect(done.returncode in (0, 3), "sync", done.stdout, done.stderr)
                for table in ("conflicts", "rejected", "overwritten"):
                    self.lists.append((device, table, json.loads(
                        device.run(table, "--json", check=False).stdout)))
                for row in self.lists[-3][2]:
                    device.run("resolve", row["table_name"], row["pk"], "--policy", "server")
                if turn > 2 and self.lists[-2][2]:
                    device.run("discard", check=False)

    def check(self):
        """Compares everybody with everybody, and with the journals."""
        server = sorted(self.database.rows(ROWS), key=str)
        for device in (self.phone, self.tablet):
            status = device.status()
            expect(not any(status[what] for what in ("pending", "conflicts", "rejected", "held")),
                   device.source, status)
            rows = sorted(device.rows(ROWS), key=str)
            expect(rows == server, device.source, "has", set(rows) - set(server), "not",
                   set(server) - set(rows))
            done = device.run("verify", "--server", check=False)
            expect(done.returncode == 0, device.source, done.stdout, done.stderr)
            expect(device.value("PRAGMA integrity_check") == "ok", "integrity of", device.source)
            self.check_journal(device, server)
        expect(not self.database.rows("SELECT * FROM rowsync.verify(NULL)"), "verify")
        self.check_history()

    def check_journal(self, device, server):
        """What this file has written is on the server, was there, or is listed as lost."""
        rows = {}
        for name, key, field, value in device.rows(
                "SELECT name, id, field, value FROM journal ORDER BY n"):
            if field == "gone":
                rows.pop((name, key), None)
            else:
                rows.setdefault((name, key), {})[field] = value
        own = sorted(((name, key, row.get("p"), row["a"], row["b"])
                      for (name, key), row in rows.items() if key in MINE), key=str)
        there = [row for row in server if row[1] in MINE]
        expect(device is not self.phone or own == there, "of its own the phone wrote",
               set(own) - set(there), "and the server has", set(there) - set(own))
        known = set(TOKEN.findall(str(self.database.rows("SELECT payload FROM rowsync.change"))))
        known |= set(TOKEN.findall(str([found for who, _, found in self.lists if who is device])))
        for (name, key), row in rows.items():
            for field in "ab":
                expect(row.get(field) is None or row[field] in known, device.source, name, key,
                       field, row.get(field), "is lost")

    def check_history(self):
        """Rows of the phone's own met no conflict, and no value of theirs came back."""
        for _, table, found in self.lists:
            for row in found:
                expect(row["pk"] not in MINE, table, row)
        seen, last = set(), {}
        for name, key, payload in self.database.rows(
                "SELECT table_name::text, key, payload FROM rowsync.change ORDER BY seq"):
            if key not in MINE:
                continue
            row = payload if isinstance(payload, dict) else json.loads(payload or "{}")
            for field in "ab":
                value = row.get(field)
                if value is not None and value != last.get((name, key, field)):
                    expect(value not in seen, name, key, field, value, "was there before")
                    seen.add(value)
                    last[name, key, field] = value

    def tell(self):
        """Adds what the server and the phone's journal know to the log of this world."""
        for row in self.database.rows("SELECT seq, source_id, source_change_id, table_name::text,"
                                      " key, op, prior_version, payload FROM rowsync.change"
                                      " ORDER BY seq"):
            print("change:", *row, file=self.log)
        for row in self.phone.rows("SELECT * FROM journal ORDER BY n"):
            print("journal:", *row, file=self.log)
        for device, table, found in self.lists:
            for row in found:
                print(f"{device.source}, {table}:", row, file=self.log)

    def close(self):
        """Ends what runs."""
        for process in self.workers + self.running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.phone.close()
        self.tablet.close()
        self.log.close()
        self.gateway.stop()


def spawn_command(device, command, log):
    """Starts the command line on a device's file."""
    return spawn([BUILD / "bin" / "rowsync", command, device.path], env=device.environment(),
                 on_death=signal.SIGKILL, stdout=log, stderr=log)


def play(cluster, folder, seed, number, steps):
    """Plays one world; returns None, or what went wrong."""
    database = cluster.database("together_template")
    world, fine = None, False
    (folder / str(number)).mkdir()
    try:
        world = World(database, folder / str(number), seed, number)
        world.play(steps)
        fine = True
        return None
    except Exception as error:
        if not isinstance(error, Difference):
            traceback.print_exc()
        elif world is not None:
            world.tell()
        return (f"world {number} of seed {seed}: {type(error).__name__}: {error}\n"
                f"what happened: .run/together-{seed}-{number}.log; again: "
                f"test/random/together.py --seed {seed} --world {number}")
    finally:
        if world is not None:
            world.close()
        if fine:
            os.unlink(world.log.name)
        database.drop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--worlds", type=int, default=1)
    parser.add_argument("--world", type=int)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.seed)
    raise_on_termination()
    worlds = range(options.worlds) if options.world is None else [options.world]
    print(f"seed {options.seed}, {len(worlds)} worlds of {options.steps} steps", flush=True)
    place, failures, begin = Place("together"), 0, time.monotonic()
    cluster = None
    try:
        cluster = Cluster.start("random", fsync="off", autovacuum="off")
        cluster.database(name="together_template").psql(
            "-c", "CREATE EXTENSION rowsync", "-c", "CREATE ROLE business_gateway LOGIN",
            "-c", "SELECT rowsync.grant_gateway('business_gateway')")
        for number in worlds:
            failure = play(cluster, place.path, options.seed, number, options.steps)
            if failure:
                failures += 1
                print(failure, flush=True)
                break
    finally:
        if cluster is not None:
            cluster.stop()
        place.remove()
    print(f"{failures} failed ({time.monotonic() - begin:.0f} s)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
