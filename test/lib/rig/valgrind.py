"""A server under valgrind, and what valgrind has to say of our code."""

import os
import pathlib
import re
import tempfile

from .cluster import pg_config

# Paths of our sources in a report, which has whole paths.
OURS = re.compile(r"/pg_extension/src/|rowsync\.so")


class Valgrind:
    """Where the reports of one server go. valgrind writes one file for each process."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="rowsync-valgrind-")
        # The server may run as somebody else.
        os.chmod(self.folder.name, 0o777)

    def command(self):
        """What the server is started with. PostgreSQL's own suppressions, where it came with them."""
        known = pathlib.Path(pg_config("bindir")).parent / "valgrind.supp"
        return ["valgrind", "--quiet", "--trace-children=yes", "--error-limit=no", "--leak-check=no",
                "--fullpath-after=", f"--log-file={self.folder.name}/%p.log",
                *([f"--suppressions={known}"] if known.exists() else [])]

    def errors(self):
        """The errors that have code of ours in their stack, each once.

        Not that padding is written to a temporary file: PostgreSQL's own suppressions say the same.
        """
        found = {}
        for path in pathlib.Path(self.folder.name).glob("*.log"):
            text = re.sub(r"^==\d+== ?", "", path.read_text(errors="replace"), flags=re.MULTILINE)
            for error in re.split(r"\n\n+(?=\S)", text):
                if OURS.search(error) and not error.startswith("Syscall param pwrite64(buf)"):
                    found.setdefault(re.sub(r"0x[0-9A-F]+", "", error), error)
        return list(found.values())
