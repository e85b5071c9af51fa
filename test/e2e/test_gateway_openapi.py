"""The documents about the gateway are true: real answers fit them, and they name what there is."""

import functools
import gzip
import hashlib
import http.client
import json
import pathlib
import re
import signal
import subprocess
import time

import jsonschema
import pytest
import rig
import yaml
from gateway_parts import ROUTES, RUNNING, eventually, talk

ROOT = pathlib.Path(__file__).resolve().parents[2]
API = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
KEY = "00000000-0000-4000-8000-00000000000"

# The registry of problems in the source: code and status.
CODES = {code: int(status) for status, code in re.findall(
    r'X\([A-Z_]+, (\d+), "([a-z_]+)"', (ROOT / "gateway" / "src" / "problem.h").read_text())}


def change(number, **fields):
    """An insert of one user."""
    return {"source_change_id": number, "schema": "business", "table": "users", "op": "INSERT",
            "pk": f"{KEY}{number}", "server_version": 0,
            "payload": {"id": f"{KEY}{number}", "name": "Ann", "email": f"{number}@api.example",
                        "created_at": 1, "updated_at": 1}, **fields}


def fits(document, schema):
    """The document is what the named part of the description says."""
    jsonschema.Draft202012Validator({"$ref": "#/components/schemas/" + schema,
                                     "components": API["components"]}).validate(document)


def follow(node):
    """What a reference points to."""
    while "$ref" in node:
        where = node["$ref"]
        node = API
        for name in where.removeprefix("#/").split("/"):
            node = node[name]
    return node


class Seen:
    """Every answer that was given: all are as described, and in the end all described were given."""

    def __init__(self):
        self.statuses = set()
        self.codes = set()

    def check(self, method, path, answer, status=None, code=None):
        """The answer is the one expected, and one that the description has for this route."""
        assert status is None or answer.status == status, answer
        assert code is None or answer.body["code"] == code, answer
        path = path.partition("?")[0]
        response = follow(API["paths"][path][method.lower()]["responses"][str(answer.status)])
        for name, header in response.get("headers", {}).items():
            jsonschema.validate(answer.headers[name.lower()], header["schema"])
        self.statuses.add((method, path, answer.status))
        if "content" not in response:
            assert answer.body == b""
            return
        ((kind, content),) = response["content"].items()
        assert answer.headers["content-type"].split(";")[0] == kind
        if kind in ("application/json", "application/problem+json"):
            jsonschema.Draft202012Validator({**content["schema"], "components": API["components"]}
                                            ).validate(answer.body)
        if kind == "application/problem+json":
            assert answer.body["status"] == answer.status == CODES[answer.body["code"]]
            assert answer.body["request_id"] == answer.headers["rowsync-request-id"]
            self.codes.add(answer.body["code"])

    def ask(self, gateway, method, path, body=None, *, status=None, code=None, **options):
        """Asks, and checks the answer."""
        answer = gateway.request(method, path, body, **options)
        self.check(method, path, answer, status, code)
        return answer

    def raw(self, gateway, method, path, lines, rest=b"", **expected):
        """The same with a request that no library would send."""
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""])
        received = talk(gateway, head.encode() + rest)
        top, _, body = received.partition(b"\r\n\r\n")
        status, *fields = top.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in
                   (field.partition(": ") for field in fields)}
        self.check(method, path, rig.Answer(int(status.split()[1]), headers, json.loads(body)),
                   **expected)


ASKING = [(method, path) for method, path in ROUTES if path.startswith("/sync/")]
RULES = {"iss": "me", "aud": "us"}


