"""What capture costs beside the writes themselves: nothing where nothing is written, and bounded memory
where very much is.

Each test compares a registered table with the same table without rowsync, on a server of its own where
nothing else writes. ROWSYNC_ROWS=1000000 tries the large statements with that many rows.
"""

import contextlib
import os
import threading

import pytest

import rig

ROWS = int(os.environ.get("ROWSYNC_ROWS", 50_000))
WORK_MEM = 1024  # kB


@pytest.fixture(scope="module")
def quiet():
    """A database with two tables alike, of which one syncs; nobody else writes to its server."""
    cluster = rig.Cluster.start("quiet", autovacuum="off", wal_level="minimal", max_wal_senders="0",
                                full_page_writes="off", fsync="off", checkpoint_timeout="1h",
                                max_wal_size="8GB", bgwriter_lru_maxpages="0", shared_buffers="16MB")
    try:
        database = cluster.database()
        database.psql("-c", """
            CREATE EXTENSION rowsync;
            CREATE TABLE plain (id integer PRIMARY KEY, v text, _rowsync_scope text);
            CREATE TABLE synced (id integer PRIMARY KEY, v text);
            SELECT rowsync.register_table('synced');
            CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
            CREATE TRIGGER nothing AFTER INSERT OR UPDATE OR DELETE ON plain
                FOR EACH ROW EXECUTE FUNCTION nothing();""")
        yield database
        database.drop()
    finally:
        cluster.stop()


def spent(cursor, *statements):
    """What statements write: bytes of WAL, bytes flushed, transaction ids; cached things are warm."""
    ask = ("SELECT pg_current_wal_insert_lsn() - '0/0', pg_current_wal_flush_lsn() - '0/0',"
           " pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    for _ in range(3):
        cursor.execute(ask)
        before = cursor.fetchone()
        for statement in statements:
            cursor.execute(statement)
        cursor.execute(ask)
        after = cursor.fetchone()
    return [int(b - a) for a, b in zip(before, after)]


@pytest.fixture
def cursor(quiet):
    """A session of its own in which both tables have a row."""
    with contextlib.closing(quiet.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SET rowsync.scope = 'ann'")
        cursor.execute("TRUNCATE plain, synced")
        cursor.execute("INSERT INTO plain VALUES (1, 'x', 'ann'); INSERT INTO synced VALUES (1, 'x')")
        yield cursor


@pytest.mark.parametrize("statements", [
    ["SELECT count(*) FROM {0}"],
    ["BEGIN", "SELECT count(*) FROM {0}", "COMMIT"],
    ["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "SELECT count(*) FROM {0}", "COMMIT"],
    ["BEGIN", "UPDATE {0} SET v = 'y' WHERE id = -1", "DELETE FROM {0} WHERE id = -1", "COMMIT"],
    ["BEGIN", "SAVEPOINT a", "SELECT count(*) FROM {0}", "ROLLBACK TO a", "COMMIT"],
    ["BEGIN", "SELECT count(*) FROM {0}", "ROLLBACK"]])
def test_a_transaction_that_writes_nothing_costs_nothing(cursor, statements):
    assert spent(cursor, *[one.format("synced") for one in statements]) == [0, 0, 0]


@pytest.mark.parametrize("statements", [
    ["BEGIN", "INSERT INTO {0} (id, v, _rowsync_scope) SELECT n, 'x', 'ann' FROM generate_series(2, 500) AS n",
     "UPDATE {0} SET v = 'y'", "ROLLBACK"],
    ["BEGIN", "SAVEPOINT a", "DELETE FROM {0}", "ROLLBACK TO a", "COMMIT"],
    ["BEGIN", "TRUNCATE {0}", "ROLLBACK"]])
def test_what_is_rolled_back_costs_what_it_costs_without_rowsync(cursor, statements):
    plain, synced = (spent(cursor, *[one.format(table) for one in statements])
                     for table in ("plain", "synced"))
    assert synced[2] <= plain[2]
    assert synced[0] <= plain[0] + 256, (synced, plain)


def test_a_write_that_is_kept_is_seen_by_this_measure(cursor):
    plain, synced = (spent(cursor, f"UPDATE {table} SET v = v || 'y'") for table in ("plain", "synced"))
    assert synced[0] > plain[0] + 256, (synced, plain)


class Peak:
    """The most memory of its own that a backend has while a statement runs, in kB."""

    def __init__(self, pid):
        self.path = f"/proc/{pid}/status"
        self.most = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self.done.wait(0.002):
            self.most = max(self.most, self.read())

    def read(self):
        """What it has now."""
        with open(self.path, encoding="utf-8") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

    def __enter__(self):
        self.before = self.read()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.more = self.most - self.before


def test_a_statement_over_many_rows_stays_within_work_mem(quiet):
    """What PostgreSQL itself keeps for a row trigger, 10 to 20 bytes a row, is in both figures."""
    used = {}
    for table in ("plain", "synced"):
        with contextlib.closing(quiet.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"TRUNCATE {table}")
            cursor.execute(f"SET work_mem = '{WORK_MEM}kB'; SET rowsync.scope = 'ann';"
                           " SELECT pg_backend_pid()")
            pid = cursor.fetchone()[0]
            for what in (f"INSERT INTO {table} (id, v, _rowsync_scope)"
                         f" SELECT n, repeat('x', 100), 'ann' FROM generate_series(1, {ROWS}) AS n",
                         f"UPDATE {table} SET v = v || 'y'", f"DELETE FROM {table}"):
                with Peak(pid) as peak:
                    cursor.execute(what)
                    assert cursor.rowcount == ROWS
                used[table, what.split()[0]] = peak.more
    print(used)
    for what in ("INSERT", "UPDATE", "DELETE"):
        assert used["synced", what] <= used["plain", what] + 6 * WORK_MEM, used
    assert quiet.value("SELECT temp_bytes > 0 FROM pg_stat_database"
                       " WHERE datname = current_database()")
    assert quiet.rows("""SELECT count(*) FILTER (WHERE op = 'I'), count(*) FILTER (WHERE op = 'U'),
                                count(*) FILTER (WHERE op = 'D'), max(seq)
                           FROM (SELECT op, seq FROM rowsync.change_log ORDER BY seq DESC LIMIT %s)
                             AS latest""", 3 * ROWS)[0][:3] == (ROWS, ROWS, ROWS)
    assert not quiet.rows("SELECT * FROM rowsync.verify() LIMIT 3")
