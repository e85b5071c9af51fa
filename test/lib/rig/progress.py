"""How far a suite has come: a bar on a terminal, else a line at each quarter."""

import sys


class Progress:
    """Draws the progress of one suite after another on standard output."""

    def __init__(self):
        self.bar = self.task = None
        self.quarter = 0
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn
            self.bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                           transient=True)

    def begin(self, name):
        """A suite of this name begins."""
        self.quarter = 0
        if self.bar is None:
            print(f"{name} ...", flush=True)
        else:
            self.bar.start()
            self.task = self.bar.add_task(name, total=None)

    def step(self, done, total):
        """So many of its tests are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total)
        elif 0 < done < total and done * 4 // total > self.quarter:
            self.quarter = done * 4 // total
            print(f"  {done} of {total}", flush=True)

    def end(self):
        """It is over."""
        if self.bar is not None:
            self.bar.remove_task(self.task)
            self.bar.stop()
