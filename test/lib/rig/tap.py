"""Reads the Test Anything Protocol, which C unit tests and pgTAP print."""

import dataclasses
import re

_POINT = re.compile(r"\s*(not )?ok\b(?:\s+(\d+))?(.*)")
_PLAN = re.compile(r"1\.\.(\d+)\s*(#\s*skip\b.*)?$", re.IGNORECASE)


@dataclasses.dataclass
class Tally:
    """How many tests came out how, and what is to be shown of those that failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    output: list = dataclasses.field(default_factory=list)

    def add(self, other):
        """Counts another tally in."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.output += other.output

    def fail(self, message):
        """Counts a failure that no test reported by itself."""
        self.failed += 1
        self.output.append(message)

    def __str__(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def read(name, text, status):
    """The tally of one program's TAP; a missing or broken plan and a bad exit status are failures."""
    tally = Tally()
    plan = None
    points = 0
    for line in text.splitlines():
        found = _PLAN.match(line)
        if found:
            plan = int(found.group(1))
            continue
        if line.startswith("Bail out!"):
            tally.fail(f"{name}: {line}")
        found = _POINT.match(line) if not line.startswith(" ") else None
        if not found:
            continue
        points += 1
        if found.group(2) and int(found.group(2)) != points:
            tally.fail(f"{name}: test {found.group(2)} comes where {points} was due")
        directive = found.group(3).partition("#")[2].strip().lower()
        if directive.startswith("skip"):
            tally.skipped += 1
        elif found.group(1):
            tally.failed += 1
        else:
            tally.passed += 1
    if plan is None:
        tally.fail(f"{name}: no plan")
    elif plan != points:
        tally.fail(f"{name}: {plan} tests planned, {points} run")
    elif plan == 0:
        tally.fail(f"{name}: no tests")
    if status != 0 and tally.failed == 0:
        tally.fail(f"{name}: exit status {status}")
    if tally.failed:
        tally.output.insert(0, f"--- {name}, exit status {status}\n{text.rstrip()}")
    return tally
