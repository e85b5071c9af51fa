"""Child processes that never outlive us."""

import ctypes
import os
import signal
import subprocess

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent(parent, number):
    """Returns what a child runs before exec: the kernel signals it when `parent` is gone."""
    def prepare():
        _libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)
    return prepare


def spawn(command, *, user=None, detached=False, on_death=signal.SIGTERM, **options):
    """Starts a background process in a session of its own, out of reach of the terminal's Ctrl-C.

    It gets `on_death` when we die, by whatever means, unless `detached`. `user` is an entry of the
    password database: the account to run as, where that is not ours.
    """
    if user is not None and user.pw_uid != os.geteuid():
        options.update(user=user.pw_uid, group=user.pw_gid,
                       extra_groups=os.getgrouplist(user.pw_name, user.pw_gid))
    if not detached:
        options["preexec_fn"] = _die_with_parent(os.getpid(), on_death)
    return subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, **options)


def raise_on_termination(error=SystemExit):
    """Makes SIGTERM and SIGHUP raise `error`, so that everything is cleaned up as after Ctrl-C.

    Ctrl-C itself too: a shell starts background jobs with SIGINT ignored.
    """
    def leave(number, _frame):
        raise error(128 + number)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def stop(process, number=signal.SIGTERM, seconds=20):
    """Asks a process to end and waits; kills it after `seconds`. Returns its exit status."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode
