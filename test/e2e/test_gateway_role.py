"""The claim that names a database role: whose rights a request has, and who may not have any."""

import json
import time

import pytest
from gateway_parts import CHANGE, Watching, eventually, half_sent, heard, many, problem, reader

FORBIDDEN = "The gateway cannot act as the role that the token names."


@pytest.mark.parametrize("pgbouncer", ["false", "true"])
def test_a_request_has_the_rights_of_the_role_that_its_token_names(start_gateway, database, mint,
                                                                  roles, pgbouncer):
    gateway = start_gateway(ROWSYNC_ROLE_CLAIM="role", ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1,
                            ROWSYNC_PGBOUNCER=pgbouncer)
    writer, reader = roles("writer", "ALL"), roles("reader", "SELECT")
    database.rows(f"""
        CREATE TABLE public.seen (name text, role text);
        GRANT INSERT ON public.seen TO {writer}, business_gateway;
        CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.seen VALUES (current_user, current_setting('role'));
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER INSERT ON business.users EXECUTE FUNCTION public.see()""")

    def status(answer):
        assert answer.status == 200
        (one,) = answer.body["statuses"]
        return one["status"], one.get("invalid", {}).get("reason")
    assert status(gateway.upload(mint("ann", "phone", role=writer), [CHANGE])) == ("applied", None)
    assert database.rows("SELECT * FROM public.seen") == [(writer, writer)]
    # Both in turn on one connection, and each only its own rights.
    for number in (2, 3):
        assert status(gateway.upload(mint("bob", "phone", role=reader), many(1, first=number))) == (
            "invalid", "forbidden")
        assert status(gateway.upload(mint("ann", "phone", role=writer), many(1, first=number))) == (
            "applied", None)
    for path in ("/sync/download", "/sync/snapshot", "/sync/digest", "/sync/schema",
                 "/sync/schema-version"):
        assert gateway.request("GET", path, token=mint("ann", "tablet", role=reader)).status == 200
    assert eventually(lambda: [line.get("role") for line in gateway.log()].count(reader) == 7)
    # Nothing of it stays in the session: a probe without claims comes by the same connection.
    database.rows("""CREATE OR REPLACE FUNCTION rowsync.schema_version() RETURNS integer
        LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.seen VALUES (current_user, current_setting('role'));
            RETURN 1;
        END $$""")
    time.sleep(0.6)
    assert gateway.request("GET", "/readyz").status == 200
    assert database.rows("SELECT * FROM public.seen OFFSET 3") == [("business_gateway", "none")]


def test_a_role_that_cannot_be_taken_is_403_and_nothing_is_done(start_gateway, database, mint,
                                                               roles):
    gateway = start_gateway(ROWSYNC_ROLE_CLAIM="role", ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1)
    good = roles("good", "ALL")
    for role in (roles("stranger", "ALL", granted=False), roles("bare"), "postgres", "nobody",
                 'x"; RESET ROLE; --'):
        token = mint("ann", "phone", role=role)
        for answer in (gateway.upload(token, [CHANGE]), gateway.download(token), *[
                gateway.request("GET", path, token=token) for path in (
                    "/sync/snapshot", "/sync/digest", "/sync/schema", "/sync/schema-version")]):
            problem(answer, 403, "role_forbidden", FORBIDDEN)
            assert "www-authenticate" not in answer.headers
            assert "rowsync.grant_gateway" in answer.body["hint"]
        (line,) = [line for line in gateway.log() if line["event"] == "database_error" and
                   line["id"] == answer.body["request_id"]]
        assert line["sqlstate"] in ("22023", "42501")
        with reader(gateway, "/sync/watch", token) as peer:
            assert peer.recv(100).startswith(b"HTTP/1.1 403 ")
        # The way back to the gateway's own rights is not open either.
        problem(gateway.upload(mint("ann", "phone", role="none"), [CHANGE]), 403, "role_forbidden",
                "The role that the token names is none of those allowed here.")
        assert gateway.request("GET", "/readyz").status == 200
    assert database.value("SELECT count(*) FROM business.users") == 0
    assert gateway.upload(mint("ann", "phone", role=good), [CHANGE]).status == 200
    assert Watching(gateway, mint("ann", "phone", role=good)).event() == ("head", {"head": 1})


def test_a_token_must_name_a_role_and_only_one_of_those_listed(start_gateway, mint, roles, tmp_path):
    one, two, three = roles("one", "ALL"), roles("two", "ALL"), roles("three", "ALL")
    config = tmp_path / "gateway.json"
    config.write_text(json.dumps({"role_claim": "db_role", "roles": f"{one},{two}"}))
    gateway = start_gateway(arguments=["--config", str(config)])

    def ask(**claims):
        return gateway.download(mint("ann", "phone", **claims))
    for role in (one, two):
        assert ask(db_role=role).status == 200
    for role in (three, one[:-1], one + ",", f"{one},{two}", "business_gateway"):
        problem(ask(db_role=role), 403, "role_forbidden",
                "The role that the token names is none of those allowed here.")
    problem(ask(role=one), 401, "missing_claim",
            'The token has no claim "db_role" (the database role).')
    for role in (7, [one], "", "x" * 64):
        problem(ask(db_role=role), 401, "invalid_claim",
                'The token\'s claim "db_role" must be a string of 1 to 63 bytes.')
    # Without the setting the claim is one like any other.
    config.write_text("{}")
    gateway.reload()
    assert eventually(lambda: ask(db_role="nobody").status == 200 and ask().status == 200)


def test_a_large_body_with_a_role_that_is_not_allowed_is_refused_early(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_ROLE_CLAIM="role")
    status, body = heard(half_sent(gateway, mint("ann", "phone", role="none")))
    assert (status, body["code"]) == (403, "role_forbidden")
