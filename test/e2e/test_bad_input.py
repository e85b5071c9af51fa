"""Upload bodies that are wrong, each with its exact answer, and nothing half done."""

import json
import uuid

import pytest


def key(name):
    """The same uuid for the same name, in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


KEY = key("wrong")
GOOD_KEY = key("good")
PAYLOAD = {"id": KEY, "name": "Ann", "email": "ann@bad.example", "created_at": 1, "updated_at": 1}
CHANGE = {"source_change_id": 1, "schema": "business", "table": "users", "op": "INSERT", "pk": KEY,
          "server_version": 0, "payload": PAYLOAD}
GOOD = {**CHANGE, "source_change_id": 99, "pk": GOOD_KEY,
        "payload": {**PAYLOAD, "id": GOOD_KEY, "email": "good@bad.example"}}


def without(fields, name):
    """A copy that lacks one field."""
    return {key: value for key, value in fields.items() if key != name}


def request(**fields):
    """A request of one good change, with fields replaced; None takes one away."""
    body = {"last_server_seq_seen": 0, "changes": [CHANGE], **fields}
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


def changed(**fields):
    """A request whose only change has fields replaced."""
    return request(changes=[{**CHANGE, **fields}])


def nothing_written(database):
    """Neither a row nor a trace in rowsync's tables."""
    return (database.value("SELECT count(*) FROM business.users") == 0
            and database.value("SELECT count(*) FROM rowsync.change_log") == 0
            and database.value("SELECT count(*) FROM rowsync.row_meta") == 0)


