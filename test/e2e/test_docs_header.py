"""The public header names every reason for which a row may stand in a list."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ROOT / "client-sqlite" / "src"
HEADER = (ROOT / "client-sqlite" / "include" / "rowsync.h").read_text(encoding="utf-8")


def test_reasons_of_refused_changes():
    wire = re.findall(r"^\| `(\w+)` \| [^|]*`\w+`[^|]*\| (?:yes|no)",
                      (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8"), re.M)
    own = {reason for source in SOURCES.glob("*.c") for reason in
           re.findall(r'pending_reject\([^;]*?"(\w+)"', source.read_text(encoding="utf-8"))}
    assert len(wire) == 7 and "parent_deleted" in own, (wire, own)
    told = re.findall(r"^     \*   ([a-z]+_[a-z_]+|[a-z]{8,}) {2,}\S", HEADER, re.M)
    # Smaller batches are sent then, and nothing is refused.
    assert set(told) == ({*wire} - {"batch_too_large"}) | own


def test_reasons_of_held_rows():
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("*.[ch]"))
    told = re.findall(r"^     \*   ([A-Za-z][\w: ]+)$", HEADER.split("The reason of a HELD row")[1], re.M)
    assert told
    for reason in told:
        assert f'"{reason}"' in sources, reason
    given = re.findall(r'(?:row_refuse\(client,|#define REASON_\w+) "([^"]+)"', sources)
    assert given and set(given) <= set(told), given
