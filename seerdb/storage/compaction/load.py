"""How a database was used lately: counters that only rise, made into a load that fades."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from seerdb.clock import Clock
from seerdb.storage.compaction.policy.given import PolicyStatistics

HALF_LIFE_SECONDS = 300.0
"""What is so long ago counts half."""

UNKNOWN_SECONDS = 300.0
"""So long after the opening the load is not known: the first scan comes before the first flush."""


class OperationCounts(NamedTuple):
    """Since the database was opened; as in :class:`PolicyStatistics`."""

    puts: int
    gets: int
    scans: int


class RecentLoad:
    """The load of late. For one thread."""

    def __init__(self, counts: Callable[[], OperationCounts], clock: Clock) -> None:
        self._counts = counts
        self._clock = clock
        self._seen = OperationCounts(0, 0, 0)
        self._seen_at = self._begun_at = clock.monotonic()
        self._recent = [0.0, 0.0, 0.0]

    @property
    def is_known(self) -> bool:
        """Whether it was watched for long enough to tell anything."""
        return self._clock.monotonic() >= self._begun_at + UNKNOWN_SECONDS

    def statistics(self, shape: str) -> PolicyStatistics:
        """The load as of now, of a tree that is to have ``shape``."""
        counts, now = self._counts(), self._clock.monotonic()
        left = 0.5 ** ((now - self._seen_at) / HALF_LIFE_SECONDS)
        self._recent = [
            left * before + count - seen
            for before, count, seen in zip(self._recent, counts, self._seen, strict=True)
        ]
        self._seen, self._seen_at = counts, now
        puts, gets, scans = self._recent
        return PolicyStatistics(puts=puts, gets=gets, scans=scans, shape=shape)
