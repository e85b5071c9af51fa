"""The PostgreSQL and the gateway of `make up`, which stay until `make down`."""

import os
import secrets
import signal
import subprocess
import sys
import time

from .cluster import Cluster, pg_config
from .gateway import Gateway
from .place import RUN, remove

ENV = RUN / "env"
UP = RUN / "up"
PIDS = RUN / "up.pid"


def up():
    """Starts both, registers the example schema and prints how to reach them; again: prints only."""
    if not _running():
        down()
        cluster = None
        try:
            cluster = Cluster.start("up", keep=True)
            database = cluster.business(name="business")
            database.close()
            secret = secrets.token_hex(32)
            gateway = Gateway.start(database, detached=True, ROWSYNC_JWT_SECRET=secret)
        except BaseException:
            if cluster is not None:
                cluster.stop(failed=True)
            raise
        PIDS.write_text(f"{gateway.server.pid} {_started(gateway.server.pid)}\n"
                        f"{cluster.server.pid} {_started(cluster.server.pid)}\n")
        ENV.write_text(f"ROWSYNC_URL={gateway.url}\nDATABASE_URL={database.dsn}\n"
                       f"ROWSYNC_JWT_SECRET={secret}\n")
        ENV.chmod(0o600)
    print(ENV.read_text(), end="")
    print("PostgreSQL and gateway are up; `make down` stops them and removes their data.",
          file=sys.stderr)
    return 0


def down():
    """Stops what `up` started and removes its files; nothing to do is fine."""
    for pid, number in zip(_pids(), (signal.SIGTERM, signal.SIGINT)):
        os.kill(pid, number)
        deadline = time.monotonic() + 30
        while _started(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        if _started(pid):
            os.kill(pid, signal.SIGKILL)
        print("stopped", "the gateway" if number == signal.SIGTERM else "PostgreSQL",
              file=sys.stderr)
    remove(UP)
    PIDS.unlink(missing_ok=True)
    ENV.unlink(missing_ok=True)
    return 0


def psql():
    """Opens the database of `up` in psql."""
    if not _running():
        print("nothing is up: make up", file=sys.stderr)
        return 1
    values = dict(line.split("=", 1) for line in ENV.read_text().splitlines())
    return subprocess.run([pg_config("bindir") + "/psql", values["DATABASE_URL"]]).returncode


def _started(pid):
    """When a process started, in the kernel's ticks: with its id, who it is; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _pids():
    """The processes of `up` that still are the ones it started: gateway, PostgreSQL."""
    lines = [line.split() for line in PIDS.read_text().splitlines()] if PIDS.exists() else []
    return [int(pid) for pid, started in lines if _started(pid) == started]


def _running():
    return len(_pids()) == 2 and ENV.exists()
