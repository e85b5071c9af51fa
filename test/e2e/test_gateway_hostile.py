"""Clients that mean harm: what they send, hold and leave behind costs nobody else anything."""

import os
import resource
import select
import socket
import subprocess
import time

import pytest
import rig
from gateway_parts import CHANGE, RUNNING, Asking, Watching, eventually, many, parse, problem, talk


def descriptors(gateway):
    """How many files a gateway has open."""
    return len(os.listdir(f"/proc/{gateway.server.pid}/fd"))


def worked(gateway):
    """Seconds of CPU that a gateway has used so far."""
    with open(f"/proc/{gateway.server.pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connect(gateway, data=b""):
    """A connection that has sent this."""
    peer = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    peer.sendall(data)
    return peer


def test_a_client_refused_after_it_was_served_may_leave_as_it_likes(start_gateway):
    gateway = start_gateway(ROWSYNC_LOOPS=1)
    # Its departure comes while the connection is being closed for the second request.
    for _ in range(10):
        received = talk(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
                        b"GET /healthz HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1")
        assert received.count(b"HTTP/1.1 200") == received.count(b"HTTP/1.1 400") == 1
    assert gateway.request("GET", "/healthz").status == 200
    assert gateway.stop() == 0


@pytest.mark.parametrize("path", [
    "/%6detrics", "//metrics", "/x/../metrics", "/metrics/", "/./metrics", "/metrics%3f",
    "/metrics;x", "/METRICS", "http://x/metrics"])
def test_a_route_has_one_spelling(gateway, path):
    """A proxy that keeps /metrics to itself compares what it sees."""
    status, body = parse(talk(gateway, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                              "\r\n".encode()))
    assert (status, body["code"]) == (404, "not_found")


@pytest.mark.parametrize("head, detail", [
    ("GET /healthz HTTP/1.1\r\n", "The request has 0 Host headers instead of one."),
    ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
     "The request has 2 Host headers instead of one."),
    ("GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
     "The request has 2 Host headers instead of one."),
    ("POST /sync/upload HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
     "The request has 0 Content-Length and 1 Transfer-Encoding headers: where its body ends is "
     "ambiguous."),
    ("POST /sync/upload HTTP/1.1\r\nHost: a\nTransfer-Encoding: chunked\r\n",
     "The request's head has a line that does not end with CR LF."),
])
def test_whom_it_is_for_and_where_it_ends_must_be_said_once(gateway, head, detail):
    status, body = parse(talk(gateway, head.encode() + b"\r\n0\r\n\r\n"))
    assert (status, body["code"], body["detail"]) == (400, "invalid_request", detail)
    assert talk(gateway, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size, end, status", [
    (b"2a\r\n", b"\r\n0\r\n\r\n", 200),
    (b"2A;a=b\r\n", b"\r\n0\r\nA: b\r\n\r\n", 200),
    (b"2azz\r\n", b"\r\n0\r\n\r\n", 400),
    (b"2a;a\n", b"\r\n0\r\n\r\n", 400),
    (b"2a\r\n", b"\r\r\n0\r\n\r\n", 400),
    (b"2a\r\n", b"\n0\r\n\r\n", 400),
])
def test_chunks_are_framed_as_the_standard_has_it(gateway, mint, size, end, status):
    """A proxy in front may read anything else in another way."""
    head = (f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mint('ann', 'phone')}"
            "\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n").encode()
    answer, body = parse(talk(gateway, head + size + b'{"last_server_seq_seen": 0, "changes": []}' + end))
    assert (answer, body.get("code")) == (status, None if status == 200 else "invalid_request")


def test_a_gateway_takes_no_more_clients_than_it_has_descriptors_for(start_gateway):
    few = {"wrapper": ["prlimit", "--nofile=100:100"], "ROWSYNC_LOOPS": 1}
    gateway = start_gateway(**few)
    assert [line["message"] for line in gateway.log() if line["event"] == "few_descriptors"] == [
        "the limit of open files (ulimit -n) leaves room for 26 client connections, not for "
        "max_connections = 16384"]
    quiet = descriptors(gateway)
    # Half a request each: these are not idle.
    peers = [connect(gateway, b"GET /healthz HTTP/1.1\r\n") for _ in range(100)]
    assert eventually(lambda: descriptors(gateway) == quiet + 26)
    for peer in peers:
        peer.close()
    assert eventually(lambda: gateway.request("GET", "/readyz").status == 200)
    assert eventually(lambda: descriptors(gateway) == quiet)
    with pytest.raises(RuntimeError, match=r"\(status 1\):\nrowsync-gateway: 100 open files "
                       r"\(ulimit -n\) are too few for 1 loops with 41 database connections each"):
        start_gateway(**few, ROWSYNC_POOL_SIZE=36)


