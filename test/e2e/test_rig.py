"""What the runner promises: nothing outlives it, and no failure is counted as a success."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from rig import Place, place, tap

OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from rig import Cluster, process
process.raise_on_termination()
cluster = Cluster.start("owner")
try:
    print(cluster.server.pid, cluster.place.path, flush=True)
    time.sleep(300)
finally:
    cluster.stop()
"""


def gone(pid):
    """Whether a process ends, given half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL],
                         ids=lambda number: number.name)
def test_a_cluster_ends_with_the_process_that_started_it(number):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(place.ROOT / "test" / "lib")],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pid, folder = owner.stdout.readline().split()
    assert pathlib.Path(folder).is_dir()
    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()
    assert gone(int(pid))
    place.sweep()
    assert not pathlib.Path(folder).exists()
    assert not list(place.RUN.glob(f"owner-{owner.pid}*"))


def test_sweeping_leaves_a_living_run_alone():
    mine = Place("living")
    try:
        (mine.path / "file").write_text("here")
        subprocess.run([sys.executable, "-c",
                        "import sys; sys.path.insert(0, sys.argv[1]);"
                        "from rig import place; place.sweep()", str(place.ROOT / "test" / "lib")],
                       check=True)
        assert (mine.path / "file").read_text() == "here"
    finally:
        mine.remove()
    assert not mine.entry.exists()


def test_where_the_server_cannot_enter_the_folder_lies_elsewhere(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(place, "RUN", deep)
    mine = Place("deep")
    try:
        assert mine.entry.is_symlink()
        assert len(str(mine.path) + place.SOCKET_NAME) <= place.SOCKET_PATH_BYTES
    finally:
        mine.remove()
    assert not mine.path.exists()
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("text, status, counts", [
    ("1..2\nok 1\nok 2 - named\n", 0, (2, 0, 0)),
    ("ok 1\nok 2\n1..2\n", 0, (2, 0, 0)),
    ("1..2\nok 1\nnot ok 2 - broken\n", 1, (1, 1, 0)),
    ("1..2\nok 1\nok 2 # SKIP no such thing here\n", 0, (1, 0, 1)),
    ("1..2\nok 1\n    ok 1 - of a subtest\n    1..1\nok 2\n", 0, (2, 0, 0)),
    ("1..3\nok 1\nok 2\n", 0, (2, 1, 0)),
    ("1..1\nok 1\nok 2\n", 0, (2, 1, 0)),
    ("1..2\nok 1\nok 3\n", 0, (2, 1, 0)),
    ("1..1\nok 1\n", 1, (1, 1, 0)),
    ("1..1\nok 1\n", -11, (1, 1, 0)),
    ("ok 1\n", 0, (1, 1, 0)),
    ("1..0\n", 0, (0, 1, 0)),
    ("", 0, (0, 1, 0)),
    ("1..1\nok 1\nBail out! no database\n", 0, (1, 1, 0)),
])
def test_a_broken_plan_or_a_bad_exit_is_a_failure(text, status, counts):
    tally = tap.read("program", text, status)
    assert (tally.passed, tally.failed, tally.skipped) == counts
    assert bool(tally.output) == (counts[1] > 0)


def test_a_suite_without_a_test_fails_the_run():
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; sys.path.insert(0, sys.argv[1]); from rig import suites, tap;"
         "suites.SUITES = {'empty': lambda run: tap.Tally()};"
         "sys.exit(suites.run(['empty']))", str(place.ROOT / "test" / "lib")],
        capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_a_token_in_a_gateways_log_fails_the_test_that_it_ran_for(gateway, mint):
    assert gateway.stop() == 0
    whole = gateway.log_path.read_text()
    for part in mint("ann", "phone").split("."):
        gateway.log_path.write_text(whole + json.dumps({"message": f"<{part}>"}) + "\n")
        with pytest.raises(AssertionError, match="a token in the gateway's log"):
            gateway.check_log()
    gateway.log_path.write_text(whole)
    gateway.check_log()
