"""The row cache: versions that point reads found in tables, by key, so that a hot key costs a
dict lookup instead of hash, filter, index and block.

It belongs to a layout: what it holds is what the layout's tables say. A flush makes a new
layout, which inherits the rows that the flushed memtable does not replace; late insertions of
readers still on the old layout go to the old cache and do no harm.

Only one of :data:`INSERT_EVERY` reads that went to a block inserts its row, so hot keys get in
and uniform reads pay little; what was inserted first is dropped first, and a hot key that was
dropped is soon back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import islice

from seerdb.storage.memtable import Memtable, Version

ROW_OVERHEAD = 360
"""Bytes a row costs beside its key and value (measured with CPython 3.11)."""

INSERT_EVERY = 8

_COPIED_AT_ONCE = 1024


class RowCache:
    """Rows by key within a budget of bytes; ``capacity`` 0 keeps nothing. Thread-safe.

    ``get`` is the lookup; readers count down ``reads_to_skip`` and then call :meth:`insert`.
    """

    __slots__ = ("_bytes", "_capacity", "_lock", "_rows", "get", "reads_to_skip")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[bytes, Version] = OrderedDict()
        self.get = self._rows.get
        # A hint: racing readers may lose a count.
        self.reads_to_skip = INSERT_EVERY
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._bytes = 0

    def insert(self, key: bytes, version: Version) -> None:
        """Keep a row, dropping the oldest ones to make room."""
        self.reads_to_skip = INSERT_EVERY
        size = _size(key, version)
        if size > self._capacity:
            return
        with self._lock:
            replaced = self._rows.pop(key, None)
            if replaced is not None:
                self._bytes -= _size(key, replaced)
            while self._bytes + size > self._capacity:
                self._bytes -= _size(*self._rows.popitem(last=False))
            self._rows[key] = version
            self._bytes += size

    def without(self, memtable: Memtable) -> RowCache:
        """A cache of its own with the rows that the memtable does not replace or delete."""
        kept = RowCache(self._capacity)
        if memtable.ranged:
            return kept
        with self._lock:
            rows = iter(list(self._rows.items()))
            kept._bytes = self._bytes
        replaced = memtable.entries
        # A few at a time: a copy in one step would keep every other thread waiting.
        while some := dict(islice(rows, _COPIED_AT_ONCE)):
            for key in some.keys() & replaced.keys():
                kept._bytes -= _size(key, some.pop(key))
            kept._rows.update(some)
        return kept

    @property
    def bytes(self) -> int:
        """What its rows cost now."""
        return self._bytes


def _size(key: bytes, version: Version) -> int:
    return len(key) + len(version[1] or b"") + ROW_OVERHEAD
