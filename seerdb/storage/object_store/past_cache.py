"""Writing a file past the page cache.

What nobody is going to read soon would push out of memory what is read, and every page of it is
found, filled and written back by the processor. Past the cache the disk takes it from here.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence

from seerdb.storage.pieces import Piece

_AT_ONCE = 1 << 20
_BLOCK = 4096
"""Of this size, and from such an address, disks take what does not go through the cache."""


def write_past_cache(descriptor: int, pieces: Sequence[Piece]) -> bool:
    """Write all pieces, one after the other, to a new file; not durable before an ``fsync``.

    Returns ``False``, and the file is empty still, where the file system only writes through its
    cache. Raises: ``OSError``.
    """
    if not hasattr(os, "O_DIRECT"):
        return False
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        return _write_blocks(descriptor, pieces)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.ftruncate(descriptor, 0)
        return False
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _write_blocks(descriptor: int, pieces: Sequence[Piece]) -> bool:
    size = 0
    with mmap.mmap(-1, _AT_ONCE) as buffer, memoryview(buffer) as view:
        for filled in _fill(view, pieces):
            blocks = -(-filled // _BLOCK) * _BLOCK
            with view[:blocks] as block:
                written = 0
                while written < blocks:
                    with block[written:] as rest:
                        written += os.pwrite(descriptor, rest, size + written)
            size += filled
    os.ftruncate(descriptor, size)
    return True


def _fill(view: memoryview, pieces: Sequence[Piece]) -> Iterator[int]:
    """Copy the pieces into ``view`` again and again; how many bytes of it are filled, which is all
    of them but at the end."""
    filled = 0
    for piece in pieces:
        with memoryview(piece) as source:
            start = 0
            while start < len(source):
                count = min(len(view) - filled, len(source) - start)
                view[filled : filled + count] = source[start : start + count]
                start, filled = start + count, filled + count
                if filled == len(view):
                    yield filled
                    filled = 0
    if filled:
        yield filled
