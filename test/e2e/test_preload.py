"""The library works when the server loads it at its start, as it does when a session needs it."""

import pytest

import rig
from rig import tap

SCRIPTS = ["capture", "capture_prepared", "upload_batch", "version"]


@pytest.fixture(scope="module")
def preloaded(request):
    """A server with shared_preload_libraries = rowsync; $libdir is what extension_destdir moves."""
    server = rig.Cluster.start("preload", fsync="off", shared_preload_libraries="$libdir/rowsync")
    server.database(name="pgtap_template").psql(
        "-c", "CREATE EXTENSION pgtap", "-c", "CREATE EXTENSION rowsync")
    yield server
    server.stop(failed=request.session.testsfailed > 0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_pass_when_preloaded(preloaded, script):
    database = preloaded.database("pgtap_template")
    done = database.psql("-A", "-t", "-f", str(rig.ROOT / "test" / "pgtap" / f"{script}.sql"), check=False)
    tally = tap.read(script, done.stdout + done.stderr, done.returncode)
    assert tally.passed > 0 and tally.failed == 0, tally.output


def test_a_database_without_the_extension_is_left_alone(preloaded):
    database = preloaded.database(template="template0")
    database.rows("CREATE TABLE t (id integer PRIMARY KEY)")
    database.rows("INSERT INTO t SELECT generate_series(1, 10)")
    database.rows("ALTER TABLE t ADD COLUMN v text")
    database.rows("TRUNCATE t")
    # Settings are known, and may be set before there is anything to use them.
    database.rows("SET rowsync.scope = 'ann'")
    assert database.value("SHOW rowsync.max_changes") == "10000"
    database.rows("DROP TABLE t")
