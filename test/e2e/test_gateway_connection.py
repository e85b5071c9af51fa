"""Client connections: framing, timeouts and limits, TLS, socket files."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time

import pytest
import rig
from gateway_parts import CHANGE, eventually, parse, reader, talk


@pytest.mark.parametrize("lines, detail", [
    (["Content-Length: 5", "Content-Length: 5"],
     "The request has 2 Content-Length and 0 Transfer-Encoding headers: where its body ends is "
     "ambiguous."),
    (["Content-Length: 5", "content-length: 6"],
     "The request has 2 Content-Length and 0 Transfer-Encoding headers: where its body ends is "
     "ambiguous."),
    (["Content-Length: 5", "Transfer-Encoding: chunked"],
     "The request has 1 Content-Length and 1 Transfer-Encoding headers: where its body ends is "
     "ambiguous."),
    (["Transfer-Encoding: chunked", "Content-Length: 5"],
     "The request has 1 Content-Length and 1 Transfer-Encoding headers: where its body ends is "
     "ambiguous."),
    (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
     "The request has 0 Content-Length and 2 Transfer-Encoding headers: where its body ends is "
     "ambiguous."),
    (["A: b", " c", "Content-Length: 0"], "The request's head has a folded header line."),
])
def test_an_ambiguous_request_is_refused_and_its_connection_closed(gateway, lines, detail):
    head = "\r\n".join(["POST /sync/upload HTTP/1.1", "Host: x", *lines, "", ""])
    # What follows would be a request of its own to whoever reads the first one the other way.
    received = talk(gateway, head.encode() + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") == 1
    status, body = parse(received)
    assert (status, body["code"], body["detail"]) == (400, "invalid_request", detail)


def test_broken_framing_is_refused(gateway):
    status, body = parse(talk(gateway, b"POST /sync/upload HTTP/1.1\r\nHost: x\r\n"
                                     b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"))
    assert (status, body["code"]) == (400, "invalid_request")
    for field in (b"Content-Length: -1", b"Content-Length: 5x", b"Content-Length: ",
                  b"Transfer-Encoding: gzip"):
        status, body = parse(talk(gateway, b"POST /sync/upload HTTP/1.1\r\nHost: x\r\n" + field
                                  + b"\r\n\r\n"))
        assert (status, body["code"]) == (400, "invalid_request")
    status, body = parse(talk(gateway, b"POST /sync/upload HTTP/1.1\r\nHost: x\r\nExpect: magic\r\n"
                                     b"Content-Length: 5\r\n\r\nhello"))
    assert (status, body["code"]) == (417, "expectation_failed")
    # What is no HTTP at all gets libh2o's own short answer.
    assert talk(gateway, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_head_over_the_limit_is_431(start_gateway):
    gateway = start_gateway(ROWSYNC_HEADER_LIMIT=2000)
    status, body = parse(talk(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 2000
                              + b"\r\n\r\n"))
    assert (status, body["code"]) == (431, "header_too_large")
    assert body["detail"] == "The request's head is larger than 2000 bytes."


def test_requests_sent_ahead_are_answered_in_order(gateway):
    received = talk(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
                           b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
                           b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404", b"200"]


def closes(gateway, data, seconds=10):
    """Whether the gateway hangs up on a client that sends this and then nothing."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=seconds) as peer:
        peer.sendall(data)
        try:
            while peer.recv(65536):
                pass
            return True
        except TimeoutError:
            return False


