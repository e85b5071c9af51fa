"""Every door of the gateway: what it lets in, and how exactly it refuses the rest."""

import base64
import gzip
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
import rig

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


# Tokens

NAMED = '"alg" is none of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512.'


@pytest.mark.parametrize("header, code, detail", [
    (None, "missing_token", "The request has no Authorization header with a bearer token."),
    ("Basic eDp5", "unsupported_scheme",
     'The Authorization header must be "Bearer", a space and the token.'),
    ("Bearer", "unsupported_scheme",
     'The Authorization header must be "Bearer", a space and the token.'),
    ("Bearer abc", "malformed_token",
     "The token is not three base64url parts with dots between them."),
    ("Bearer a.b.c", "malformed_token", "The token's header is no base64url-encoded JSON object."),
    ("Bearer " + "a" * 9000, "malformed_token", "The token is longer than 8192 bytes."),
], ids=["none", "basic", "bare", "word", "rubbish", "long"])
def test_without_a_token_nobody_gets_in(gateway, header, code, detail):
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("POST", "/sync/upload"), ("GET", "/sync/download"),
                         ("GET", "/sync/schema-version")):
        answer = gateway.request(method, path, headers=headers)
        problem(answer, 401, code, detail)
        assert answer.headers["www-authenticate"] == 'Bearer realm="rowsync"' + (
            "" if header is None else ', error="invalid_token"')


@pytest.mark.parametrize("make, code, detail", [
    (lambda mint: mint("ann", "phone", algorithm="none"), "unsupported_algorithm",
     "The token's " + NAMED),
    (lambda mint: mint("ann", "phone", header={"alg": "none"}), "unsupported_algorithm",
     "The token's " + NAMED),
    (lambda mint: mint("ann", "phone", secret="x" * 32), "invalid_signature",
     "The token's signature does not fit its content."),
    (lambda mint: mint("ann", "phone", header={"alg": "RS256"}), "unknown_key",
     'No configured key fits the token\'s "alg" (RS256) and "kid".'),
    (lambda mint: mint("ann", "phone", header={"crit": ["exp"]}), "malformed_token",
     'The token\'s header demands an extension ("crit") that is not supported.'),
    (lambda mint: mint("ann", "phone", exp=None), "missing_claim",
     'The token has no claim "exp" (when it expires).'),
    (lambda mint: mint(None, "phone"), "missing_claim",
     'The token has no claim "sub" (the user).'),
    (lambda mint: mint("ann", None), "missing_claim",
     'The token has no claim "did" (the source), and the request no Rowsync-Source-Id header '
     "instead."),
    (lambda mint: mint("", "phone"), "invalid_claim",
     'The token\'s claim "sub" must be a string of 1 to 255 bytes.'),
    (lambda mint: mint("ann", "x" * 256), "invalid_claim",
     'The token\'s claim "did" must be a string of 1 to 255 bytes.'),
    (lambda mint: mint("ann", 7), "invalid_claim",
     'The token\'s claim "did" must be a string of 1 to 255 bytes.'),
    (lambda mint: mint("ann", "phone", exp="soon"), "invalid_claim",
     'The token\'s claim "exp" must be a number of seconds.'),
], ids=["alg-none", "alg-none-signed", "wrong-secret", "no-such-key", "crit", "no-exp", "no-sub",
        "no-did", "empty-sub", "long-did", "number-did", "string-exp"])
def test_a_wrong_token_is_refused_with_its_own_code(gateway, mint, make, code, detail):
    token = make(mint)
    answer = gateway.request("POST", "/sync/upload", {"changes": []}, token=token)
    problem(answer, 401, code, detail)
    assert token.split(".")[1] not in json.dumps(answer.body)


def test_times_have_a_minute_of_leeway(gateway, mint):
    answer = gateway.request("GET", "/sync/download", token=mint("ann", "phone", ttl=-61))
    assert (answer.status, answer.body["code"]) == (401, "expired_token")
    assert re.fullmatch(r"The token expired 6[1-9] seconds ago\.", answer.body["detail"])
    answer = gateway.request("GET", "/sync/download",
                           token=mint("ann", "phone", nbf=int(time.time()) + 65))
    assert (answer.status, answer.body["code"]) == (401, "premature_token")
    for token in (mint("ann", "phone", ttl=-55), mint("ann", "phone", nbf=int(time.time()) + 55)):
        assert gateway.request("GET", "/sync/download", token=token).status == 200


def test_issuer_and_audience_are_checked_where_configured(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_JWT_ISSUER="https://id.example",
                            ROWSYNC_JWT_AUDIENCE="rowsync")
    answer = gateway.request("GET", "/sync/download", token=mint("ann", "phone", aud="rowsync"))
    problem(answer, 401, "wrong_issuer",
            'The token\'s "iss" is not the issuer that this server trusts.')
    answer = gateway.request("GET", "/sync/download",
                             token=mint("ann", "phone", iss="https://id.example", aud=["other"]))
    problem(answer, 401, "wrong_audience", 'The token\'s "aud" does not name this server.')
    for audience in ("rowsync", ["other", "rowsync"]):
        token = mint("ann", "phone", iss="https://id.example", aud=audience)
        assert gateway.request("GET", "/sync/download", token=token).status == 200


def test_two_authorization_headers_are_refused(gateway, mint):
    line = f"Authorization: Bearer {mint('ann', 'phone')}\r\n"
    status, body = parse(talk(gateway, (
        f"GET /sync/download HTTP/1.1\r\nHost: x\r\n{line}{line}Connection: close\r\n\r\n"
    ).encode()))
    assert (status, body["code"]) == (401, "malformed_token")


