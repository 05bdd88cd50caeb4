"""What the C library does with memory that is freed.

Each thread would take memory from an arena of its own, and what one has taken and another frees,
as blocks are that are cached after a flush and dropped after a merge, is kept for the first: twenty
million entries left a process with 700 to 980 MiB, and leave it with 470 to 480. As Python runs one
thread at a time, those of a process with databases share one arena, and hardly wait for each other.

A merge takes and frees arrays of some megabytes, and a table in the making is some blocks of many
megabytes, each freed for the next. glibc gives such memory back to the kernel at once, which then
has to find and clear its pages again: a sixth of the time of a merge. A worker process keeps all of
it, from job to job, until it has had nothing to do for a while. A process that has other things to
do keeps :data:`KEPT` of what threads free, as it would if anything had freed one large array.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
_MOST = (1 << 31) - 1

KEPT = 32 << 20
"""Bytes that glibc holds back when much is freed: a window of a merge, some times over."""


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim"):
        return None
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    return libc


def keep_freed_pieces() -> None:
    """Have glibc keep up to :data:`KEPT` for what comes next, unless somebody told it otherwise.

    It maps what is larger than a threshold apart, and holds back twice as much of all else; when
    something larger is freed, that becomes the threshold: see M_MMAP_THRESHOLD in mallopt(3).
    """
    if libc := _glibc():
        libc.free(libc.malloc(KEPT // 2))


def share_one_arena() -> None:
    """Have all threads that are started from now on take memory from the same place, and give it
    back there. For a process in which one of them works at a time."""
    if libc := _glibc():
        libc.mallopt(_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Keep all that is freed from now on, until :func:`give_back`. Elsewhere than with glibc it
    changes nothing. For a process that does nothing else."""
    if libc := _glibc():
        libc.mallopt(_MMAP_THRESHOLD, _MOST)
        libc.mallopt(_TRIM_THRESHOLD, _MOST)


def give_back() -> None:
    """Give the kernel what is free."""
    if libc := _glibc():
        libc.malloc_trim(0)