@pytest.mark.parametrize("setting, data", [
    ("ROWSYNC_IDLE_TIMEOUT", b""),
    ("ROWSYNC_IDLE_TIMEOUT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("ROWSYNC_HEADER_TIMEOUT", b"GET /healthz HTTP/1.1\r\nHost"),
    ("ROWSYNC_BODY_TIMEOUT", b"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"),
    ("ROWSYNC_BODY_TIMEOUT",
     b"POST /sync/upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1"),
])
def test_a_silent_client_is_cut(start_gateway, setting, data):
    assert closes(start_gateway(**{setting: 300}), data)


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n"])
def test_a_client_that_does_not_shake_hands_is_cut(start_gateway, tmp_path, data):
    chain, key = rig.certificate(tmp_path, "one")
    gateway = start_gateway(ROWSYNC_TLS_CERTIFICATE=chain, ROWSYNC_TLS_KEY=key,
                            ROWSYNC_HEADER_TIMEOUT=300)
    assert closes(gateway, data)


def test_a_slow_sender_is_cut_although_it_never_stops(start_gateway):
    gateway = start_gateway(ROWSYNC_HEADER_TIMEOUT=300)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as peer:
        deadline = time.monotonic() + 20
        with pytest.raises(OSError):
            for byte in b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 1000:
                assert time.monotonic() < deadline
                peer.sendall(bytes([byte]))
                time.sleep(0.05)


def test_a_reader_that_does_not_read_is_cut(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_SEND_TIMEOUT=500)
    changes = [{**CHANGE, "source_change_id": number,
                "pk": f"00000000-0000-4000-8000-0000000001{number:02}",
                "payload": {**CHANGE["payload"],
                            "id": f"00000000-0000-4000-8000-0000000001{number:02}",
                            "email": f"{number}@gateway.example", "name": "x" * 1000000}}
               for number in range(10, 22)]
    assert gateway.upload(mint("ann", "phone"), changes).status == 200
    with reader(gateway, "/sync/download", mint("ann", "tablet")) as peer:
        assert eventually(lambda: [line["status"] for line in gateway.log()
                                   if line.get("route") == "/sync/download"] == [200])
    # One that reads slowly, but does read, gets everything.
    with reader(gateway, "/sync/download", mint("ann", "tablet"), version="1.0") as peer:
        received = bytearray()
        while chunk := peer.recv(262144 if len(received) > 2_000_000 else 65536):
            received += chunk
            if len(received) < 2_000_000:
                time.sleep(0.05)
    _, _, body = bytes(received).partition(b"\r\n\r\n")
    assert json.loads(body) == gateway.download(mint("ann", "tablet")).body


def test_connections_over_the_limit_wait_their_turn(start_gateway):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_MAX_CONNECTIONS=2)
    first = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(2)]
    third = socket.create_connection(("127.0.0.1", gateway.port))
    third.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    third.settimeout(0.3)
    with pytest.raises(TimeoutError):
        third.recv(1)
    first[0].close()
    third.settimeout(10)
    assert third.recv(100).startswith(b"HTTP/1.1 200 ")
    first[1].close()
    third.close()


def test_a_port_in_use_is_refused_unless_sharing_is_meant(start_gateway):
    first = start_gateway(ROWSYNC_LOOPS=2, ROWSYNC_REUSE_PORT="true")
    address = f"127.0.0.1:{first.port}"
    with pytest.raises(RuntimeError, match=rf"\(status 1\):\nrowsync-gateway: cannot listen on "
                       rf"{re.escape(address)}: Address already in use"):
        start_gateway(ROWSYNC_LISTEN=address)
    second = start_gateway(ROWSYNC_LISTEN=address, ROWSYNC_REUSE_PORT="true")
    assert eventually(lambda: first.request("GET", "/healthz").status == 200 and all(
        any(line["event"] == "request" for line in gateway.log()) for gateway in (first, second)))
    assert second.stop() == 0
    assert first.request("GET", "/healthz").status == 200


def test_every_loop_of_a_gateway_that_is_alone_gets_clients(start_gateway):
    gateway = start_gateway(ROWSYNC_LOOPS=2)
    # Request ids count upwards from a random number in each loop.
    assert eventually(lambda: len({gateway.request("GET", "/healthz").headers[
        "rowsync-request-id"][:8] for _ in range(10)}) == 2)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_https_and_new_certificates_without_a_break(start_gateway, tmp_path, mint):
    chain, key = rig.certificate(tmp_path, "one")
    gateway = start_gateway(ROWSYNC_TLS_CERTIFICATE=chain, ROWSYNC_TLS_KEY=key)
    assert gateway.url.startswith("https://127.0.0.1:")

    def connect(trusted):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", gateway.port, timeout=20,
            context=ssl.create_default_context(cafile=trusted))
        connection.connect()
        return connection

    def ask(connection, path="/sync/download"):
        connection.request("GET", path, headers={"Authorization": "Bearer " + mint("ann", "phone")})
        answer = connection.getresponse()
        return answer.status, answer.read()
    before = connect(chain)
    assert before.sock.version() == "TLSv1.3"
    assert ask(before)[0] == 200
    new_chain, new_key = rig.certificate(tmp_path, "two")
    new_chain.rename(chain)
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: any(line["event"] == "reload_failed" for line in gateway.log()))
    new_key.rename(key)
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: any(line["event"] == "reloaded" for line in gateway.log()))

    def renewed():
        """Each loop takes the new ones in its own time."""
        try:
            return ask(connect(chain))[0] == 200
        except ssl.SSLCertVerificationError:
            return False
    assert eventually(renewed)
    # The connection from before goes on as it was.
    assert ask(before)[0] == 200
    with pytest.raises(ssl.SSLError):
        context = ssl.create_default_context(cafile=chain)
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context,
                                    timeout=20).connect()
    # A client that talks plainly is cut, not served.
    assert not talk(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP")


def test_who_connected_before_the_certificates_were_renewed_may_shake_hands_after(
        start_gateway, tmp_path):
    chain, key = rig.certificate(tmp_path, "one")
    gateway = start_gateway(ROWSYNC_TLS_CERTIFICATE=chain, ROWSYNC_TLS_KEY=key, ROWSYNC_LOOPS=1)
    trusted = ssl.create_default_context(cafile=chain)
    for times in range(1, 6):
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 20))
                     for _ in range(10)]
            # A later one has been served: all of these are with the gateway, and silent.
            with socket.create_connection(("127.0.0.1", gateway.port), 20) as last:
                trusted.wrap_socket(last, server_hostname="127.0.0.1").close()
            gateway.reload()
            assert eventually(lambda: sum(line["event"] == "reloaded"
                                          for line in gateway.log()) == times)
            for peer in peers:
                trusted.wrap_socket(peer, server_hostname="127.0.0.1").close()


