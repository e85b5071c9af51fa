"""Fixtures of the upgrade tests: a cluster whose extension files the tests exchange."""

import pathlib
import sys

import pytest

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "lib"),
                str(pathlib.Path(__file__).resolve().parent)]

import rig  # noqa: E402  the lines above make it importable
from rig.process import raise_on_termination  # noqa: E402


def pytest_configure():
    """Told to stop, pytest must end: any other exception is only a test that failed."""
    raise_on_termination(KeyboardInterrupt)


@pytest.fixture(scope="session")
def cluster(request):
    """A private PostgreSQL; its copy of the extension's files belongs to these tests."""
    server = rig.Cluster.start("upgrade", fsync="off")
    yield server
    server.stop(failed=request.session.testsfailed > 0)
