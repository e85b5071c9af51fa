"""The process: how it is configured, started, told to reload and to end, and what it logs and counts."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest
import rig
from rig.build import BUILD, SANITIZE
from gateway_parts import CHANGE, RUNNING, Asking, eventually


FOLDER = rig.ROOT / "gateway"


def run(*arguments, **environment):
    """Runs the binary to its end."""
    return subprocess.run([rig.gateway.BINARY, *arguments], capture_output=True, text=True,
                          timeout=20, env={"PATH": "/usr/bin:/bin", **environment})


def test_the_command_line(tmp_path):
    good = {"DATABASE_URL": "dbname=x", "ROWSYNC_JWT_SECRET": "s" * 32}
    done = run("--check-config", **good)
    assert (done.returncode, done.stdout) == (0, "rowsync-gateway: the configuration is good\n")
    done = run("--check-config", DATABASE_URL="dbname=x")
    assert done.returncode == 2
    assert done.stderr == ("rowsync-gateway: neither jwt_secret nor jwks_file is set: without a "
                           "key no token can be verified\n")
    done = run("--check-config", ROWSYNC_TLS_CERTIFICATE=str(tmp_path / "none"),
               ROWSYNC_TLS_KEY="none", **good)
    assert done.returncode == 2
    assert done.stderr.startswith(f"rowsync-gateway: tls_certificate: {tmp_path}/none: ")
    chain, key = rig.certificate(tmp_path, "locked")
    subprocess.run(["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:secret", "-out",
                    tmp_path / "locked"], check=True)
    done = run("--check-config", ROWSYNC_TLS_CERTIFICATE=str(chain),
               ROWSYNC_TLS_KEY=str(tmp_path / "locked"), **good)
    assert done.stderr == (f"rowsync-gateway: tls_key: {tmp_path}/locked: has a pass phrase, for "
                           "which nobody can be asked\n")
    for url in ("postgresql://gw:se%cret@h/app", 'postgresql://gw:s"e"cret%@h/app',
                "postgresql://gw:secret@[::1/app", "password=very secret"):
        done = run("--check-config", DATABASE_URL=url, ROWSYNC_JWT_SECRET="s" * 32)
        assert done.stderr.startswith("rowsync-gateway: DATABASE_URL is no libpq connection string:")
        assert done.stderr.count("\n") == 1
        assert "cret" not in done.stderr
    done = run("--check-config", ROWSYNC_TLS_KEY="none", **good)
    assert done.stderr == ("rowsync-gateway: tls_certificate and tls_key belong together: one of "
                           "them is not set\n")
    # An empty variable is one that is not set.
    done = run("--check-config", ROWSYNC_POOL_SIZE="", ROWSYNC_REPLICA_URL="", **good)
    assert done.returncode == 0
    done = run("--check-config", **{**good, "DATABASE_URL": ""})
    assert done.stderr.startswith("rowsync-gateway: database_url is not set")
    for listen in ("127.0.0.1", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+8080", "localhost:80",
                   "127.0.0.1:99999999999999999999", "unix:", "unix:/" + "x" * 200):
        done = run("--check-config", ROWSYNC_LISTEN=listen, **good)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f'rowsync-gateway: listen: "{listen[:64]}" ')
    for listen in ("127.0.0.1:65535", "0.0.0.0:0", "[::1]:8080", "unix:/tmp/x"):
        assert run("--check-config", ROWSYNC_LISTEN=listen, **good).returncode == 0
    # A variable that is nearly a setting's is one that was misspelt; others are not ours.
    for wrong, right in (("ROWSYNC_LISTN", "ROWSYNC_LISTEN"), ("ROWSYNC_listen", "ROWSYNC_LISTEN"),
                         ("ROWSYNC_DATABASE_URL", "DATABASE_URL")):
        done = run("--check-config", **good, **{wrong: "x"})
        assert (done.returncode, done.stderr) == (
            2, f"rowsync-gateway: unknown variable {wrong}: did you mean {right}?\n")
    assert run("--check-config", ROWSYNC_URL="http://x", ROWSYNC_TOKEN="x", **good).returncode == 0
    # The file is blamed only for what is its own.
    config = tmp_path / "gateway.json"
    config.write_text('{"jwt_secret": "short"}')
    done = run("--check-config", "--config", str(config), DATABASE_URL="dbname=x")
    assert done.stderr.startswith("rowsync-gateway: jwt_secret has 5 bytes")
    done = run("--check-config", "--config", str(config), DATABASE_URL="dbname=x",
               ROWSYNC_JWT_SECRET="shorter")
    assert done.stderr.startswith("rowsync-gateway: ROWSYNC_JWT_SECRET has 7 bytes")
    config.write_text('{"pool_size": "many"}')
    done = run("--check-config", "--config", str(config), **good)
    assert done.stderr.startswith(f'rowsync-gateway: {config}: "pool_size" must be an integer')
    assert re.fullmatch(r"rowsync-gateway \d+\.\d+\S*\n", run("--version").stdout)
    assert run("--help").stdout.startswith("Usage: rowsync-gateway ")
    for wrong in (["--nonsense"], ["argument"]):
        done = run(*wrong, **good)
        assert done.returncode == 2 and "rowsync-gateway" in done.stderr


def test_a_wrong_configuration_is_refused_at_the_start(start_gateway, tmp_path):
    for settings, message in (
            ({"ROWSYNC_JWT_SECRET": None}, "neither jwt_secret nor jwks_file is set"),
            ({"ROWSYNC_JWT_SECRET": "short"}, "ROWSYNC_JWT_SECRET has 5 bytes"),
            ({"DATABASE_URL": None}, "database_url is not set"),
            ({"ROWSYNC_LISTEN": "nowhere"}, 'listen: "nowhere" is no numeric address and port'),
            ({"ROWSYNC_LISTEN": "127.0.0.1:99999"}, 'listen: "127.0.0.1:99999" is no numeric'),
            ({"ROWSYNC_LISTEN": "192.0.2.1:0"}, "cannot listen on 192.0.2.1:0: Cannot assign"),
            ({"ROWSYNC_POOL_SIZE": "0"}, "ROWSYNC_POOL_SIZE must be an integer from 1 to 1000"),
            ({"ROWSYNC_JWKS_FILE": "/nonexistent"}, "jwks_file: /nonexistent: No such file")):
        with pytest.raises(RuntimeError, match=re.escape("rowsync-gateway: " + message)):
            start_gateway(**settings)
    precious = tmp_path / "precious"
    precious.write_text("kept")
    with pytest.raises(RuntimeError, match="cannot listen on unix:.*: Address already in use"):
        start_gateway(ROWSYNC_LISTEN=f"unix:{precious}")
    assert precious.read_text() == "kept"
    config = tmp_path / "gateway.json"
    config.write_text('{"pool_sice": 3}')
    with pytest.raises(RuntimeError, match='unknown setting "pool_sice": did you mean "pool_size"'):
        start_gateway(arguments=["--config", str(config)])
    config.write_text('{"body_limit": 2000, "log_level": "error"}')
    gateway = start_gateway(arguments=["--config", str(config)])
    assert gateway.request("POST", "/sync/upload", b"x" * 2001).status == 413
    assert gateway.log() == []


def test_sighup_reads_the_configuration_again(start_gateway, tmp_path, mint):
    config = tmp_path / "gateway.json"
    config.write_text('{"jwt_issuer": "one"}')
    gateway = start_gateway(arguments=["--config", str(config)])

    def reload(content, event, count):
        config.write_text(content)
        gateway.server.send_signal(signal.SIGHUP)
        assert eventually(lambda: len([1 for line in gateway.log() if line["event"] == event])
                          == count)
        return [line["message"] for line in gateway.log() if line["event"] == event][-1]

    def status(issuer):
        return gateway.request("GET", "/sync/download",
                               token=mint("ann", "phone", iss=issuer)).status
    assert (status("one"), status("two")) == (200, 401)
    assert 'unknown setting "jwt_isuer": did you mean "jwt_issuer"?; everything stays' in reload(
        '{"jwt_isuer": "two"}', "reload_failed", 1)
    assert (status("one"), status("two")) == (200, 401)
    reload('{"jwt_issuer": "two"}', "reloaded", 1)
    assert eventually(lambda: (status("one"), status("two")) == (401, 200))
    reload('{"jwt_issuer": "two", "pool_size": 3, "body_limit": 2000}', "reloaded", 2)
    assert [line["message"] for line in gateway.log() if line["event"] == "restart_needed"] == [
        "these settings have changed and wait for a restart: pool_size, body_limit"]
    assert gateway.request("POST", "/sync/upload", b"x" * 2001,
                           token=mint("ann", "phone", iss="two")).status == 400
    assert gateway.stop() == 0


def test_a_superuser_is_warned_of_once(start_gateway, database):
    gateway = start_gateway(DATABASE_URL=database.cluster.dsn(database.name), ROWSYNC_LOOPS=2)
    assert eventually(lambda: gateway.request("GET", "/readyz").status == 200)
    assert eventually(lambda: any(line["event"] == "superuser" for line in gateway.log()))
    assert gateway.stop() == 0
    assert [line["message"].split(":")[0] for line in gateway.log()
            if line["event"] == "superuser"] == ["postgres is a superuser"]
    gateway = start_gateway()
    assert eventually(lambda: gateway.request("GET", "/readyz").status == 200)
    assert gateway.stop() == 0
    assert [line for line in gateway.log() if line["event"] == "superuser"] == []


def test_sigterm_ends_an_idle_gateway_at_once(start_gateway):
    # libh2o alone would keep the idle connection for minutes; the rig gives up long before.
    gateway = start_gateway(ROWSYNC_DRAIN_TIMEOUT=3600000)
    idle = http.client.HTTPConnection("127.0.0.1", gateway.port)
    idle.request("GET", "/healthz")
    assert idle.getresponse().read()
    assert gateway.stop() == 0
    idle.close()


def test_a_request_that_meets_sigterm_on_its_way_is_served(start_gateway):
    """Its connection was in use a moment ago. Tried again where the machine was too slow for that."""
    def served():
        gateway = start_gateway(ROWSYNC_LOOPS=1)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port)) as peer:
            peer.request("GET", "/healthz")
            peer.getresponse().read()
            gateway.server.send_signal(signal.SIGTERM)
            assert eventually(lambda: any(line["event"] == "draining" for line in gateway.log()))
            time.sleep(0.2)
            try:
                peer.request("GET", "/healthz")
                answer = peer.getresponse()
            except (OSError, http.client.HTTPException):
                return False
            assert (answer.status, answer.getheader("connection")) == (200, "close")
        assert gateway.server.wait(20) == 0
        return True
    assert any(served() for _ in range(5))


def test_sigterm_lets_a_request_in_hand_end(start_gateway, database, blocked, mint):
    gateway = start_gateway()
    asking = Asking(gateway, mint("ann", "phone"))
    assert eventually(lambda: database.value(RUNNING) == 1)
    gateway.server.send_signal(signal.SIGTERM)

    def refuses():
        try:
            socket.create_connection(("127.0.0.1", gateway.port)).close()
            return False
        except ConnectionResetError:
            return False  # it was in the queue of the listener when that was closed
        except ConnectionRefusedError:
            return True
    assert eventually(refuses)
    blocked()
    (answer,) = asking.wait()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert gateway.server.wait(20) == 0


def test_draining_has_an_end(start_gateway, database, blocked, mint):
    gateway = start_gateway(ROWSYNC_DRAIN_TIMEOUT=300)
    with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
        body = json.dumps({"last_server_seq_seen": 0, "changes": [CHANGE]})
        peer.sendall((f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                      f"Authorization: Bearer {mint('ann', 'phone')}\r\n\r\n{body}").encode())
        assert eventually(lambda: database.value(RUNNING) == 1)
        gateway.server.send_signal(signal.SIGTERM)
        assert gateway.server.wait(20) == 0


def test_the_log_has_a_line_for_each_request_with_the_time_of_each_stage(start_gateway, database,
                                                                        blocked, mint):
    gateway = start_gateway(ROWSYNC_ROLE_CLAIM="role", ROWSYNC_BODY_LIMIT=100000)
    token = mint("ann", "phone", role="business_gateway")
    answers = [gateway.request("GET", "/sync/download?after=x", token=token),
               gateway.request("GET", "/nothing"),
               gateway.request("POST", "/sync/upload", b"x" * 200_000, token=token)]
    asking = Asking(gateway, token)
    assert eventually(lambda: database.value(RUNNING) == 1)
    # One that leaves, and one whose body comes slowly.
    body = json.dumps({"last_server_seq_seen": 0, "changes": []}).encode()
    head = (f"POST /sync/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as leaving:
        leaving.sendall(head + body)
        assert eventually(lambda: database.value(RUNNING) == 2)
    assert eventually(lambda: database.value(RUNNING) == 1)
    with socket.create_connection(("127.0.0.1", gateway.port)) as slow:
        slow.sendall(head)
        time.sleep(0.3)
        slow.sendall(body)
        time.sleep(0.3)
        blocked()
        assert slow.recv(12) == b"HTTP/1.1 200"
    answers += asking.wait()
    answers += [gateway.request("GET", "/sync/snapshot", token=token)]
    assert gateway.stop() == 0
    lines = {line["id"]: line for line in gateway.log() if line["event"] == "request"}
    asked = [lines[answer.headers["rowsync-request-id"]] for answer in answers]
    who = {"user": "ann", "source": "phone", "role": "business_gateway"}
    for line, expected in zip(asked, (
            {"method": "GET", "route": "/sync/download", "status": 400, "code": "invalid_parameter",
             **who, "received": 0},
            {"method": "GET", "route": "none", "status": 404, "code": "not_found", "received": 0},
            {"method": "POST", "route": "none", "status": 413, "code": "body_too_large"},
            {"method": "POST", "route": "/sync/upload", "status": 200, **who},
            {"method": "GET", "route": "/sync/snapshot", "status": 200, **who}), strict=True):
        assert {name: line.get(name) for name in expected} == expected
        assert ("user" in line, "code" in line) == ("user" in expected, "code" in expected)
        assert line["sent"] > 0 and line["time"] and line["level"] == "info"
    assert asked[3]["received"] > 100
    for line in lines.values():
        stages = [line.get(stage + "_us") for stage in ("check", "queue", "database", "send")]
        if line in asked[:3]:
            assert stages == [None] * 4 and line["total_us"] >= 0 and line["receive_us"] >= 0
        else:
            assert min(stages) >= 0 and sum(stages) == line["total_us"]
    (gone,) = [line for line in lines.values() if line.get("code") == "client_gone"]
    assert (gone["status"], gone["user"]) == (499, "ann")
    assert gone["database_us"] > 0
    (slow,) = [line for line in lines.values() if line["receive_us"] > 200_000]
    assert slow["received"] == len(body) and slow["database_us"] > 200_000


def test_the_service_manager_is_told(start_gateway, tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        gateway = start_gateway(NOTIFY_SOCKET=path)
        assert manager.recv(100) == b"READY=1"
        assert gateway.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_the_manual_is_sound():
    page = FOLDER / "rowsync-gateway.1"
    done = subprocess.run(["man", "--warnings", "-l", "-Tutf8", page], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    text = page.read_text().replace("\\-", "-")
    for option in re.findall(r"--[a-z-]+", run("--help").stdout):
        assert option in text


def test_the_configuration_to_begin_with(tmp_path):
    docs = (rig.ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```json\n(\{\n.*?)^```", docs, re.M | re.S)
    (tmp_path / "gateway.json").write_text(text)
    done = run("--check-config", "--config", tmp_path / "gateway.json", ROWSYNC_JWT_SECRET="s" * 32)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_listens_before_the_database_is_there(start_gateway):
    gateway = start_gateway(DATABASE_URL="host=/nowhere dbname=app")
    assert gateway.request("GET", "/readyz").status == 503


def test_the_service_starts_what_is_installed(tmp_path):
    subprocess.run(["make", "-s", "-C", FOLDER, f"BUILD={BUILD}", f"SANITIZE={SANITIZE}",
                    "PREFIX=/opt/rowsync", f"DESTDIR={tmp_path}", "install"], check=True)
    unit = tmp_path / "opt/rowsync/lib/systemd/system/rowsync-gateway.service"
    assert "\nExecStart=/opt/rowsync/bin/rowsync-gateway --config" in unit.read_text()
    assert (tmp_path / "opt/rowsync/bin/rowsync-gateway").is_file()


def test_the_units_are_sound_and_the_service_is_shut_in(tmp_path):
    service, listener = "rowsync-gateway.service", "rowsync-gateway.socket"
    for name in (service, listener):
        text = (FOLDER / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/bin/rowsync-gateway",
                                                  str(rig.gateway.BINARY)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", tmp_path / service,
                           tmp_path / listener], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=13",
                           tmp_path / service], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_socket_takes_the_place_of_a_closed_standard_file(start_gateway):
    """What writes to standard error must not write to a client."""
    for redirection in ("2>&-", "0<&- 2>&-"):
        gateway = start_gateway(wrapper=["/bin/sh", "-c", f'exec "$0" "$@" {redirection}'])
        for number in (0, 1, 2):
            assert not os.readlink(f"/proc/{gateway.server.pid}/fd/{number}").startswith(
                ("socket:", "anon_inode:", "pipe:"))
        assert gateway.request("GET", "/healthz").status == 200


def test_timeouts_that_sighup_raises_are_kept(start_gateway, tmp_path):
    """Also by libh2o, which has one of its own for all of them."""
    config = tmp_path / "gateway.json"
    config.write_text('{"header_timeout": 100, "body_timeout": 100, "idle_timeout": 100}')
    gateway = start_gateway(arguments=["--config", str(config)])
    config.write_text("{}")
    gateway.reload()
    assert eventually(lambda: any(line["event"] == "reloaded" for line in gateway.log()))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port)) as peer:
        for pause in (5.5, 0):
            peer.request("GET", "/healthz")
            assert peer.getresponse().read()
            time.sleep(pause)
