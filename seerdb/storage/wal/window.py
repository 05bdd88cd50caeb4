"""The bytes of one segment, of which a walk over it has only a window in memory.

Much of what a crash leaves was allocated and never used. A small window moves over that at the
speed of memory that was used before; to have all of it at once, the kernel would have to find a
page for every page of the file.
"""

from __future__ import annotations

from collections.abc import Callable

ReadAt = Callable[[int, int], bytes]
"""The bytes from an offset, of a length; fewer only at the end."""

WINDOW = 1 << 16
"""Below the size from which malloc asks the kernel for every block anew."""
_UNUSED = bytes(WINDOW)


class Window:
    """The ``size`` bytes that ``read_at`` reads. What that raises, every method raises.

    Not thread-safe. Requires: the bytes do not change.
    """

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self.size = size
        self._read_at = read_at
        self._start = 0
        self._bytes = b""

    def at(self, offset: int, least: int) -> tuple[bytes, int]:
        """The window, and the position in it of ``offset``.

        It moves there if fewer than ``least`` bytes are ahead, and grows if it must; fewer are
        ahead after that only where the segment ends.
        """
        position = offset - self._start
        if not 0 <= position <= len(self._bytes) - least:
            self._start, position = offset, 0
            self._bytes = self._read(offset, max(least, WINDOW))
        return self._bytes, position

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset`` on; fewer than ``length`` only where the segment ends."""
        position = offset - self._start
        if 0 <= position <= len(self._bytes) - length:
            return self._bytes[position : position + length]
        return self._read(offset, length)

    def find(self, pattern: bytes, start: int) -> int:
        """The first offset from ``start`` on of ``pattern``, which is not all zeros; or -1."""
        while start <= self.size - len(pattern):
            window, position = self.at(start, len(pattern))
            found = -1 if window == _UNUSED else window.find(pattern, position)
            if found >= 0:
                return self._start + found
            start = self._start + max(len(window), WINDOW) - len(pattern) + 1
        return -1

    def _read(self, offset: int, length: int) -> bytes:
        return self._read_at(offset, max(min(length, self.size - offset), 0))
