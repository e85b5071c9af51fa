"""Upload bodies that are wrong, each with its exact answer, and nothing half done."""

import json
import uuid

import psycopg2
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


def nothing_written(database, user):
    """Neither a row of the user nor a trace of one in rowsync's tables."""
    rows = database.value("SELECT count(*) FROM business.users WHERE _rowsync_scope = %s", user)
    return rows == 0 and all(database.value(
        f"SELECT count(*) FROM rowsync.{table} JOIN rowsync.scope USING (scope_id)"
        " WHERE name = %s", user) == 0 for table in ("change_log", "row_meta"))


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
def test_a_request_of_the_wrong_form_is_400_and_nothing_is_written(case, shared):
    body, detail = WHOLE[case]
    answer = shared.request("POST", "/sync/upload", body, token=shared.token("ann", "phone"))
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["status"] == 400
    assert answer.body["code"] == "invalid_request"
    if detail is None:
        assert answer.body["detail"].startswith("the request is not valid JSON, near line 1: ")
    else:
        assert answer.body["detail"] == detail
    assert nothing_written(shared.database, "ann")


@pytest.mark.parametrize("body", [
    request().replace(b"Ann", b"\xff\xfe"),
    request().replace(b"Ann", b"\xc0\x80"),
    request().replace(b"Ann", b"\xed\xa0\x80"),
    request().replace(b"Ann", b"A\x00nn"),
    request() + b"\x00",
], ids=["bytes-never-in-utf8", "overlong-nul", "surrogate", "nul-byte", "nul-at-end"])
def test_bytes_that_are_no_text_are_400_and_nothing_is_written(body, shared):
    answer = shared.request("POST", "/sync/upload", body, token=shared.token("ann", "phone"))
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["code"] == "invalid_encoding"
    assert nothing_written(shared.database, "ann")


