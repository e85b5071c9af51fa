"""Routes, methods and parameters, and what web pages may ask."""

import contextlib
import http.client
import json

import pytest
from gateway_parts import ROUTES, many, problem, talk


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


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "GET"])
def test_head_is_get_without_its_body(gateway, mint, path):
    token = mint("ann", "phone")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port,
                                                       timeout=20)) as connection:
        def ask(method):
            connection.request(method, path, headers={"Authorization": "Bearer " + token})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            for name in ("date", "rowsync-request-id"):
                headers.pop(name)
            return answer, headers
        # Twice on one connection: a body after the first would be taken for the second's head.
        heads = []
        for _ in range(2):
            answer, headers = ask("HEAD")
            assert (answer.status, answer.read()) == (200, b"")
            heads.append(headers)
        answer, headers = ask("GET")
        assert answer.status == 200
        if path == "/metrics":
            assert int(headers.pop("content-length")) > 1000
            heads = [{name: value for name, value in head.items() if name != "content-length"}
                     for head in heads]
        if headers.pop("transfer-encoding", None) is None:
            assert heads == [headers] * 2
        else:
            assert [{**head, "connection": ""} for head in heads] == [
                {**headers, "connection": ""}] * 2


@pytest.mark.parametrize("method, path", ROUTES)
def test_options_say_what_is_allowed(gateway, method, path):
    answer = gateway.request("OPTIONS", path)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["allow"] == ("POST, OPTIONS" if method == "POST" else "GET, HEAD, OPTIONS")
    problem(gateway.request("OPTIONS", path + "x"), 404, "not_found",
            "There is nothing at this path.")


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


def test_health_needs_no_database_and_readiness_does(start_gateway, database, cluster):
    gateway = start_gateway()
    answer = gateway.request("GET", "/healthz")
    assert (answer.status, answer.body) == (200, {"status": "ok"})
    assert gateway.request("HEAD", "/healthz").headers["content-length"] == "16"
    answer = gateway.request("GET", "/readyz")
    assert (answer.status, answer.body) == (200, {"status": "ready"})
    strange = start_gateway(database=cluster.database())
    answer = strange.request("GET", "/readyz")
    problem(answer, 503, "unavailable", "The database is not set up for rowsync.")
    assert "SELECT rowsync.grant_gateway(" in answer.body["hint"]
    nowhere = start_gateway(DATABASE_URL="host=/nonexistent")
    answer = nowhere.request("GET", "/readyz")
    problem(answer, 503, "unavailable", "The database cannot be reached. Nothing was changed.")
    assert answer.headers["retry-after"] == "1"
    assert nowhere.request("GET", "/healthz").status == 200


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


def test_pages_can_read_what_is_refused_before_a_handler_sees_it(start_gateway, mint):
    """Else they would see a failing network instead of a body too large or a token that ran out."""
    gateway = start_gateway(ROWSYNC_CORS_ORIGINS="https://app.example", ROWSYNC_BODY_LIMIT=2000000)
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        head = f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n".encode()
        for lines, body, status in (
                (b"Content-Length: 3000000\r\n\r\n", b"", 413),
                (b"Content-Length: 9\r\nExpect: more\r\n\r\n", b"", 417),
                (b"Content-Length: 1900000\r\n\r\n", b"x" * 1000000, 401)):
            answer = talk(gateway, head + lines + body).partition(b"\r\n\r\n")[0].lower()
            assert answer.startswith(f"http/1.1 {status} ".encode())
            assert b"\r\nvary: origin" in answer
            assert (f"access-control-allow-origin: {origin}".encode() in answer) == allowed
