"""Servers that lie, over real HTTP: what libcurl and zlib make of it reaches the client as an error."""

import gzip
import json
import os
import resource
import subprocess
import zlib

import pytest
import rig
from rig.wire import Responder

PAGE = json.dumps({"changes": [], "has_more": False, "next_after": 0, "window_until": 0}).encode()
JSON = ("Content-Type", "application/json")
GZIP = ("Content-Encoding", "gzip")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Liar(Responder):
    """A server that answers every request with the same bytes, and keeps the requests' heads."""

    def __init__(self, status=200, headers=(JSON,), body=b"", length=None, raw=None):
        def lie(request):
            request.rfile.read(int(request.headers.get("Content-Length", 0)))
            self.requests.append((request.path, dict(request.headers)))
            request.close_connection = True
            if raw is None:
                request.send_response(status)
                for name, value in headers:
                    request.send_header(name, value)
                request.send_header("Content-Length", str(len(body) if length is None else length))
                request.end_headers()
            try:
                request.wfile.write(body if raw is None else raw)
            except OSError:
                pass

        self.requests = []
        super().__init__(lie)


@pytest.fixture
def liar():
    """Makes liars: `liar(status=302, ...)`."""
    made = []

    def make(*arguments, **options):
        made.append(Liar(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def phone(device):
    """A device with an edit, hydrated as far as it knows; of no server yet."""
    one = device("ann", "phone", url="http://127.0.0.1:9")
    one.rows("INSERT INTO users VALUES ('k', 'Ann', 'a@b.c', 0, 0)")
    return one


def start(phone, name, server, command, memory=None):
    """Starts a command on a copy of the phone's file, against that server. Returns what to check."""
    path = phone.path.with_name(f"{name}.db")
    phone.rows("VACUUM INTO ?", (str(path),))
    one = rig.Device(path, server.url, "ann", "phone")
    one.rows("UPDATE _sync_client_info SET url = ?, hydrated = 2", (server.url,))
    limit = (lambda: resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))) if memory else None
    running = subprocess.Popen([rig.device.BINARY, command, path], env=phone.environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=limit)
    return one, running


def refused(one, running, words=""):
    """The command comes to its failure and says so; the edit is still there, and whole."""
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 1, output + errors
    assert errors.startswith("rowsync: ") and words in errors, errors
    assert one.rows("SELECT id, name FROM users") == [("k", "Ann")]
    assert one.value("SELECT count(*) FROM _sync_pending") == 1
    assert one.value("PRAGMA integrity_check") == "ok"
    one.close()


def test_a_redirect_is_not_followed_and_no_other_host_sees_the_token(phone, liar):
    other = liar(body=PAGE)
    for status in (301, 302, 307, 308):
        server = liar(status=status, headers=(JSON, ("Location", other.url + "/sync/download")))
        for command in ("pull", "push", "hydrate"):
            refused(*start(phone, f"{status}{command}", server, command),
                    f"The server answered {status}")
        assert "Authorization" in server.requests[0][1]
    assert other.requests == []


ANSWERS = {
    "a page of HTML": dict(headers=(("Content-Type", "text/html"),),
                           body=b"<html><body>Sign in</body></html>"),
    "nothing": dict(body=b""),
    "gzip that ends too soon": dict(headers=(JSON, GZIP), body=gzip.compress(PAGE * 100)[:-20]),
    "no gzip at all": dict(headers=(JSON, GZIP), body=PAGE),
    "gzip with a wrong sum": dict(headers=(JSON, GZIP), body=gzip.compress(PAGE)[:-8] + b"\0" * 8),
    "less than it says": dict(body=PAGE, length=1000),
    "gzip in gzip": dict(headers=(JSON, ("Content-Encoding", "gzip, gzip")),
                         body=gzip.compress(gzip.compress(b"x"))),
    "bytes that are no text": dict(body=b"\0\xff\xfe" * 1000),
    "chunks without the last": dict(raw=CHUNKED + b"%x\r\n%s\r\n" % (len(PAGE), PAGE)),
    "a chunk of 2^72 bytes": dict(raw=CHUNKED + b"f" * 18 + b"\r\n" + PAGE),
    "a length below zero": dict(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + PAGE),
    "no head at all": dict(raw=PAGE),
    "interim answers alone": dict(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 20000),
    "a part of an answer": dict(status=206, body=PAGE),
    "no content": dict(status=204),
    "a status that is none": dict(raw=b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
    "a pause of ages": dict(status=503, headers=(JSON, ("Retry-After", "1" + "0" * 18))),
    "a pause of more than a number": dict(status=429, headers=(JSON, ("Retry-After", "9" * 30))),
    "a pause below nothing": dict(status=503, headers=(JSON, ("Retry-After", "-5"))),
}


def test_an_answer_that_is_none(phone, liar):
    """All at once, for a failure of the network is tried again, with pauses."""
    running = []
    for what, answer in ANSWERS.items():
        server = liar(**answer)
        running += [start(phone, f"{what} {command}", server, command)
                    for command in ("pull", "push", "hydrate")]
    for one in running:
        refused(*one)


@pytest.fixture(scope="module")
def bomb():
    """Gzip that unpacks to 400 MB of blanks."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    blanks = b" " * (1 << 20)
    return b"".join([packer.compress(blanks) for _ in range(400)]) + packer.flush()


@pytest.mark.parametrize("command, status, words", [
    ("pull", 200, "longer than any of rowsync"), ("push", 200, "longer than any of rowsync"),
    ("hydrate", 200, "The snapshot"), ("pull", 503, "longer than any of rowsync"),
    ("hydrate", 404, "longer than any of rowsync")])
def test_a_gzip_bomb_takes_no_more_memory_than_an_answer_may(phone, liar, bomb, command,
                                                             status, words):
    server = liar(status=status, headers=(JSON, GZIP), body=bomb)
    memory = None if "SANITIZE" in os.environ else 700 << 20
    refused(*start(phone, "bomb", server, command, memory), words)


def test_a_head_without_end(phone, liar):
    server = liar(headers=[JSON] + [("X-More", "x" * 1000)] * 5000, body=PAGE)
    refused(*start(phone, "head", server, "pull"))
