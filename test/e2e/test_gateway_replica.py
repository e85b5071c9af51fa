"""A hot standby serves downloads and snapshots, but never a state older than a device has seen."""

import json
import signal

import psycopg2
import pytest
import rig
from rig import process
from gateway_parts import RUNNING, eventually, many, reader


@pytest.fixture
def standby():
    """A primary with the example schema and its streaming standby: (database, dsn, ask, server)."""
    cluster = rig.Cluster.start("replica")
    server = None
    try:
        database = cluster.business()
        place = cluster.place
        data, sockets = place.path / "standby", place.folder("standby-sock")
        with open(place.path / "standby.log", "wb") as log:
            copied = process.spawn(
                [cluster.bin / "pg_basebackup", "--checkpoint=fast", "--no-sync", "-R", "-D", data,
                 "-d", cluster.dsn("postgres")], user=place.user, cwd="/", stdout=log, stderr=log)
            assert copied.wait(60) == 0
            server = process.spawn(
                [cluster.bin / "postgres", "-D", data, "-c", f"unix_socket_directories={sockets}"],
                user=place.user, cwd="/", on_death=signal.SIGINT, stdout=log, stderr=log)
        folder = str(sockets).replace("/", "%2F")
        admin = f"postgresql://postgres@{folder}:5432/{database.name}"

        def ask(query):
            connection = psycopg2.connect(admin)
            try:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(query)
                    return cursor.fetchall()[0][0]
            finally:
                connection.close()

        def lives():
            try:
                return ask("SELECT pg_is_in_recovery()")
            except psycopg2.OperationalError:
                return False
        assert eventually(lives)
        dsn = f"postgresql://business_gateway@{folder}:5432/{database.name}"
        yield database, dsn, ask, server
    finally:
        if server is not None:
            process.stop(server, signal.SIGINT)
        cluster.stop()


def test_a_standby_serves_but_never_an_older_state_than_one_seen(standby, start_gateway, mint):
    database, dsn, ask, server = standby
    gateway = start_gateway(database=database, ROWSYNC_REPLICA_URL=dsn)
    gateway.upload(mint("ann", "phone"), many(2))
    assert eventually(lambda: ask("SELECT coalesce(max(head), 0) FROM rowsync.scope") == 2)
    ask("SELECT pg_wal_replay_pause()::text")
    assert eventually(lambda: ask("SELECT pg_get_wal_replay_pause_state()") == "paused")
    gateway.upload(mint("ann", "phone"), many(1, first=3))
    token = mint("ann", "tablet")

    def window(query):
        answer = gateway.download(token, query)
        assert answer.status == 200
        return answer.body["window_until"], len(answer.body["changes"])

    def rows(query=""):
        answer = gateway.request("GET", "/sync/snapshot" + query, token=token)
        last = json.loads(answer.body.splitlines()[-1])
        assert last["end"]
        return last["rows"]
    # Who has seen nothing newer gets what the standby has; who has, gets the primary's.
    assert eventually(lambda: window("after=0") == (2, 2))
    assert window("after=2") == (2, 0)
    assert window("after=0&seen=2") == (2, 2)
    assert window("after=0&seen=3") == (3, 3)
    assert window("after=3") == (3, 0)
    assert window("after=0&until=3") == (3, 3)
    assert (rows(), rows("?seen=2"), rows("?seen=3")) == (2, 2, 3)
    # A user whom the standby does not know yet.
    gateway.upload(mint("bob", "phone"), many(1, first=10))
    answer = gateway.download(mint("bob", "tablet"))
    assert len(answer.body["changes"]) == 1
    answer = gateway.request("GET", "/sync/snapshot?seen=x", token=token)
    assert (answer.status, answer.body["code"]) == (400, "invalid_parameter")
    ask("SELECT pg_wal_replay_resume()::text")
    assert eventually(lambda: window("after=0") == (3, 3))
    # Without it everything comes from the primary.
    process.stop(server, signal.SIGQUIT)
    for _ in range(5):
        assert window("after=0") == (3, 3)
        assert rows() == 3


def test_the_primary_is_not_asked_for_a_client_that_has_left(standby, start_gateway, mint):
    database, dsn, ask, _ = standby
    gateway = start_gateway(database=database, ROWSYNC_REPLICA_URL=dsn)
    gateway.upload(mint("ann", "phone"), many(1))
    # The standby holds the lock as well, as soon as it has heard of it.
    holder = database.connect()
    holder.autocommit = False
    holder.cursor().execute("LOCK TABLE rowsync.scope IN ACCESS EXCLUSIVE MODE")
    try:
        assert eventually(lambda: ask("SELECT count(*) FROM pg_locks WHERE granted "
                                      "AND relation = 'rowsync.scope'::regclass") == 1)
        with reader(gateway, "/sync/download", mint("ann", "tablet")):
            assert eventually(lambda: ask(RUNNING) == 1)
        assert eventually(lambda: any(line.get("code") == "client_gone" for line in gateway.log()))
        # Its query there is cancelled, and here there is none.
        assert eventually(lambda: ask(RUNNING) == 0)
        assert database.value(RUNNING) == 0
    finally:
        holder.close()