class Peer:
    """A client that has sent its request and takes its time about the answer."""

    def __init__(self, gateway, method, path, token, body=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        self.connection.request(method, path, body, {"Authorization": "Bearer " + token})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def answer(self):
        """The answer; of an event stream, which does not end, only the head."""
        response = self.connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        streams = headers["content-type"] == "text/event-stream"
        return rig.Answer(response.status, headers, b"" if streams else json.loads(response.read()))


def good_answers(seen, gateway, database, mint):
    """Every success, and 410."""
    token = mint("ann", "phone", **RULES)
    upload = {"last_server_seq_seen": 0, "changes": [
        change(1), change(2, op="DELETE", payload=None), change(3, table="nothing"),
        change(4, payload={"id": KEY + "4"}), change(5, payload={"id": 7}),
        change(6, table="posts", payload={"id": KEY + "6", "author_id": KEY + "9"})]}
    fits(upload, "Upload")
    answer = seen.ask(gateway, "POST", "/sync/upload", upload, token=token, status=200)
    assert {status["status"] for status in answer.body["statuses"]} == {"applied", "invalid"}
    for name in ("Bea", "Cea"):
        database.rows(f"UPDATE business.users SET name = '{name}'")
    stale = {"last_server_seq_seen": 0, "changes": [change(1, source_change_id=9, server_version=1)]}
    answer = seen.ask(gateway, "POST", "/sync/upload", stale,
                      token=mint("ann", "tablet", **RULES), status=200)
    assert answer.body["statuses"][0]["status"] == "conflict"
    answer = seen.ask(gateway, "GET", "/sync/download", token=mint("ann", "tablet", **RULES),
                      status=200)
    assert answer.body["changes"]
    for path in ("/sync/download?include_self=true&limit=1", "/sync/digest", "/sync/digest?at=1",
                 "/sync/schema-version", "/sync/schema", "/sync/snapshot"):
        seen.ask(gateway, "GET", path, token=token, status=200)
    for path in ("/healthz", "/readyz", "/metrics"):
        seen.ask(gateway, "GET", path, status=200)
    with Peer(gateway, "GET", "/sync/watch", token) as peer:
        seen.check("GET", "/sync/watch", peer.answer(), 200)
    tag = gateway.request("GET", "/sync/schema", token=token).headers["etag"]
    seen.ask(gateway, "GET", "/sync/schema", token=token, headers={"If-None-Match": tag},
             status=304)
    assert database.rows("SELECT floor FROM rowsync.prune('0', '0')")[0][0] > 0
    for path in ("/sync/download?after=0", "/sync/digest?at=1"):
        seen.ask(gateway, "GET", path, token=token, status=410, code="history_pruned")


def refusals_of_http(seen, gateway, mint):
    """What every route refuses before it asks who it is."""
    for method, path in ROUTES:
        answer = gateway.request("DELETE", path)
        assert answer.headers["allow"]
        seen.check(method, path, answer, 405, "method_not_allowed")
        double = ["Content-Length: 2", "Content-Length: 2"]
        seen.raw(gateway, method, path, double, b"{}", status=400, code="invalid_request")
        seen.raw(gateway, method, path, ["Content-Length: 5000"], status=413, code="body_too_large")
        seen.raw(gateway, method, path, ["Content-Length: 2", "Expect: more"], b"{}", status=417,
                 code="expectation_failed")
        seen.raw(gateway, method, path, ["A: " + "x" * 5000], status=431, code="header_too_large")
    token = mint("ann", "phone", **RULES)
    upload = functools.partial(seen.ask, gateway, "POST", "/sync/upload", token=token)
    for body in (b"", b"{", b"[]", b'{"changes": 1}'):
        upload(body, status=400, code="invalid_request")
    upload(b"\xff", status=400, code="invalid_encoding")
    upload(gzip.compress(b" " * 5000), status=413, code="body_too_large",
           headers={"Content-Encoding": "gzip"})
    for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "br"}):
        upload(b"x", headers=headers, status=415, code="unsupported_media_type")
    for path in ("/sync/download?after=x", "/sync/digest?at=x", "/sync/snapshot?seen=x"):
        seen.ask(gateway, "GET", path, token=token, status=400, code="invalid_parameter")
    for method, path in ASKING:
        seen.ask(gateway, method, path, token=token, status=400, code="source_mismatch",
                 headers={"Rowsync-Source-Id": "other"})
    answer = gateway.request("GET", "/nothing")
    assert (answer.status, answer.body["code"]) == (404, "not_found")


def refusals_of_tokens(seen, gateway, mint):
    """Every code of 401, on every route that asks who it is."""
    now = int(time.time())
    headers = {
        "missing_token": None, "unsupported_scheme": "Basic eDp5", "malformed_token": "Bearer x",
        **{code: "Bearer " + token for code, token in {
            "unsupported_algorithm": mint("ann", "phone", algorithm="none"),
            "unknown_key": mint("ann", "phone", header={"alg": "ES256"}),
            "invalid_signature": mint("ann", "phone", secret="x" * 32, **RULES),
            "expired_token": mint("ann", "phone", ttl=-100, **RULES),
            "premature_token": mint("ann", "phone", nbf=now + 100, **RULES),
            "wrong_issuer": mint("ann", "phone", aud="us"),
            "wrong_audience": mint("ann", "phone", iss="me"),
            "missing_claim": mint(None, "phone", **RULES),
            "invalid_claim": mint("ann", 7, **RULES)}.items()}}
    assert set(headers) == {code for code, status in CODES.items() if status == 401}
    for code, header in headers.items():
        for method, path in ASKING:
            seen.ask(gateway, method, path, status=401, code=code,
                     headers={} if header is None else {"Authorization": header})


