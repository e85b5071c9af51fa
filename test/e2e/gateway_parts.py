"""What the tests of the gateway share: raw bytes, problems, threads that upload."""

import http.client
import json
import re
import socket
import threading
import time

import rig

# All routes, as the router has them: (method, path).
ROUTES = [(method, path) for path, method in re.findall(
    r'^    \{"(/[a-z/-]+)", "(GET|POST)"', (rig.ROOT / "gateway" / "src" / "router.c").read_text(),
    re.MULTILINE)]


def problem(answer, status, code, detail):
    """The answer is this problem, in full and in the right form."""
    assert (answer.status, answer.body["code"], answer.body["detail"]) == (status, code, detail)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["status"] == status
    assert answer.body["type"] == "urn:rowsync:problem:" + code
    assert answer.body["title"]
    assert answer.body["request_id"] == answer.headers["rowsync-request-id"]


def talk(gateway, data, seconds=10):
    """Sends bytes as they are and reads until the gateway hangs up."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=seconds) as peer:
        peer.sendall(data)
        received = b""
        while chunk := peer.recv(65536):
            received += chunk
        return received


def parse(received):
    """The one answer in the bytes: its status and its body as JSON."""
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def half_sent(gateway, token):
    """A peer that has sent a megabyte of a large body and now waits."""
    peer = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    line = f"Authorization: Bearer {token}\r\n" if token else ""
    peer.sendall(f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n{line}\r\n"
                 .encode() + b"x" * 1000000)
    return peer


def uploading(gateway, token):
    """A peer that has sent an upload and waits for the answer."""
    body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]})
    peer = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
    peer.sendall(f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                 f"Authorization: Bearer {token}\r\n\r\n{body}".encode())
    return peer


def reader(gateway, path, token, window=4096, version="1.1"):
    """A peer that has asked for `path` and takes no more than its small window until it reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    peer.settimeout(60)
    peer.connect(("127.0.0.1", gateway.port))
    peer.sendall(f"GET {path} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
                 .encode())
    return peer


def heard(peer):
    """The answer that came before the gateway hung up."""
    received = b""
    while chunk := peer.recv(65536):
        received += chunk
    peer.close()
    return parse(received)


def eventually(condition, seconds=20):
    """Waits until the condition holds; whether it does at last."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


CHANGE = {"source_change_id": 1, "schema": "business", "table": "users", "op": "INSERT",
          "pk": "00000000-0000-4000-8000-000000000001", "server_version": 0,
          "payload": {"id": "00000000-0000-4000-8000-000000000001", "name": "Ann",
                      "email": "ann@gateway.example", "created_at": 1, "updated_at": 1}}


def many(count, name="x", first=1):
    """So many users to upload."""
    keys = [f"00000000-0000-4000-8000-{number:012}" for number in range(first, first + count)]
    return [{**CHANGE, "source_change_id": number, "pk": key,
             "payload": {**CHANGE["payload"], "id": key, "email": f"{key}@gateway.example",
                         "name": name}}
            for number, key in enumerate(keys, first)]


def fill(database, user, size):
    """Gives a user's scope rows of 10 kB, so many bytes in all; how many rows that are."""
    database.rows("SELECT set_config('rowsync.scope', %s, false)", user)
    database.rows("INSERT INTO business.users (id, name, email, created_at, updated_at) SELECT "
                  "gen_random_uuid(), repeat('x', 10000), n || '@gateway.example', 1, 1 "
                  "FROM generate_series(1, %s) AS n", size // 10000)
    return size // 10000


def memory(gateway, what="VmRSS"):
    """Resident memory of the gateway in kB; with VmHWM the most that it ever had."""
    with open(f"/proc/{gateway.server.pid}/status", encoding="ascii") as status:
        (size,) = [int(line.split()[1]) for line in status if line.startswith(what)]
    return size


# What our backends do: the gateway names itself and the request in application_name.
RUNNING = ("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
           "AND state = 'active' AND application_name LIKE 'rowsync-gateway ________________'")


class Asking:
    """Uploads in threads of their own, while the test does something about it."""

    def __init__(self, gateway, token, count=1):
        self.answers = []
        self.threads = [threading.Thread(target=self._ask, args=(gateway, token))
                        for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self, gateway, token):
        self.answers.append(gateway.upload(token, [CHANGE]))

    def wait(self):
        """The answers, once all are there."""
        for thread in self.threads:
            thread.join(60)
        return self.answers


class Watching:
    """One event stream."""

    def __init__(self, gateway, token):
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        self.connection.request("GET", "/sync/watch", headers={"Authorization": "Bearer " + token})
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        assert self.response.headers["content-type"] == "text/event-stream"

    def event(self):
        """The next event, as (name, data); comments are passed over. None at the end."""
        fields = {}
        while line := self.response.readline():
            name, colon, value = line.decode().rstrip("\n").partition(": ")
            if colon:
                fields[name] = value
            elif fields:
                return fields["event"], json.loads(fields["data"])
        return None
