"""Fixtures of the end-to-end tests: one cluster for the session, a database for each test."""

import os
import contextlib
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import rig  # noqa: E402  the line above makes it importable
from rig.build import end_preload  # noqa: E402
from rig.process import raise_on_termination  # noqa: E402


def pytest_addoption(parser):
    """What makes long tests short in `make check`, and whole when somebody wants them."""
    parser.addoption("--kills", type=int, default=60, help="how often to kill at a random moment")
    parser.addoption("--stride", type=int, default=20,
                     help="kill at every so many-th system call that writes")
    parser.addoption("--restarts", type=int, default=2,
                     help="times that the database and the gateway are killed under load")
    parser.addoption("--snapshot-mb", type=int, default=50,
                     help="size of the snapshot that must not be held in memory")


def pytest_configure(config):
    """Told to stop, pytest must end: any other exception is only a test that failed."""
    raise_on_termination(KeyboardInterrupt)
    if "ROWSYNC_PROGRESS" in os.environ:
        config.pluginmanager.register(Steps(os.environ["ROWSYNC_PROGRESS"]))
    end_preload()


class Steps:
    """Tells the runner how far the tests have come."""

    def __init__(self, path):
        self.path, self.done, self.total = path, 0, 0

    def pytest_collection_finish(self, session):
        """The tests are known."""
        self.total = len(session.items)

    def pytest_runtest_logfinish(self):
        """One is over."""
        self.done += 1
        with open(self.path, "a", encoding="ascii") as steps:
            steps.write(f"{self.done} {self.total}\n")


@pytest.fixture(scope="session")
def cluster(request):
    """A private PostgreSQL with the extension of build/stage, for all tests of the session.

    Without fsync: hundreds of databases come and go, and no test cuts the power.
    """
    server = rig.Cluster.start("e2e", fsync="off")
    yield server
    server.stop(failed=request.session.testsfailed > 0)


@pytest.fixture
def database(cluster):
    """A database of this test's own with the example schema registered."""
    base = cluster.business()
    yield base
    base.drop()


@pytest.fixture(scope="module")
def shared(cluster):
    """A gateway on a database for tests that leave nothing behind, or each have their own user."""
    base = cluster.business()
    running = rig.Gateway.start(base)
    running.database = base
    yield running
    running.stop()
    base.drop()


@pytest.fixture
def empty_database(cluster):
    """A database of this test's own with nothing in it, for what needs no extension."""
    base = cluster.database()
    if not base.rows("SELECT 1 FROM pg_roles WHERE rolname = 'business_gateway'"):
        base.rows("CREATE ROLE business_gateway LOGIN")
    yield base
    base.drop()


@pytest.fixture
def start_gateway(request):
    """Starts gateways: `start_gateway(ROWSYNC_BODY_LIMIT=1000)`.

    They serve this test's `database`, or the one given as `database=`.
    """
    with contextlib.ExitStack() as started:
        def start(*, database=None, **options):
            base = database or request.getfixturevalue("database")
            gateway = rig.Gateway.start(base, **options)
            started.callback(gateway.stop)
            return gateway
        yield start


@pytest.fixture
def gateway(start_gateway):
    """A gateway with its defaults on this test's database."""
    return start_gateway()


@pytest.fixture
def mint():
    """`mint(user, source, **claims)`: a token signed with the secret of the tests' gateways."""
    return rig.mint


@pytest.fixture
def device(request, tmp_path):
    """Makes devices with the example schema: `device("ann", "phone")`, attached to `gateway`.

    With `url=` it talks to that instead, with `attached=False` it is an empty one.
    """
    made = []

    def make(user="ann", source="phone", *, url=None, attached=True, **options):
        url = url or request.getfixturevalue("gateway").url
        path = tmp_path / f"{len(made)}-{user}-{source}.db"
        create = rig.business_device if attached else rig.Device
        made.append(create(path, url, user, source, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def blocked(database):
    """Holds a lock that every upload needs; call it to let go."""
    holder = database.connect()
    holder.autocommit = False
    holder.cursor().execute("LOCK TABLE rowsync.scope IN ACCESS EXCLUSIVE MODE")
    yield holder.close
    holder.close()


@pytest.fixture
def roles(database):
    """`roles("writer", "INSERT, SELECT")`: a new role that the gateway may take, with such rights."""
    made = []

    def make(name, rights=None, granted=True):
        role = f"{name}_{database.name}"
        made.append(role)
        database.rows(f"CREATE ROLE {role}")
        if granted:
            database.rows(f"GRANT {role} TO business_gateway")
        if rights is not None:
            database.rows(f"SELECT rowsync.grant_gateway('{role}')")
            database.rows(f"GRANT USAGE ON SCHEMA business TO {role}")
            database.rows(f"GRANT {rights} ON ALL TABLES IN SCHEMA business TO {role}")
        return role
    yield make
    for role in made:
        database.rows(f"DROP OWNED BY {role}")
        database.rows(f"DROP ROLE {role}")


@pytest.fixture
def wire(gateway):
    """A recording proxy in front of the gateway."""
    proxy = rig.Wire(gateway.url)
    yield proxy
    proxy.close()
