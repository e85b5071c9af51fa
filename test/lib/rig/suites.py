"""The suites of `make check`: each runs its tests and says how many passed and failed."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

from . import build, fuzz, process, tap
from .cluster import Cluster, pg_config
from .place import ROOT, Place
from .progress import Progress
from .valgrind import Valgrind

# A program that brings nothing to an end for so long hangs, on any machine.
SILENT_SECONDS = 1200


def capture(command, step=None, **options):
    """Runs a test program to its end; returns its output, errors included, and its exit status.

    A program that hangs is killed with everything it started, and so it is when we are told to stop.
    One that is given `step` writes lines "<done> <total>" to the file that ROWSYNC_PROGRESS names.
    """
    with tempfile.TemporaryFile() as output, tempfile.NamedTemporaryFile("r") as steps:
        if step:
            options["env"] = {**options.get("env", os.environ), "ROWSYNC_PROGRESS": steps.name}
        child = process.spawn(command, stdout=output, stderr=output, **options)
        deadline = time.monotonic() + SILENT_SECONDS
        try:
            while (status := child.poll()) is None:
                if time.monotonic() > deadline:
                    output.write(b"\nrunner: hangs: nothing came for %d seconds\n" % SILENT_SECONDS)
                    status = -signal.SIGALRM
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.5)
                lines = steps.read().split("\n") if step else [""]
                if len(lines) > 1:
                    deadline = time.monotonic() + SILENT_SECONDS
                    step(*map(int, lines[-2].split()))
        finally:
            if child.poll() is None:
                process.stop(child, signal.SIGTERM)
        output.seek(0)
        return output.read().decode(errors="replace"), status


def pgtap(run):
    """Every file of test/pgtap in a database of its own, with the extensions installed."""
    return scripts(run, run.cluster())


def scripts(run, cluster):
    """The files of test/pgtap that ONLY names, or all, on a cluster."""
    tally = tap.Tally()
    template = cluster.database(name="pgtap_template")
    template.psql("-c", "CREATE EXTENSION pgtap", "-c", "CREATE EXTENSION rowsync")
    only = os.environ.get("ONLY", "").split()
    paths = [path for path in sorted((ROOT / "test" / "pgtap").glob("*.sql"))
             if not only or path.stem in only]
    for done, path in enumerate(paths):
        run.progress.step(done, len(paths))
        database = cluster.database("pgtap_template")
        output = database.psql("-A", "-t", "-f", str(path), check=False)
        tally.add(tap.read(f"test/pgtap/{path.name}", output.stdout + output.stderr,
                           output.returncode))
    # What the server finds wrong with how it is used, here or at a transaction's end.
    for line in cluster.log().splitlines():
        if re.search(r"TRAP: |problem in alloc set| leak: |PANIC: |terminated by signal", line):
            tally.fail(f"test/pgtap: the server says {line}")
    return tally


def valgrind(run):
    """The same on a server under valgrind; an error with code of ours in its stack is a failure."""
    reports = Valgrind()
    cluster = Cluster.start("valgrind", wrapper=reports.command(), fsync="off", jit="off",
                            autovacuum="off")
    try:
        tally = scripts(run, cluster)
        # Each backend reports until it ends.
        cluster.stop_server()
    finally:
        cluster.stop(run.failed)
    for error in reports.errors():
        tally.fail(f"--- valgrind\n{error}")
    return tally


def isolation(run):
    """Every spec of test/isolation/specs, by the isolation tester that comes with PostgreSQL."""
    tally = tap.Tally()
    folder = ROOT / "test" / "isolation"
    cluster = run.cluster()
    template = cluster.database(name="isolation_template")
    template.psql("-c", "CREATE EXTENSION rowsync")
    tools = pathlib.Path(pg_config("pgxs")).parents[1] / "test" / "isolation"
    specs = sorted(folder.glob("specs/*.spec"))
    for done, spec in enumerate(specs):
        run.progress.step(done, len(specs))
        database = cluster.database("isolation_template")
        output = cluster.place.path / "isolation" / spec.stem
        output.mkdir(parents=True)
        text, status = capture(
            [tools / "pg_isolation_regress", f"--inputdir={folder}", f"--outputdir={output}",
             f"--bindir={cluster.bin}", f"--host={cluster.sockets}", "--port=5432",
             "--user=postgres", f"--dbname={database.name}", "--use-existing", spec.stem],
            cwd=output)
        if status == 0:
            tally.passed += 1
            continue
        differences = output / "regression.diffs"
        if differences.exists():
            text += differences.read_text(errors="replace")
        tally.fail(f"--- {spec.relative_to(ROOT)}, exit status {status}\n{text.rstrip()}")
    return tally


def unit(_run):
    """Every program in test/unit of the build, which prints TAP."""
    tally = tap.Tally()
    for path in sorted((build.BUILD / "test" / "unit").glob("*")):
        if path.is_file() and os.access(path, os.X_OK):
            tally.add(tap.read(f"unit/{path.name}", *capture([path])))
    return tally


def corpus(_run):
    """Every fuzzer over its corpus, once."""
    tally = tap.Tally()
    for program in fuzz.programs():
        text, status = capture(fuzz.command(program, "-runs=0", fuzz.CORPUS / program.name))
        if status == 0:
            tally.passed += 1
        else:
            tally.fail(f"--- {program.name}, exit status {status}\n{text.rstrip()}")
    return tally


def random(_run):
    """The randomised tests, with seeds of their own each time."""
    tally = tap.Tally()
    for name, *arguments in (("differential", "--rounds", "300"), ("together", "--worlds", "1")):
        text, status = capture([sys.executable, f"test/random/{name}.py", *arguments], cwd=ROOT)
        if status == 0:
            tally.passed += 1
        else:
            tally.fail(f"--- test/random/{name}.py, exit status {status}\n{text.rstrip()}")
    return tally


def python(run, folder):
    """The Python tests of a folder, in a process of their own with servers of their own."""
    tally = tap.Tally()
    place = Place("pytest")
    try:
        report = place.path / "report.xml"
        text, status = capture(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no",
             f"--basetemp={place.path}/tmp", f"--junitxml={report}", folder],
            step=run.progress.step, cwd=ROOT,
            env={**os.environ, **build.preload()})
        if report.exists():
            for suite in xml.etree.ElementTree.parse(report).iter("testsuite"):
                number = {key: int(suite.get(key)) for key in
                          ("tests", "failures", "errors", "skipped")}
                tally.failed += number["failures"] + number["errors"]
                tally.skipped += number["skipped"]
                tally.passed += max(0, number["tests"] - number["failures"] - number["errors"]
                                    - number["skipped"])
    finally:
        place.remove()
    if status != 0 and tally.failed == 0:
        tally.fail(f"--- pytest, exit status {status}")
    if tally.failed:
        tally.output.append(text.rstrip())
        run.failed = True
    return tally


def e2e(run):
    """Devices, gateway and server together."""
    return python(run, "test/e2e")


def upgrade(run):
    """Databases of older versions, brought to this one."""
    return python(run, "test/upgrade")


def scenario(run):
    """The scenarios, each on a database and a gateway of its own."""
    import scenario as scenarios

    tally = tap.Tally()
    for name in scenarios.SCENARIOS:
        outcome = scenarios.run(name, run.cluster())
        tally.passed += outcome.passed
        for difference in outcome.differences:
            tally.fail(f"scenario {name}: {difference}")
    return tally


SUITES = {"pgtap": pgtap, "isolation": isolation, "unit": unit, "corpus": corpus,
          "random": random, "upgrade": upgrade, "e2e": e2e, "scenario": scenario}


# Suites that `make check` leaves out.
LONG_SUITES = {"valgrind": valgrind}


class Run:
    """One run of suites: the cluster they share, started by the first that needs it."""

    def __init__(self, stack):
        self.stack = stack
        self.failed = False
        self.progress = Progress()
        self._cluster = None

    def cluster(self):
        """The shared cluster."""
        if self._cluster is None:
            self._cluster = Cluster.start("check")
            self.stack.callback(lambda: self._cluster.stop(self.failed))
        return self._cluster


def run(names):
    """Runs the suites named and ends in one line; returns the exit status."""
    total = tap.Tally()
    with contextlib.ExitStack() as stack:
        shared = Run(stack)
        reports = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if build.SANITIZE:
            build.report_into(reports)
        for name in names:
            shared.progress.begin(name)
            begin = time.monotonic()
            try:
                tally = {**SUITES, **LONG_SUITES}[name](shared)
            except Exception as error:
                tally = tap.Tally()
                tally.fail(f"{name}: {type(error).__name__}: {error}")
            finally:
                shared.progress.end()
            for text in build.collect(reports):
                tally.fail(f"--- {name}, a report of a sanitizer\n{text.rstrip()}")
            if tally.passed + tally.failed == 0:
                tally.fail(f"{name}: no test was run")
            for text in tally.output:
                print(text)
            print(f"{name}: {tally} ({time.monotonic() - begin:.1f} s)", flush=True)
            shared.failed = shared.failed or tally.failed > 0
            total.add(tally)
    print(total)
    return 1 if total.failed else 0
