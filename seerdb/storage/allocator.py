"""What the C library of a worker process does with memory that a job frees.

A table in the making is some blocks of many megabytes, each freed for the next. glibc gives such
blocks back to the kernel at once, which then has to find and clear their pages again: a sixth of
the time of a merge. During a job it keeps them; after the job all of it goes back.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
_MOST = (1 << 31) - 1


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None


def share_one_arena() -> None:
    """Have all threads take memory from the same place, and give it back there. For a process in
    which one of them works at a time; call it before there are others."""
    if libc := _glibc():
        libc.mallopt(_ARENA_MAX, 1)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Keep what is freed until the end. Elsewhere than with glibc it changes nothing.

    For a process that does nothing else.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _MOST)
    libc.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        libc.malloc_trim(0)
