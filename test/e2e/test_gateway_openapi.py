"""The documents about the gateway are true: real answers fit them, and they name what there is."""

import hashlib
import json
import pathlib
import re
import subprocess

import jsonschema
import pytest
import rig
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
API = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
KEY = "00000000-0000-4000-8000-00000000000"


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


def described(method, path, answer):
    """The answer is one that the description has for this route."""
    route = API["paths"][path.partition("?")[0]][method.lower()]
    response = follow(route["responses"][str(answer.status)])
    for name, header in response.get("headers", {}).items():
        jsonschema.validate(answer.headers[name.lower()], header["schema"])
    if "content" not in response:
        assert answer.body == b""
        return
    ((kind, content),) = response["content"].items()
    assert answer.headers["content-type"].split(";")[0] == kind
    if kind in ("application/json", "application/problem+json"):
        jsonschema.Draft202012Validator({**content["schema"], "components": API["components"]}
                                        ).validate(answer.body)


def test_answers_are_as_described(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_BODY_LIMIT=100000)
    token = mint("ann", "phone")

    def ask(method, path, body=None, **options):
        answer = gateway.request(method, path, body, **options)
        described(method, path, answer)
        return answer

    upload = {"last_server_seq_seen": 0, "changes": [
        change(1), change(2, op="DELETE", payload=None), change(3, table="nothing"),
        change(4, payload={"id": KEY + "4"}), change(5, payload={"id": 7}),
        change(6, table="posts", payload={"id": KEY + "6", "author_id": KEY + "9"})]}
    fits(upload, "Upload")
    answer = ask("POST", "/sync/upload", upload, token=token)
    assert {status["status"] for status in answer.body["statuses"]} == {"applied", "invalid"}
    database.rows("UPDATE business.users SET name = 'Bea'")
    stale = {"last_server_seq_seen": 0, "changes": [change(1, source_change_id=9, server_version=1)]}
    answer = ask("POST", "/sync/upload", stale, token=mint("ann", "tablet"))
    assert answer.body["statuses"][0]["status"] == "conflict"
    assert ask("GET", "/sync/download", token=mint("ann", "tablet")).body["changes"]
    for path in ("/sync/download?include_self=true&limit=1", "/sync/digest", "/sync/digest?at=1",
                 "/sync/schema-version", "/sync/schema", "/sync/snapshot"):
        assert ask("GET", path, token=token).status == 200
    for path in ("/healthz", "/readyz", "/metrics"):
        assert ask("GET", path).status == 200
    tag = gateway.request("GET", "/sync/schema", token=token).headers["etag"]
    assert ask("GET", "/sync/schema", token=token, headers={"If-None-Match": tag}).status == 304
    for path in ("/sync/download?after=x", "/sync/digest?at=x"):
        assert ask("GET", path, token=token).status == 400
    for body in (b"", b"{", b"[]", b'{"changes": 1}', b"\xff"):
        assert ask("POST", "/sync/upload", body, token=token).status == 400
    assert ask("POST", "/sync/upload", b"x" * 100001, token=token).status == 413
    assert ask("POST", "/sync/upload", b"x", token=token,
               headers={"Content-Type": "text/plain"}).status == 415
    for path in API["paths"]:
        method = next(iter(API["paths"][path]))
        if API["paths"][path][method].get("security") != []:
            assert ask(method.upper(), path).status == 401
        wrong = gateway.request("DELETE", path)
        assert wrong.status == 405
        described(method, path, wrong)


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


def test_answers_of_a_gateway_without_a_database_are_as_described(start_gateway, mint):
    gateway = start_gateway(DATABASE_URL="host=/nonexistent", ROWSYNC_QUEUE_TIMEOUT=100)
    for method, path in (("POST", "/sync/upload"), ("GET", "/sync/download"),
                         ("GET", "/sync/snapshot"), ("GET", "/sync/digest"), ("GET", "/readyz")):
        answer = gateway.request(method, path, token=mint("ann", "phone"))
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        described(method, path, answer)


def test_the_documents_name_every_code_with_its_status():
    registry = (ROOT / "gateway" / "src" / "problem.h").read_text()
    codes = {code: int(status) for status, code in
             re.findall(r'X\([A-Z_]+, (\d+), "([a-z_]+)"', registry)}
    assert len(codes) > 20
    text = (ROOT / "docs" / "protocol.md").read_text()
    table = {code: int(status) for status, code in re.findall(r"^\| (\d+) \| `(\w+)` \|", text,
                                                              re.MULTILINE)}
    assert table == codes
    assert set(API["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(codes)


def test_the_documents_name_every_route():
    routes = re.findall(r'^    \{"(/[a-z/-]+)", "(GET|POST)"',
                        (ROOT / "gateway" / "src" / "router.c").read_text(), re.MULTILINE)
    assert {(path, method.upper()) for path, item in API["paths"].items() for method in item} == \
        set(routes)
    text = (ROOT / "docs" / "protocol.md").read_text()
    for path, method in routes:
        assert f"`{method} {path}`" in text


def test_the_settings_are_documented_as_they_are():
    table = subprocess.run([rig.gateway.BINARY, "--settings"], capture_output=True, text=True,
                           check=True).stdout
    assert table.count("\n") > 20
    assert table in (ROOT / "docs" / "gateway.md").read_text()


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
