"""Everything breaks, again and again, and nothing that was acknowledged is lost or done twice."""

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
import uuid

import rig


class Writer(threading.Thread):
    """A device that uploads row after row over connections that break, until told to stop."""

    def __init__(self, port, user, seed):
        super().__init__()
        self.port = port
        self.user = user
        self.random = random.Random(seed)
        self.token = rig.mint(user, "phone")
        self.stopping = threading.Event()
        self.acknowledged = set()
        self.failures = 0
        self.wrong = []

    def run(self):
        number = 0
        while not self.stopping.is_set():
            changes = []
            for _ in range(self.random.randint(1, 20)):
                number += 1
                key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.user} {number}"))
                changes.append({
                    "source_change_id": number, "schema": "business", "table": "users",
                    "op": "INSERT", "pk": key, "server_version": 0,
                    "payload": {"id": key, "name": "n" * self.random.randint(0, 2000),
                                "email": key, "created_at": 1, "updated_at": 1}})
            # What was once sent is sent until it is acknowledged, also at the end.
            while not self._upload(changes):
                self.failures += 1
                time.sleep(0.01)

    def _upload(self, changes):
        """One attempt, which may be cut anywhere. Whether all changes were acknowledged."""
        body = json.dumps({"last_server_seq_seen": 0, "changes": changes}).encode()
        data = (f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode() + body
        way = "whole" if self.stopping.is_set() else self.random.choice(
            ["whole", "whole", "whole", "cut", "deaf", "hasty"])
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=20) as peer:
                if way == "cut":
                    peer.sendall(data[:self.random.randrange(len(data))])
                    return False
                peer.sendall(data)
                if way == "deaf":
                    time.sleep(self.random.random() * 0.01)
                    return False
                if way == "hasty":
                    peer.recv(self.random.randint(1, 100))
                    return False
                answer = http.client.HTTPResponse(peer)
                answer.begin()
                content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        if answer.status == 503:
            return False
        if answer.status != 200 or any(status["status"] != "applied"
                                       for status in content["statuses"]):
            self.wrong.append((answer.status, content))
            return True
        self.acknowledged.update(change["pk"] for change in changes)
        return True


class Slow(threading.Thread):
    """Clients that send, or read, a byte at a time."""

    def __init__(self, port, token):
        super().__init__(daemon=True)
        self.port = port
        self.token = token
        self.stopping = threading.Event()

    def run(self):
        request = (f"GET /sync/download HTTP/1.1\r\nHost: x\r\n"
                   f"Authorization: Bearer {self.token}\r\n\r\n").encode()
        while not self.stopping.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as reader, \
                        socket.create_connection(("127.0.0.1", self.port), timeout=5) as sender:
                    reader.sendall(request)
                    for byte in request:
                        if self.stopping.wait(0.05):
                            return
                        sender.sendall(bytes([byte]))
                        reader.recv(1)
            except OSError:
                self.stopping.wait(0.05)


def resident(gateway):
    """Resident memory, in kB, and open descriptors."""
    with open(f"/proc/{gateway.server.pid}/status", encoding="ascii") as status:
        (size,) = [line.split()[1] for line in status if line.startswith("VmRSS")]
    return int(size), len(os.listdir(f"/proc/{gateway.server.pid}/fd"))


def recovers(gateway):
    """Waits until the gateway serves from the database again."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if gateway.request("GET", "/sync/download?limit=1",
                               token=gateway.token("nobody", "phone")).status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_acknowledged_is_lost_whatever_breaks():
    cluster = rig.Cluster.start("load")
    writers, gateway = [], None
    failed = True
    try:
        database = cluster.business()
        gateway = rig.Gateway.start(database, ROWSYNC_LOG_LEVEL="error")
        slow = [Slow(gateway.port, gateway.token(f"user {number}", "slow")) for number in range(4)]
        writers = [Writer(gateway.port, f"user {number % 4}", number) for number in range(4)]
        for thread in writers + slow:
            thread.start()
        time.sleep(1)
        for _ in range(2):
            cluster.stop_server(signal.SIGQUIT)
            time.sleep(0.2)
            cluster.start_server()
            recovers(gateway)
            time.sleep(0.7)
            gateway.stop(signal.SIGKILL)
            gateway = rig.Gateway.start(database, ROWSYNC_LOG_LEVEL="error",
                                        ROWSYNC_LISTEN=f"127.0.0.1:{gateway.port}")
            recovers(gateway)
            time.sleep(0.7)
        before = resident(gateway)
        time.sleep(3)
        for thread in writers + slow:
            thread.stopping.set()
        for thread in writers + slow:
            thread.join(60)
        deadline = time.monotonic() + 20
        while resident(gateway)[1] > before[1] and time.monotonic() < deadline:
            time.sleep(0.1)
        after = resident(gateway)
        # Less than what the recycling of one large connection costs; a leak would be far more.
        assert after[0] - before[0] < 16384
        assert after[1] <= before[1]
        assert [writer.wrong for writer in writers] == [[]] * 4
        assert all(writer.failures > 10 for writer in writers)
        for writer in writers:
            stored = {key for (key,) in database.rows(
                "SELECT id::text FROM business.users WHERE _rowsync_scope = %s", writer.user)}
            assert stored == writer.acknowledged
            # One entry a row: none was applied twice. Numbered from 1 without gaps.
            head, count, last, kinds = database.rows(
                "SELECT s.head, count(*), max(l.seq), count(DISTINCT l.source_change_id) FROM "
                "rowsync.scope s JOIN rowsync.change_log l USING (scope_id) WHERE s.name = %s "
                "GROUP BY s.head", writer.user)[0]
            assert head == count == last == kinds == len(stored)
        assert gateway.stop() == 0
        failed = False
    finally:
        for thread in writers:
            thread.stopping.set()
        if gateway is not None:
            gateway.stop(signal.SIGKILL)
        cluster.stop(failed)
