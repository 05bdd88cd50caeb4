"""How hard a database is pressed, and how much slower that makes a write. Pure.

Each :class:`Gauge` has a soft and a hard limit. Below the soft one a write costs nothing; from
there on every byte takes longer, with the square of the way to the hard limit, so that writes
settle where they come in as fast as background work takes them away (RocksDB's delayed write
rate, as a function of the moment instead of a controller with a memory).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

URGENT_RUNS = 12
"""With more runs than this a merge does not give way to reads and writes, but they to it."""

MAX_RUNS = 3 * URGENT_RUNS
"""Runs at which writes wait for a compaction: with those that other processes merge just now, if
any, it bounds what a read has to look at."""

SLOWEST_RATE = 1 << 20
"""Bytes a second that are let through just before the hard limit."""

FASTEST_RATE = 1 << 30
"""Bytes a second, more than what anything writes: a limit above that is none yet."""

ROOM_SECONDS = 0.01
"""Under pressure writes are slowed down again when about so much delay has gathered."""

LEAST_ROOM = 4 << 10
"""Bytes between two looks at the pressure, at least."""

LONGEST_DELAY_SECONDS = 5.0
"""For one group of writes, however large."""


class Reason(StrEnum):
    """What writes may have to be held back for."""

    MEMTABLES = "memtables"
    """Flushes do not keep up: sealed memtables fill the memory."""
    LOG = "log"
    """The unflushed log comes near ``wal_budget``: the bucket is away or slow."""
    RUNS = "runs"
    """Compaction does not keep up: reads have more and more runs to look at."""
    DISK = "disk"
    """Free space on the local disk comes near ``min_free_disk``."""


class Gauge(NamedTuple):
    """One measured value, and between which limits it slows writes down. ``soft`` may be above
    ``hard``: then less is worse. Where they are equal nothing is slowed down."""

    reason: Reason
    value: float
    soft: float
    hard: float
    words: str
    """The state that the value tells of, with the numbers."""

    @property
    def severity(self) -> float:
        """From 0, up to the soft limit, to 1, at the hard limit and beyond."""
        span = self.hard - self.soft
        return min(max((self.value - self.soft) / span, 0.0), 1.0) if span else 0.0


def worst(gauges: Iterable[Gauge]) -> Gauge:
    """The one that slows down most. Requires: there is one."""
    return max(gauges, key=lambda gauge: gauge.severity)


def delay(severity: float, size: int) -> float:
    """Seconds that writing ``size`` bytes is to take longer."""
    return min(size * severity * severity / SLOWEST_RATE, LONGEST_DELAY_SECONDS)


def room(severity: float, most: int) -> int:
    """Bytes that may be written until the next look: ``most`` when there is no pressure."""
    return int(min(most, max(ROOM_SECONDS * SLOWEST_RATE / max(severity, 1e-9) ** 2, LEAST_ROOM)))


def rate(severity: float) -> float:
    """Bytes a second that are let through, ``FASTEST_RATE`` where it is more. Requires: a severity
    above 0."""
    return min(SLOWEST_RATE / severity**2, FASTEST_RATE)
