"""What every measured engine offers, in bulk operations so that the loop is part of the engine.

An asynchronous binding runs its loop inside one coroutine; a synchronous one inherits the
loops of ``SyncEngine``, which are the same few bytecodes for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Self

Pair = tuple[bytes, bytes]


class Sync(Enum):
    """When a write is acknowledged."""

    MEMORY = "memory"
    """In the write-ahead log of the engine, not synced: a crash of the process loses nothing."""
    DURABLE = "durable"
    """Synced to the disk: power loss loses nothing."""


class Engine(ABC):
    """One open database. Used by one thread, except for ``SyncEngine.put``."""

    name: ClassVar[str]
    durable: ClassVar[bool] = True
    """Has a level at which each put is synced to the disk before it returns."""
    replays_log: ClassVar[bool] = False
    """Opening after a kill replays a log with every write of the recovery case in it."""
    has_tables: ClassVar[bool] = False
    """``flush`` turns all that was written into sorted tables."""
    merges: ClassVar[bool] = False
    """Merges all of its tables into one run when asked to; see ``quiet``."""
    limits: ClassVar[dict[str, int]] = {}
    """Most ``put``s, ``load``ed entries and ``read``s, for an engine that would need minutes."""

    @abstractmethod
    def __init__(self, path: Path, sync: Sync) -> None:
        """Open the database in directory ``path``, creating it if it is not there."""

    @abstractmethod
    def put_each(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Write pair by pair, each acknowledged before the next."""

    @abstractmethod
    def put_batches(self, batches: Iterable[list[Pair]]) -> None:
        """Write batch by batch, each atomic and acknowledged before the next."""

    @abstractmethod
    def read(self, key: bytes) -> bytes | None:
        """The value of ``key``; used to check answers, never timed."""

    @abstractmethod
    def get_each(self, keys: Sequence[bytes]) -> int:
        """Read key by key; returns how many were found."""

    @abstractmethod
    def multi_get_each(self, groups: Sequence[list[bytes]]) -> int:
        """Read group by group, each in one request; returns how many keys were found."""

    @abstractmethod
    def scan(self) -> int:
        """Walk all pairs in ascending order; returns how many there were."""

    @abstractmethod
    def scan_reverse(self) -> int:
        """Walk all pairs in descending order; returns how many there were."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was written is where reads will find it from now on."""

    @abstractmethod
    def close(self) -> None:
        """Close cleanly."""

    @classmethod
    def quiet(cls, path: Path) -> Self:
        """Open the database in ``path`` so that a flush makes one sorted run of all that was
        written, and up to four of them are left alone until ``merge`` is called."""
        raise NotImplementedError(f"{cls.name} merges nothing when asked to")

    def merge(self) -> None:
        """Merge all tables into one sorted run; return when it has taken their place."""
        raise NotImplementedError(f"{self.name} merges nothing when asked to")

    def table_bytes(self) -> int:
        """The size of all tables that reads look at."""
        raise NotImplementedError(f"{self.name} has no tables")

    def store_requests(self) -> int | None:
        """Requests to the object store since opening, but for reads, where they are counted."""
        return None

    def replayed_records(self) -> int | None:
        """Records that opening read back from the log, where the engine counts them."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncEngine(Engine):
    """The loops of an engine whose calls return when the work is done."""

    put: Callable[[bytes, bytes], Any]
    """Write one pair; called by several threads at once in the durable cases."""
    get: Callable[[bytes], bytes | None]
    multi_get: Callable[[list[bytes]], Iterable[bytes | None]]

    @abstractmethod
    def batch_put(self, pairs: list[Pair]) -> None:
        """Write ``pairs`` atomically."""

    @abstractmethod
    def pairs(self) -> Iterable[Pair]:
        """All pairs, ascending."""

    @abstractmethod
    def pairs_reverse(self) -> Iterable[Pair]:
        """All pairs, descending."""

    def put_each(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        put = self.put
        for key, value in zip(keys, values, strict=True):
            put(key, value)

    def put_batches(self, batches: Iterable[list[Pair]]) -> None:
        batch_put = self.batch_put
        for pairs in batches:
            batch_put(pairs)

    def read(self, key: bytes) -> bytes | None:
        return self.get(key)

    def get_each(self, keys: Sequence[bytes]) -> int:
        get = self.get
        missing = 0
        for key in keys:
            if get(key) is None:
                missing += 1
        return len(keys) - missing

    def multi_get_each(self, groups: Sequence[list[bytes]]) -> int:
        multi_get = self.multi_get
        found = 0
        for group in groups:
            for value in multi_get(group):
                if value is not None:
                    found += 1
        return found

    def scan(self) -> int:
        count = 0
        for _key, _value in self.pairs():
            count += 1
        return count

    def scan_reverse(self) -> int:
        count = 0
        for _key, _value in self.pairs_reverse():
            count += 1
        return count