def refusals_of_load(seen, start_gateway, database, mint):
    """429, and 503 for every reason."""
    limited = start_gateway(ROWSYNC_RATE_LIMIT=1, ROWSYNC_RATE_BURST=1)
    for number, (method, path) in enumerate(ASKING):
        token = mint(f"user {number}", "phone")
        gone = limited.request(method, "/sync/schema-version" if method == "GET" else path, b"x",
                               token=token)
        assert gone.status in (200, 400)
        seen.ask(limited, method, path, token=token, status=429, code="too_many_requests")
    lost = start_gateway(DATABASE_URL="host=/nonexistent", ROWSYNC_QUEUE_TIMEOUT=100)
    for method, path in ASKING + [("GET", "/readyz")]:
        if path != "/sync/watch":
            seen.ask(lost, method, path, token=mint("ann", "phone"), status=503, code="unavailable")
    holder = database.connect()
    holder.autocommit = False
    holder.cursor().execute("LOCK TABLE rowsync.scope IN ACCESS EXCLUSIVE MODE")
    token = mint("ann", "phone")
    slow = start_gateway(ROWSYNC_STATEMENT_TIMEOUT=300)
    seen.ask(slow, "POST", "/sync/upload", {"changes": [change(7)]}, token=token, status=503,
             code="timeout")
    full = start_gateway(ROWSYNC_POOL_SIZE=1, ROWSYNC_QUEUE_LENGTH=0, ROWSYNC_MAX_CONNECTIONS=2,
                         ROWSYNC_DRAIN_TIMEOUT=1000)
    assert eventually(lambda: full.request("GET", "/readyz").status == 200)
    body = json.dumps({"changes": [change(8)]}).encode()
    with Peer(full, "POST", "/sync/upload", token, body) as upload:
        assert eventually(lambda: database.value(RUNNING) == 1)
        seen.ask(full, "GET", "/sync/download", token=token, status=503, code="overloaded")
        # One idles, so that the next waits in the kernel's queue; the end of draining takes the
        # upload's connection to the database away.
        with Peer(full, "GET", "/healthz", token) as idle, \
                Peer(full, "GET", "/sync/watch", token) as late:
            assert idle.answer().status == 200
            full.server.send_signal(signal.SIGTERM)
            seen.check("GET", "/sync/watch", late.answer(), 503, "draining")
            seen.check("POST", "/sync/upload", upload.answer(), 503, "draining")
    holder.close()


def test_every_answer_is_as_described_and_every_one_described_is_given(start_gateway, database,
                                                                     cluster, mint):
    seen = Seen()
    # Small ones: all of them are connected to the database at once.
    start_gateway = functools.partial(start_gateway, ROWSYNC_LOOPS=1)
    gateway = start_gateway(ROWSYNC_BODY_LIMIT=4000, ROWSYNC_HEADER_LIMIT=4000,
                            ROWSYNC_UNPACKED_LIMIT=4000, ROWSYNC_JWT_ISSUER="me",
                            ROWSYNC_JWT_AUDIENCE="us")
    good_answers(seen, gateway, database, mint)
    refusals_of_http(seen, gateway, mint)
    refusals_of_tokens(seen, gateway, mint)
    refusals_of_load(seen, start_gateway, database, mint)
    by_role = start_gateway(ROWSYNC_ROLE_CLAIM="role")
    for method, path in ASKING:
        seen.ask(by_role, method, path, token=mint("ann", "phone", role="none"), status=403,
                 code="role_forbidden")
    seen.ask(start_gateway(ROWSYNC_METRICS="false"), "GET", "/metrics", status=404,
             code="not_found")
    broken = cluster.business()
    for name, arguments, result in broken.rows("""
            SELECT p.oid::regproc::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
              FROM pg_proc p WHERE pronamespace = 'rowsync'::regnamespace AND proname IN
                   ('upload', 'download', 'snapshot', 'schema', 'schema_version', 'digest')"""):
        broken.rows(f"CREATE OR REPLACE FUNCTION {name}({arguments}) RETURNS {result} LANGUAGE "
                    "plpgsql AS $$ BEGIN RAISE 'out of order'; END $$")
    failing = start_gateway(database=broken)
    for method, path in ASKING:
        if path != "/sync/watch":
            seen.ask(failing, method, path, token=mint("ann", "phone"), status=500,
                     code="internal_error")
    # Whoever cannot serve is not ready, whatever the reason.
    seen.ask(failing, "GET", "/readyz", status=503, code="unavailable")
    documented = {(method, path, int(status)) for method, path in ROUTES
                  for status in API["paths"][path][method.lower()]["responses"]}
    assert seen.statuses == documented
    assert set(CODES) - seen.codes == {"client_gone"}


