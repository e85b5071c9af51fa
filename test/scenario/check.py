"""Comparisons that are counted, and where they go: to a tally, to a screen."""

import contextlib


class Silent:
    """A display that shows nothing; Screen in demo.py is the other one."""

    def title(self, text):
        """A new part begins."""

    @contextlib.contextmanager
    def phase(self, text, full=True):
        """A phase runs, as long as the block does; `full` to show each of its comparisons."""
        yield

    def line(self, held, text):
        """A comparison held, or did not."""


class Check:
    """Counts what held and keeps what differs; a scenario goes on after a difference."""

    def __init__(self, display=None):
        self.display = display or Silent()
        self.passed = 0
        self.differences = []

    def equal(self, what, actual, expected):
        """Both must be the same; `what` says it for people, with {} for the value."""
        if actual == expected:
            self.passed += 1
            self.display.line(True, what.format(_short(actual)))
            return True
        message = what.format(_short(actual)) + "\n" + _difference(actual, expected)
        self.differences.append(message)
        self.display.line(False, message)
        return False

    def true(self, what, held):
        """A statement that must hold."""
        return self.equal(what, bool(held), True)


def _short(value):
    """A value as a number a reader can take in."""
    if isinstance(value, (dict, list, set, tuple)):
        return str(len(value)) if len(value) > 8 or not value else str(value)
    return str(value)


def _difference(actual, expected):
    """Says where two values differ; of large ones the first few places."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        keys = [key for key in sorted({**actual, **expected}, key=str)
                if actual.get(key, "nothing") != expected.get(key, "nothing")]
        lines = [f"  {key}: {actual.get(key, 'nothing')!r}, expected {expected.get(key, 'nothing')!r}"
                 for key in keys[:5]]
        if len(keys) > 5:
            lines.append(f"  and {len(keys) - 5} more")
        return "\n".join(lines)
    if isinstance(actual, list) and isinstance(expected, list) and len(expected) > 8:
        place = next((place for place, pair in enumerate(zip(actual, expected))
                      if pair[0] != pair[1]), min(len(actual), len(expected)))
        return (f"  has {len(actual)} elements, expected {len(expected)}; from {place} on:"
                f" {actual[place:place + 5]!r}, expected {expected[place:place + 5]!r}")
    return f"  is {actual!r}, expected {expected!r}"
