"""Everything breaks, again and again, and nothing that was acknowledged is lost or done twice.

    python3 -m pytest -s test/e2e/test_gateway_load.py --restarts 50
"""

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
from gateway_parts import eventually


class Device(threading.Thread):
    """A device behind a network that cuts; `ask` is one attempt at one request."""

    def __init__(self, cutter, user, source):
        super().__init__(daemon=True)
        self.cutter = cutter
        self.token = rig.mint(user, source)
        self.user = user
        self.stopping = threading.Event()
        self.failures = 0
        self.wrong = []

    def ask(self, method, path, body=None):
        """The answer's body, or None where there is no whole answer, or one that says: later."""
        connection = http.client.HTTPConnection("127.0.0.1", self.cutter.near_port, timeout=20)
        try:
            connection.request(method, path, body, {"Authorization": "Bearer " + self.token})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            content = None
        finally:
            connection.close()
        if content is None or answer.status == 503:
            self.failures += 1
            time.sleep(0.01)
            return None
        if answer.status != 200:
            self.wrong.append((answer.status, content))
        return content


class Writer(Device):
    """Uploads row after row until told to stop; then until the last one is acknowledged."""

    def __init__(self, cutter, user, seed):
        super().__init__(cutter, user, "phone")
        self.random = random.Random(seed)
        self.acknowledged = set()

    def run(self):
        number = 0
        while not self.stopping.is_set() and not self.wrong:
            changes = []
            for _ in range(self.random.randint(1, 20)):
                number += 1
                key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.user} {number}"))
                changes.append({
                    "source_change_id": number, "schema": "business", "table": "users",
                    "op": "INSERT", "pk": key, "server_version": 0,
                    "payload": {"id": key, "name": "n" * self.random.randint(0, 500),
                                "email": key, "created_at": 1, "updated_at": 1}})
            body = json.dumps({"last_server_seq_seen": 0, "changes": changes})
            while (content := self.ask("POST", "/sync/upload", body)) is None:
                pass
            if any(each["status"] != "applied" for each in content.get("statuses", [{}])):
                self.wrong.append(content)
            self.acknowledged.update(change["pk"] for change in changes)


class Reader(Device):
    """Pages through the log as it grows, and goes on to its end when told to stop."""

    def __init__(self, cutter, user):
        super().__init__(cutter, user, "tablet")
        self.after = 0
        self.rows = set()

    def run(self):
        while not self.wrong:
            stopping = self.stopping.is_set()
            page = self.ask("GET", f"/sync/download?after={self.after}&limit=7")
            if page is None or "changes" not in page:
                continue
            self.rows.update(change["pk"] for change in page["changes"])
            self.after = page["next_after"]
            if stopping and not page["has_more"]:
                return


class Slow(threading.Thread):
    """A client that sends a byte at a time, beside one that reads so."""

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
                        if self.stopping.wait(1):
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


def recovers(gateway, what):
    """Waits until the gateway serves from the database again, and says after how long."""
    begin = time.monotonic()
    while True:
        try:
            if gateway.request("GET", "/sync/download?limit=1",
                               token=gateway.token("nobody", "phone")).status == 200:
                break
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < begin + 30
        time.sleep(0.01)
    print(f"served again {(time.monotonic() - begin) * 1000:.0f} ms after {what}")


def check_user(database, writer, reader):
    """What the server has is what was acknowledged and what was downloaded, each once."""
    stored = {key for (key,) in database.rows(
        "SELECT id::text FROM business.users WHERE _rowsync_scope = %s", writer.user)}
    assert stored == writer.acknowledged == reader.rows
    # One entry a row: none was applied twice. Numbered from 1 without gaps.
    head, count, last, kinds = database.rows(
        "SELECT s.head, count(*), max(l.seq), count(DISTINCT l.source_change_id) FROM "
        "rowsync.scope s JOIN rowsync.change_log l USING (scope_id) WHERE s.name = %s "
        "GROUP BY s.head", writer.user)[0]
    assert head == count == last == kinds == len(stored) == reader.after


def test_nothing_acknowledged_is_lost_whatever_breaks(request):
    cluster = rig.Cluster.start("load")
    threads, gateway, cutter = [], None, None
    failed = True
    try:
        database = cluster.business()
        gateway = rig.Gateway.start(database, ROWSYNC_LOG_LEVEL="error")
        cutter = rig.Cutter(gateway.port)
        writers = [Writer(cutter, f"user {number}", number) for number in range(4)]
        readers = [Reader(cutter, f"user {number}") for number in range(4)]
        slow = [Slow(gateway.port, gateway.token(f"user {number}", "slow")) for number in range(4)]
        threads = writers + readers + slow
        for thread in threads:
            thread.start()
        time.sleep(1)
        for _ in range(request.config.getoption("--restarts")):
            cluster.stop_server(signal.SIGQUIT)
            time.sleep(0.2)
            cluster.start_server()
            recovers(gateway, "the database was back")
            time.sleep(0.5)
            gateway.stop(signal.SIGKILL)
            gateway = rig.Gateway.start(database, ROWSYNC_LOG_LEVEL="error",
                                        ROWSYNC_LISTEN=f"127.0.0.1:{gateway.port}")
            recovers(gateway, "the gateway was")
            for _ in range(5):
                time.sleep(0.1)
                gateway.reload()
        before = resident(gateway)
        time.sleep(request.config.getoption("--restarts"))
        # A slow machine takes longer until everybody has been cut often enough.
        assert eventually(lambda: all(thread.failures > 10 for thread in writers + readers), 120)
        cutter.calm()
        # The readers last: theirs is to have seen everything.
        for group in (writers + slow, readers):
            for thread in group:
                thread.stopping.set()
            for thread in group:
                thread.join(60)
        deadline = time.monotonic() + 20
        while resident(gateway)[1] > before[1] and time.monotonic() < deadline:
            time.sleep(0.1)
        after = resident(gateway)
        print(f"{sum(len(writer.acknowledged) for writer in writers)} rows, {cutter.cuts} cuts, "
              f"{sum(thread.failures for thread in writers + readers)} requests failed; memory "
              f"{before[0]} -> {after[0]} kB, descriptors {before[1]} -> {after[1]}")
        # Less than what the recycling of one large connection costs; a leak would be far more.
        assert after[0] - before[0] < 16384
        assert after[1] <= before[1]
        assert [thread.wrong for thread in writers + readers] == [[]] * 8
        assert not [line for line in gateway.log() if line["event"] == "reload_failed"]
        for writer, reader in zip(writers, readers):
            check_user(database, writer, reader)
        assert gateway.stop() == 0
        failed = False
    finally:
        for thread in threads:
            thread.stopping.set()
        if cutter is not None:
            cutter.close()
        if gateway is not None:
            gateway.stop(signal.SIGKILL)
        cluster.stop(failed)