def test_the_source_may_come_in_a_header_but_not_contradict_the_token(gateway, mint):
    def ask(token, source):
        return gateway.request("GET", "/sync/download", token=token,
                             headers={"Rowsync-Source-Id": source})
    problem(ask(mint("ann", "phone"), "tablet"), 400, "source_mismatch",
            'The Rowsync-Source-Id header names another source than the token\'s claim "did".')
    for source in ("", "x" * 256, "\xff"):
        problem(ask(mint("ann", None), source), 400, "invalid_parameter",
                "The Rowsync-Source-Id header must be 1 to 255 bytes of UTF-8.")
    assert ask(mint("ann", None), "phone").status == 200
    assert ask(mint("ann", "phone"), "phone").status == 200


# Routes and parameters

@pytest.mark.parametrize("method, path, allow", [
    ("GET", "/sync/upload", "POST, OPTIONS"), ("PUT", "/sync/upload", "POST, OPTIONS"),
    ("HEAD", "/sync/upload", "POST, OPTIONS"), ("POST", "/sync/download", "GET, HEAD, OPTIONS"),
    ("DELETE", "/healthz", "GET, HEAD, OPTIONS"), ("get", "/healthz", "GET, HEAD, OPTIONS"),
])
def test_a_wrong_method_is_405_and_says_what_is_allowed(gateway, method, path, allow):
    answer = gateway.request(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    if method != "HEAD":
        problem(answer, 405, "method_not_allowed", f"{path} takes {allow} only.")


@pytest.mark.parametrize("path", ["/", "/sync", "/sync/", "/sync/upload/", "/sync/uploads",
                                  "/Healthz", "/sync/upload%2f", "/sync/../nothing"])
def test_an_unknown_path_is_404(gateway, path):
    problem(gateway.request("GET", path), 404, "not_found", "There is nothing at this path.")


@pytest.mark.parametrize("query, detail", [
    ("limit=0", '"limit" must be an integer from 1 to 10000, not "0".'),
    ("limit=10001", '"limit" must be an integer from 1 to 10000, not "10001".'),
    ("limit=1e3", '"limit" must be an integer from 1 to 10000, not "1e3".'),
    ("limit=", '"limit" must be an integer from 1 to 10000, not "".'),
    ("after=-1", '"after" must be an integer from 0 to 9223372036854775807, not "-1".'),
    ("after=abc", '"after" must be an integer from 0 to 9223372036854775807, not "abc".'),
    ("after=9223372036854775808", '"after" must be an integer from 0 to 9223372036854775807, not '
     '"9223372036854775808".'),
    ("after=" + "1" * 50, '"after" must be an integer from 0 to 9223372036854775807, not "' +
     "1" * 32 + '…".'),
    ("after=%31%", '"after" is longer than 1024 bytes or has a broken percent-encoding.'),
    ("after=1&after=1", '"after" is given twice.'),
    ("until=x", '"until" must be an integer from 0 to 9223372036854775807, not "x".'),
    ("after=5&until=4", '"until" (4) must not be less than "after" (5).'),
    ("include_self=yes", '"include_self" must be true or false, not "yes".'),
    ("schema=", '"schema" must be 1 to 63 bytes of UTF-8, not "".'),
    ("schema=%ff", '"schema" must be 1 to 63 bytes of UTF-8, not "\\ufffd".'),
    ("schema=%00", '"schema" must be 1 to 63 bytes of UTF-8, not "\\u0000".'),
    ("schema=" + "s" * 64, '"schema" must be 1 to 63 bytes of UTF-8, not "' + "s" * 32 + '…".'),
])
def test_a_wrong_parameter_is_400_and_says_which_and_why(gateway, mint, query, detail):
    answer = gateway.request("GET", "/sync/download?" + query, token=mint("ann", "phone"))
    problem(answer, 400, "invalid_parameter", detail)


# Bodies

def test_a_body_over_the_limit_is_413_and_the_client_hears_it(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_BODY_LIMIT=5000)
    for body in (b"x" * 5001, b"x" * 20_000_000):
        answer = gateway.request("POST", "/sync/upload", body, token=mint("ann", "phone"))
        problem(answer, 413, "body_too_large", "The request body is larger than 5000 bytes.")
        assert answer.headers["connection"] == "close"
    status, body = parse(talk(gateway, (
        b"POST /sync/upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"400\r\n" + b"x" * 1024 + b"\r\n" + 10 * (b"400\r\n" + b"x" * 1024 + b"\r\n"))))
    assert (status, body["code"]) == (413, "body_too_large")


def half_sent(gateway, token):
    """A peer that has sent a megabyte of a large body and now waits."""
    peer = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    line = f"Authorization: Bearer {token}\r\n" if token else ""
    peer.sendall(f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n{line}\r\n"
                 .encode() + b"x" * 1000000)
    return peer


def heard(peer):
    """The answer that came before the gateway hung up."""
    received = b""
    while chunk := peer.recv(65536):
        received += chunk
    peer.close()
    return parse(received)


@pytest.mark.parametrize("token, code", [
    (None, "missing_token"), ("abc", "malformed_token"), ("expired", "expired_token")])
def test_a_large_body_needs_a_good_token_before_it_is_all_there(gateway, mint, token, code):
    if token == "expired":
        token = mint("ann", "phone", ttl=-100)
    status, body = heard(half_sent(gateway, token))
    assert (status, body["code"]) == (401, code)
    assert any(line.get("id") == body["request_id"] and line["code"] == code
               for line in gateway.log())


def test_bodies_over_the_memory_limit_are_503_and_the_oldest_goes_on(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_MEMORY_LIMIT=1500000)
    first = half_sent(gateway, mint("ann", "phone"))
    time.sleep(0.3)
    status, body = heard(half_sent(gateway, mint("bob", "phone")))
    assert (status, body["code"]) == (503, "overloaded")
    first.sendall(b"x" * 8000000)
    assert first.recv(100).startswith(b"HTTP/1.1 400 ")
    first.close()


def test_gzip_is_unpacked_up_to_a_limit(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_UNPACKED_LIMIT=100000)

    def upload(body, encoding="gzip"):
        return gateway.request("POST", "/sync/upload", body, token=mint("ann", "phone"),
                               headers={"Content-Encoding": encoding})
    problem(upload(gzip.compress(b" " * 100001)), 413, "body_too_large",
            "The unpacked body is larger than 100000 bytes.")
    assert upload(gzip.compress(b" " * 100000)).body["detail"] == "the request must be a JSON object"
    packed = gzip.compress(b'{"last_server_seq_seen": 0, "changes": []}')
    answer = upload(packed)
    assert (answer.status, answer.body["accepted"], answer.body["statuses"]) == (200, True, [])
    assert upload(b'{"last_server_seq_seen": 0, "changes": []}', "identity").status == 200
    for broken in (b"", b"{}", packed[:-1], packed[:5], packed + b"x",
                   packed[:-8] + bytes(8)):
        problem(upload(broken), 400, "invalid_request", "The body is no intact gzip.")
    answer = upload(b"{}", "br")
    problem(answer, 415, "unsupported_media_type", "The Content-Encoding must be gzip or absent.")
    assert answer.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("kind, status", [
    ("text/plain", 415), ("application/jsonx", 415), ("", 415), ("application/json", 200),
    ("Application/JSON ; charset=utf-8", 200)])
def test_a_body_must_be_json(gateway, mint, kind, status):
    answer = gateway.request("POST", "/sync/upload", b'{"last_server_seq_seen": 0, "changes": []}',
                             token=mint("ann", "phone"), headers={"Content-Type": kind})
    assert answer.status == status
    if status == 415:
        problem(answer, 415, "unsupported_media_type",
                "The Content-Type must be application/json.")


# The wire

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


# Time

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


def test_a_slow_sender_is_cut_although_it_never_stops(start_gateway):
    gateway = start_gateway(ROWSYNC_HEADER_TIMEOUT=300)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as peer:
        deadline = time.monotonic() + 20
        with pytest.raises(OSError):
            for byte in b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 1000:
                assert time.monotonic() < deadline
                peer.sendall(bytes([byte]))
                time.sleep(0.05)


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


# Starting and stopping

def test_health_needs_no_database_and_readiness_does(start_gateway, database, cluster):
    gateway = start_gateway()
    answer = gateway.request("GET", "/healthz")
    assert (answer.status, answer.body) == (200, {"status": "ok"})
    assert gateway.request("HEAD", "/healthz").headers["content-length"] == "16"
    answer = gateway.request("GET", "/readyz")
    assert (answer.status, answer.body) == (200, {"status": "ready"})
    strange = start_gateway(database=cluster.database())
    problem(strange.request("GET", "/readyz"), 503, "unavailable",
            "The database is not set up for rowsync.")
    nowhere = start_gateway(DATABASE_URL="host=/nonexistent")
    answer = nowhere.request("GET", "/readyz")
    problem(answer, 503, "unavailable", "The database cannot be reached. Nothing was changed.")
    assert answer.headers["retry-after"] == "1"
    assert nowhere.request("GET", "/healthz").status == 200


def test_a_wrong_configuration_is_refused_at_the_start(start_gateway, tmp_path):
    for settings, message in (
            ({"ROWSYNC_JWT_SECRET": None}, "neither jwt_secret nor jwks_file is set"),
            ({"ROWSYNC_JWT_SECRET": "short"}, "jwt_secret has 5 bytes"),
            ({"DATABASE_URL": None}, "database_url is not set"),
            ({"ROWSYNC_LISTEN": "nowhere"}, 'listen: "nowhere" is no numeric address and port'),
            ({"ROWSYNC_LISTEN": "192.0.2.1:0"}, "cannot listen on 192.0.2.1:0: Cannot assign"),
            ({"ROWSYNC_POOL_SIZE": "0"}, "ROWSYNC_POOL_SIZE must be from 1 to 1000"),
            ({"ROWSYNC_JWKS_FILE": "/nonexistent"}, "/nonexistent: No such file")):
        with pytest.raises(RuntimeError, match=re.escape("rowsync-gateway: " + message)):
            start_gateway(**settings)
    config = tmp_path / "gateway.json"
    config.write_text('{"pool_sice": 3}')
    with pytest.raises(RuntimeError, match='unknown setting "pool_sice": did you mean "pool_size"'):
        start_gateway(arguments=["--config", str(config)])
    config.write_text('{"body_limit": 2000, "log_level": "error"}')
    gateway = start_gateway(arguments=["--config", str(config)])
    assert gateway.request("POST", "/sync/upload", b"x" * 2001).status == 413
    assert gateway.log() == []


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


def test_sighup_reads_the_configuration_again(start_gateway, tmp_path, mint):
    config = tmp_path / "gateway.json"
    config.write_text('{"jwt_issuer": "one"}')
    gateway = start_gateway(arguments=["--config", str(config)])

    def reload(content, event, count):
        config.write_text(content)
        gateway.server.send_signal(signal.SIGHUP)
        assert eventually(lambda: len([1 for line in gateway.log() if line["event"] == event])
                          == count)
        return [line["message"] for line in gateway.log() if line["event"] == event][-1]

    def status(issuer):
        return gateway.request("GET", "/sync/download",
                               token=mint("ann", "phone", iss=issuer)).status
    assert (status("one"), status("two")) == (200, 401)
    assert 'unknown setting "jwt_isuer": did you mean "jwt_issuer"?; everything stays' in reload(
        '{"jwt_isuer": "two"}', "reload_failed", 1)
    assert (status("one"), status("two")) == (200, 401)
    reload('{"jwt_issuer": "two"}', "reloaded", 1)
    assert eventually(lambda: (status("one"), status("two")) == (401, 200))
    reload('{"jwt_issuer": "two", "pool_size": 3, "body_limit": 2000}', "reloaded", 2)
    assert [line["message"] for line in gateway.log() if line["event"] == "restart_needed"] == [
        "these settings have changed and wait for a restart: pool_size, body_limit"]
    assert gateway.request("POST", "/sync/upload", b"x" * 2001,
                           token=mint("ann", "phone", iss="two")).status == 400
    assert gateway.stop() == 0


def test_sigterm_ends_an_idle_gateway_at_once(start_gateway):
    # libh2o alone would keep the idle connection for minutes; the rig gives up long before.
    gateway = start_gateway(ROWSYNC_DRAIN_TIMEOUT=3600000)
    idle = http.client.HTTPConnection("127.0.0.1", gateway.port)
    idle.request("GET", "/healthz")
    assert idle.getresponse().read()
    assert gateway.stop() == 0
    idle.close()


def test_the_log_has_a_line_for_each_request_and_never_a_token(gateway, mint):
    token = mint("ann", "phone")
    answer = gateway.request("GET", "/sync/download?after=x", token=token)
    gateway.request("POST", "/sync/upload", b"x" * 20_000_000, token=token)
    assert gateway.stop() == 0
    lines = [line for line in gateway.log() if line["event"] == "request"]
    (line,) = [line for line in lines if line["id"] == answer.body["request_id"]]
    assert (line["method"], line["route"], line["status"], line["code"], line["user"],
            line["source"]) == ("GET", "/sync/download", 400, "invalid_parameter", "ann", "phone")
    assert line["total_us"] >= 0 and line["sent"] > 0
    assert [line["code"] for line in lines if line["status"] == 413] == ["body_too_large"]
    text = gateway.log_path.read_text()
    assert token not in text
    assert all(part not in text for part in token.split("."))


# The database behind it

CHANGE = {"source_change_id": 1, "schema": "business", "table": "users", "op": "INSERT",
          "pk": "00000000-0000-4000-8000-000000000001", "server_version": 0,
          "payload": {"id": "00000000-0000-4000-8000-000000000001", "name": "Ann",
                      "email": "ann@gateway.example", "created_at": 1, "updated_at": 1}}

# What our backends do: the gateway names itself and the request in application_name.
RUNNING = ("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
           "AND state = 'active' AND application_name LIKE 'rowsync-gateway ________________'")


def eventually(condition, seconds=20):
    """Waits until the condition holds; whether it does at last."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def blocked(database):
    """Holds a lock that every upload needs; call it to let go."""
    holder = database.connect()
    holder.autocommit = False
    holder.cursor().execute("LOCK TABLE rowsync.scope IN ACCESS EXCLUSIVE MODE")
    yield holder.close
    holder.close()


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


def test_claims_reach_the_database_and_nothing_stays_in_the_session(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1)
    database.rows("""
        CREATE TABLE public.seen (claims text, name text);
        GRANT INSERT ON public.seen TO business_gateway;
        CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.seen VALUES (current_setting('request.jwt.claims', true),
                                            current_setting('application_name'));
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER INSERT ON business.users EXECUTE FUNCTION public.see();""")
    answer = gateway.upload(mint("ann", "phone", role="editor", tags=["a", "ä"]), [CHANGE])
    assert answer.body["statuses"][0]["status"] == "applied"
    ((claims, name),) = database.rows("SELECT claims, name FROM public.seen")
    claims = json.loads(claims)
    assert (claims["sub"], claims["role"], claims["tags"]) == ("ann", "editor", ["a", "ä"])
    assert name == "rowsync-gateway " + answer.headers["rowsync-request-id"]
    # The same connection, asked by a probe that brings no claims of its own.
    database.rows("""CREATE OR REPLACE FUNCTION rowsync.schema_version() RETURNS integer
        LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.seen VALUES (coalesce(current_setting('request.jwt.claims', true), ''),
                                            current_setting('application_name'));
            RETURN 1;
        END $$""")
    time.sleep(0.6)
    assert gateway.request("GET", "/readyz").status == 200
    assert database.rows("SELECT * FROM public.seen OFFSET 1") == [("", "rowsync-gateway")]


def test_an_error_at_commit_is_no_success(gateway, database, mint):
    """The statement's own result comes before the commit; only the commit makes it true."""
    database.rows("""
        CREATE TABLE public.parent (id int PRIMARY KEY);
        CREATE TABLE public.child (id int REFERENCES public.parent DEFERRABLE INITIALLY DEFERRED);
        GRANT ALL ON public.parent, public.child TO business_gateway;
        CREATE OR REPLACE FUNCTION rowsync.schema_version() RETURNS integer LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.child VALUES (1); RETURN 1; END $$""")
    answer = gateway.request("GET", "/sync/schema-version", token=mint("ann", "phone"))
    problem(answer, 500, "internal_error",
            "The server failed on this request; its log has more under the request id.")
    (line,) = [line for line in gateway.log() if line["event"] == "database_error"]
    assert (line["id"], line["sqlstate"]) == (answer.body["request_id"], "23503")
    assert database.value("SELECT count(*) FROM public.child") == 0


def test_a_client_that_goes_away_takes_its_query_with_it(gateway, database, blocked, mint):
    body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]})
    with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
        peer.sendall((f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                      f"Authorization: Bearer {mint('ann', 'phone')}\r\n\r\n{body}").encode())
        assert eventually(lambda: database.value(RUNNING) == 1)
    assert eventually(lambda: database.value(RUNNING) == 0)
    assert eventually(lambda: any(line.get("code") == "client_gone" for line in gateway.log()))
    blocked()
    answer = gateway.upload(mint("ann", "phone"), [CHANGE])
    assert (answer.status, answer.body["statuses"][0]["status"]) == (200, "applied")


def test_cancelling_harms_no_later_request(start_gateway, database, mint):
    """Again and again on the same two connections, which keep their prepared statements."""
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=2)
    token = mint("ann", "phone")
    body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]})
    for _ in range(20):
        holder = database.connect()
        holder.autocommit = False
        holder.cursor().execute("LOCK TABLE rowsync.scope IN ACCESS EXCLUSIVE MODE")
        with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
            peer.sendall((f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
                          f"\r\nAuthorization: Bearer {token}\r\n\r\n{body}").encode())
            assert eventually(lambda: database.value(RUNNING) == 1)
        assert eventually(lambda: database.value(RUNNING) == 0)
        holder.close()
        assert gateway.upload(token, [CHANGE]).status == 200


