"""What the compactor has to do and does: requests, work under way, and the numbers of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.policy.ranged import Range
from seerdb.storage.digest import NONE, Digest
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.manifest.version import TableMeta, Version


class CompactionStatistics(msgspec.Struct, frozen=True):
    """Since the database was opened; ``seconds`` are those of the jobs."""

    compactions: int = 0
    """Merges."""
    moves: int = 0
    """Plans done without reading or writing a table."""
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0


class JobStatistics(msgspec.Struct, frozen=True):
    """A merge under way. ``kind``: ``compaction``, or ``request`` for one that somebody asked for.

    Its inputs are ``input_bytes`` of tables, and its outputs go to ``level``. Of the ``parts`` that
    it was cut into ``parts_done`` are done. ``entries`` are those that it has written; ``started``
    is in seconds since 1970, ``rate`` the bytes read and written in each second since.
    Jobs on a cluster tell how far they are after each part.
    """

    id: int
    kind: str
    level: int
    parts: int
    parts_done: int
    input_bytes: int
    bytes_read: int
    bytes_written: int
    entries: int
    started: float
    rate: float


@dataclass(frozen=True)
class Limits:
    """Of the merges of one database."""

    at_once: Callable[[], int] = lambda: 1
    """How many may run."""
    requests: int = 1
    """How many of one merge may be under way beside its work; 1: none, it waits for each."""
    rate: int = 0
    """Bytes a second that they may read and write together; 0: as many as they can."""
    rates_are_fixed: bool = False
    """Whether a job keeps the rate that it begins with. Then each gets the share of one of as many
    as may run, else of one of those that run."""

    def share(self, running: int) -> int:
        """The rate of one job."""
        shares = self.at_once() if self.rates_are_fixed else running
        return max(1, self.rate // max(1, shares)) if self.rate else 0


@dataclass(eq=False)
class Request:
    """A merge that somebody asked for, of all that was there when it was first planned and lies
    in ``[start, end)``; ``None``: no bound."""

    start: bytes | None = None
    end: bytes | None = None
    seq: int = 0
    """The newest that was there; 0: not planned yet."""
    plan: Plan | None = None
    """What it comes to, from which others keep away."""
    is_done: bool = False
    error: BaseException | None = None
    """Why it, or what it waits for, failed last. It is tried again all the same."""

    @property
    def is_for_all(self) -> bool:
        """Whether it is for all keys."""
        return self.start is None and self.end is None

    @property
    def is_over(self) -> bool:
        """Whether there is something to tell to who asked."""
        return self.is_done or self.error is not None

    def range_of(self, version: Version) -> Range:
        """What is wanted, up to the newest of ``version`` when it is not planned yet."""
        self.seq = self.seq or max((table.max_seq for table in version.tables), default=0)
        return Range(self.start, self.end, self.seq)


@dataclass(eq=False)
class Work:
    """A plan under way."""

    id: int
    plan: Plan
    started: float
    """Wall-clock seconds since 1970."""
    request: Request | None = None
    is_last: bool = True
    """Whether the request is done with it."""
    control: JobControl = field(default_factory=JobControl)
    tables: list[TableMeta] = field(default_factory=list)
    """Outputs of the parts that are done."""
    dropped: Digest = NONE
    """What of their inputs is not in them."""
    parts_done: int = 0
    seconds: float = 0.0
    is_checked: bool = False
    """Whether its edit may be in effect: the version may already show its outputs."""

    def statistics(self, now: float) -> JobStatistics:
        """How far it is at a wall-clock time."""
        counts = self.control.counts
        moved = counts.read + counts.written
        return JobStatistics(
            id=self.id,
            kind="request" if self.request else "compaction",
            level=self.plan.level,
            parts=len(self.plan.parts),
            parts_done=self.parts_done,
            input_bytes=self.plan.size,
            bytes_read=counts.read,
            bytes_written=counts.written,
            entries=counts.entries,
            started=self.started,
            rate=moved / (now - self.started) if now > self.started else 0.0,
        )
