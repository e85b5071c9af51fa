"""A device: one SQLite file, the app's own writes to it, and the command line that syncs it."""

import contextlib
import functools
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import tempfile

from . import process
from .build import BUILD
from .place import ROOT
from .token import SECRET, mint

BINARY = BUILD / "bin" / "rowsync"
BUSINESS = ROOT / "examples" / "business" / "sqlite.sql"
TABLES = ("users", "posts", "categories", "teams", "team_members", "files", "file_reviews")


class Device:
    """One installation of an app: `path` is its database, `user` and `source` who it is.

    The app writes by Python's sqlite3 and knows nothing of rowsync; syncing is a process of its own.
    """

    def __init__(self, path, url, user, source, *, secret=SECRET, token=None):
        """`url` is the gateway's; `token` stands for the one minted from `secret` where given."""
        self.path = path
        self.url = url
        self.user = user
        self.source = source
        self.secret = secret
        self._token = token
        self._connection = None

    @property
    def app(self):
        """The app's own connection, with foreign keys on as a careful app has them."""
        if self._connection is None:
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            self._connection.execute("PRAGMA foreign_keys = ON")
        return self._connection

    def close(self):
        """Closes the app's connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def rows(self, query, values=()):
        """Runs one statement of the app, committed at once, and returns its rows."""
        return self.app.execute(query, values).fetchall()

    def value(self, query, values=()):
        """The single value of a query."""
        ((value,),) = self.rows(query, values)
        return value

    @contextlib.contextmanager
    def transaction(self):
        """Several statements of the app as one transaction."""
        self.app.execute("BEGIN IMMEDIATE")
        try:
            yield self.app
        except BaseException:
            self.app.execute("ROLLBACK")
            raise
        self.app.execute("COMMIT")

    def environment(self):
        """What the command line is started with."""
        values = {key: value for key, value in os.environ.items() if not key.startswith("ROWSYNC_")}
        if self._token is None:
            self._token = self.mint()
        return {**values, "ROWSYNC_TOKEN": self._token}

    def mint(self):
        """A token of this device."""
        return mint(self.user, self.source, secret=self.secret)

    def run(self, command, *arguments, check=True, timeout=120):
        """Runs `rowsync COMMAND file ARGUMENTS` to its end and returns the finished process."""
        done = subprocess.run([BINARY, command, self.path, *map(str, arguments)],
                              env=self.environment(), capture_output=True, text=True,
                              timeout=timeout)
        if check and done.returncode != 0:
            raise RuntimeError(f"rowsync {command} {arguments}: exit {done.returncode}\n"
                               f"{done.stdout}{done.stderr}")
        return done

    def start(self, command, *arguments, **environment):
        """Starts `rowsync COMMAND file ARGUMENTS` and returns at once, for tests that break it."""
        return process.spawn([BINARY, command, self.path, *map(str, arguments)],
                             env={**self.environment(), **environment}, on_death=signal.SIGKILL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def sync(self, *arguments, check=True):
        """Syncs and returns what `rowsync sync --json` reports."""
        return json.loads(self.run("sync", "--json", *arguments, check=check).stdout)

    def status(self):
        """What `rowsync status --json` reports."""
        return json.loads(self.run("status", "--json", check=False).stdout)

    def attach(self):
        """Tells the database which server it belongs to and whose it is."""
        self.run("attach", "--url", self.url, "--user", self.user, "--source", self.source)


def _set_up(device):
    """Makes the example schema, and tracks it, as its README says."""
    device.app.executescript(BUSINESS.read_text())
    device.run("init")
    device.run("track", *TABLES, "--schema", "business")


@functools.cache
def _business_file():
    """The bytes of a file that is set up, which devices begin with: two processes less for each."""
    with tempfile.TemporaryDirectory() as folder:
        device = Device(pathlib.Path(folder) / "app.db", None, "nobody", "none")
        _set_up(device)
        device.close()
        return device.path.read_bytes()


def business_device(path, url, user, source, **options):
    """A device with the example schema, attached; in the file of `path` where there is one."""
    device = Device(path, url, user, source, **options)
    if pathlib.Path(path).exists():
        _set_up(device)
    else:
        pathlib.Path(path).write_bytes(_business_file())
    device.attach()
    return device
