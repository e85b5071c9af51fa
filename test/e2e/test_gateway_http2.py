"""HTTP/2, a setting: what it serves, and how it is kept from being abused. Spoken by python3-h2."""

import array
import contextlib
import fcntl
import gzip
import json
import random
import signal
import socket
import ssl
import struct
import termios
import time

import h2.config
import h2.connection
import h2.events
import pytest
import rig
from gateway_parts import CHANGE, RUNNING, eventually, fill, many, memory, talk
from rig.build import SANITIZE


class Client:
    """One HTTP/2 connection, over TCP or to a socket file."""

    def __init__(self, gateway, trusted, window=None, path=None):
        context = ssl.create_default_context(cafile=trusted)
        context.set_alpn_protocols(["h2"])
        self.raw = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.raw.settimeout(20)
        self.raw.connect(str(path) if path else ("127.0.0.1", gateway.port))
        self.socket = context.wrap_socket(self.raw, server_hostname="127.0.0.1")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()
        self.streams = {}
        self.resets = {}
        self.closed = False
        self.pending = b""

    def flush(self):
        """Sends what is due."""
        self.socket.sendall(self.h2.data_to_send())

    def send(self, method, path, token=None, body=None, end=True, **headers):
        """Begins a request and returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":path", path), (":scheme", "https"),
                  (":authority", "127.0.0.1")]
        if token:
            fields.append(("authorization", "Bearer " + token))
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.h2.send_headers(stream, fields, end_stream=body is None and end)
        self.streams[stream] = [{}, b"", False]
        while body:
            part = body[:min(self.h2.local_flow_control_window(stream), 16384)]
            self.h2.send_data(stream, part, end_stream=end and len(part) == len(body))
            body = body[len(part):]
            self.flush()
            if body and self.h2.local_flow_control_window(stream) == 0:
                self.read()
        self.flush()
        return stream

    def read(self):
        """Takes in what has come; False when the gateway has hung up."""
        try:
            data = self.socket.recv(65536)
        except (ssl.SSLError, ConnectionError):
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(self.frames(data)):
            if isinstance(event, h2.events.ResponseReceived):
                self.streams[event.stream_id][0] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.streams[event.stream_id][1] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.streams[event.stream_id][2] = True
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = event.error_code
        self.flush()
        return True

    def frames(self, data):
        """The whole frames that there are now, without GOAWAY: after it python3-h2 takes no more."""
        self.pending += data
        whole = b""
        while len(self.pending) >= 9:
            size = 9 + int.from_bytes(self.pending[:3], "big")
            if len(self.pending) < size:
                break
            if self.pending[3] != 7:
                whole += self.pending[:size]
            self.pending = self.pending[size:]
        return whole

    def answer(self, stream):
        """The whole answer on a stream."""
        while not self.streams[stream][2]:
            assert stream not in self.resets and self.read()
        headers, body, _ = self.streams.pop(stream)
        try:
            body = json.loads(body)
        except ValueError:
            pass
        return rig.Answer(int(headers[":status"]), headers, body)

    def ask(self, *arguments, **options):
        """Sends a request and returns its answer."""
        return self.answer(self.send(*arguments, **options))

    def until_cut(self):
        """Reads until the gateway hangs up."""
        while self.read():
            pass


@pytest.fixture
def speak(start_gateway, tmp_path):
    """Starts a gateway with HTTP/2: (gateway, connect)."""
    chain, key = rig.certificate(tmp_path, "two")
    clients = []

    def start(**settings):
        gateway = start_gateway(ROWSYNC_TLS_CERTIFICATE=chain, ROWSYNC_TLS_KEY=key,
                                **{"ROWSYNC_HTTP2": "true", "ROWSYNC_LOOPS": 1, **settings})

        def connect(**options):
            clients.append(Client(gateway, chain, **options))
            return clients[-1]
        return gateway, connect
    yield start
    for client in clients:
        client.socket.close()


def test_it_is_off_unless_it_is_set(speak, start_gateway, tmp_path, gateway):
    off, _ = speak(ROWSYNC_HTTP2="false")
    for offered, expected in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"),
                              ([], None)):
        context = ssl.create_default_context(cafile=tmp_path / "two.crt")
        if offered:
            context.set_alpn_protocols(offered)
        with socket.create_connection(("127.0.0.1", off.port), timeout=20) as raw, \
                context.wrap_socket(raw, server_hostname="127.0.0.1") as peer:
            assert peer.selected_alpn_protocol() == expected
            peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(12) == b"HTTP/1.1 200"
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", off.port), timeout=20) as raw, \
            pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="127.0.0.1")
    # Without TLS there is none: neither known beforehand nor by an upgrade.
    assert talk(gateway, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert talk(gateway, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, "
                b"close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n").startswith(
                    b"HTTP/1.1 200 ")
    with pytest.raises(RuntimeError, match="http2 needs tls_certificate and tls_key"):
        start_gateway(ROWSYNC_HTTP2="true")


def test_everything_works_over_it(speak, mint):
    gateway, connect = speak(ROWSYNC_HEADER_LIMIT=4000)
    client = connect()
    token, tablet = mint("ann", "phone"), mint("ann", "tablet")
    body = json.dumps({"last_server_seq_seen": 0, "changes": many(500, "x" * 500)}).encode()
    answer = client.ask("POST", "/sync/upload", token, body)
    assert {status["status"] for status in answer.body["statuses"]} == {"applied"}
    answer = client.ask("POST", "/sync/upload", token, gzip.compress(body), content_encoding="gzip")
    assert answer.status == 200
    # Many at once on one connection, an event stream among them.
    watching = client.send("GET", "/sync/watch", token)
    streams = [client.send("GET", "/sync/download?limit=5", tablet) for _ in range(40)]
    assert [len(client.answer(stream).body["changes"]) for stream in streams] == [5] * 40
    while b"event: head" not in client.streams[watching][1]:
        assert client.read()
    snapshot = client.ask("GET", "/sync/snapshot", token)
    assert json.loads(snapshot.body.splitlines()[-1])["rows"] == 500
    packed = client.ask("GET", "/sync/snapshot", token, accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == snapshot.body
    answer = client.ask("HEAD", "/sync/schema", token)
    assert (answer.status, answer.body) == (200, b"")
    for status, code, answer in (
            (404, "not_found", client.ask("GET", "/nothing")),
            (401, "missing_token", client.ask("GET", "/sync/download")),
            (405, "method_not_allowed", client.ask("DELETE", "/healthz")),
            (431, "header_too_large", client.ask("GET", "/healthz", a="x" * 5000))):
        assert (answer.status, answer.body["code"]) == (status, code)
        assert answer.body["request_id"] == answer.headers["rowsync-request-id"]
    assert gateway.stop() == 0
    assert len([line for line in gateway.log() if line["event"] == "request"]) == 50


def test_a_body_over_the_limit_is_413_and_costs_no_other_request(speak, mint):
    _, connect = speak(ROWSYNC_BODY_LIMIT=5000)
    client = connect()
    token = mint("ann", "phone")
    for stream in (client.send("POST", "/sync/upload", token, b"x" * 10000),
                   client.send("POST", "/sync/upload", token, b"x" * 5001, end=False),
                   client.send("POST", "/sync/upload", token, end=False, content_length="5001")):
        answer = client.answer(stream)
        assert (answer.status, answer.body["code"]) == (413, "body_too_large")
    assert client.ask("POST", "/sync/upload", token, b" " * 5000).status == 400
    # Who was still sending is told to stop, without reproach.
    assert set(client.resets.values()) <= {0}


def test_a_body_needs_a_good_token_before_it_comes(speak, mint):
    _, connect = speak()
    client = connect()
    for token, code in ((None, "missing_token"), ("abc", "malformed_token"),
                        (mint("ann", "phone", ttl=-100), "expired_token")):
        answer = client.answer(client.send("POST", "/sync/upload", token, end=False))
        assert (answer.status, answer.body["code"]) == (401, code)


def requests(gateway, trusted, route):
    """How many requests of a route the gateway has handled, asked for by HTTP/1."""
    context = ssl.create_default_context(cafile=trusted)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as raw, \
            context.wrap_socket(raw, server_hostname="127.0.0.1") as peer:
        peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b""
        while part := peer.recv(65536):
            text += part
    return sum(int(line.split()[1]) for line in text.decode().splitlines()
               if line.startswith("rowsync_requests_total{route=" + f'"{route}"'))


def frame(kind, flags, stream, payload=b""):
    """The bytes of a frame."""
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(
        "!I", stream) + payload


def flood(client, data):
    """Sends bytes until all are out or the gateway hangs up; whether they all went."""
    try:
        client.socket.sendall(data)
        return True
    except OSError:
        return False


@pytest.mark.parametrize("piecewise", [False, True])
@pytest.mark.parametrize("good", [False, True])
def test_a_rapid_reset_attack_is_cut(speak, tmp_path, mint, good, piecewise):
    """CVE-2023-44487: 20,000 requests, each taken back at once."""
    gateway, connect = speak(ROWSYNC_HTTP2_RESETS=50)
    client, bystander = connect(), connect()
    fields = [(":method", "GET"), (":path", "/sync/download"), (":scheme", "https"),
              (":authority", "x")]
    if good:
        fields.append(("authorization", "Bearer " + mint("ann", "phone")))
    block = client.h2.encoder.encode(fields, huffman=False)
    again = client.h2.encoder.encode(fields, huffman=False)
    pairs = []
    for number in range(20000):
        stream = 2 * number + 1
        pairs.append(frame(1, 5, stream, again if number else block) +
                     frame(3, 0, stream, struct.pack("!I", 8)))
    size = 30 if piecewise else len(pairs)
    for start in range(0, len(pairs), size):
        if not flood(client, b"".join(pairs[start:start + size])):
            break
        if piecewise:
            time.sleep(0.002)
    try:
        client.socket.settimeout(20)
        while client.socket.recv(65536):
            pass
    except OSError:
        pass
    # Others notice nothing, and of the attack hardly anything was handled, if at all.
    assert bystander.ask("GET", "/sync/download", mint("bob", "phone")).status == 200
    assert eventually(lambda: any(line["event"] == "http2_cut" for line in gateway.log()))
    assert requests(gateway, tmp_path / "two.crt", "/sync/download") <= 50 + 30 + 1
    assert gateway.stop() == 0


@pytest.mark.parametrize("mistake", [
    lambda stream: frame(0, 0, stream, b"x"), lambda stream: frame(8, 0, stream, bytes(4)),
    lambda stream: frame(8, 0, stream, b"\x7f\xff\xff\xff"),
    lambda stream: frame(2, 0, stream, struct.pack("!IB", stream, 9)),
    lambda stream: frame(1, 5, stream, b"\x82"),
    lambda stream: frame(0, 0, stream, b"longer")],
    ids=["data", "window-of-none", "window-too-large", "own-parent", "head-without-path", "length"])
def test_requests_that_the_server_is_made_to_reset_count_as_well(speak, tmp_path, mint, mistake,
                                                                request):
    """CVE-2025-8671: mistakes after the request make the server reset it, or end the connection."""
    gateway, connect = speak(ROWSYNC_HTTP2_RESETS=50)
    client, bystander = connect(), connect()
    fields = [(":method", "GET"), (":path", "/sync/download"), (":scheme", "https"),
              (":authority", "x"), ("authorization", "Bearer " + mint("ann", "phone"))]
    # All but the last are mistakes after a request's end, the last is one about its body.
    flags = 4 if "[length]" in request.node.name else 5
    if flags == 4:
        fields.append(("content-length", "1"))
    block = client.h2.encoder.encode(fields, huffman=False)
    again = client.h2.encoder.encode(fields, huffman=False)
    flood(client, b"".join(frame(1, flags, stream, again if stream > 1 else block) + mistake(stream)
                           for stream in range(1, 20001, 2)))
    with contextlib.suppress(OSError):
        while client.socket.recv(65536):
            pass
    assert requests(gateway, tmp_path / "two.crt", "/sync/download") <= 60
    assert flags == 5 or eventually(lambda: any(line["event"] == "http2_cut"
                                                for line in gateway.log()))
    assert bystander.ask("GET", "/sync/download", mint("bob", "phone")).status == 200


def test_taking_requests_back_now_and_then_is_fine(speak, mint):
    gateway, connect = speak()
    client = connect()
    for _ in range(60):
        stream = client.send("GET", "/sync/watch", mint("ann", "phone"))
        client.h2.reset_stream(stream, 8)
        client.flush()
    assert client.ask("GET", "/sync/download", mint("ann", "phone")).status == 200
    assert not [line for line in gateway.log() if line["event"] == "http2_cut"]


def test_a_request_that_is_taken_back_takes_its_query_with_it(speak, database, blocked, mint):
    gateway, connect = speak()
    client, leaving = connect(), connect()
    body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]}).encode()
    stream = client.send("POST", "/sync/upload", mint("ann", "phone"), body)
    leaving.send("POST", "/sync/upload", mint("bob", "phone"), body)
    assert eventually(lambda: database.value(RUNNING) == 2)
    client.h2.reset_stream(stream, 8)
    client.flush()
    leaving.socket.close()
    assert eventually(lambda: database.value(RUNNING) == 0)
    assert [(line["status"], line["code"]) for line in gateway.log()
            if line.get("route") == "/sync/upload"] == [(499, "client_gone")] * 2
    assert client.ask("GET", "/healthz").status == 200


def test_a_snapshot_that_is_taken_back_at_its_end_leaves_its_connection(speak, mint):
    """Its rest is with libpq already, which reads ahead: the socket has nothing more to tell."""
    _, connect = speak(ROWSYNC_CONNECT_TIMEOUT=60000, ROWSYNC_STREAM_POOL_SIZE=1)
    client = connect()
    token = mint("ann", "phone")
    body = json.dumps({"last_server_seq_seen": 0, "changes": many(300, "x" * 300)}).encode()
    assert client.ask("POST", "/sync/upload", token, body).status == 200
    leaving = connect(window=0)
    stream = leaving.send("GET", "/sync/snapshot", token)
    while not leaving.streams[stream][0]:
        assert leaving.read()
    leaving.h2.reset_stream(stream, 8)
    leaving.flush()
    assert eventually(lambda: client.ask("GET", "/sync/snapshot", token).status == 200)


def waiting(client):
    """How many bytes the kernel holds for a client."""
    size = array.array("i", [0])
    fcntl.ioctl(client.socket, termios.FIONREAD, size)
    return size[0]


def answer_unread(client, token, most):
    """Asks again and again, and reads nothing; how many answers the kernel took, at most so many."""
    client.h2.increment_flow_control_window(2**30)
    for number in range(most):
        before, deadline = waiting(client), time.monotonic() + 1
        client.send("GET", "/sync/schema", token)
        while waiting(client) == before:
            if time.monotonic() > deadline:
                return number
            time.sleep(0.0005)
    return most


def test_a_goodbye_that_the_kernel_does_not_take_is_waited_for(speak, mint, tmp_path):
    """A connection ends when all is sent, and not one byte more is taken: not even TLS's last.

    `make asan` sees what must not be touched then. Of a socket file one knows, but for one or two,
    how many answers the kernel takes.
    """
    path, token = tmp_path / "socket", mint("ann", "phone")
    gateway, connect = speak(ROWSYNC_LISTEN=f"unix:{path}", ROWSYNC_DRAIN_TIMEOUT=100)
    room = answer_unread(connect(path=path), token, 100000)
    for number in range(4):
        client = connect(path=path)
        answer_unread(client, token, room + 1 - number)
        flood(client, frame(2, 0, 1, bytes([0, 0, 0, 0, 9])) * 2000)
    assert eventually(lambda: sum(line["event"] == "http2_cut" for line in gateway.log()) == 4)
    time.sleep(0.3)  # three sweeps
    assert connect(path=path).ask("GET", "/healthz").status == 200
    assert gateway.stop() == 0


@pytest.mark.parametrize("data", [
    frame(6, 0, 0, bytes(8)), frame(4, 0, 0, bytes.fromhex("000300000064")),
    frame(2, 0, 1, bytes([0, 0, 0, 0, 9]))], ids=["ping", "settings", "priority"])
def test_a_flood_of_frames_that_carry_nothing_is_cut(speak, data):
    """CVE-2019-9512 and 9515: answers that the client asks for and never reads."""
    gateway, connect = speak()
    client = connect()
    flood(client, data * 100000)
    assert eventually(lambda: any(line["event"] == "http2_cut" for line in gateway.log()))
    assert connect().ask("GET", "/healthz").status == 200


def test_frames_of_unknown_kinds_are_passed_over_in_silence(speak):
    gateway, connect = speak()
    client = connect()
    for size in (0, 1, 16384):
        client.socket.sendall(frame(200, 255, 0, b"x" * size) + frame(0x0B, 0, 1, b"x" * size))
        assert client.ask("GET", "/healthz").status == 200
    # In pieces, so that none is ever read as a whole.
    for part in frame(99, 0, 0, b"slow"):
        client.socket.sendall(bytes([part]))
        time.sleep(0.02)
    assert client.ask("GET", "/healthz").status == 200
    assert gateway.stop() == 0
    gateway.check_log()


def test_a_body_that_comes_too_slowly_is_cut(speak, mint):
    _, connect = speak(ROWSYNC_HEADER_TIMEOUT=200, ROWSYNC_BODY_TIMEOUT=300)
    client = connect()
    stream = client.send("POST", "/sync/upload", mint("ann", "phone"), b"{", end=False)
    began = time.monotonic()
    while not client.closed:
        assert time.monotonic() < began + 20
        try:
            # Other requests of the connection do not save it.
            client.h2.send_data(stream, b" ")
            client.send("GET", "/healthz")
        except OSError:
            break
        client.read()
        time.sleep(0.02)
    assert time.monotonic() > began + 0.5


def test_an_answer_that_is_not_taken_is_cut(speak, mint):
    gateway, connect = speak(ROWSYNC_SEND_TIMEOUT=500)
    first = connect()
    body = json.dumps({"last_server_seq_seen": 0, "changes": many(2000, "x" * 500)}).encode()
    assert first.ask("POST", "/sync/upload", mint("ann", "phone"), body).status == 200
    for path in ("/sync/download", "/sync/snapshot"):
        client = connect(window=0)
        client.send("GET", path, mint("ann", "tablet"))
        client.until_cut()
    # One that takes it, if slowly, gets all.
    assert len(first.ask("GET", "/sync/download", mint("ann", "tablet")).body["changes"]) == 1000


def test_a_snapshot_to_a_slow_reader_is_not_held_in_memory(speak, database, mint, request):
    """With --snapshot-mb 200 it is as large as the design speaks of."""
    gateway, connect = speak()
    size = request.config.getoption("--snapshot-mb") * 1_000_000
    rows = fill(database, "ann", size)
    # A window that lets TCP hold it back as well.
    client = connect(window=2**20)
    client.h2.increment_flow_control_window(2**20)
    watching = client.send("GET", "/sync/watch", mint("ann", "phone"))
    stream = client.send("GET", "/sync/snapshot", mint("ann", "tablet"))
    received, tail = 0, b""
    while not client.streams[stream][2]:
        assert client.read()
        # All of it could be there by now, if anybody were to take it.
        time.sleep(1 if received == 0 else 0)
        received += len(client.streams[stream][1])
        tail = (tail + client.streams[stream][1])[-1000:]
        client.streams[stream][1] = b""
    assert received > size
    assert json.loads(tail.splitlines()[-1])["rows"] == rows
    # Beside it the events come.
    assert b"event: head" in client.streams[watching][1]
    peak = memory(gateway, "VmHWM")
    print(f"{received} bytes of snapshot, resident memory at most {peak} kB")
    assert peak < 32768 or SANITIZE


def test_bodies_count_against_the_memory_limit(speak, mint):
    _, connect = speak(ROWSYNC_MEMORY_LIMIT=1500000)
    first, second = connect(), connect()
    token = mint("ann", "phone")
    one = first.send("POST", "/sync/upload", token, b" " * 1000000, end=False)
    assert first.ask("GET", "/healthz").status == 200
    with contextlib.suppress(OSError):
        second.send("POST", "/sync/upload", token, b" " * 1000000, end=False)
        second.until_cut()
    first.h2.send_data(one, b"{}", end_stream=True)
    first.flush()
    assert first.answer(one).status == 400


def test_the_bodies_of_one_connection_count_as_well(speak, mint):
    _, connect = speak(ROWSYNC_MEMORY_LIMIT=1500000, ROWSYNC_BODY_LIMIT=1000000)
    client = connect()
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        for _ in range(3):
            client.send("POST", "/sync/upload", mint("ann", "phone"), b" " * 700000, end=False)
        client.until_cut()
    assert connect().ask("GET", "/healthz").status == 200


def test_sigterm_lets_requests_in_hand_end(speak, database, blocked, mint):
    gateway, connect = speak()
    client, idle = connect(), connect()
    assert idle.ask("GET", "/healthz").status == 200
    body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]}).encode()
    stream = client.send("POST", "/sync/upload", mint("ann", "phone"), body)
    watching = client.send("GET", "/sync/watch", mint("ann", "phone"))
    while b"" == client.streams[watching][1]:
        assert client.read()
    gateway.server.send_signal(signal.SIGTERM)
    idle.until_cut()
    blocked()
    assert client.answer(stream).status == 200
    while not client.streams[watching][2]:
        assert client.read()
    assert b"event: reconnect" in client.streams[watching][1]
    assert gateway.server.wait(20) == 0


def test_a_body_under_way_is_no_idle_connection(speak, mint):
    gateway, connect = speak(ROWSYNC_IDLE_TIMEOUT=300)
    client = connect()
    stream = client.send("POST", "/sync/upload", mint("ann", "phone"), b"{", end=False)
    time.sleep(0.8)
    # Nor does SIGTERM cut it.
    gateway.server.send_signal(signal.SIGTERM)
    time.sleep(0.8)
    client.h2.send_data(stream, b"}", end_stream=True)
    client.flush()
    assert client.answer(stream).body["code"] == "invalid_request"
    assert gateway.server.wait(20) == 0


def test_a_head_that_unpacks_without_end_costs_no_memory(speak, mint):
    """A field in HPACK's table, named again by one byte each; and the answers are not taken."""
    gateway, connect = speak(ROWSYNC_MEMORY_LIMIT=2000000)
    client = connect(window=0)
    before = memory(gateway)
    block = client.h2.encoder.encode(
        [(":method", "GET"), (":path", "/healthz"), (":scheme", "https"), (":authority", "x")])
    size = 4000
    block += b"\x40\x0ccache-digest\x7f" + bytes([(size - 127) % 128 + 128, (size - 127) // 128])
    client.socket.sendall(frame(1, 5, 1, block + b"A" * size + b"\xbe" * 12000))
    for stream in range(3, 63, 2):
        # Some with a body that is still to come.
        client.socket.sendall(frame(1, 4 + stream % 4 // 2, stream,
                                    b"\x82\x84\x87\x01\x01x" + b"\xbe" * 16000))
    time.sleep(0.3)
    # Nor does anybody believe that it did.
    other = connect()
    body = json.dumps({"last_server_seq_seen": 0, "changes": many(1000, "x" * 500)}).encode()
    stream = other.send("POST", "/sync/upload", mint("ann", "phone"), body[:-1], end=False)
    time.sleep(0.3)
    other.h2.send_data(stream, body[-1:], end_stream=True)
    other.flush()
    assert other.answer(stream).status == 200
    assert memory(gateway) < before + 20000
    client.socket.close()
    assert eventually(lambda: [line["code"] for line in gateway.log()
                               if line.get("status") == 431] == ["header_too_large"] * 31)


def test_data_for_requests_that_are_no_more_is_not_answered_without_end(speak):
    gateway, connect = speak(ROWSYNC_HTTP2_RESETS=50)
    client = connect()
    assert client.ask("GET", "/healthz").status == 200
    before = memory(gateway)
    flood(client, frame(0, 0, 1, b"x") * 500000)
    assert connect().ask("GET", "/healthz").status == 200
    assert memory(gateway) < before + 10000


def test_a_head_without_an_end_does_not_hold_up_the_process(speak, database, blocked, mint):
    gateway, connect = speak(ROWSYNC_DRAIN_TIMEOUT=1500)
    client = connect()
    client.send("POST", "/sync/upload", mint("ann", "phone"),
                json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]}).encode())
    client.socket.sendall(frame(1, 1, 3, b"\x82\x84\x87"))
    gateway.server.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    with contextlib.suppress(OSError):
        client.socket.sendall(frame(9, 4, 3, b"\x86"))
    assert gateway.server.wait(20) == 0


