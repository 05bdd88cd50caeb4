"""What the serving process asks of Python and of the system, as it begins."""

from __future__ import annotations

import resource
import sys

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that wants to run gets its turn. Python's 5 ms would let the event
loop keep the committer waiting, freshly back from its sync, for longer than the sync took."""
FILES = 65_536
"""How many open files and connections are asked for."""


def prepare() -> None:
    """Set what holds for all threads."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    _allow_files()


def _allow_files() -> None:
    """Have as many open files as the system lets us, within reason.

    The usual 1,024 are a limit for programs that cannot have more. A thousand clients that do
    nothing took them all; then nothing was flushed nor shipped until some of them left.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
