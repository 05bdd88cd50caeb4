"""What is on a simulated disk: contents and directory entries, each as the process sees it, as
it is durable, and the changes in between. No thread-safety of its own; see ``local/files.py``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

SECTOR = 512
"""A power loss keeps or loses aligned pieces of this many bytes."""


class _Write(NamedTuple):
    offset: int
    data: bytes

    def apply(self, buffer: bytearray) -> None:
        _extend(buffer, self.offset)
        buffer[self.offset : self.offset + len(self.data)] = self.data

    def apply_partly(self, buffer: bytearray, random: random.Random) -> None:
        fate = random.choice(("lost", "kept", "torn"))
        if fate == "kept":
            self.apply(buffer)
        elif fate == "torn":
            for sector in self._sectors():
                if random.random() < 0.5:
                    sector.apply(buffer)
        # The length may reach the disk without the bytes.
        if random.random() < 0.25:
            _extend(buffer, self.offset + len(self.data))

    def _sectors(self) -> Iterator[_Write]:
        start, end = self.offset, self.offset + len(self.data)
        while start < end:
            stop = min(end, start - start % SECTOR + SECTOR)
            yield _Write(start, self.data[start - self.offset : stop - self.offset])
            start = stop


class _Truncate(NamedTuple):
    size: int

    def apply(self, buffer: bytearray) -> None:
        del buffer[self.size :]
        _extend(buffer, self.size)

    def apply_partly(self, buffer: bytearray, random: random.Random) -> None:
        if random.random() < 0.5:
            self.apply(buffer)


class Content:
    """The bytes of a file: ``current``, ``durable`` and what was changed since."""

    def __init__(self, data: bytes = b"") -> None:
        self.current = bytearray(data)
        self._durable = bytearray(data)
        self._pending: list[_Write | _Truncate] = []

    def write(self, offset: int, data: bytes) -> None:
        """Write without making durable; a gap before ``offset`` becomes zeros."""
        self._change(_Write(offset, data))

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros without making durable."""
        self._change(_Truncate(size))

    def sync(self, *, metadata: bool) -> None:
        """Make durable. Without ``metadata`` a shorter length is not: the old tail may return."""
        before = bytes(self._durable)
        for change in self._pending:
            change.apply(self._durable)
        self._pending.clear()
        size = len(self._durable)
        if not metadata and size < len(before):
            self._durable += before[size:]
            self._pending.append(_Truncate(size))

    def forget(self) -> None:
        """Never make durable what was changed up to now."""
        self._pending.clear()

    def lose_power(self, random: random.Random) -> None:
        """Keep what was durable, and of each later change all, some or nothing."""
        for change in self._pending:
            change.apply_partly(self._durable, random)
        self._pending.clear()
        self.current = bytearray(self._durable)

    def _change(self, change: _Write | _Truncate) -> None:
        change.apply(self.current)
        self._pending.append(change)


class Directory:
    """The files in one directory: ``entries`` and, like for contents, what is durable."""

    def __init__(self) -> None:
        self.entries: dict[str, Content] = {}
        self._durable: dict[str, Content] = {}
        self._pending: list[dict[str, Content | None]] = []

    def change(self, changes: dict[str, Content | None]) -> None:
        """Give names their content, ``None`` for removal, in one atomic step."""
        _apply(changes, self.entries)
        self._pending.append(changes)

    def add_durable(self, name: str, content: Content) -> None:
        """Give ``name`` its content at once and for good."""
        self.entries[name] = self._durable[name] = content

    def sync(self) -> None:
        """Make all changes durable."""
        self._durable = dict(self.entries)
        self._pending.clear()

    def holds(self, content: Content) -> bool:
        """Whether ``content`` has a name here."""
        return any(each is content for each in self.entries.values())

    def contents(self) -> Iterator[Content]:
        """Every content that has or had a name here, some of them repeatedly."""
        yield from self._durable.values()
        for changes in self._pending:
            yield from (content for content in changes.values() if content is not None)

    def lose_power(self, random: random.Random) -> None:
        """Keep what was durable and the first few of the changes since."""
        kept = random.randint(0, len(self._pending))
        for changes in self._pending[:kept]:
            _apply(changes, self._durable)
        self._pending.clear()
        self.entries = dict(self._durable)


def _extend(buffer: bytearray, size: int) -> None:
    if len(buffer) < size:
        buffer.extend(bytes(size - len(buffer)))


def _apply(changes: dict[str, Content | None], entries: dict[str, Content]) -> None:
    for name, content in changes.items():
        if content is None:
            del entries[name]
        else:
            entries[name] = content
