"""A real gateway process, and the requests that tests send it."""

import dataclasses
import http.client
import json
import os
import re
import signal
import time

from . import process
from .build import BUILD
from .token import SECRET, SIGNATURES, mint

BINARY = BUILD / "bin" / "rowsync-gateway"
READY = "rowsync-gateway: listening on "


@dataclasses.dataclass
class Answer:
    """What came back: `body` is the parsed JSON, or the bytes where it is none."""

    status: int
    headers: dict
    body: object


class Gateway:
    """One gateway on a free port of 127.0.0.1, for one database."""

    def __init__(self, server, url, log):
        self.server = server
        self.url = url
        self.port = None if url.startswith("unix:") else int(url.rsplit(":", 1)[1])
        self.log_path = log
        self.secret = SECRET

    @classmethod
    def start(cls, database, *, arguments=(), detached=False, wrapper=(), **environment):
        """Starts the binary for `database` and waits for the line that names its port.

        `environment` sets more variables (None unsets one); `wrapper` goes before the command.
        """
        values = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ROWSYNC_")},
            "ROWSYNC_LISTEN": "127.0.0.1:0",
            "ROWSYNC_JWT_SECRET": SECRET,
            "DATABASE_URL": database.gateway_dsn,
            **environment,
        }
        values = {key: str(value) for key, value in values.items() if value is not None}
        place = database.cluster.place
        number = len(list(place.path.glob("gateway-*.log"))) + 1
        log = place.path / f"gateway-{number}.log"
        output = place.path / f"gateway-{number}.out.log"
        with open(log, "wb") as errors, open(output, "wb") as out:
            server = process.spawn([*wrapper, BINARY, *arguments], env=values, detached=detached,
                                   cwd="/", on_death=signal.SIGKILL, stdout=out, stderr=errors)
        deadline = time.monotonic() + 30
        while True:
            first, newline, _ = output.read_text().partition("\n")
            if newline and first.startswith(READY):
                return cls(server, first[len(READY):].rstrip("/"), log)
            if server.poll() is not None or time.monotonic() > deadline:
                process.stop(server, signal.SIGKILL)
                raise RuntimeError(
                    f"the gateway does not start (status {server.returncode}):\n"
                    f"{output.read_text()}{log.read_text(errors='replace')}")
            time.sleep(0.005)

    def stop(self, number=signal.SIGTERM):
        """Ends the gateway, looks through its log, and returns its exit status."""
        status = process.stop(self.server, number)
        self.check_log()
        return status

    def check_log(self):
        """Whatever a test was about, each line of the log is JSON, and none has part of a token."""
        for line in self.log_path.read_text().splitlines():
            json.loads(line)
            # What begins with "eyJ" is base64 of a JSON object: a token's header or its claims.
            words = set(re.findall("[A-Za-z0-9_-]{43,}", line))
            if "eyJ" in line or words & SIGNATURES:
                raise AssertionError("a token in the gateway's log: " + line)

    def reload(self):
        """Tells the gateway to read its configuration again."""
        self.server.send_signal(signal.SIGHUP)

    def log(self):
        """The log so far, as a list of parsed lines."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def token(self, user, source, **claims):
        """A token that this gateway takes."""
        return mint(user, source, secret=self.secret, **claims)

    def request(self, method, path, body=None, *, token=None, headers=None, timeout=30):
        """Sends one request; `body` is bytes as they are, or anything else as JSON."""
        fields = dict(headers or {})
        if token is not None:
            fields["Authorization"] = "Bearer " + token
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            fields.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=fields)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        try:
            data = json.loads(data)
        except ValueError:
            pass
        return Answer(response.status,
                      {name.lower(): value for name, value in response.getheaders()}, data)

    def upload(self, token, changes, **fields):
        """POST /sync/upload with these changes."""
        body = {"last_server_seq_seen": 0, "changes": changes, **fields}
        return self.request("POST", "/sync/upload", body, token=token)

    def download(self, token, query="after=0"):
        """GET /sync/download."""
        return self.request("GET", "/sync/download?" + query, token=token)
