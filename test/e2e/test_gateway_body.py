"""Bodies: how large, in which form, packed or not, in both directions."""

import gzip
import json
import time

import pytest
from gateway_parts import CHANGE, half_sent, heard, parse, problem, talk


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