def test_a_statement_that_takes_too_long_is_503_and_changes_nothing(start_gateway, database,
                                                                   blocked, mint):
    gateway = start_gateway(ROWSYNC_STATEMENT_TIMEOUT=300)
    answer = gateway.upload(mint("ann", "phone"), [CHANGE])
    problem(answer, 503, "timeout",
            "The database took longer than the statement timeout. Nothing was changed.")
    assert answer.headers["retry-after"] == "1"
    blocked()
    assert database.value("SELECT count(*) FROM business.users") == 0


def test_what_the_queue_cannot_hold_is_503_at_once(start_gateway, database, blocked, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_QUEUE_LENGTH=2,
                            ROWSYNC_QUEUE_TIMEOUT=60000)
    assert eventually(lambda: gateway.request("GET", "/readyz").status == 200)
    asking = Asking(gateway, mint("ann", "phone"), 8)
    # One runs and two wait; the other five are refused while nothing moves.
    assert eventually(lambda: len(asking.answers) == 5)
    for answer in asking.answers:
        problem(answer, 503, "overloaded",
                "The server has as many requests waiting as it may hold.")
        assert answer.headers["retry-after"] == "1"
    blocked()
    assert sorted(answer.status for answer in asking.wait()) == [200] * 3 + [503] * 5