def test_a_gateway_without_descriptors_rests_and_goes_on(start_gateway):
    gateway = start_gateway(ROWSYNC_LOOPS=1)
    before = resource.prlimit(gateway.server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.server.pid, resource.RLIMIT_NOFILE,
                     (descriptors(gateway) + 2, before[1]))
    peers = [connect(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(10)]
    used = worked(gateway)
    time.sleep(2)
    assert worked(gateway) - used < 1
    resource.prlimit(gateway.server.pid, resource.RLIMIT_NOFILE, before)
    for peer in peers:
        assert peer.recv(100).startswith(b"HTTP/1.1 200 ")
        peer.close()


def test_connections_being_heard_out_count(start_gateway):
    """Each refusal leaves a connection that is read for a moment: they are connections too."""
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_MAX_CONNECTIONS=20)
    quiet = descriptors(gateway)
    peers = []
    for _ in range(100):
        peers.append(connect(gateway, b"GET /healthz HTTP/1.1\r\n\r\n"))
        assert descriptors(gateway) <= quiet + 21
    for peer in peers:
        assert peer.recv(100).startswith(b"HTTP/1.1 400 ")
        peer.close()


def test_idle_connections_give_way_when_others_wait(start_gateway):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_MAX_CONNECTIONS=3,
                            ROWSYNC_IDLE_TIMEOUT=3600000)
    peers = [connect(gateway, data) for data in
             (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.1\r\n")]
    assert gateway.request("GET", "/healthz").status == 200
    # Which of them are idle is what matters: half a request is none of them.
    assert peers[0].recv(1) == b""
    peers[2].sendall(b"Host: x\r\n\r\n")
    assert peers[2].recv(100).startswith(b"HTTP/1.1 200 ")
    for peer in peers:
        peer.close()


def test_one_user_does_not_hold_all_event_streams(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_WATCH_LIMIT=2)
    watching = [Watching(gateway, mint("ann", f"phone {number}")) for number in range(2)]
    answer = gateway.request("GET", "/sync/watch", token=mint("ann", "tablet"))
    problem(answer, 429, "too_many_requests",
            "This user already has as many event streams as one user may.")
    assert answer.headers["retry-after"] == "5"
    watching.append(Watching(gateway, mint("bob", "phone")))
    assert watching[2].event() == ("head", {"head": 0})
    watching[0].response.close()
    watching[0].connection.close()
    assert eventually(lambda: b"rowsync_event_streams 2" in
                      gateway.request("GET", "/metrics").body)
    assert Watching(gateway, mint("ann", "tablet")).event() == ("head", {"head": 0})


def test_one_user_does_not_hold_all_connections(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=4, ROWSYNC_QUEUE_LENGTH=4,
                            ROWSYNC_QUEUE_TIMEOUT=60000)
    assert gateway.upload(mint("ann", "phone"), [CHANGE]).status == 200
    holder = database.connect()
    holder.autocommit = False
    holder.cursor().execute("SELECT FROM rowsync.scope WHERE name = 'ann' FOR UPDATE")
    asking = Asking(gateway, mint("ann", "phone"), 6)
    try:
        # Three run and three wait; the fourth connection and the fourth place are not hers.
        assert eventually(lambda: b'rowsync_pool_queue{pool="requests"} 3' in
                          gateway.request("GET", "/metrics").body)
        assert database.value(RUNNING) == 3
        problem(gateway.upload(mint("ann", "phone"), [CHANGE]), 503, "overloaded",
                "The server has as many requests waiting as it may hold.")
        for _ in range(3):
            assert gateway.upload(mint("bob", "phone"), [{**CHANGE, "pk": "x"}]).status == 200
        assert not asking.answers
    finally:
        holder.close()
    assert [answer.status for answer in asking.wait()] == [200] * 6


def test_many_small_bodies_are_counted(start_gateway):
    """Each alone is too small to be asked for a token while it is coming; together they are not."""
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_MEMORY_LIMIT=1048576)
    peers = [connect(gateway, b"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 65000\r\n"
                     b"\r\n" + b"x" * 60000) for _ in range(100)]
    # Seventeen fit.
    assert eventually(lambda: len(select.select(peers, [], [], 0)[0]) == 83)
    assert all(peer.recv(12) == b"HTTP/1.1 401" for peer in select.select(peers, [], [], 0)[0])
    for peer in peers:
        peer.close()


def test_a_slow_reader_behind_a_socket_file_gets_everything(cluster, database, gateway, tmp_path,
                                                            mint):
    """Longer than send_timeout, and never without something on its way."""
    gateway.upload(mint("ann", "phone"), many(5000, "x" * 1000))
    path = tmp_path / "gateway.sock"
    server = subprocess.Popen(
        [rig.gateway.BINARY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "ROWSYNC_LISTEN": f"unix:{path}", "ROWSYNC_JWT_SECRET": rig.SECRET,
             "ROWSYNC_SEND_TIMEOUT": "500", "DATABASE_URL": database.gateway_dsn})
    try:
        assert server.stdout.readline()
        for reads in (True, False):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(20)
                peer.connect(str(path))
                peer.sendall(f"GET /sync/snapshot HTTP/1.0\r\nAuthorization: Bearer "
                             f"{mint('ann', 'tablet')}\r\n\r\n".encode())
                received = peer.recv(100)
                time.sleep(0 if reads else 3)
                while chunk := peer.recv(65536):
                    received += chunk
                    if reads and len(received) < 2_000_000:
                        time.sleep(0.05)
            assert (b'"end"' in received[-200:]) == reads
    finally:
        server.kill()
        server.communicate()
