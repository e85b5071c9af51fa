"""Answers that are streams: snapshots and events."""

import contextlib
import gzip
import json
import os
import signal
import time

from gateway_parts import RUNNING, Watching, eventually, fill, many, memory, problem, reader
from rig.build import SANITIZE


def test_a_snapshot_is_whole_lines_from_header_to_end(gateway, database, mint):
    gateway.upload(mint("ann", "phone"), many(3000, "ä\\\"\n"))
    answer = gateway.request("GET", "/sync/snapshot", token=mint("ann", "tablet"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.decode().splitlines()]
    assert lines[0]["seq"] == 3000
    assert lines[-1]["end"] is True
    assert lines[-1]["rows"] == len(lines) - 2 == 3000
    digest = gateway.request("GET", "/sync/digest", token=mint("ann", "tablet")).body
    assert lines[-1]["digest"] == digest["digest"]
    packed = gateway.request("GET", "/sync/snapshot", token=mint("ann", "tablet"),
                             headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(packed.body) == answer.body
    empty = gateway.request("GET", "/sync/snapshot", token=mint("bob", "phone"))
    assert [json.loads(line) for line in empty.body.splitlines()][-1]["rows"] == 0
    assert gateway.request("HEAD", "/sync/snapshot", token=mint("bob", "phone")).status == 200


def test_a_broken_snapshot_has_no_last_line(start_gateway, database, mint):
    """The database dies in the middle: the client must not take what it got for everything."""
    gateway = start_gateway(ROWSYNC_LOOPS=1)
    gateway.upload(mint("ann", "phone"), many(9000, "x" * 1000))
    with reader(gateway, "/sync/snapshot", mint("ann", "tablet")) as peer:
        received = peer.recv(1000)
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert database.value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "
                              "application_name LIKE 'rowsync-gateway ________________'") == 1
        while chunk := peer.recv(65536):
            received += chunk
    assert b'"end"' not in received
    # Not even the framing says that this was the end.
    assert not received.endswith(b"0\r\n\r\n")
    assert gateway.request("GET", "/sync/snapshot", token=mint("ann", "tablet")).status == 200


def test_a_reader_of_a_snapshot_that_goes_away_frees_its_connection(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_STREAM_POOL_SIZE=1)
    gateway.upload(mint("ann", "phone"), many(9000, "x" * 1000))
    for _ in range(3):
        with reader(gateway, "/sync/snapshot", mint("ann", "tablet")) as peer:
            assert peer.recv(100).startswith(b"HTTP/1.1 200 OK")
            # Uploads have connections of their own.
            assert gateway.upload(mint("bob", "phone"), []).status == 200
    answer = gateway.request("GET", "/sync/snapshot", token=mint("ann", "tablet"))
    assert json.loads(answer.body.splitlines()[-1])["rows"] == 9000


def test_a_reader_in_http_1_0_may_leave_while_the_database_makes_the_next_chunk(
        start_gateway, database, mint):
    """There is no chunk to cut then: libh2o frees the request at once."""
    gateway = start_gateway(ROWSYNC_LOOPS=1)
    gateway.upload(mint("ann", "phone"), many(9000, "x" * 1000))
    with reader(gateway, "/sync/snapshot", mint("ann", "tablet"), version="1.0") as peer:
        assert peer.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert eventually(lambda: database.value(RUNNING) == 1)
        backend = database.value(RUNNING.replace("count(*)", "pid"))
        os.kill(backend, signal.SIGSTOP)
        try:
            peer.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while peer.recv(65536):
                    pass
            peer.close()
            assert eventually(lambda: any(line.get("code") == "client_gone"
                                          for line in gateway.log()))
        finally:
            os.kill(backend, signal.SIGCONT)
    assert gateway.request("GET", "/sync/snapshot", token=mint("ann", "tablet")).status == 200


def test_one_user_does_not_hold_all_snapshot_connections(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_STREAM_POOL_SIZE=2)
    gateway.upload(mint("ann", "phone"), many(9000, "x" * 1000))
    with reader(gateway, "/sync/snapshot", mint("ann", "tablet")) as peer:
        assert peer.recv(1000).startswith(b"HTTP/1.1 200 OK")
        answer = gateway.request("GET", "/sync/snapshot", token=mint("ann", "laptop"))
        problem(answer, 429, "too_many_requests",
                "This user is already receiving as many snapshots as one user may at once.")
        assert answer.headers["retry-after"] == "5"
        assert gateway.request("GET", "/sync/snapshot", token=mint("bob", "phone")).status == 200
    assert eventually(lambda: gateway.request("GET", "/sync/snapshot",
                                              token=mint("ann", "laptop")).status == 200)


def test_a_reader_below_the_least_rate_is_cut(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_SEND_TIMEOUT=1000, ROWSYNC_SEND_RATE=100000)
    gateway.upload(mint("ann", "phone"), many(9000, "x" * 1000))
    with reader(gateway, "/sync/snapshot", mint("ann", "tablet")) as peer:
        # It never stops reading, about 10 kB a second.
        deadline = time.monotonic() + 20
        while not any(line.get("route") == "/sync/snapshot" for line in gateway.log()):
            assert time.monotonic() < deadline
            peer.recv(500)
            time.sleep(0.05)


def test_a_snapshot_to_a_slow_reader_is_not_held_in_memory(start_gateway, database, mint, request):
    """With --snapshot-mb 200 it is as large as the design speaks of."""
    gateway = start_gateway(ROWSYNC_LOOPS=1)
    size = request.config.getoption("--snapshot-mb") * 1_000_000
    rows = fill(database, "ann", size)
    with reader(gateway, "/sync/snapshot", mint("ann", "tablet"), window=65536, version="1.0") as peer:
        received = 0
        tail = b""
        while chunk := peer.recv(262144):
            # All of it could be there by now, if anybody were to take it.
            time.sleep(1 if received == 0 else 0.001)
            received += len(chunk)
            tail = (tail + chunk)[-1000:]
    assert received > size
    assert json.loads(tail.splitlines()[-1])["rows"] == rows
    peak = memory(gateway, "VmHWM")
    print(f"{received} bytes of snapshot, resident memory at most {peak} kB")
    # An instrumented gateway needs more from the start.
    assert peak < 32768 or SANITIZE


def test_watching_tells_the_head_at_once_and_whenever_it_moves(start_gateway, database, mint):
    one, two = start_gateway(), start_gateway()
    watching = Watching(one, mint("ann", "phone"))
    assert watching.event() == ("head", {"head": 0})
    two.upload(mint("ann", "tablet"), many(2))
    assert watching.event() == ("head", {"head": 2})
    again = Watching(one, mint("ann", 'a "strange\\" name'))
    assert again.event() == ("head", {"head": 2})
    other = Watching(one, mint('b"o\\b', "phone"))
    assert other.event() == ("head", {"head": 0})
    database.rows("UPDATE business.users SET name = 'Bea'")
    assert watching.event() == again.event() == ("head", {"head": 4})
    two.upload(mint('b"o\\b', "tablet"), many(1, first=10))
    assert other.event() == ("head", {"head": 1})


def test_an_event_stream_tells_nothing_once_its_token_has_expired(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_JWT_LEEWAY=0)
    expires = time.time() + 3
    watching = Watching(gateway, mint("ann", "phone", ttl=3))
    assert watching.event() == ("head", {"head": 0})
    time.sleep(max(0, expires - time.time()) + 1)
    gateway.upload(mint("ann", "tablet"), many(1))
    assert watching.event() == ("reconnect", {})
    assert watching.event() is None


def test_event_streams_are_told_to_reconnect_and_do_not_delay_the_end(start_gateway, database, mint):
    gateway = start_gateway()
    watching = [Watching(gateway, mint("ann", f"phone {number}")) for number in range(5)]
    assert [stream.event() for stream in watching] == [("head", {"head": 0})] * 5
    gateway.server.send_signal(signal.SIGTERM)
    assert [stream.event() for stream in watching] == [("reconnect", {})] * 5
    assert [stream.event() for stream in watching] == [None] * 5
    assert gateway.server.wait(20) == 0


def test_watchers_that_go_away_leave_nothing_open(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1)

    def descriptors():
        return len(os.listdir(f"/proc/{gateway.server.pid}/fd"))
    token = mint("ann", "phone")
    first = Watching(gateway, token)
    assert first.event() == ("head", {"head": 0})
    before = descriptors()
    watching = [Watching(gateway, token) for _ in range(20)]
    assert [stream.event() for stream in watching] == [("head", {"head": 0})] * 20
    assert descriptors() == before + 20
    for stream in watching:
        stream.response.close()
        stream.connection.close()
    # A comment would find them too, but not before 15 seconds.
    assert eventually(lambda: descriptors() == before, seconds=10)
    gateway.upload(token, many(1))
    assert first.event() == ("head", {"head": 1})