def test_waiting_for_a_connection_has_an_end(start_gateway, database, blocked, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_QUEUE_TIMEOUT=300)
    asking = Asking(gateway, mint("ann", "phone"))
    assert eventually(lambda: database.value(RUNNING) == 1)
    problem(gateway.upload(mint("ann", "phone"), [CHANGE]), 503, "overloaded",
            "No database connection became free in time. Nothing was changed.")
    blocked()
    assert [answer.status for answer in asking.wait()] == [200]


def test_sigterm_lets_a_request_in_hand_end(start_gateway, database, blocked, mint):
    gateway = start_gateway()
    asking = Asking(gateway, mint("ann", "phone"))
    assert eventually(lambda: database.value(RUNNING) == 1)
    gateway.server.send_signal(signal.SIGTERM)

    def refuses():
        try:
            socket.create_connection(("127.0.0.1", gateway.port)).close()
            return False
        except ConnectionRefusedError:
            return True
    assert eventually(refuses)
    blocked()
    (answer,) = asking.wait()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert gateway.server.wait(20) == 0


def test_draining_has_an_end(start_gateway, database, blocked, mint):
    gateway = start_gateway(ROWSYNC_DRAIN_TIMEOUT=300)
    with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
        body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]})
        peer.sendall((f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                      f"Authorization: Bearer {mint('ann', 'phone')}\r\n\r\n{body}").encode())
        assert eventually(lambda: database.value(RUNNING) == 1)
        gateway.server.send_signal(signal.SIGTERM)
        assert gateway.server.wait(20) == 0


