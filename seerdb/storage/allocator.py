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

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_MOST = (1 << 31) - 1


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Keep what is freed until the end. Elsewhere than with glibc it changes nothing.

    For a process that does nothing else.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _MOST)
    libc.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        libc.malloc_trim(0)
