"""Figures beside their floors: measured in turns, medians, ratios first, as table and JSON."""

import datetime
import json
import os
import pathlib
import platform
import statistics
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def timed(function, *arguments, clock=time.perf_counter):
    """Seconds that a call takes."""
    begin = clock()
    function(*arguments)
    return clock() - begin


def cpu_clock(pid):
    """A clock that runs while this process does: other load on the machine hardly moves it."""
    def read():
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[0]) / 1e9
    return read


def interleaved(rounds, *functions, clock=time.perf_counter):
    """Calls every function once a round, with the round's number, and returns their times by
    function; which one goes first changes each round."""
    times = [[] for _ in functions]
    for number in range(rounds):
        order = list(range(len(functions)))
        for which in order if number % 2 else reversed(order):
            times[which].append(timed(functions[which], number, clock=clock))
    return times


class Report:
    """Collects lines and writes them at the end."""

    def __init__(self, name):
        self.name = name
        self.lines = []

    def add(self, what, times, floor, floor_times, per=1, unit="change"):
        """A figure and its floor, both lists of seconds for `per` units each."""
        mine, bare = statistics.median(times), statistics.median(floor_times)
        self.line(what, mine / bare, f"{mine / per * 1e6:.2f} µs/{unit}", floor,
                  f"{bare / per * 1e6:.2f} µs/{unit}", rounds=len(times), seconds=mine,
                  floor_seconds=bare)

    def line(self, what, ratio, figure, floor, floor_figure, **more):
        """A line of the table; ratio may be None."""
        self.lines.append({"what": what, "ratio": ratio, "figure": figure, "floor": floor,
                           "floor_figure": floor_figure, **more})
        print(self._row(self.lines[-1]), flush=True)

    @staticmethod
    def _row(line):
        ratio = f"{line['ratio']:.2f}" if line["ratio"] is not None else "-"
        return (f"| {line['what']} | {ratio} | {line['figure']} | {line['floor']} "
                f"| {line['floor_figure']} |")

    def write(self, version):
        """Writes build/bench/<name>.json and .md, and says where."""
        folder = ROOT / "build" / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        about = {"benchmark": self.name, "server": version, "machine": platform.platform(),
                 "processors": os.cpu_count(),
                 "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds")}
        (folder / f"{self.name}.json").write_text(
            json.dumps({**about, "figures": self.lines}, indent=1, ensure_ascii=False) + "\n")
        table = "\n".join(["| what | ratio | figure | floor | its figure |",
                           "| --- | --- | --- | --- | --- |", *map(self._row, self.lines)])
        (folder / f"{self.name}.md").write_text(table + "\n")
        print(f"\n{table}\n\nalso in {folder.relative_to(ROOT)}/{self.name}.json")
