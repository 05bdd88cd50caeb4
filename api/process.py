"""What the serving process asks of Python, of malloc and of the system, as it begins."""

from __future__ import annotations

import ctypes
import resource
import sys

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that wants to run gets its turn. Python's 5 ms would let the event
loop keep the committer waiting, freshly back from its sync, for longer than the sync took."""
FILES = 65_536
"""How many open files and connections are asked for."""
_M_ARENA_MAX = -8
"""What ``mallopt`` of glibc calls it."""


def prepare() -> None:
    """Set what holds for all threads. Requires: none was started yet."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    _use_one_arena()
    _allow_files()


def _use_one_arena() -> None:
    """Have all threads allocate from one place, if malloc is glibc's.

    Each would have an arena of its own, and what one thread has allocated and another frees, as
    values are when their memtable is flushed, is kept for the first: a load of 2 GiB took 480 to
    760 MiB, and takes 390 to 490. As Python runs one thread at a time, they hardly ever wait for
    each other.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _allow_files() -> None:
    """Have as many open files as the system lets us, within reason.

    The usual 1,024 are a limit for programs that cannot have more. A thousand clients that do
    nothing took them all; then nothing was flushed nor shipped until some of them left.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