def test_a_snapshot_is_as_described(gateway, mint):
    gateway.upload(mint("ann", "phone"), [change(1), change(2)])
    answer = gateway.request("GET", "/sync/snapshot", token=mint("ann", "phone"))
    first, *rows, last = [json.loads(line) for line in answer.body.splitlines()]
    fits(first, "SnapshotHeader")
    fits(last, "SnapshotEnd")
    assert len(rows) == 2
    for row in rows:
        fits(row, "SnapshotRow")


def test_the_digest_is_what_the_protocol_defines(gateway, mint):
    token = mint("ann", "phone")
    gateway.upload(token, [change(1), change(2), change(3)])
    gateway.upload(token, [change(4, pk=f"{KEY}1", op="DELETE", server_version=1, payload=None)])
    header, *rows, last = [json.loads(line) for line in gateway.request(
        "GET", "/sync/snapshot", token=token).body.splitlines()]
    halves = [0, 0]
    for place, version, key, *_ in rows:
        table = header["tables"][place]
        text = "\x1f".join([table["schema"], table["table"], key, str(version)])
        first = hashlib.sha256(text.encode()).digest()[:16]
        for half in (0, 1):
            halves[half] += int.from_bytes(first[8 * half:8 * half + 8], "big")
    expected = "".join(f"{half % 2 ** 64:016x}" for half in halves)
    assert (last["rows"], last["digest"]) == (2, expected)
    assert gateway.request("GET", "/sync/digest", token=token).body == {
        "at": header["seq"], "rows": 2, "digest": expected}


def test_what_is_no_text_and_what_is_no_new_change_is_refused_alone(gateway, mint):
    token = mint("ann", "phone")
    body = json.dumps({"last_server_seq_seen": 0, "changes": [
        change(1), change(2, payload={"id": f"{KEY}2", "name": "\u0000"}),
        change(3, payload={"id": f"{KEY}3", "name": "\ud800"})]}).encode()
    statuses = gateway.request("POST", "/sync/upload", body, token=token).body["statuses"]
    assert [status["status"] for status in statuses] == ["applied", "invalid", "invalid"]
    assert [status["invalid"]["reason"] for status in statuses[1:]] == ["bad_payload"] * 2
    document = (ROOT / "docs" / "protocol.md").read_text().replace("\n  ", " ")
    for other, message in ((change(2, source_change_id=1),
                            "source_change_id was used before, for a change of another row"),
                           (change(1, payload={"id": f"{KEY}1", "name": "other"}),
                            "source_change_id was used before, for other content")):
        (status,) = gateway.upload(token, [other]).body["statuses"]
        assert (status["invalid"]["reason"], status["invalid"]["details"]["error"]) == (
            "bad_payload", message)
        assert message in document


def test_the_documents_name_every_code_with_its_status():
    assert len(CODES) > 20
    text = (ROOT / "docs" / "protocol.md").read_text()
    table = {code: int(status) for status, code in re.findall(r"^\| (\d+) \| `(\w+)` \|", text,
                                                              re.MULTILINE)}
    assert table == CODES
    assert set(API["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(CODES)


def test_the_documents_name_every_route():
    assert {(method.upper(), path) for path, item in API["paths"].items() for method in item} == \
        set(ROUTES)
    text = (ROOT / "docs" / "protocol.md").read_text()
    for method, path in ROUTES:
        assert f"`{method} {path}`" in text


def test_the_settings_are_documented_as_they_are():
    table = subprocess.run([rig.gateway.BINARY, "--settings"], capture_output=True, text=True,
                           check=True).stdout
    assert table.count("\n") > 20
    assert table in (ROOT / "docs" / "gateway.md").read_text()


def test_the_manual_names_every_event_of_the_log():
    source = "".join(path.read_text() for path in (ROOT / "gateway" / "src").glob("*.c"))
    events = set(re.findall(r'(?:log_message|log_begin|pg_connection_fail)\([^";]*"(\w+)"', source))
    assert len(events) > 12
    text = (ROOT / "docs" / "gateway.md").read_text()
    assert [event for event in sorted(events) if not re.search(rf'[`"]{event}[`"]', text)] == []


def test_the_statements_of_the_manual_run(cluster):
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "gateway.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    base = cluster.database()
    for block in blocks:
        extension = "" if "CREATE EXTENSION" in block else "CREATE EXTENSION rowsync;"
        base.rows(f"BEGIN; CREATE SCHEMA business; {extension} {block}; ROLLBACK")
    base.drop()


@pytest.mark.parametrize("document", ["gateway.md", "protocol.md"])
def test_links_lead_somewhere(document):
    text = (ROOT / "docs" / document).read_text()
    for target, anchor in re.findall(r"\]\(([a-z.]*)#?([a-z-]*)\)", text):
        page = (ROOT / "docs" / (target or document)).read_text()
        headings = [re.sub(r"[^a-z -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in page.splitlines() if line.startswith("#")]
        assert not anchor or anchor in headings
