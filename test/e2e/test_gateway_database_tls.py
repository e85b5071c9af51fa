"""TLS between the gateway and a database that takes nothing else."""

import os
import shutil

import pytest
import rig
from gateway_parts import CHANGE, eventually


@pytest.fixture
def secure(tmp_path):
    """A database that strangers reach by TLS alone: (database, host, its certificate)."""
    # An address of our own: every cluster of the tests has the same port.
    host = f"127.{os.getpid() >> 8 & 127}.{os.getpid() & 255}.7"
    cluster = rig.Cluster.start("tls", listen_addresses=host)
    try:
        chain, key = rig.certificate(tmp_path, "database", host)
        for source, name in ((chain, "server.crt"), (key, "server.key")):
            shutil.copy(source, cluster.data / name)
            (cluster.data / name).chmod(0o600)
            cluster.place.own(cluster.data / name)
        with open(cluster.data / "pg_hba.conf", "w", encoding="ascii") as rules:
            rules.write("local all all trust\nhostssl all business_gateway all trust\n")
        cluster.execute("ALTER SYSTEM SET ssl = on")
        cluster.execute("SELECT pg_reload_conf()")
        yield cluster.business(), host, chain
    finally:
        cluster.stop()


def test_the_database_is_reached_by_tls_and_its_certificate_is_checked(secure, start_gateway, mint,
                                                                      tmp_path):
    database, host, chain = secure
    dsn = f"host={host} port=5432 user=business_gateway dbname={database.name}"

    def start(more):
        return start_gateway(database=database, DATABASE_URL=f"{dsn} {more}", ROWSYNC_LOOPS=1)
    gateway = start(f"sslmode=verify-full sslrootcert={chain}")
    answer = gateway.upload(mint("ann", "phone"), [CHANGE])
    assert (answer.status, answer.body["statuses"][0]["status"]) == (200, "applied")
    answer = gateway.request("GET", "/sync/snapshot", token=mint("ann", "phone"))
    assert answer.body.endswith(b"}\n")
    encrypted = database.rows("SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
                              "WHERE usename = 'business_gateway'")
    assert encrypted == [(True,)]
    other, _ = rig.certificate(tmp_path, "other", host)
    for more, reason in ((f"sslmode=verify-full sslrootcert={other}", "certificate verify failed"),
                         ("sslmode=disable", "no encryption")):
        gateway = start(more)
        answer = gateway.request("GET", "/readyz")
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        assert eventually(lambda: any(
            line["event"] == "database_connect_failed" and reason in line["message"]
            for line in gateway.log()))
