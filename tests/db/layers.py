"""The places where data can lie, and a database that brings every write into one of them."""

from __future__ import annotations

from collections.abc import Callable

from seerdb import DB, SeerDBError
from seerdb.testing.model import Model, Operation
from tests.crash.trace import Write, commit
from tests.fixtures.database import World


def _stay(layered: Layered) -> None:
    """Everything in one memtable."""


def _seal(layered: Layered) -> None:
    """Every write in a sealed memtable of its own, which the bucket does not take."""
    try:
        layered.db.flush()
    except SeerDBError:
        return
    raise AssertionError("the bucket took a table")


def _seal_some(layered: Layered) -> None:
    """Memtable over sealed memtables."""
    if layered.writes % 2 == 0:
        _seal(layered)


def _flush(layered: Layered) -> None:
    """Every write in a table of its own, until there are enough of them to be merged."""
    layered.db.flush()


def _flush_some(layered: Layered) -> None:
    """Memtable over tables."""
    if layered.writes % 3 == 2:
        layered.db.flush()


def _compact(layered: Layered) -> None:
    """One run without tombstones, after every write."""
    layered.db.compact()


def _compact_some(layered: Layered) -> None:
    """A memtable over a table over one merged run."""
    if layered.writes % 4 == 1:
        layered.db.compact()
    elif layered.writes % 4 == 3:
        layered.db.flush()


def _reopen(layered: Layered) -> None:
    """Closed and opened after every write."""
    layered.db.close()
    layered.db = layered.world.open()


def _kill(layered: Layered) -> None:
    """The process dies after every write, and the log is replayed."""
    layered.world = layered.world.kill()
    layered.db = layered.world.open()


def _kill_without_bucket(layered: Layered) -> None:
    """As above, with a bucket that takes no tables: everything in recovered memtables."""
    _kill(layered)


LAYERS: dict[str, Callable[[Layered], None]] = {
    "memtable": _stay,
    "sealed": _seal,
    "memtable over sealed": _seal_some,
    "tables": _flush,
    "memtable and tables": _flush_some,
    "compacted": _compact,
    "all layers": _compact_some,
    "reopened": _reopen,
    "recovered": _kill,
    "recovered without bucket": _kill_without_bucket,
}


WITHOUT_TABLES = {"sealed", "memtable over sealed", "recovered without bucket"}
"""Layers of a bucket that takes no tables."""


class Layered:
    """A database and the model of what it must answer. ``layer`` is a name in ``LAYERS``."""

    def __init__(self, layer: str) -> None:
        self._settle = LAYERS[layer]
        self.world = World(takes_tables=layer not in WITHOUT_TABLES, wal_budget=64 << 20)
        self.db: DB = self.world.open()
        self.model = Model()
        self.writes = 0

    def write(self, *operations: Operation) -> int:
        """Commit the operations as one batch and bring it into the layer."""
        self.model.attempt(operations)
        seq = commit(self.db, Write(operations))
        self.model.acknowledge(seq, "local")
        self._settle(self)
        self.writes += 1
        return seq

    def put(self, key: bytes, value: bytes) -> int:
        return self.write(("put", key, value))

    def delete(self, key: bytes) -> int:
        return self.write(("delete", key, b""))

    def delete_range(self, start: bytes, end: bytes) -> int:
        return self.write(("delete_range", start, end))
