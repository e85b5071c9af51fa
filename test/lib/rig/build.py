"""What is tested: the plain build, or with SANITIZE in the environment the instrumented one.

The instrumented one's processes write what a sanitizer finds into files of their own, so that a
report counts whatever became of the process and of its standard error.
"""

import os
import subprocess

from .place import ROOT

SANITIZE = os.environ.get("SANITIZE", "")
BUILD = ROOT / "build" / SANITIZE

# Each sanitizer's variable, and what it is told besides where to report.
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
           "LSAN_OPTIONS": "print_suppressions=0", "UBSAN_OPTIONS": "print_stacktrace=1",
           "TSAN_OPTIONS": "second_deadlock_stack=1"}

NO_LEAKS = ":detect_leaks=0"


def report_into(folder):
    """Sets the environment for processes to come: they report into files in `folder`."""
    for name, options in OPTIONS.items():
        os.environ[name] = f"{options}:log_path='{folder}/report'"


def collect(folder):
    """Takes the reports out of `folder` and returns their texts."""
    texts = []
    for path in sorted(folder.glob("report.*")):
        texts.append(path.read_text(errors="replace"))
        path.unlink()
    return texts


def preload():
    """What a program that is not ours needs in its environment to load our instrumented library.

    Its own leaks are none of our business.
    """
    if not SANITIZE:
        return {}
    library = {"address": "libasan.so", "thread": "libtsan.so"}[SANITIZE.split(",", 1)[0]]
    path = subprocess.run([os.environ.get("CC", "gcc"), f"-print-file-name={library}"], check=True,
                          capture_output=True, text=True).stdout.strip()
    return {"LD_PRELOAD": path,
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + NO_LEAKS}


def end_preload():
    """Takes back for our children what `preload` put into our own environment."""
    os.environ.pop("LD_PRELOAD", None)
    if "ASAN_OPTIONS" in os.environ:
        os.environ["ASAN_OPTIONS"] = os.environ["ASAN_OPTIONS"].replace(NO_LEAKS, "")
