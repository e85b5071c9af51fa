"""docs/design.md names, for each invariant and each known trap, tests that are there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines()


def test_every_invariant_and_trap_is_guarded_by_tests_that_exist():
    begin = LINES.index("| what | guarded by |") + 2
    rows = [line.strip("| ").split(" | ") for line in LINES[begin:begin + 23]]
    assert [what.split()[0] for what, _ in rows] == (
        [f"I{n}" for n in range(1, 9)] + [str(n) for n in range(1, 16)])
    stated = [line.strip("| ").split(" | ")[0] for line in LINES if re.match(r"\| I\d ", line)]
    assert stated[:8] == stated[8:]
    for what, guards in rows:
        files = re.findall(r"`(test/[^`]+)`", guards)
        assert files or guards == "none is used", what
        for name in files:
            assert (ROOT / name).is_file(), f"{what}: {name} is not there"
