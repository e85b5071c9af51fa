"""The shell sessions of README.md and docs/client.md, run as they stand there.

What stands after "# →" must be in what the command prints.
"""

import os
import re
import subprocess

import pytest
import rig
from rig.place import ROOT


def section(path, begin, end):
    """The code blocks between two headings, as (language, text)."""
    text = (ROOT / path).read_text()
    assert begin in text and end in text, (begin, end)
    return re.findall(r"^```(\w+)\n(.*?)^```$", text.split(begin)[1].split(end)[0], re.M | re.S)


def commands(block):
    """The commands of a shell block, each with what it must print (None: anything)."""
    found, lines = [], []
    depth = 0
    for line in block.splitlines():
        command, _, says = line.partition("  # → ")
        lines.append(command.rstrip())
        depth += len(re.findall(r"(?:^|; )for ", line)) - len(re.findall(r"^done$", line))
        quotes = sum(text.count('"') for text in lines)
        if depth == 0 and quotes % 2 == 0 and line.strip():
            found.append(("\n".join(lines), says.strip() or None))
            lines = []
    assert not [line for line in lines if line], lines
    return found


@pytest.fixture
def session(gateway, database, tmp_path):
    """Runs commands in one folder, in which `examples` is, as one shell would."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith("ROWSYNC_")}
    environment |= {"ROWSYNC_URL": gateway.url, "DATABASE_URL": database.dsn,
                    "ROWSYNC_JWT_SECRET": rig.SECRET,
                    "PATH": f"{rig.device.BINARY.parent}:{environment['PATH']}"}

    def run(block):
        """Runs a block; what one command exports, the next one has."""
        for command, says in commands(block):
            done = subprocess.run(["bash", "-euc", f"{command}\nenv -0 >environment"], cwd=tmp_path,
                                  env=environment, capture_output=True, text=True)
            assert done.returncode == 0, command + done.stdout + done.stderr
            assert says is None or says in done.stdout, (command, says, done.stdout)
            environment.update(entry.split("=", 1) for entry in
                               (tmp_path / "environment").read_text().split("\0") if entry)
    return run


def follow_the_readme(session):
    """Runs the README's example."""
    blocks = section("README.md", "## A real example", "In your own database")
    assert blocks[0][1].startswith("make up") and len(blocks) == 4
    for language, text in blocks[1:]:
        assert language == "sh"
        session(text)


def test_the_readme(session):
    follow_the_readme(session)


def test_the_readmes_four_statements(empty_database):
    ((language, text),) = section("README.md", "In your own database", "## How it works")
    assert language == "sql"
    text = text.replace("app_gateway", "business_gateway")
    empty_database.rows("CREATE TABLE public.task (id text PRIMARY KEY, title text)")
    for statement in re.findall(r"^[A-Z].*?;", text, re.M):
        empty_database.rows(statement)
    empty_database.rows("SET ROLE business_gateway")
    answer = empty_database.value("""SELECT rowsync.upload('ann', 'phone', '{"changes": [
        {"source_change_id": 1, "table": "task", "op": "INSERT", "pk": "a", "payload": {}}]}')""")
    assert '"status":"applied"' in answer, answer


@pytest.mark.parametrize("before", [None, follow_the_readme], ids=["alone", "after the README"])
def test_from_nothing_to_a_synced_table(session, database, before):
    if before:
        before(session)
    blocks = section("docs/client.md", "## From nothing to a synced table", "## Commands")
    assert [language for language, _ in blocks] == ["sql", "sh", "sh", "sh"]
    database.psql("-c", blocks[0][1])
    for _, text in blocks[1:]:
        session(text)
