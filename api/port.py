"""The database as the service needs it: the part of ``seerdb.DB`` that HTTP uses.

Tests implement it over a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from seerdb import Batch, Entry, KeyVersion, NeedsIO, Transfer

Outcome = int | Exception
Sink = Callable[[Iterable[tuple[Any, Outcome]]], None]
Ticket = Callable[[Outcome], None]
"""Told what a commit ended in, on the event loop."""
Submission = tuple[Batch, str | None, tuple[bytes, int] | None, Ticket]
"""A batch, its durability, the key and seq (0 means absent) it expects, and whom to tell."""


class LevelSize(Protocol):
    """The tables of one level."""

    @property
    def level(self) -> int: ...
    @property
    def tables(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def runs(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def deletes(self) -> int: ...
    @property
    def range_deletes(self) -> int: ...


class HeldBack(Protocol):
    """How writes were held back for one reason since the database was opened."""

    @property
    def reason(self) -> str: ...
    @property
    def slowdowns(self) -> int: ...
    @property
    def slowed_seconds(self) -> float: ...
    @property
    def stops(self) -> int: ...
    @property
    def stopped_seconds(self) -> float: ...
    @property
    def refused(self) -> int: ...


class Stalls(Protocol):
    """How writes were held back since the database was opened."""

    @property
    def reasons(self) -> Sequence[HeldBack]:
        """One row for each reason there may be."""


class Job(Protocol):
    """A merge of tables that runs."""

    @property
    def kind(self) -> str: ...
    @property
    def input_bytes(self) -> int: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...


class StoreRequests(Protocol):
    """What one purpose and operation asked of the object store since the database was opened."""

    @property
    def purpose(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def dollars(self) -> float: ...
    @property
    def dollars_per_month(self) -> float: ...


class Statistics(Protocol):
    """Numbers of the engine at one moment."""

    @property
    def values(self) -> Mapping[str, float]:
        """Single numbers by name; the names are the rows of ``metrics.ENGINE``."""

    @property
    def levels(self) -> Sequence[LevelSize]:
        """Each level that has tables."""

    @property
    def stalls(self) -> Stalls: ...
    @property
    def jobs(self) -> Sequence[Job]:
        """Those that run now."""

    @property
    def get_tiers(self) -> Mapping[str, int]:
        """Gets that reached the tables, by the tier that had what they needed."""

    @property
    def sampled_gets(self) -> Mapping[str, int]:
        """Gets of the sample, by the tier that answered."""

    @property
    def store_requests(self) -> Sequence[StoreRequests]:
        """One row for each purpose and operation."""


class HealthCheck(Protocol):
    """One named condition of readiness."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def is_warning(self) -> bool:
        """Whether the database serves all the same when it does not hold."""


class Lag(Protocol):
    """How far a replica is behind."""

    @property
    def seq(self) -> int: ...
    @property
    def seconds(self) -> float | None: ...


class LogCursor(Protocol):
    """A follower's place in the log. One thread at a time."""

    @property
    def has_news(self) -> bool:
        """Whether to call :meth:`read`. Never blocks."""

    def greeting(self) -> bytes:
        """The first message."""

    def heartbeat(self) -> bytes:
        """The messages of each second. Takes a while after many writes."""

    def read(self) -> bytes:
        """The next message, if there is one. May wait for the disk."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


class Database(Protocol):
    """The part of ``seerdb.DB`` that the service uses. Thread-safe."""

    @property
    def visible_seq(self) -> int:
        """The newest sequence number that reads see. Never blocks."""

    @property
    def epoch(self) -> int:
        """Of the writer; 0 where there is none here."""

    @property
    def is_fenced(self) -> bool:
        """Whether another writer took over."""

    def check_commit(self, epoch: int, seq: int) -> None:
        """Raise ``LostError`` if that commit was lost. May wait."""

    @property
    def takeover(self) -> Any:
        """What its opening took over from the writer before; a report, ready for JSON. Raises
        ``ReadOnlyError`` where somebody else is the writer."""

    def try_get_entry(self, key: bytes) -> Entry | NeedsIO | None:
        """The entry if memory alone can tell, else ``NEEDS_IO``. Never blocks."""

    def get_entry(self, key: bytes, *, fill_cache: bool = True) -> Entry | None:
        """The entry or ``None``. May wait for disk or bucket; what it loads for that is kept in
        the caches if ``fill_cache``, here and below."""

    def multi_get_entries(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: int | datetime | None = None
    ) -> list[Entry | None]:
        """The entries in the order of ``keys``, now or at an instant, here and below. May wait."""

    def seq_at(self, as_of: int | datetime) -> int:
        """The newest commit that counts at an instant. May wait."""

    def history(self, key: bytes) -> Sequence[KeyVersion]:
        """The versions of a key, oldest first. May wait long."""

    def scan_entries(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        fill_cache: bool = True,
        as_of: int | datetime | None = None,
    ) -> Iterator[Entry]:
        """Entries of ``[start, end)`` as of now, or of an instant; each step may wait."""

    def submit_all(
        self, submissions: Sequence[Submission], sink: Sink
    ) -> Sequence[tuple[Any, Exception]]:
        """Hand batches to the committer and return at once, with the tickets of those that are
        refused and why.

        Later ``sink`` is called on the committer's thread, with the ticket and the seq or the
        error of each of some others. It runs through them once, soon, on any thread: by that they
        become visible. All writers wait while a key that is expected to have some seq is fetched,
        so have it in memory.
        """

    def flush(self) -> Any:
        """Move all memtables into tables; a report. Blocks."""

    def compact(self, start: bytes | None = None, end: bytes | None = None) -> Any:
        """Merge all in ``[start, end)`` that can be merged; a report. Blocks."""

    def checkpoint(
        self, name: str | None = None, expires: float | None = None, *, flush: bool = True
    ) -> Any:
        """Keep what is there now under a name; what was made. Blocks."""

    def checkpoints(self) -> Sequence[Any]:
        """What is kept. Blocks."""

    def drop_checkpoint(self, name: str) -> None:
        """Keep it no longer. Blocks."""

    def restore_in_place(
        self,
        as_of: int | datetime | None = None,
        *,
        checkpoint: str | None = None,
        dry_run: bool = False,
    ) -> Any:
        """Have all be again what it was; a report. Blocks."""

    def start_backup(
        self, to: str, *, label: str, keep: bool, full: bool, transfer: Transfer
    ) -> Any:
        """Begin a backup in the background; its status. May wait."""

    def backups(self) -> Sequence[Any]:
        """The status of each backup in the background, which has an ``id``. Never blocks."""

    def cancel_backup(self, backup: str) -> None:
        """Have one end soon. Never blocks."""

    def recovery_points(self, repository: str | None = None) -> Any:
        """What can be restored. Blocks."""

    def stats(self) -> Any:
        """Everything an operator asks about, ready for JSON. May take a moment."""

    def health(self) -> Sequence[HealthCheck]:
        """What readiness consists of. Never waits for disk or bucket."""

    def statistics(self) -> Statistics:
        """Numbers for metrics. Never waits for disk or bucket."""

    def follow(self, seq: int) -> LogCursor:
        """The durable log from ``seq`` on."""

    def begin_closing(self, patience: float | None = None) -> None:
        """End what may take hours, and after ``patience`` seconds what waits for a bucket that does
        not answer. Never blocks."""

    def close(self) -> None:
        """Flush and release everything. Blocks."""
