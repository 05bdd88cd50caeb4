"""Merges under way, part by part, and their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from seerdb.storage.compaction.parts import Part
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.requests import Request
from seerdb.storage.compaction.run import CompactionResult
from seerdb.storage.digest import NONE, Digest
from seerdb.storage.manifest.version import TableMeta


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

    Its inputs are ``input_bytes`` of tables, of which it has read ``bytes_read``, and its outputs
    go to ``level``. Of the ``parts`` that it was cut into ``parts_done`` are done; several may be
    under way. ``entries`` are those that it has written; ``started`` is in seconds since 1970,
    ``rate`` the bytes of tables read, and of all objects written, in each second since.
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
    """How many jobs may run."""
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
class Work:
    """A plan under way. Guarded by the lock of the compactor, but to look and to cancel."""

    id: int
    plan: Plan
    started: float
    """Wall-clock seconds since 1970."""
    request: Request | None = None
    is_last: bool = True
    """Whether the request is done with it."""
    is_checked: bool = False
    """Whether its edit may be in effect: the version may already show its outputs."""
    parts: list[Part] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = [Part(start, end) for start, end in self.plan.parts]

    @property
    def tables(self) -> list[TableMeta]:
        """Outputs of the parts that are done, in key order."""
        return [table for result in self._results for table in result.tables]

    @property
    def dropped(self) -> Digest:
        """What of the inputs of these parts is not in them."""
        return sum((result.dropped for result in self._results), NONE)

    @property
    def seconds(self) -> float:
        """That the jobs of these parts took."""
        return sum(part.seconds for part in self.parts)

    @property
    def is_running(self) -> bool:
        """Whether a job runs for it."""
        return any(part.is_running for part in self.parts)

    @property
    def is_done(self) -> bool:
        """Whether all parts are."""
        return len(self._results) == len(self.parts)

    def next_part(self, *, beside: bool = False) -> Part | None:
        """The first that is left; ``beside`` the one that who began the plan does."""
        left = [part for part in self.parts if part.is_left]
        return left[0] if len(left) > (beside and not self.is_running) else None

    def start_over(self) -> None:
        """All parts are to be merged again. Requires: no job runs."""
        for part in self.parts:
            part.leave()

    def cancel(self) -> None:
        """Have the jobs for it end soon, without a result, and none begin."""
        for part in self.parts:
            part.control.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether its jobs are to end, for good."""
        return any(part.control.is_cancelled for part in self.parts)

    def statistics(self, now: float) -> JobStatistics:
        """How far it is at a wall-clock time."""
        counts = [part.control.counts for part in self.parts]
        read, written, entries = map(sum, zip(*counts, strict=True))
        return JobStatistics(
            id=self.id,
            kind="request" if self.request else "compaction",
            level=self.plan.level,
            parts=len(self.parts),
            parts_done=len(self._results),
            input_bytes=self.plan.size,
            bytes_read=min(read, self.plan.size),  # parts share what is at their borders
            bytes_written=written,
            entries=entries,
            started=self.started,
            rate=(read + written) / (now - self.started) if now > self.started else 0.0,
        )

    @property
    def _results(self) -> list[CompactionResult]:
        return [part.result for part in self.parts if part.result is not None]
