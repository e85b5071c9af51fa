"""Where a run keeps its files: a folder under .run/, gone when the run is over.

The server refuses to run as root, so that for root its files belong to the user postgres, who may
not be able to enter the folder of the clone; and the path of a Unix socket has at most 107 bytes,
which a clone deep down may exceed. In both cases the folder is a private one in the system's
temporary folder, and .run/ has a link to it.
"""

import fcntl
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
RUN = ROOT / ".run"

# What PostgreSQL appends to the socket folder, and the room there is for all of it.
SOCKET_NAME = "/sock/.s.PGSQL.5432"
SOCKET_PATH_BYTES = 107


def server_user():
    """The account the server runs as: ours, or `postgres` where we are root."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def can_enter(user, folder):
    """Whether `user`, another or ourselves, can reach `folder`: by trying it as that user."""
    if user.pw_uid == os.geteuid():
        return os.access(folder, os.X_OK)
    return subprocess.run(["/usr/bin/test", "-x", str(folder)], user=user.pw_uid,
                          group=user.pw_gid, extra_groups=[], cwd="/").returncode == 0


class Place:
    """A folder that is locked while its run lives; the next run removes what a killed one left."""

    def __init__(self, name, keep=False):
        """Makes .run/<name>; `keep` is for one that outlives this process (`make up`)."""
        RUN.mkdir(exist_ok=True)
        sweep()
        self.user = server_user()
        self.name = name if keep else f"{name}-{os.getpid()}"
        self.entry = RUN / self.name
        self.lock = None if keep else _lock(self.entry)
        remove(self.entry)
        if len(str(self.entry)) + len(SOCKET_NAME) > SOCKET_PATH_BYTES or not can_enter(
                self.user, RUN):
            self.path = pathlib.Path(tempfile.mkdtemp(prefix="rowsync-"))
            self.entry.symlink_to(self.path)
        else:
            self.path = self.entry
            self.path.mkdir(mode=0o700)
        self.own(self.path)

    def own(self, path):
        """Hands a file or a folder to the account the server runs as."""
        if os.geteuid() == 0:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def folder(self, name):
        """A new folder inside that only the server's account can open."""
        path = self.path / name
        path.mkdir(mode=0o700)
        self.own(path)
        return path

    def keep_logs(self):
        """Copies the logs to .run/failed-<name>, for whoever looks into a failure."""
        target = RUN / f"failed-{self.name.rsplit('-', 1)[0]}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for log in self.path.glob("*.log"):
            shutil.copy(log, target)
        print(f"logs of this run: {target.relative_to(ROOT)}", file=sys.stderr)

    def remove(self):
        """Removes the folder, the link to it and the lock."""
        remove(self.entry)
        if self.lock is not None:
            _lock_path(self.entry).unlink(missing_ok=True)
            os.close(self.lock)
            self.lock = None


def _lock_path(entry):
    return entry.with_name(entry.name + ".lock")


def _lock(entry):
    """Takes the lock of a place, or returns None when its run is alive."""
    descriptor = os.open(_lock_path(entry), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def remove(entry):
    """Removes a place's folder, and its link where the folder lies elsewhere."""
    if entry.is_symlink():
        shutil.rmtree(entry.resolve(), ignore_errors=True)
        entry.unlink()
    else:
        shutil.rmtree(entry, ignore_errors=True)


def sweep():
    """Removes places whose run was killed; its processes died with it."""
    for lock in RUN.glob("*.lock"):
        entry = lock.with_suffix("")
        descriptor = _lock(entry)
        if descriptor is not None:
            remove(entry)
            lock.unlink(missing_ok=True)
            os.close(descriptor)