def test_without_prepared_statements_everything_works_too(start_gateway, mint):
    """What PgBouncer in transaction mode asks of us."""
    gateway = start_gateway(ROWSYNC_PGBOUNCER="true", ROWSYNC_POOL_SIZE=1)
    for _ in range(3):
        answer = gateway.upload(mint("ann", "phone"), [CHANGE])
        assert answer.body["statuses"][0]["status"] == "applied"
    assert len(gateway.download(mint("ann", "tablet")).body["changes"]) == 1


def test_a_large_answer_renews_its_connection(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_RECYCLE_SIZE=65536)
    backend = ("SELECT array_agg(pid) FROM pg_stat_activity WHERE usename = 'business_gateway' "
               "AND datname = current_database()")
    large = {**CHANGE, "payload": {**CHANGE["payload"], "name": "x" * 100000}}
    assert gateway.request("GET", "/readyz").status == 200
    before = database.value(backend)
    assert gateway.upload(mint("ann", "phone"), [large]).body["statuses"][0]["status"] == "applied"
    assert eventually(lambda: database.value(backend) not in (before, None))
    assert len(gateway.download(mint("ann", "tablet")).body["changes"]) == 1


def test_downloads_are_packed_where_the_client_takes_it(start_gateway, mint):
    gateway = start_gateway()
    change = {**CHANGE, "payload": {**CHANGE["payload"], "name": "x" * 5000}}
    gateway.upload(mint("ann", "phone"), [change])
    plain = gateway.download(mint("ann", "tablet"))
    packed = gateway.request("GET", "/sync/download", token=mint("ann", "tablet"),
                             headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "accept-encoding"
    assert "content-encoding" not in plain.headers
    assert json.loads(gzip.decompress(packed.body)) == plain.body
    off = start_gateway(ROWSYNC_GZIP_LEVEL=0)
    answer = off.request("GET", "/sync/download", token=mint("ann", "tablet"),
                         headers={"Accept-Encoding": "gzip"})
    assert answer.body == plain.body


def test_a_reader_that_does_not_read_is_cut(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_SEND_TIMEOUT=500)
    changes = [{**CHANGE, "source_change_id": number,
                "pk": f"00000000-0000-4000-8000-0000000001{number:02}",
                "payload": {**CHANGE["payload"],
                            "id": f"00000000-0000-4000-8000-0000000001{number:02}",
                            "email": f"{number}@gateway.example", "name": "x" * 1000000}}
               for number in range(10, 22)]
    assert gateway.upload(mint("ann", "phone"), changes).status == 200
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", gateway.port))
        peer.sendall(f"GET /sync/download HTTP/1.1\r\nHost: x\r\n"
                     f"Authorization: Bearer {mint('ann', 'tablet')}\r\n\r\n".encode())
        assert eventually(lambda: [line["status"] for line in gateway.log()
                                   if line.get("route") == "/sync/download"] == [200])
    # One that reads slowly, but does read, gets everything.
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", gateway.port))
        peer.sendall(f"GET /sync/download HTTP/1.0\r\nHost: x\r\n"
                     f"Authorization: Bearer {mint('ann', 'tablet')}\r\n\r\n".encode())
        peer.settimeout(20)
        received = bytearray()
        while chunk := peer.recv(262144 if len(received) > 2_000_000 else 65536):
            received += chunk
            if len(received) < 2_000_000:
                time.sleep(0.05)
    _, _, body = bytes(received).partition(b"\r\n\r\n")
    assert json.loads(body) == gateway.download(mint("ann", "tablet")).body


def test_keys_from_a_jwk_set_and_their_rotation(start_gateway, mint, tmp_path):
    """Signed by an independent implementation, PyJWT on OpenSSL."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def number(value, size):
        return base64.urlsafe_b64encode(value.to_bytes(size, "big")).rstrip(b"=").decode()

    def public(key, name):
        if isinstance(key, rsa.RSAPrivateKey):
            parts = key.public_key().public_numbers()
            return {"kty": "RSA", "kid": name, "n": number(parts.n, 256), "e": number(parts.e, 3)}
        parts = key.public_key().public_numbers()
        size = (key.key_size + 7) // 8
        return {"kty": "EC", "kid": name, "crv": f"P-{key.key_size}", "x": number(parts.x, size),
                "y": number(parts.y, size)}

    keys = {"one": rsa.generate_private_key(65537, 2048), "two": ec.generate_private_key(ec.SECP256R1()),
            "three": ec.generate_private_key(ec.SECP384R1()),
            "four": ec.generate_private_key(ec.SECP521R1())}
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [public(key, name) for name, key in keys.items()
                                         if name != "two"]}))
    gateway = start_gateway(ROWSYNC_JWKS_FILE=path, ROWSYNC_JWT_SECRET=None)

    def ask(algorithm, name, kid=True):
        token = jwt.encode({"sub": "ann", "did": "phone", "exp": int(time.time()) + 100},
                           keys[name], algorithm, headers={"kid": name} if kid else {})
        answer = gateway.request("GET", "/sync/schema-version", token=token)
        return answer.status if answer.status == 200 else answer.body["code"]

    for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
        assert ask(algorithm, "one") == 200
        assert ask(algorithm, "one", kid=False) == 200
    assert ask("ES384", "three") == 200
    assert ask("ES512", "four") == 200
    assert ask("ES256", "two") == "unknown_key"
    # A secret that is not configured lets nobody in.
    answer = gateway.request("GET", "/sync/schema-version", token=mint("ann", "phone"))
    assert answer.body["code"] == "unknown_key"

    path.write_text(json.dumps({"keys": [public(keys["two"], "two")]}))
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: ask("ES256", "two") == 200 and ask("RS256", "one") == "unknown_key")
    path.write_text('{"keys": [{"kty": "EC"}]}')
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: any(line["event"] == "reload_failed" for line in gateway.log()))
    assert ask("ES256", "two") == 200


# Streams

def many(count, name="x", first=1):
    """So many users to upload."""
    keys = [f"00000000-0000-4000-8000-{number:012}" for number in range(first, first + count)]
    return [{**CHANGE, "source_change_id": number, "pk": key,
             "payload": {**CHANGE["payload"], "id": key, "email": f"{key}@gateway.example",
                         "name": name}}
            for number, key in enumerate(keys, first)]


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
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(20)
        peer.connect(("127.0.0.1", gateway.port))
        peer.sendall(f"GET /sync/snapshot HTTP/1.1\r\nHost: x\r\n"
                     f"Authorization: Bearer {mint('ann', 'tablet')}\r\n\r\n".encode())
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
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", gateway.port))
            peer.sendall(f"GET /sync/snapshot HTTP/1.1\r\nHost: x\r\n"
                         f"Authorization: Bearer {mint('ann', 'tablet')}\r\n\r\n".encode())
            assert peer.recv(100).startswith(b"HTTP/1.1 200 OK")
            # Uploads have connections of their own.
            assert gateway.upload(mint("bob", "phone"), []).status == 200
    answer = gateway.request("GET", "/sync/snapshot", token=mint("ann", "tablet"))
    assert json.loads(answer.body.splitlines()[-1])["rows"] == 9000


def test_one_user_does_not_hold_all_snapshot_connections(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_STREAM_POOL_SIZE=2)
    gateway.upload(mint("ann", "phone"), many(9000, "x" * 1000))
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(20)
        peer.connect(("127.0.0.1", gateway.port))
        peer.sendall(f"GET /sync/snapshot HTTP/1.1\r\nHost: x\r\n"
                     f"Authorization: Bearer {mint('ann', 'tablet')}\r\n\r\n".encode())
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
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(20)
        peer.connect(("127.0.0.1", gateway.port))
        peer.sendall(f"GET /sync/snapshot HTTP/1.1\r\nHost: x\r\n"
                     f"Authorization: Bearer {mint('ann', 'tablet')}\r\n\r\n".encode())
        # It never stops reading, about 10 kB a second.
        deadline = time.monotonic() + 20
        while not any(line.get("route") == "/sync/snapshot" for line in gateway.log()):
            assert time.monotonic() < deadline
            peer.recv(500)
            time.sleep(0.05)


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


# Schema and digest

def test_the_schema_has_a_tag_that_spares_its_second_download(gateway, mint):
    answer = gateway.request("GET", "/sync/schema", token=mint("ann", "phone"))
    assert answer.status == 200
    assert "users" in json.dumps(answer.body)
    tag = answer.headers["etag"]
    for value in (tag, "W/" + tag, '"other", ' + tag, "*"):
        again = gateway.request("GET", "/sync/schema", token=mint("ann", "phone"),
                                headers={"If-None-Match": value})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    changed = gateway.request("GET", "/sync/schema", token=mint("ann", "phone"),
                              headers={"If-None-Match": '"other"'})
    assert changed.body == answer.body


def test_digest(gateway, mint):
    gateway.upload(mint("ann", "phone"), many(3))
    before = gateway.request("GET", "/sync/digest", token=mint("ann", "phone"))
    assert before.status == 200
    gateway.upload(mint("ann", "phone"), many(1, first=4))
    after = gateway.request("GET", "/sync/digest", token=mint("ann", "phone"))
    assert after.body["digest"] != before.body["digest"]
    then = gateway.request("GET", "/sync/digest?at=3", token=mint("ann", "phone"))
    assert then.body == before.body
    problem(gateway.request("GET", "/sync/digest?at=x", token=mint("ann", "phone")), 400,
            "invalid_parameter", '"at" must be an integer from 0 to 9223372036854775807, not "x".')


# Pages in browsers

def test_pages_of_configured_origins_may_ask_and_no_others(start_gateway, gateway, mint):
    preflight = {"Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization"}

    def ask(gateway, origin, method="OPTIONS", path="/sync/upload", **more):
        return gateway.request(method, path, headers={"Origin": origin, **more})

    open_to = start_gateway(ROWSYNC_CORS_ORIGINS="https://app.example,http://localhost:3000")
    for origin in ("https://app.example", "http://localhost:3000"):
        answer = ask(open_to, origin, **preflight)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS"
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert answer.headers["vary"] == "origin"
        refused = ask(open_to, origin, "GET", "/sync/download")
        assert refused.status == 401
        assert refused.headers["access-control-allow-origin"] == origin
    for origin in ("https://app.example.evil", "https://app.exampl", "null", "http://app.example"):
        answer = ask(open_to, origin, **preflight)
        assert answer.status == 204
        assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = ask(gateway, "https://app.example", **preflight)
    assert (answer.status, answer.headers["allow"]) == (204, "POST, OPTIONS")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    everyone = start_gateway(ROWSYNC_CORS_ORIGINS="*")
    assert ask(everyone, "https://any.example").headers["access-control-allow-origin"] == \
        "https://any.example"


# Load

def test_a_user_beyond_the_rate_is_429_and_others_are_not(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_RATE_LIMIT=1, ROWSYNC_RATE_BURST=5)

    def ask(user):
        return gateway.request("GET", "/sync/schema-version", token=mint(user, "phone"))
    answers = [ask("ann") for _ in range(10)]
    assert [answer.status for answer in answers[:5]] == [200] * 5
    refused = [answer for answer in answers if answer.status != 200]
    assert len(refused) >= 3
    for answer in refused:
        problem(answer, 429, "too_many_requests",
                "This user sends more than 1 requests a second.")
        assert answer.headers["retry-after"] == "1"
    assert ask("bob").status == 200
    assert eventually(lambda: ask("ann").status == 200)


def series(text):
    """Prometheus' text format, read strictly: {(name, labels): value}, and each name's type."""
    values, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            assert re.fullmatch(r"# HELP [a-z_]+ \S.*", line)
        elif line.startswith("# TYPE "):
            name, kind = re.fullmatch(r"# TYPE ([a-z_]+) (counter|gauge|histogram)", line).groups()
            assert name not in types
            types[name] = kind
        else:
            name, labels, value = re.fullmatch(
                r'([a-z_]+)(\{[a-z_]+="[^"\\]*"(?:,[a-z_]+="[^"\\]*")*\})? (\d+(?:\.\d+)?)',
                line).groups()
            assert (name, labels) not in values
            family = re.sub("_(bucket|sum|count)$", "", name)
            assert name in types or types.get(family) == "histogram"
            assert name.endswith("_total") == (types.get(name) == "counter")
            values[name, labels] = float(value)
    return values, types


def test_metrics_count_what_happened(start_gateway, mint):
    gateway = start_gateway()
    gateway.upload(mint("ann", "phone"), [CHANGE])
    for _ in range(3):
        gateway.request("GET", "/sync/download")
    gateway.request("GET", "/nothing")
    watching = Watching(gateway, mint("ann", "phone"))
    assert watching.event() == ("head", {"head": 1})
    time.sleep(0.5)
    answer = gateway.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values, types = series(answer.body.decode())
    assert answer.body.endswith(b"\n")
    assert values["rowsync_requests_total", '{route="/sync/upload",status="200"}'] == 1
    assert values["rowsync_requests_total", '{route="/sync/download",status="401"}'] == 3
    assert values["rowsync_requests_total", '{route="none",status="404"}'] == 1
    assert values["rowsync_problems_total", '{code="missing_token",status="401"}'] == 3
    assert values["rowsync_event_streams", None] == 1
    assert values["rowsync_pool_connected", '{pool="requests"}'] == \
        values["rowsync_pool_size", '{pool="requests"}'] > 0
    assert values["rowsync_received_bytes_total", None] > 100
    buckets = [value for (name, labels), value in values.items()
               if name == "rowsync_request_seconds_bucket" and "/sync/download" in labels]
    assert buckets == sorted(buckets)
    assert buckets[-1] == values["rowsync_request_seconds_count", '{route="/sync/download"}'] == 3
    off = start_gateway(ROWSYNC_METRICS="false")
    assert off.request("GET", "/metrics").status == 404


# Other ways in

def certificate(folder, name):
    """A self-signed certificate for 127.0.0.1 and its key, as two PEM files."""
    chain, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", chain],
                   check=True, capture_output=True)
    return chain, key


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_https_and_new_certificates_without_a_break(start_gateway, tmp_path, mint):
    chain, key = certificate(tmp_path, "one")
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
    new_chain, new_key = certificate(tmp_path, "two")
    new_chain.rename(chain)
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: any(line["event"] == "reload_failed" for line in gateway.log()))
    new_key.rename(key)
    gateway.server.send_signal(signal.SIGHUP)
    assert eventually(lambda: any(line["event"] == "reloaded" for line in gateway.log()))
    assert eventually(lambda: ask(connect(chain))[0] == 200)
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


def test_a_socket_file(database, tmp_path, mint):
    """Started by hand: the rig's gateways all have ports."""
    path = tmp_path / "gateway.sock"
    environment = {"PATH": "/usr/bin:/bin", "ROWSYNC_LISTEN": f"unix:{path}",
                   "ROWSYNC_JWT_SECRET": "rowsync-test-secret-rowsync-test",
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


# As a service

def run(*arguments, **environment):
    """Runs the binary to its end."""
    return subprocess.run([rig.gateway.BINARY, *arguments], capture_output=True, text=True,
                          timeout=20, env={"PATH": "/usr/bin:/bin", **environment})


def test_the_command_line(tmp_path):
    good = {"DATABASE_URL": "dbname=x", "ROWSYNC_JWT_SECRET": "s" * 32}
    done = run("--check-config", **good)
    assert (done.returncode, done.stdout) == (0, "rowsync-gateway: the configuration is good\n")
    done = run("--check-config", DATABASE_URL="dbname=x")
    assert done.returncode == 2
    assert done.stderr == ("rowsync-gateway: neither jwt_secret nor jwks_file is set: without a "
                           "key no token can be verified\n")
    done = run("--check-config", ROWSYNC_TLS_CERTIFICATE=str(tmp_path / "none"),
               ROWSYNC_TLS_KEY="none", **good)
    assert done.returncode == 2
    assert done.stderr.startswith(f"rowsync-gateway: {tmp_path}/none: ")
    done = run("--check-config", ROWSYNC_TLS_KEY="none", **good)
    assert done.stderr == ("rowsync-gateway: tls_certificate and tls_key belong together: one of "
                           "them is not set\n")
    assert re.fullmatch(r"rowsync-gateway \d+\.\d+\S*\n", run("--version").stdout)
    assert run("--help").stdout.startswith("Usage: rowsync-gateway ")
    for wrong in (["--nonsense"], ["argument"]):
        done = run(*wrong, **good)
        assert done.returncode == 2 and "rowsync-gateway" in done.stderr


def test_the_service_manager_is_told(start_gateway, tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        gateway = start_gateway(NOTIFY_SOCKET=path)
        assert manager.recv(100) == b"READY=1"
        assert gateway.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_the_unit_and_the_manual_are_sound():
    folder = pathlib.Path(__file__).resolve().parents[2] / "gateway"
    manual = subprocess.run(["man", "--warnings", "-l", "-Tutf8", folder / "rowsync-gateway.1"],
                            capture_output=True, text=True) if shutil.which("man") else None
    assert manual is None or (manual.returncode == 0 and manual.stderr == "")
    text = (folder / "rowsync-gateway.1").read_text().replace("\\-", "-")
    for option in re.findall(r"--[a-z-]+", run("--help").stdout):
        assert option in text
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=30",
                               folder / "rowsync-gateway.service"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