def random_frames(client, token, generator):
    """What a client may send that knows the frames, but not what they are for."""
    requests = [("GET", "/sync/download"), ("GET", "/sync/snapshot"), ("GET", "/sync/watch"),
                ("GET", "/metrics"), ("HEAD", "/sync/snapshot"), ("POST", "/sync/upload"),
                ("OPTIONS", "/sync/upload"), ("GET", "/readyz"), ("CONNECT", "/x")]
    begun = [1]
    for _ in range(generator.randrange(1, 100)):
        stream = generator.choice(begun)
        some = struct.pack("!I", generator.choice([0, 1, 100, 65535, 0x7fffffff]))
        kind = generator.choice(["request"] * 9 + [0, 0, 2, 3, 4, 6, 8, 8, 50, "wait"])
        # Most mistakes end the connection, and with it the fun.
        wild = generator.random() < 0.02
        if kind == "request":
            stream = begun[-1] + (generator.randrange(10) if wild else 2)
            begun.append(stream)
            method, path = generator.choice(requests)
            fields = [(":method", method), (":path", path), (":scheme", "https"),
                      (":authority", "x"), ("authorization", "Bearer " + token)]
            block = client.h2.encoder.encode(fields[:generator.choice([3, 4, 5, 5, 5, 5])])
            yield frame(1, generator.randrange(64) if wild else generator.choice([4, 5, 5, 5]),
                        stream, block)
        elif kind == "wait":
            yield b""
        elif kind == 0:
            yield frame(0, generator.choice([0, 1]), begun[-1], b'{"changes": []}'[
                :generator.choice([0, 1, 15])])
        elif wild:
            yield frame(generator.randrange(12), generator.randrange(256), stream, some)
        else:
            yield frame(kind, 0, 0 if kind in (4, 6) else stream, {
                2: some[1:] + b"99", 4: b"\x00\x04" + some, 6: bytes(8)}.get(kind, some))