def test_a_request_nested_deeper_than_any_row_is_refused_not_a_crash(shared):
    body = b'{"changes": ' + b"[" * 200000 + b"]" * 200000 + b"}"
    answer = shared.request("POST", "/sync/upload", body, token=shared.token("ann", "phone"))
    assert answer.status == 400
    assert answer.body["code"] == "invalid_request"
    deep = b"[" * 200000 + b"]" * 200000
    body = request().replace(b'"Ann"', deep)
    answer = shared.request("POST", "/sync/upload", body, token=shared.token("ann", "phone"))
    assert answer.status == 400
    assert answer.body["code"] == "invalid_request"
    assert nothing_written(shared.database, "ann")


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
    "half-a-surrogate-pair": (payload(name="\ud83d"), "bad_payload", {
        "error": "a string has half of a surrogate pair, which is no character"}),
    "table-unknown": ({**CHANGE, "table": "nothing"}, "unregistered_table",
                      {"error": "table business.nothing does not sync"}),
    "table-not-registered": ({**CHANGE, "table": "plain"}, "unregistered_table",
                             {"error": "table business.plain does not sync"}),
    "table-of-rowsync": ({**CHANGE, "schema": "rowsync", "table": "scope"}, "unregistered_table",
                         {"error": "table rowsync.scope does not sync"}),
    "table-empty": ({**CHANGE, "table": ""}, "unregistered_table",
                    {"error": "table business. does not sync"}),
    "table-with-sql": ({**CHANGE, "table": "users; DROP TABLE business.users"},
                       "unregistered_table",
                       {"error": "table business.users; DROP TABLE business.users does not sync"}),
    "schema-unknown": ({**CHANGE, "schema": "nowhere"}, "unregistered_table",
                       {"error": "table nowhere.users does not sync"}),
    "schema-default": (without(CHANGE, "schema"), "unregistered_table",
                       {"error": "table public.users does not sync"}),
    "column-unknown": (payload(colour="red"), "bad_payload",
                       {"error": 'table business.users has no column "colour"',
                        "column": "colour"}),
    "text-number": (payload(name=5), "bad_payload",
                    {"error": 'column "name": expected a text, not 5', "column": "name"}),
    "text-bool": (payload(name=True), "bad_payload",
                  {"error": 'column "name": expected a text, not true', "column": "name"}),
    "text-object": (payload(name={"a": 1}), "bad_payload",
                    {"error": 'column "name": expected a text, not {"a": 1}', "column": "name"}),
    "text-array": (payload(name=["a"]), "bad_payload",
                   {"error": 'column "name": expected a text, not ["a"]', "column": "name"}),
    "bigint-string": (payload(created_at="12"), "bad_payload",
                      {"error": 'column "created_at": expected a number, not "12"', "column": "created_at"}),
    "bigint-bool": (payload(created_at=True), "bad_payload",
                    {"error": 'column "created_at": expected a number, not true', "column": "created_at"}),
    "bigint-object": (payload(created_at={}), "bad_payload",
                      {"error": 'column "created_at": expected a number, not {}', "column": "created_at"}),
    "bigint-fraction": (payload(created_at=1.5), "bad_payload",
                        {"error": 'column "created_at": expected a whole number of at most 64 bits, '
                                  'not 1.5',
                         "column": "created_at"}),
    "bigint-too-large": (payload(created_at=2**63), "bad_payload",
                         {"error": 'column "created_at": expected a whole number of at most 64 bits, '
                                  'not 9223372036854775808',
                          "column": "created_at"}),
    "not-null": (payload(name=None), "constraint",
                 {"error": 'null value in column "name" of relation "users" '
                           "violates not-null constraint",
                  "column": "name", "sqlstate": "23502"}),
    "column-missing": ({**CHANGE, "payload": without(PAYLOAD, "name")}, "constraint",
                       {"error": 'null value in column "name" of relation "users" '
                                 "violates not-null constraint",
                        "column": "name", "sqlstate": "23502"}),
    "pk-no-uuid": ({**CHANGE, "pk": "no-uuid"}, "bad_payload",
                   {"error": 'key: expected a uuid, not "no-uuid"', "column": "pk"}),
    "pk-empty": ({**CHANGE, "pk": ""}, "bad_payload",
                 {"error": 'key: expected a uuid, not ""', "column": "pk"}),
    "pk-number": ({**CHANGE, "pk": 5}, "bad_payload",
                  {"error": 'key: expected a string, not 5', "column": "pk"}),
    "pk-null": ({**CHANGE, "pk": None}, "bad_payload",
                {"error": 'key: expected a string, not null', "column": "pk"}),
    "pk-array": ({**CHANGE, "pk": [KEY]}, "bad_payload",
                 {"error": f'key: expected a string, not ["{KEY}"]', "column": "pk"}),
    "pk-and-payload-disagree": ({**CHANGE, "pk": key("other")}, "bad_payload",
                                {"error": "pk and payload name different rows",
                                 "column": "id"}),
    "key-in-payload-no-uuid": (payload(id="no-uuid"), "bad_payload",
                               {"error": 'column "id": expected a uuid, not "no-uuid"', "column": "id"}),
    "reference-no-uuid": ({**CHANGE, "table": "posts", "payload": {
        "id": KEY, "author_id": "no-uuid", "title": "t"}}, "bad_payload",
        {"error": 'column "author_id": expected a uuid, not "no-uuid"', "column": "author_id"}),
    "reference-missing": ({**CHANGE, "table": "posts", "payload": {
        "id": KEY, "author_id": key("nobody"), "title": "t"}}, "fk_missing",
        {"missing": ["business.users:" + key("nobody")]}),
    "bytea-no-base64": ({**CHANGE, "table": "files", "payload": {
        "id": KEY, "name": "f", "data": "%%%"}}, "bad_payload",
        {"error": 'column "data": expected bytes as base64, not "%%%"', "column": "data"}),
    "version-too-large": ({**CHANGE, "server_version": 2**63}, "bad_payload",
                          {"error": "server_version must be a whole number, 0 or more"}),
    "delete-payload-string": ({**CHANGE, "op": "DELETE", "payload": "old"}, "bad_payload",
                              {"error": "payload must be an object or null"}),
}


@pytest.fixture
def plain_table(shared):
    """A table that is there, but not registered."""
    shared.database.rows("CREATE TABLE IF NOT EXISTS business.plain (id uuid PRIMARY KEY)")


def neighbour(case):
    """A good change for the same batch, of a row that no other case has."""
    pk = key("good " + case)
    return {**GOOD, "pk": pk, "payload": {**GOOD["payload"], "id": pk, "email": case}}


@pytest.mark.parametrize("case", ALONE)
def test_a_wrong_change_is_invalid_and_costs_its_neighbour_nothing(case, shared, plain_table):
    change, reason, details = ALONE[case]
    token, good = shared.token(case, "phone"), neighbour(case)
    answer = shared.upload(token, [change, good])
    assert answer.status == 200
    assert answer.body == {"accepted": True, "highest_server_seq": 1, "last_upload": 0, "statuses": [
        {"source_change_id": 1, "status": "invalid",
         "message": details.get("error", "a row that this change refers to is not there yet"),
         "invalid": {"reason": reason, "details": details}},
        {"source_change_id": 99, "status": "applied", "new_server_version": 1}]}
    assert shared.database.rows(
        "SELECT id::text FROM business.users WHERE _rowsync_scope = %s", case) == [(good["pk"],)]
    assert shared.database.rows(
        """SELECT seq, source_change_id FROM rowsync.change_log
             JOIN rowsync.scope USING (scope_id) WHERE name = %s""", case) == [(1, 99)]


