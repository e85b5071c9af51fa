"""A private PostgreSQL server and the databases on it."""

import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import time

import psycopg2
import psycopg2.extensions

from . import process
from .place import ROOT, Place

STAGE = pathlib.Path(os.environ.get("STAGE", ROOT / "build" / "stage"))
BUSINESS = ROOT / "examples" / "business"

# Durable as in production, because times are printed; small, because it lives for seconds.
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "150",
    "max_prepared_transactions": "20",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "lc_messages": "C",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%u@%d/%a ",
    "autovacuum_naptime": "10s",
    # More of them for a run that wants them: PG_SETTINGS="debug_discard_caches=1".
    **dict(setting.split("=", 1) for setting in os.environ.get("PG_SETTINGS", "").split()),
}


def pg_config(what):
    """One answer of pg_config, which says where this PostgreSQL keeps its parts."""
    command = os.environ.get("PG_CONFIG") or _newest_pg_config()
    return subprocess.run([command, "--" + what], check=True, capture_output=True,
                          text=True).stdout.strip()


def _newest_pg_config():
    """The pg_config of the newest server in Debian's folders; elsewhere the one on PATH."""
    found = [path.with_name("pg_config")
             for path in pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return str(max(found, key=lambda path: int(path.parts[4]), default="pg_config"))


class Cluster:
    """A server with a data folder of its own, reachable only through a socket in a private folder."""

    def __init__(self, place, server, wrapper=()):
        self.place = place
        self.wrapper = wrapper
        self.server = server
        self.bin = pathlib.Path(pg_config("bindir"))
        self.names = itertools.count(1)
        self.has_business = False

    @classmethod
    def start(cls, name="test", keep=False, wrapper=(), **settings):
        """Makes a cluster with the extension of build/stage and starts it.

        `settings` go over those above. With `keep` it outlives this process. `wrapper` is a command
        that the server is started with.
        """
        place = Place(name, keep)
        try:
            cluster = cls(place, None, wrapper)
            cluster._create(settings)
            cluster.start_server(detached=keep)
            return cluster
        except BaseException:
            place.keep_logs()
            place.remove()
            raise

    def _create(self, settings):
        """Runs initdb, copies the stage to where the server can read it, writes the settings."""
        place = self.place
        self.data = place.folder("data")
        self.sockets = place.folder("sock")
        log = open(place.path / "initdb.log", "wb")
        status = process.spawn(
            [self.bin / "initdb", "--no-sync", "--no-instructions", "--auth=trust",
             "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--pgdata", self.data],
            user=place.user, cwd="/", stdout=log, stderr=log).wait()
        if status != 0:
            raise RuntimeError("initdb failed:\n" + (place.path / "initdb.log").read_text())
        stage = place.path / "stage"
        shutil.copytree(STAGE, stage) if STAGE.is_dir() else stage.mkdir()
        for path in (stage, *stage.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        values = {**SETTINGS, "unix_socket_directories": self.sockets, "extension_destdir": stage,
                  **settings}
        with open(self.data / "postgresql.auto.conf", "a", encoding="utf-8") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in values.items())

    def start_server(self, detached=False):
        """Starts the server and waits until it takes connections; also after `stop_server`."""
        log = open(self.place.path / "postgres.log", "ab")
        self.server = process.spawn(
            [*self.wrapper, self.bin / "postgres", "-D", self.data], user=self.place.user, cwd="/",
            detached=detached, on_death=signal.SIGINT, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg2.connect(self.dsn("postgres")).close()
                return
            except psycopg2.OperationalError as error:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL does not start: {error}\n{self.log()}") from error
                time.sleep(0.02)

    def stop_server(self, mode=signal.SIGINT):
        """Stops the server but keeps its data: SIGINT disconnects, SIGQUIT is a crash."""
        process.stop(self.server, mode, seconds=60)

    def stop(self, failed=False):
        """Ends the server and removes everything; after a failure the logs stay in .run/.

        At once: what a checkpoint would save is thrown away anyway.
        """
        self.stop_server(signal.SIGQUIT)
        if failed:
            self.place.keep_logs()
        self.place.remove()

    def log(self):
        """What the server has logged."""
        path = self.place.path / "postgres.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def dsn(self, database, user="postgres"):
        """A connection URI for libpq."""
        folder = str(self.sockets).replace("/", "%2F")
        return f"postgresql://{user}@{folder}:5432/{database}"

    def database(self, template="template1", name=None):
        """A new database, a copy of `template`."""
        name = name or f"test_{next(self.names)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return Database(self, name)

    def execute(self, statement):
        """Runs one statement as the superuser, outside any transaction and any test's database."""
        admin = psycopg2.connect(self.dsn("postgres"))
        try:
            admin.autocommit = True
            with admin.cursor() as cursor:
                cursor.execute(statement)
        finally:
            admin.close()

    def business(self, name=None):
        """A new database with the extension and the example schema, registered."""
        if not self.has_business:
            self.execute("DROP DATABASE IF EXISTS business_template")
            self.database(name="business_template").load(BUSINESS / "postgres.sql")
            self.has_business = True
        return self.database("business_template", name)


class Database:
    """One database of a cluster. `dsn` is the superuser's, `gateway_dsn` the gateway's."""

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.dsn = cluster.dsn(name)
        self.gateway_dsn = cluster.dsn(name, "business_gateway")
        self._connection = None

    def connect(self):
        """A connection of the test's own, in autocommit."""
        connection = psycopg2.connect(self.dsn)
        connection.autocommit = True
        return connection

    def rows(self, query, *values):
        """Runs one statement and returns its rows as tuples; an empty list where it has none."""
        if self._connection is None or self._connection.closed:
            self._connection = self.connect()
        with self._connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query, *values):
        """The single value of a statement."""
        ((value,),) = self.rows(query, *values)
        return value

    def psql(self, *arguments, check=True):
        """Runs psql on this database and returns the finished process, output captured."""
        done = subprocess.run(
            [self.cluster.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.dsn,
             *arguments], capture_output=True, text=True, errors="replace")
        if check and done.returncode != 0:
            raise RuntimeError(f"psql {arguments}: exit {done.returncode}\n{done.stderr}")
        return done

    def load(self, path):
        """Runs a file of SQL; stops at the first error."""
        self.psql("-f", str(path))

    def drop(self):
        """Removes the database, and ends whoever is still connected to it."""
        self.close()
        self.cluster.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')

    def close(self):
        """Closes the connection that `rows` keeps."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