def test_random_frames_do_no_harm(speak, mint):
    gateway, connect = speak(ROWSYNC_SEND_TIMEOUT=500, ROWSYNC_BODY_TIMEOUT=300,
                             ROWSYNC_HEADER_TIMEOUT=200, ROWSYNC_HTTP2_RESETS=1000)
    honest = connect()
    token = mint("ann", "phone")
    body = json.dumps({"last_server_seq_seen": 0, "changes": many(1000, "x" * 100)}).encode()
    assert honest.ask("POST", "/sync/upload", token, body).status == 200
    for seed in range(100):
        generator = random.Random(seed)
        client = connect(window=generator.choice([None, 0, 100]))
        with contextlib.suppress(OSError):
            for data in random_frames(client, token, generator):
                client.socket.sendall(data)
                if not data:
                    client.socket.settimeout(0.02)
                    with contextlib.suppress(TimeoutError):
                        client.socket.recv(65536)
            # Some leave at once, some with what is on its way to them unread.
            client.socket.shutdown(generator.choice([socket.SHUT_RDWR, socket.SHUT_WR]))
        if generator.random() < 0.8:
            client.socket.close()
    assert connect().ask("GET", "/sync/download", token).status == 200
    assert gateway.stop() == 0
    # They got far enough for it to mean something.
    seen = {(line["method"], line["route"], line["status"]) for line in gateway.log()
            if line["event"] == "request"}
    assert {("GET", "/sync/watch", 200), ("GET", "/sync/snapshot", 200),
            ("GET", "/sync/download", 401), ("OPTIONS", "/sync/upload", 204)} <= seen
    assert not [line for line in seen if line[2] == 0]