@pytest.mark.parametrize("case", ALONE)
def test_a_wrong_change_in_an_atomic_upload_stops_all_of_it(case, shared, plain_table):
    change, reason, details = ALONE[case]
    user = "atomic " + case
    answer = shared.upload(shared.token(user, "phone"), [change, neighbour(user)], atomic=True)
    assert answer.status == 200
    wrong, good = answer.body["statuses"]
    assert wrong["invalid"] == {"reason": reason, "details": details}
    assert good["status"] == "invalid"
    assert good["message"] == (
        "not applied: the request is atomic and another of its changes was refused")
    assert nothing_written(shared.database, user)


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("cause", ["trigger", "timeout"])
def test_an_error_that_ends_an_upload_ends_its_transaction(cause, atomic, database):
    """Of a subtransaction left open the session would never recover: it would hold the scope."""
    database.rows("""
        CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_sleep(current_setting('app.sleep')::float8);
            RAISE SQLSTATE '53100';
        END $$;
        CREATE TRIGGER full_up BEFORE INSERT ON business.users EXECUTE FUNCTION public.full();""")
    body = json.dumps({"atomic": atomic, "changes": [
        {**CHANGE, "source_change_id": 1, "server_version": 0}]})
    database.rows("SET statement_timeout = 200; SET app.sleep = %s", 5 if cause == "timeout" else 0)
    with pytest.raises(psycopg2.Error) as failure:
        database.rows("SELECT rowsync.upload('ann', 'phone', %s)", body)
    assert failure.value.pgcode == ("57014" if cause == "timeout" else "53100")
    assert database.rows("SELECT rowsync.download('ann', 'phone') <> ''") == [(True,)]
    assert database.value("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"
                          " AND mode = 'RowExclusiveLock'") == 0


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
        assert nothing_written(database, "ann")
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


@pytest.mark.parametrize("together", [True, False], ids=["in-one-batch", "in-two"])
def test_a_value_that_must_be_unique_is_kept_by_who_came_first(together, gateway, database):
    token = gateway.token("ann", "phone")
    rival = {**GOOD, "payload": {**GOOD["payload"], "email": PAYLOAD["email"]}}
    if together:
        first, second = gateway.upload(token, [CHANGE, rival]).body["statuses"]
    else:
        first, = gateway.upload(token, [CHANGE]).body["statuses"]
        second, = gateway.upload(token, [rival]).body["statuses"]
    error = 'duplicate key value violates unique constraint "users_email_key"'
    assert first == {"source_change_id": 1, "status": "applied", "new_server_version": 1}
    assert second == {"source_change_id": 99, "status": "invalid", "message": error, "invalid": {
        "reason": "constraint", "details": {"error": error, "constraint": "users_email_key",
                                            "sqlstate": "23505"}}}
    assert database.rows("SELECT id::text FROM business.users") == [(KEY,)]


def test_one_change_id_for_two_changes_in_one_batch_applies_the_first_only(gateway, database):
    other = payload(name="Other")
    first, second = gateway.upload(gateway.token("ann", "phone"), [CHANGE, other]).body["statuses"]
    assert first == {"source_change_id": 1, "status": "applied", "new_server_version": 1}
    assert second["invalid"] == {"reason": "bad_payload", "details": {
        "error": "source_change_id is used twice in this request, for different changes"}}
    assert database.rows("SELECT name FROM business.users") == [("Ann",)]


def test_the_scope_never_travels_and_cannot_be_chosen(gateway, database):
    answer = gateway.upload(gateway.token("ann", "phone"), [payload(_rowsync_scope="bob")])
    assert [status["status"] for status in answer.body["statuses"]] == ["applied"]
    assert database.rows("SELECT _rowsync_scope FROM business.users") == [("ann",)]
    answer = gateway.download(gateway.token("ann", "tablet"))
    assert [change["payload"] for change in answer.body["changes"]] == [PAYLOAD]


def test_a_version_the_server_never_gave_is_a_conflict_that_says_so(gateway, database):
    answer = gateway.upload(gateway.token("ann", "phone"), [{**CHANGE, "server_version": 10**9}])
    assert answer.body["statuses"] == [{
        "source_change_id": 1, "status": "conflict",
        "server_row": {"schema_name": "business", "table_name": "users", "id": KEY,
                       "server_version": 0, "deleted": True, "payload": None}}]
    assert nothing_written(database, "ann")


def test_unknown_fields_of_a_newer_peer_are_ignored(gateway, database):
    answer = gateway.upload(gateway.token("ann", "phone"),
                            [{**CHANGE, "colour": {"nested": [1, {"pk": 2}]}}],
                            changesets=[{"changes": [1]}], client="newer")
    assert [status["status"] for status in answer.body["statuses"]] == ["applied"]
    assert database.value("SELECT count(*) FROM business.users") == 1


def test_an_upload_of_nothing_is_fine(gateway, database):
    answer = gateway.upload(gateway.token("ann", "phone"), [])
    assert answer.status == 200
    assert answer.body == {"accepted": True, "highest_server_seq": 0, "last_upload": 0, "statuses": []}
    assert nothing_written(database, "ann")