NO_OBJECT = "the request must be a JSON object"
WRONG_ID = "source_change_id must be a whole number above 0"
WRONG_SEEN = "last_server_seq_seen must be a whole number, 0 or more"
WHOLE = {
    "nothing": (b"", NO_OBJECT),
    "blanks": (b" \n\t", NO_OBJECT),
    "no-json": (b"hello", NO_OBJECT),
    "array": (b"[]", NO_OBJECT),
    "string": (b'"changes"', NO_OBJECT),
    "null": (b"null", NO_OBJECT),
    "cut": (request()[:-10], None),
    "comma": (b'{"changes": [],}', None),
    "rubbish-after": (request() + b"x", None),
    "two-documents": (request() + request(), None),
    "single-quotes": (b"{'changes': []}", None),
    "lone-surrogate": (request().replace(b'"Ann"', b'"\\ud83d"'), None),
    "bad-escape": (request().replace(b'"Ann"', b'"\\x41"'), None),
    "control-character": (request().replace(b'"Ann"', b'"A\x01nn"'), None),
    "no-changes": (request(changes=None), "changes is missing"),
    "changes-object": (request(changes={}), "changes must be an array"),
    "changes-null": (b'{"changes": null}', "changes must be an array"),
    "changes-twice": (b'{"changes": [], "changes": []}', "changes must be given once"),
    "change-number": (request(changes=[1]), "every element of changes must be an object"),
    "change-array": (request(changes=[[CHANGE]]), "every element of changes must be an object"),
    "no-id": (request(changes=[without(CHANGE, "source_change_id")]),
              "every change needs a source_change_id: a whole number above 0"),
    "id-zero": (changed(source_change_id=0), WRONG_ID),
    "id-negative": (changed(source_change_id=-1), WRONG_ID),
    "id-fraction": (changed(source_change_id=1.5), WRONG_ID),
    "id-string": (changed(source_change_id="1"), WRONG_ID),
    "id-null": (changed(source_change_id=None), WRONG_ID),
    "id-too-large": (changed(source_change_id=2**63), WRONG_ID),
    "seen-negative": (request(last_server_seq_seen=-1), WRONG_SEEN),
    "seen-string": (request(last_server_seq_seen="0"), WRONG_SEEN),
    "seen-object": (request(last_server_seq_seen={}), WRONG_SEEN),
    "atomic-string": (request(atomic="yes"), "atomic must be true or false"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_request_of_the_wrong_form_is_400_and_nothing_is_written(case, gateway, database):
    body, detail = WHOLE[case]
    answer = gateway.request("POST", "/sync/upload", body, token=gateway.token("ann", "phone"))
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["status"] == 400
    assert answer.body["code"] == "invalid_request"
    if detail is None:
        assert answer.body["detail"].startswith("the request is not valid JSON, near line 1: ")
    else:
        assert answer.body["detail"] == detail
    assert nothing_written(database)


@pytest.mark.parametrize("body", [
    request().replace(b"Ann", b"\xff\xfe"),
    request().replace(b"Ann", b"\xc0\x80"),
    request().replace(b"Ann", b"\xed\xa0\x80"),
    request().replace(b"Ann", b"A\x00nn"),
    request() + b"\x00",
], ids=["bytes-never-in-utf8", "overlong-nul", "surrogate", "nul-byte", "nul-at-end"])
def test_bytes_that_are_no_text_are_400_and_nothing_is_written(body, gateway, database):
    answer = gateway.request("POST", "/sync/upload", body, token=gateway.token("ann", "phone"))
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["code"] == "invalid_encoding"
    assert nothing_written(database)


def test_a_request_nested_deeper_than_any_row_is_refused_not_a_crash(gateway, database):
    body = b'{"changes": ' + b"[" * 200000 + b"]" * 200000 + b"}"
    answer = gateway.request("POST", "/sync/upload", body, token=gateway.token("ann", "phone"))
    assert answer.status == 400
    assert answer.body["code"] == "invalid_request"
    deep = b"[" * 200000 + b"]" * 200000
    body = request().replace(b'"Ann"', deep)
    answer = gateway.request("POST", "/sync/upload", body, token=gateway.token("ann", "phone"))
    assert answer.status == 400
    assert answer.body["code"] == "invalid_request"
    assert nothing_written(database)


def payload(**fields):
    """A change whose payload has fields replaced."""
    return {**CHANGE, "payload": {**PAYLOAD, **fields}}


# One change that is wrong by itself: its reason, and the details that the answer must have.
ALONE = {
    "no-table": (without(CHANGE, "table"), "bad_payload", {"error": "table is missing"}),
    "table-number": ({**CHANGE, "table": 1}, "bad_payload", {"error": "table must be a string"}),
    "schema-null": ({**CHANGE, "schema": None}, "bad_payload",
                    {"error": "schema must be a string"}),
    "no-op": (without(CHANGE, "op"), "bad_payload", {"error": "op is missing"}),
    "op-unknown": ({**CHANGE, "op": "MERGE"}, "bad_payload",
                   {"error": "op must be INSERT, UPDATE or DELETE"}),
    "op-lower-case": ({**CHANGE, "op": "insert"}, "bad_payload",
                      {"error": "op must be INSERT, UPDATE or DELETE"}),
    "no-pk": (without(CHANGE, "pk"), "bad_payload", {"error": "pk is missing"}),
    "no-payload": (without(CHANGE, "payload"), "bad_payload",
                   {"error": "payload must be an object for INSERT and UPDATE"}),
    "payload-null": ({**CHANGE, "payload": None}, "bad_payload",
                     {"error": "payload must be an object for INSERT and UPDATE"}),
    "payload-string": ({**CHANGE, "payload": "{}"}, "bad_payload",
                       {"error": "payload must be an object or null"}),
    "payload-array": ({**CHANGE, "payload": [PAYLOAD]}, "bad_payload",
                      {"error": "payload must be an object or null"}),
    "version-negative": ({**CHANGE, "server_version": -1}, "bad_payload",
                         {"error": "server_version must be a whole number, 0 or more"}),
    "version-string": ({**CHANGE, "server_version": "0"}, "bad_payload",
                       {"error": "server_version must be a whole number, 0 or more"}),
    "version-fraction": ({**CHANGE, "server_version": 0.5}, "bad_payload",
                         {"error": "server_version must be a whole number, 0 or more"}),
    "nul-in-text": (payload(name="A\0nn"), "bad_payload",
                    {"error": "a string has a NUL character (\\u0000), "
                              "which PostgreSQL cannot hold"}),
}


def good_neighbour_applied(database):
    """The other change of the batch is in, the wrong one is not."""
    return database.rows("SELECT id::text FROM business.users") == [(GOOD_KEY,)] and database.rows(
        "SELECT seq, source_change_id FROM rowsync.change_log") == [(1, 99)]


@pytest.mark.parametrize("case", ALONE)
def test_a_wrong_change_is_invalid_and_costs_its_neighbour_nothing(case, gateway, database):
    change, reason, details = ALONE[case]
    answer = gateway.upload(gateway.token("ann", "phone"), [change, GOOD])
    assert answer.status == 200
    assert answer.body["accepted"] is True
    wrong, good = answer.body["statuses"]
    assert wrong["source_change_id"] == 1
    assert wrong["status"] == "invalid"
    assert wrong["invalid"] == {"reason": reason, "details": details}
    assert wrong["message"]
    assert good == {"source_change_id": 99, "status": "applied", "new_server_version": 1}
    assert good_neighbour_applied(database)


@pytest.mark.parametrize("case", ALONE)
def test_a_wrong_change_in_an_atomic_upload_stops_all_of_it(case, gateway, database):
    change, reason, details = ALONE[case]
    answer = gateway.upload(gateway.token("ann", "phone"), [change, GOOD], atomic=True)
    assert answer.status == 200
    wrong, good = answer.body["statuses"]
    assert wrong["invalid"] == {"reason": reason, "details": details}
    assert good["status"] != "applied"
    assert nothing_written(database)


def test_too_many_changes_are_refused_and_the_limit_is_told(gateway, database):
    database.rows(f'ALTER DATABASE "{database.name}" SET rowsync.max_changes = 3')
    gateway.stop()
    fresh = type(gateway).start(database)
    try:
        changes = [{**CHANGE, "source_change_id": number, "pk": key(str(number)),
                    "payload": {**PAYLOAD, "id": key(str(number)), "email": str(number)}}
                   for number in range(1, 5)]
        answer = fresh.upload(fresh.token("ann", "phone"), changes)
        assert answer.status == 200
        assert answer.body["accepted"] is False
        assert [status["source_change_id"] for status in answer.body["statuses"]] == [1, 2, 3, 4]
        for status in answer.body["statuses"]:
            assert status["status"] == "invalid"
            assert status["invalid"] == {"reason": "batch_too_large", "details": {"limit": 3}}
            assert "3" in status["message"]
        assert nothing_written(database)
        answer = fresh.upload(fresh.token("ann", "phone"), changes[:3])
        assert [status["status"] for status in answer.body["statuses"]] == ["applied"] * 3
    finally:
        fresh.stop()


def test_insert_and_update_of_one_key_in_one_batch_are_both_applied(gateway, database):
    update = {**CHANGE, "source_change_id": 2, "op": "UPDATE", "payload": {"name": "Amy"}}
    answer = gateway.upload(gateway.token("ann", "phone"), [CHANGE, update])
    assert [(status["source_change_id"], status["status"], status["new_server_version"])
            for status in answer.body["statuses"]] == [(1, "applied", 1), (2, "applied", 2)]
    assert database.rows("SELECT name, email FROM business.users") == [("Amy", "ann@bad.example")]
    assert database.rows("SELECT seq, op, source_change_id FROM rowsync.change_log ORDER BY seq"
                         ) == [(1, "I", 1), (2, "U", 2)]


def test_insert_delete_insert_of_one_key_in_one_batch_ends_with_the_row(gateway, database):
    delete = {**CHANGE, "source_change_id": 2, "op": "DELETE", "payload": None}
    again = {**CHANGE, "source_change_id": 3, "payload": {**PAYLOAD, "name": "Back"}}
    answer = gateway.upload(gateway.token("ann", "phone"), [CHANGE, delete, again])
    assert [status["status"] for status in answer.body["statuses"]] == ["applied"] * 3
    assert database.rows("SELECT name FROM business.users") == [("Back",)]
    assert database.rows("SELECT version, deleted FROM rowsync.row_meta") == [(3, False)]


def test_the_same_change_twice_in_one_batch_is_applied_once(gateway, database):
    answer = gateway.upload(gateway.token("ann", "phone"), [CHANGE, CHANGE])
    assert answer.body["statuses"] == [
        {"source_change_id": 1, "status": "applied", "new_server_version": 1}] * 2
    assert database.value("SELECT count(*) FROM rowsync.change_log") == 1
    assert database.value("SELECT count(*) FROM business.users") == 1


def test_unknown_fields_of_a_newer_peer_are_ignored(gateway, database):
    answer = gateway.upload(gateway.token("ann", "phone"),
                            [{**CHANGE, "colour": {"nested": [1, {"pk": 2}]}}],
                            changesets=[{"changes": [1]}], client="newer")
    assert [status["status"] for status in answer.body["statuses"]] == ["applied"]
    assert database.value("SELECT count(*) FROM business.users") == 1


def test_an_upload_of_nothing_is_fine(gateway, database):
    answer = gateway.upload(gateway.token("ann", "phone"), [])
    assert answer.status == 200
    assert answer.body == {"accepted": True, "highest_server_seq": 0, "statuses": []}
    assert nothing_written(database)
