"""libFuzzer's programs in build/fuzz, one for each of test/fuzz/*.c, and their inputs.

Inputs lie in test/fuzz/corpus/<program>: what reaches code that no smaller input reaches, and what
once broke something. `make check` runs each program over them once; `make fuzz` looks for more.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from .place import ROOT

PROGRAMS = ROOT / "build" / "fuzz"
CORPUS = ROOT / "test" / "fuzz" / "corpus"

# The largest input that is tried: enough for all that the parsers do, and small in the repository.
INPUT_BYTES = 4096


def programs():
    """The programs there should be, by name."""
    return [PROGRAMS / path.stem for path in sorted((ROOT / "test" / "fuzz").glob("*.c"))]


def command(program, *arguments):
    """The command line that runs a program, without sanitizers' reports in files."""
    return ["env", "-u", "ASAN_OPTIONS", "-u", "UBSAN_OPTIONS", program, *map(str, arguments)]


def dictionary(program):
    """The option that names the words of the program's part, such as test/fuzz/client.dict."""
    path = CORPUS.parent / f"{program.name.split('_')[0]}.dict"
    return [f"-dict={path}"] if path.exists() else []


def _search(program, seconds):
    """Runs one program for so many seconds and adds to its corpus. What it says, and whether well.

    New inputs are kept where they reach new code; what breaks the program is kept too, as a
    regression that fails until it is mended.
    """
    corpus = CORPUS / program.name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rowsync-fuzz-") as name:
        found = pathlib.Path(name) / "found"
        merged = pathlib.Path(name) / "merged"
        found.mkdir()
        merged.mkdir()
        done = subprocess.run(
            command(program, f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES}", "-timeout=10",
                    "-use_value_profile=1", "-print_final_stats=1", f"-artifact_prefix={corpus}/",
                    *dictionary(program), found, corpus), capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            return f"{program.name}: FAILED\n{done.stderr[-8000:]}", False
        least = subprocess.run(
            command(program, "-set_cover_merge=1", f"-max_len={INPUT_BYTES}", merged, corpus, found),
            capture_output=True, text=True, errors="replace", check=False)
        if least.returncode != 0:
            return f"{program.name}: FAILED to merge\n{least.stderr[-8000:]}", False
        for path in corpus.iterdir():
            if not re.match("crash|leak|timeout|oom", path.name):
                path.unlink()
        for path in merged.iterdir():
            shutil.move(path, corpus / path.name)
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)[1]
    again = subprocess.run(command(program, "-runs=0", corpus), capture_output=True, text=True,
                           errors="replace", check=False)
    edges = re.findall(r"cov: (\d+)", again.stderr)[-1]
    size = sum(path.stat().st_size for path in corpus.iterdir())
    return (f"{program.name}: {int(runs):,} executions, {edges} edges, "
            f"{len(list(corpus.iterdir()))} inputs of {size:,} bytes"), True


def search(arguments):
    """`test/run fuzz`: every program for some seconds, as many at a time as there are processors."""
    parser = argparse.ArgumentParser(prog="test/run fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each program")
    parser.add_argument("only", nargs="*", help="programs; all where none is named")
    options = parser.parse_args(arguments)
    chosen = [path for path in programs() if path.name in options.only or not options.only]
    if len(chosen) < len(options.only) or not chosen:
        print("there are " + ", ".join(path.name for path in programs()), file=sys.stderr)
        return 2
    good = True
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for text, well in pool.map(lambda path: _search(path, options.seconds), chosen):
            print(text, flush=True)
            good = good and well
    return 0 if good else 1