def test_a_socket_of_the_service_manager_outlives_the_process(database, mint, tmp_path):
    """Passed as systemd does it: descriptor 3, and two variables. Nobody is refused in between."""
    def start(listener, count=1):
        def pass_on():
            os.dup2(listener.fileno(), 3)
        return subprocess.Popen(
            ["/bin/sh", "-c", f'export LISTEN_PID=$$ LISTEN_FDS={count}; exec "$0"',
             rig.gateway.BINARY], preexec_fn=pass_on, pass_fds=(3,), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "ROWSYNC_JWT_SECRET": rig.SECRET, "ROWSYNC_LOOPS": "2",
                 "ROWSYNC_LISTEN": "192.0.2.1:80", "DATABASE_URL": database.gateway_dsn})

    def ask(listener):
        peer = socket.socket(listener.family)
        peer.settimeout(20)
        peer.connect(listener.getsockname())
        peer.sendall(f"GET /sync/download HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     f"Authorization: Bearer {mint('ann', 'phone')}\r\n\r\n".encode())
        return peer
    servers = []
    path = tmp_path / "passed.sock"
    with socket.create_server(("127.0.0.1", 0)) as port, \
            socket.socket(socket.AF_UNIX) as file, socket.socket() as deaf:
        file.bind(str(path))
        file.listen(10)
        try:
            for listener, url in ((port, f"http://127.0.0.1:{port.getsockname()[1]}"),
                                  (file, f"unix:{path}")):
                for _ in range(2):
                    # This one comes while nobody is there, and waits.
                    waiting = ask(listener)
                    servers.append(start(listener))
                    assert servers[-1].stdout.readline() == \
                        f"rowsync-gateway: listening on {url}\n"
                    assert waiting.recv(12) == b"HTTP/1.1 200"
                    assert ask(listener).recv(12) == b"HTTP/1.1 200"
                    servers[-1].terminate()
                    servers[-1].communicate(timeout=20)
                    assert servers[-1].returncode == 0
            assert path.exists()
            for listener, count, reason in (
                    (port, 2, "the service manager has passed 2 sockets instead of one"),
                    (deaf, 1, "what the service manager has passed is no listening stream socket")):
                servers.append(start(listener, count))
                assert servers[-1].communicate(timeout=20)[1] == f"rowsync-gateway: {reason}\n"
                assert servers[-1].returncode == 1
        finally:
            for server in servers:
                server.kill()
                server.communicate()


def test_a_socket_file(database, tmp_path, mint):
    """Started by hand: the rig's gateways all have ports."""
    path = tmp_path / "gateway.sock"
    environment = {"PATH": "/usr/bin:/bin", "ROWSYNC_LISTEN": f"unix:{path}",
                   "ROWSYNC_JWT_SECRET": rig.SECRET,
                   "DATABASE_URL": database.gateway_dsn}

    def start():
        server = subprocess.Popen([rig.gateway.BINARY], env=environment, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return server, server.stdout.readline()

    def ask():
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(f"GET /sync/download HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                         f"Authorization: Bearer {mint('ann', 'phone')}\r\n\r\n".encode())
            return peer.recv(12)
    first, line = start()
    try:
        assert line == f"rowsync-gateway: listening on unix:{path}\n"
        assert ask() == b"HTTP/1.1 200"
        second, line = start()
        assert line == ""
        assert second.communicate(timeout=20)[1] == \
            f"rowsync-gateway: cannot listen on unix:{path}: Address already in use\n"
        first.kill()
        first.communicate()
        # What a killed one left behind is in nobody's way.
        first, line = start()
        assert ask() == b"HTTP/1.1 200"
        first.terminate()
        first.communicate(timeout=20)
        assert first.returncode == 0
        assert not path.exists()
    finally:
        first.kill()
        first.communicate()
