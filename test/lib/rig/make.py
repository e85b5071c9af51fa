"""Builds, and shows how far it has come."""

import os
import re
import subprocess
import sys
import tempfile

from . import process
from .place import ROOT
from .progress import Progress

COMPILES = re.compile(rb"\S*(gcc|cc|clang)(-\d+)? .* -c ")


def run(targets):
    """Makes the targets; returns make's exit status, and prints what it said if that is not 0.

    How many files there are to compile is what make would do, as far as it knows beforehand.
    """
    (ROOT / "build").mkdir(exist_ok=True)
    command = ["make", "--no-print-directory", *targets]
    # Of a make that called us only the variables given to it are passed on.
    _, _, variables = os.environ.get("MAKEFLAGS", "").partition("-- ")
    environment = {**os.environ, "MAKEFLAGS": variables and f" -- {variables}"}
    plan = subprocess.run([*command, "-n", "-k"], env=environment, capture_output=True, check=False)
    total = len(set(filter(COMPILES.match, plan.stdout.splitlines())))
    progress = Progress()
    progress.begin("building" if targets == ["unit"] else "building " + " and ".join(targets))
    with tempfile.TemporaryFile() as said:
        child = process.spawn([*command, f"-j{os.cpu_count()}"], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            done = 0
            for line in child.stdout:
                said.write(line)
                if COMPILES.match(line):
                    done += 1
                    progress.step(done, max(done, total))
            status = child.wait()
        finally:
            progress.end()
            process.stop(child)
        if status:
            said.seek(0)
            sys.stderr.buffer.write(said.read())
    return status
