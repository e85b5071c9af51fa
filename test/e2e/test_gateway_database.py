"""The database behind the gateway: sessions, cancelling, queues, timeouts, PgBouncer."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time

import pytest
from gateway_parts import (CHANGE, RUNNING, Asking, eventually, heard, many, problem, reader,
                           uploading)


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
    with uploading(gateway, mint("ann", "phone")):
        assert eventually(lambda: database.value(RUNNING) == 1)
    assert eventually(lambda: database.value(RUNNING) == 0)
    assert eventually(lambda: any(line.get("code") == "client_gone" for line in gateway.log()))
    blocked()
    answer = gateway.upload(mint("ann", "phone"), [CHANGE])
    assert (answer.status, answer.body["statuses"][0]["status"]) == (200, "applied")


def test_a_cancellation_that_comes_too_early_is_repeated(start_gateway, database, blocked, mint):
    """The server forgets one that meets no statement: here because it has not yet read any."""
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1)
    assert gateway.request("GET", "/readyz").status == 200
    backends = [pid for (pid,) in database.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'rowsync-gateway' "
        "AND datname = current_database()")]
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        with uploading(gateway, mint("ann", "phone")):
            assert eventually(lambda: b'rowsync_pool_busy{pool="requests"} 1' in gateway.request(
                "GET", "/metrics").body)
        assert eventually(lambda: b'rowsync_pool_cancels_total{pool="requests"} 1' in
                          gateway.request("GET", "/metrics").body)
        time.sleep(0.3)
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    # The connection is of use again although the lock is still held.
    assert eventually(lambda: b'rowsync_pool_busy{pool="requests"} 0' in gateway.request(
        "GET", "/metrics").body)
    assert gateway.request("GET", "/sync/schema-version", token=mint("ann", "phone")).status == 200
    assert set(backends) <= set(pid for (pid,) in database.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'rowsync-gateway%' "
        "AND datname = current_database()"))


def test_a_database_that_is_away_is_tried_again_with_patience(start_gateway):
    gateway = start_gateway(DATABASE_URL="host=/nonexistent", ROWSYNC_LOOPS=1)
    time.sleep(3)
    text = gateway.request("GET", "/metrics").body.decode()
    (failures,) = re.findall(r'rowsync_pool_failures_total\{pool="watch"\} (\d+)', text)
    # Twice to four times a second in the end, and a little faster at first; not as often as it can.
    assert 1 <= int(failures) <= 25
    # It is said once an outage and pool, not once an attempt.
    assert sorted(line["pool"] for line in gateway.log()
                  if line["event"] == "database_connect_failed") == ["requests", "streams", "watch"]


@pytest.mark.parametrize("change", [
    # Something in the session throws all prepared statements away, the running one too.
    """CREATE FUNCTION public.forget() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN NULL; END $$;
       CREATE TRIGGER forget AFTER INSERT ON business.users EXECUTE FUNCTION public.forget()""",
    # An upgrade: the function is another one, with another type of result.
    """ALTER EXTENSION rowsync DROP FUNCTION rowsync.schema_version();
       DROP FUNCTION rowsync.schema_version();
       CREATE FUNCTION rowsync.schema_version() RETURNS text LANGUAGE sql AS $$ SELECT '77' $$;
       GRANT EXECUTE ON FUNCTION rowsync.schema_version() TO business_gateway""",
], ids=["deallocated", "other-result"])
def test_statements_are_prepared_again_after_they_have_become_useless(start_gateway, database, mint,
                                                                     change):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1)
    token = mint("ann", "phone")

    def all_work(number):
        """Every route answers; the schema's version."""
        answers = [gateway.request("GET", "/sync/schema-version", token=token),
                   gateway.upload(token, many(1, first=number)), gateway.download(token),
                   gateway.request("GET", "/sync/snapshot", token=token)]
        assert [answer.status for answer in answers] == [200] * 4
        return answers[0].body["schema_version"]
    version = all_work(1)
    database.rows(change)
    for number in (2, 3):
        assert all_work(number) == (77 if "'77'" in change else version)
    time.sleep(0.3)  # figures are published ten times a second
    text = gateway.request("GET", "/metrics").body
    assert b'rowsync_pool_connects_total{pool="requests"} 1\n' in text


