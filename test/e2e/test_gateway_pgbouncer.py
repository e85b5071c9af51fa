"""A real PgBouncer in transaction mode between the gateway and the database."""

import json
import socket
import threading

import psycopg2
import pytest
from gateway_parts import CHANGE, RUNNING, Watching, eventually, many
from rig import process

# Fewer than the gateway has connections: they take turns, transaction by transaction.
SERVERS = 3


@pytest.fixture
def bouncer(cluster, database):
    """A PgBouncer for this test's database; the DSN by which the gateway reaches it."""
    place = cluster.place
    folder = place.folder(f"bouncer-{database.name}")
    users = folder / "users.txt"
    users.write_text('"business_gateway" ""\n"postgres" ""\n')
    settings = folder / "pgbouncer.ini"
    settings.write_text(f"""
[databases]
* = host={cluster.sockets} port=5432
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {users}
admin_users = postgres
pool_mode = transaction
default_pool_size = {SERVERS}
max_client_conn = 200
logfile = {folder}/pgbouncer.log
""")
    for path in (users, settings):
        place.own(path)
    with open(folder / "out.log", "wb") as log:
        server = process.spawn(["/usr/sbin/pgbouncer", settings], user=place.user, cwd="/", stdout=log,
                               stderr=log)
    host = str(folder).replace("/", "%2F")

    def lives():
        try:
            psycopg2.connect(f"postgresql://business_gateway@{host}:6432/{database.name}").close()
            return True
        except psycopg2.OperationalError:
            assert server.poll() is None, (folder / "out.log").read_text()
            return False
    try:
        assert eventually(lives)
        yield f"postgresql://business_gateway@{host}:6432/{database.name}"
    finally:
        process.stop(server)


@pytest.fixture
def behind(start_gateway, bouncer):
    """A gateway behind PgBouncer."""
    return start_gateway(DATABASE_URL=bouncer, ROWSYNC_PGBOUNCER="true", ROWSYNC_ROLE_CLAIM="role")


def test_many_at_once_keep_to_themselves_on_few_connections(behind, database, mint, roles):
    roles = roles("one", "ALL"), roles("two", "ALL")
    database.rows(f"""
        CREATE TABLE public.seen (sub text, role text);
        GRANT INSERT ON public.seen TO {roles[0]}, {roles[1]};
        CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.seen VALUES (current_setting('request.jwt.claims')::jsonb->>'sub',
                                            current_user);
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER INSERT ON business.users EXECUTE FUNCTION public.see()""")
    watching = Watching(behind, mint("user 0", "watch", role=roles[0]))
    assert watching.event() == ("head", {"head": 0})
    wrong = []

    def user(number):
        token = mint(f"user {number}", "phone", role=roles[number % 2])
        for turn in range(10):
            answer = behind.upload(token, many(1, first=1000 * number + turn + 1))
            if answer.status != 200 or answer.body["statuses"][0]["status"] != "applied":
                wrong.append(answer)
    threads = [threading.Thread(target=user, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert database.rows("SELECT count(*), count(DISTINCT sub) FROM public.seen") == [(120, 12)]
    for number in range(12):
        assert database.rows("SELECT DISTINCT role FROM public.seen WHERE sub = %s",
                             f"user {number}") == [(roles[number % 2],)]
        tablet = mint(f"user {number}", "tablet", role=roles[number % 2])
        assert len(behind.download(tablet).body["changes"]) == 10
        lines = behind.request("GET", "/sync/snapshot", token=tablet).body.splitlines()
        assert json.loads(lines[-1])["rows"] == 10
    heads = []
    while heads[-1:] != [10]:
        heads.append(watching.event()[1]["head"])
    assert heads == sorted(set(heads))
    # They really shared: the gateway alone would have had more connections than that.
    assert database.value("SELECT count(*) FROM pg_stat_activity WHERE usename = "
                          "'business_gateway' AND datname = current_database()") <= SERVERS


def test_nothing_of_a_request_is_left_for_the_next_client(behind, bouncer, mint, roles):
    token = mint("ann", "phone", role=roles("one", "ALL"))
    for number in range(1, 2 * SERVERS + 1):
        assert behind.upload(token, many(1, first=number)).status == 200
        others = [psycopg2.connect(bouncer) for _ in range(SERVERS)]
        try:
            for other in others:
                with other.cursor() as cursor:
                    cursor.execute("SELECT current_user, current_setting('role'), coalesce("
                                   "current_setting('request.jwt.claims', true), ''), "
                                   "current_setting('statement_timeout')")
                    assert cursor.fetchall() == [("business_gateway", "none", "", "0")]
        finally:
            for other in others:
                other.close()


def test_a_client_that_leaves_cancels_its_query_through_pgbouncer(behind, database, blocked, mint,
                                                                 roles):
    body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]})
    token = mint("ann", "phone", role=roles("one", "ALL"))
    with socket.create_connection(("127.0.0.1", behind.port)) as peer:
        peer.sendall((f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                      f"Authorization: Bearer {token}\r\n\r\n{body}").encode())
        assert eventually(lambda: database.value(RUNNING) == 1)
    assert eventually(lambda: database.value(RUNNING) == 0)
    blocked()
    answer = behind.upload(token, [CHANGE])
    assert (answer.status, answer.body["statuses"][0]["status"]) == (200, "applied")


def test_forgetting_the_setting_costs_time_and_no_request(start_gateway, bouncer, mint):
    """Named statements meet servers that do not know them, and are prepared again."""
    gateway = start_gateway(DATABASE_URL=bouncer)
    for number in range(1, 30):
        assert gateway.upload(mint("ann", "phone"), many(1, first=number)).status == 200
        assert gateway.download(mint("ann", "tablet")).status == 200
