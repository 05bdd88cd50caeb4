"""The bytes of an object as a file, for a client that sends what it reads from one.

What it is given as bytes has to be joined, and is copied again on its way: that takes three times
as much memory as the object.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from itertools import accumulate

from seerdb.storage.pieces import Body, pieces_of


class BodyFile(io.RawIOBase):
    """The bytes of ``body``, from the start on, as often as wanted. For one thread at a time."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self._pieces = pieces_of(body)
        self._ends = list(accumulate(map(len, self._pieces)))
        self._size = len(body)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Raises ``ValueError`` for a place before the start."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"a place before the start: {origin + offset}")
        self._position = origin + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes, ``size`` if there are so many; -1: all."""
        left = max(0, self._size - self._position)
        left = left if size < 0 else min(size, left)
        number, found = bisect_right(self._ends, self._position), []
        while left:
            piece = self._pieces[number]
            start = self._position - (self._ends[number] - len(piece))
            found.append(memoryview(piece)[start : start + left])
            self._position += len(found[-1])
            left -= len(found[-1])
            number += 1
        return b"".join(found)
