"""`make demo`: the founding scenario for people to watch, each number checked."""

import contextlib
import sys
import time

import rig

from . import world
from .check import Check
from .complex_multi_batch import VARIANTS, play


class Screen:
    """Prints phases and comparisons; on a terminal in colour, with a bar that moves."""

    def __init__(self):
        self.progress = None
        self.full = True
        self.held = 0
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
            self.progress = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
                TextColumn("{task.completed}/{task.total}"), console=Console(highlight=False),
                transient=True)
            self.task = self.progress.add_task("phases", total=4 * len(VARIANTS))

    def write(self, text, style=""):
        """One line, above the bar where there is one."""
        if self.progress is None:
            print(text, flush=True)
        else:
            self.progress.console.print(text, style=style, markup=False)

    def title(self, text):
        """A new variant of the scenario."""
        self.write(f"\ncomplex-multi-batch, {text}", "bold")

    @contextlib.contextmanager
    def phase(self, text, full=True):
        """A phase, with its time."""
        self.full, self.held = full, 0
        if self.progress is not None:
            self.progress.update(self.task, description=text)
        if full:
            self.write(f"  {text}")
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self.write(f"    {seconds:.2f} s" if full
                   else f"  {text}: {self.held} comparisons held, {seconds:.2f} s", "cyan")
        if self.progress is not None:
            self.progress.advance(self.task)

    def line(self, held, text):
        """A comparison."""
        self.held += held
        if self.full or not held:
            self.write(f"    {'ok     ' if held else 'DIFFERS'} {text}",
                       "green" if held else "bold red")


def run():
    """Plays all variants; returns the exit status."""
    begin = time.monotonic()
    cluster = rig.Cluster.start("demo")
    failed = True
    try:
        screen = Screen()
        with contextlib.ExitStack() as stack:
            if screen.progress is not None:
                stack.enter_context(screen.progress)
            check = Check(screen)
            place = stack.enter_context(world(cluster))
            screen.write("A device works offline, uploads in batches and is installed anew: "
                         "is every row there again?")
            screen.write(f"PostgreSQL and gateway are up: {time.monotonic() - begin:.2f} s")
            begin = time.monotonic()
            for variant in VARIANTS:
                play(place, check, variant)
            seconds = time.monotonic() - begin
        failed = bool(check.differences)
    finally:
        cluster.stop(failed)
    print(f"\n{check.passed} comparisons held, {len(check.differences)} differ; {seconds:.2f} s")
    if failed:
        print("demo: failed\n" + "\n".join(check.differences))
        return 1
    print("demo: passed")
    return 0