def test_a_session_with_the_library_of_before_an_update_is_renewed(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1)

    def ask():
        return gateway.request("GET", "/sync/schema-version", token=mint("ann", "phone"))
    assert ask().status == 200
    database.rows("""
        CREATE TABLE public.old AS SELECT pid FROM pg_stat_activity
            WHERE usename = 'business_gateway' AND datname = current_database();
        GRANT SELECT ON public.old TO business_gateway;
        CREATE OR REPLACE FUNCTION rowsync.schema_version() RETURNS integer LANGUAGE plpgsql AS $$
        BEGIN
            IF pg_backend_pid() IN (SELECT pid FROM public.old) THEN
                RAISE SQLSTATE 'RS007' USING MESSAGE = 'the library is another version';
            END IF;
            RETURN 1;
        END $$""")
    problem(ask(), 503, "unavailable", "The database is not set up for this version of rowsync.")
    assert ask().status == 200


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
    asking = [Asking(gateway, mint(f"user {number}", "phone")) for number in range(8)]
    # One runs and two wait; the other five are refused while nothing moves.
    assert eventually(lambda: sum(len(one.answers) for one in asking) == 5)
    for answer in (answer for one in asking for answer in one.answers):
        problem(answer, 503, "overloaded",
                "The server has as many requests waiting as it may hold.")
        assert answer.headers["retry-after"] == "1"
    blocked()
    assert sorted(answer.status for one in asking for answer in one.wait()) == \
        [200] * 3 + [503] * 5


def test_readiness_is_asked_once_for_all_who_want_to_know(start_gateway, database, blocked, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_QUEUE_LENGTH=2,
                            ROWSYNC_QUEUE_TIMEOUT=60000)
    running = Asking(gateway, mint("ann", "phone"))
    assert eventually(lambda: database.value(RUNNING) == 1)
    # No answer of the database is fresh any more.
    time.sleep(0.6)
    peers = [socket.create_connection(("127.0.0.1", gateway.port), timeout=60) for _ in range(5)]
    for peer in peers:
        peer.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    waiting = Asking(gateway, mint("bob", "phone"))
    assert eventually(lambda: b'rowsync_pool_queue{pool="requests"} 2' in gateway.request(
        "GET", "/metrics").body)
    peers.pop().close()
    assert eventually(lambda: any(line.get("code") == "client_gone" for line in gateway.log()))
    blocked()
    assert [heard(peer) for peer in peers] == [(200, {"status": "ready"})] * 4
    assert [answer.status for answer in running.wait() + waiting.wait()] == [200, 200]


class Listener:
    """What stands on a port of its own where the gateway looks for its database."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._begin(self._accept)

    def _begin(self, function, *arguments):
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                self._take(self.listener.accept()[0])

    def close(self):
        """Takes no more connections."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Unhearing(Listener):
    """A way to the database by TCP on which cancellations never arrive; `spoke` says who sent."""

    def __init__(self, cluster):
        self.path = str(cluster.sockets / ".s.PGSQL.5432")
        self.held = []
        self.spoke = []
        super().__init__()

    def _take(self, near):
        # The first message says what kind of connection it is: this is CancelRequest.
        if near.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL)[4:] == b"\x04\xd2\x16\x2e":
            self.held.append(near)
            return
        far = socket.socket(socket.AF_UNIX)
        far.connect(self.path)
        self._begin(self._forward, "gateway", near, far)
        self._begin(self._forward, "server", far, near)

    def _forward(self, name, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                # Each turn once, however many pieces it comes in.
                if self.spoke[-1:] != [name]:
                    self.spoke.append(name)
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def close(self):
        """Ends what is held, too."""
        super().close()
        for peer in self.held:
            peer.close()


@pytest.fixture
def unhearing(cluster, database):
    """Such a way, and the gateway's DSN over it."""
    way = Unhearing(cluster)
    way.dsn = (f"postgresql://business_gateway@127.0.0.1:{way.port}/{database.name}"
               "?sslmode=disable&gssencmode=disable")
    yield way
    way.close()


def test_a_request_is_one_round_trip(start_gateway, unhearing, mint):
    """Claims, limits, role, what is not yet prepared, the call and its commit."""
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_ROLE_CLAIM="role",
                            DATABASE_URL=unhearing.dsn)
    token = mint("ann", "phone", role="business_gateway")
    assert eventually(lambda: b'rowsync_pool_connected{pool="requests"} 1\n' in gateway.request(
        "GET", "/metrics").body)
    for number in (1, 2):
        unhearing.spoke.clear()
        assert gateway.upload(token, many(1, first=number)).status == 200
        assert unhearing.spoke == ["gateway", "server"]


def test_a_cancellation_that_never_returns_costs_no_connection_and_holds_up_no_end(
        start_gateway, database, unhearing, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_CONNECT_TIMEOUT=500,
                            DATABASE_URL=unhearing.dsn)
    assert gateway.upload(mint("ann", "phone"), [CHANGE]).status == 200
    holder = database.connect()
    holder.autocommit = False
    holder.cursor().execute("SELECT FROM rowsync.scope WHERE name = 'ann' FOR UPDATE")
    try:
        with uploading(gateway, mint("ann", "phone")):
            assert eventually(lambda: database.value(RUNNING) == 1)
        assert eventually(lambda: unhearing.held)
        assert gateway.upload(mint("bob", "phone"), []).status == 200
        gateway.server.send_signal(signal.SIGTERM)
        assert gateway.server.wait(20) == 0
    finally:
        holder.close()


def test_a_cancellation_that_never_returns_holds_up_no_other(start_gateway, database, unhearing,
                                                             blocked, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_REPLICA_URL=unhearing.dsn)
    uploads = RUNNING + " AND query LIKE '%rowsync.upload(%'"
    with reader(gateway, "/sync/download", mint("ann", "phone")):
        assert eventually(lambda: database.value(RUNNING) == 1)
    assert eventually(lambda: unhearing.held)
    with uploading(gateway, mint("bob", "phone")):
        assert eventually(lambda: database.value(uploads) == 1)
    assert eventually(lambda: database.value(uploads) == 0)


class Pretender(Listener):
    """A server that answers every statement as if it were COPY FROM STDIN."""

    def _take(self, near):
        self._begin(self._answer, near)

    def _answer(self, peer):
        with peer, contextlib.suppress(OSError):
            peer.recv(65536)
            peer.sendall(b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I")
            while peer.recv(65536):
                peer.sendall(b"1\0\0\0\x04" + b"2\0\0\0\x04" + b"G\0\0\0\x07\0\0\0")


def test_answers_that_no_statement_has_cost_the_connection_and_not_the_loop(start_gateway, mint):
    with contextlib.closing(Pretender()) as server:
        gateway = start_gateway(
            ROWSYNC_LOOPS=1, DATABASE_URL=f"host=127.0.0.1 port={server.port} user=x dbname=x "
            "sslmode=disable gssencmode=disable")
        problem(gateway.download(mint("ann", "phone")), 503, "unavailable",
                "The connection to the database broke. Sending the request again is safe.")
        assert gateway.request("GET", "/healthz").status == 200


def test_waiting_for_a_connection_has_an_end(start_gateway, database, blocked, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_QUEUE_TIMEOUT=300)
    asking = Asking(gateway, mint("ann", "phone"))
    assert eventually(lambda: database.value(RUNNING) == 1)
    problem(gateway.upload(mint("ann", "phone"), [CHANGE]), 503, "overloaded",
            "No database connection became free in time. Nothing was changed.")
    blocked()
    assert [answer.status for answer in asking.wait()] == [200]


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


def test_without_prepared_statements_everything_works_too(start_gateway, mint):
    """What PgBouncer in transaction mode asks of us."""
    gateway = start_gateway(ROWSYNC_PGBOUNCER="true", ROWSYNC_POOL_SIZE=1)
    for _ in range(3):
        answer = gateway.upload(mint("ann", "phone"), [CHANGE])
        assert answer.body["statuses"][0]["status"] == "applied"
    assert len(gateway.download(mint("ann", "tablet")).body["changes"]) == 1


BACKENDS = ("SELECT array_agg(pid) FROM pg_stat_activity WHERE usename = 'business_gateway' "
            "AND datname = current_database()")


def test_a_large_error_renews_its_connection(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_RECYCLE_SIZE=65536)
    database.rows("CREATE FUNCTION business.complain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                  "RAISE EXCEPTION '%', repeat('x', 100000) USING ERRCODE = '57014'; END $$")
    database.rows("CREATE TRIGGER complain BEFORE INSERT ON business.users FOR EACH ROW "
                  "EXECUTE FUNCTION business.complain()")
    assert gateway.request("GET", "/readyz").status == 200
    before = database.value(BACKENDS)
    assert gateway.upload(mint("ann", "phone"), [CHANGE]).status == 503
    assert eventually(lambda: database.value(BACKENDS) not in (before, None))


def test_a_large_answer_renews_its_connection(start_gateway, database, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=1, ROWSYNC_POOL_SIZE=1, ROWSYNC_RECYCLE_SIZE=65536)
    large = {**CHANGE, "payload": {**CHANGE["payload"], "name": "x" * 100000}}
    assert gateway.request("GET", "/readyz").status == 200
    before = database.value(BACKENDS)
    assert gateway.upload(mint("ann", "phone"), [large]).body["statuses"][0]["status"] == "applied"
    assert eventually(lambda: database.value(BACKENDS) not in (before, None))
    assert len(gateway.download(mint("ann", "tablet")).body["changes"]) == 1
