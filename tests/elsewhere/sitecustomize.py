"""Python as sapwood would find it on Windows: with this folder on PYTHONPATH, its modules can't import what
only POSIX has, and their `os`, `signal`, `time` and `mmap` lack what Windows lacks.

Only sapwood's own imports see it. Libraries have a Windows form of their own, which can't run here.
"""

from __future__ import annotations

import builtins
import types
from importlib import import_module
from typing import Any

MISSING = {"fcntl", "resource", "readline", "termios", "tty", "pty", "pwd", "grp", "syslog"}
ON_POSIX = """
os:
    O_CLOEXEC O_DIRECTORY O_DIRECT O_DSYNC O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC WNOHANG
    chown chroot confstr copy_file_range ctermid eventfd fchdir fchmod fchown fdatasync fork forkpty
    fstatvfs getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getsid getuid getxattr
    initgroups killpg lchown lockf major makedev memfd_create minor mkfifo mknod nice openpty pipe2
    posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev readv register_at_fork
    sched_getaffinity sched_getscheduler sched_setaffinity sched_yield sendfile setgid setpgid setpriority
    setsid setuid setxattr splice statvfs sync sysconf tcgetpgrp tcsetpgrp ttyname uname wait wait3 wait4
    waitid writev
signal:
    SIGHUP SIGKILL SIGALRM SIGCHLD SIGCONT SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH alarm
    getitimer setitimer pause pthread_kill pthread_sigmask sigpending sigtimedwait sigwait sigwaitinfo
time:
    clock_gettime clock_gettime_ns clock_settime pthread_getcpuclockid tzset
mmap:
    MADV_DONTNEED MADV_HUGEPAGE MADV_SEQUENTIAL MAP_ANONYMOUS MAP_PRIVATE MAP_SHARED PROT_READ PROT_WRITE
"""
LACKING: dict[str, set[str]] = {}
for line in ON_POSIX.split("\n"):
    if line.endswith(":"):
        LACKING[line[:-1]] = set()
    elif line:
        LACKING[list(LACKING)[-1]] |= set(line.split())


def poorer(name: str) -> types.ModuleType:
    real = import_module(name)
    found = types.ModuleType(name)
    found.__dict__.update({key: value for key, value in vars(real).items() if key not in LACKING[name]})
    return found


POORER = {name: poorer(name) for name in LACKING}
real_import = builtins.__import__


def import_as_elsewhere(name: str, globals: Any = None, *arguments: Any, **named: Any) -> Any:
    facts = globals or {}
    caller = str(facts.get("__name__", ""))
    if caller == "__main__":
        caller = str(facts.get("__package__"))
    if caller.split(".")[0] != "sapwood":
        return real_import(name, globals, *arguments, **named)
    root = name.split(".")[0]
    if root in MISSING:
        raise ModuleNotFoundError(f"No module named {root!r}", name=root)
    found = real_import(name, globals, *arguments, **named)
    return POORER.get(root, found) if name == root or found.__name__ == root else found


builtins.__import__ = import_as_elsewhere
