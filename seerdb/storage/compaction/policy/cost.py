"""What a shape of tree costs, by the model of Dayan and Idreos ("Dostoevsky", SIGMOD 2018).

They describe all shapes by three numbers: the size ratio T, the most runs a level may have, K,
and the most the last one may have, Z::

    leveled        K = 1      Z = 1
    lazy leveled   K = T-1    Z = 1
    tiered         K = T-1    Z = T-1

A level of K runs is rewritten (T-1)/K times for each byte that passes it. (The paper has
(T-1)/(K+1), the mean while levels fill from empty to full and a new last one begins. Ours keep
their sizes in proportion to the last one, so that space is bounded at any time; that is what
it costs.) A lookup probes one run where K is 1, else half of the most there may be; above the
levels lie what was flushed last, on average (T-1)/2 runs.
"""

from __future__ import annotations

from math import log

from seerdb.storage.compaction.policy.given import (
    LAZY_LEVELED,
    LEVELED,
    TIERED,
    PolicyOptions,
    PolicyStatistics,
)
from seerdb.storage.manifest.version import Version

SPACE_WEIGHT = 0.2
"""Twice the space is worth a fifth less reading and writing: what is stored twice is also
scanned, copied and checked twice."""

READ_AND_WRITTEN = 2
"""A merge reads a block for each that it writes."""


def most_runs(shape: str, size_ratio: int) -> tuple[int, int]:
    """K and Z: how many runs a level and the last level may have."""
    return {
        LEVELED: (1, 1),
        LAZY_LEVELED: (size_ratio - 1, 1),
        TIERED: (size_ratio - 1, size_ratio - 1),
    }[shape]


def levels(size: float, options: PolicyOptions) -> float:
    """How many levels lie below what is flushed, for ``size`` bytes in all; at least one."""
    ratio = options.size_ratio
    return max(1.0, log(max(size, 1) / options.base_size, ratio) - 1)


def write_amplification(shape: str, count: float, size_ratio: int) -> float:
    """Bytes written for each that comes in, flush included, in a tree of ``count`` levels."""
    most, last = most_runs(shape, size_ratio)
    return 1 + (count - 1) * (size_ratio - 1) / most + (size_ratio - 1) / last


def runs(shape: str, count: float, size_ratio: int) -> float:
    """Runs on average: what a short scan has to read, and a lookup to ask the filters of."""
    most, last = most_runs(shape, size_ratio)
    return (size_ratio - 1) / 2 + (count - 1) * max(1, most / 2) + max(1, last / 2)


def space_amplification(shape: str, size_ratio: int) -> float:
    """At most: bytes stored for each that is live, when all that is written replaces something."""
    _, last = most_runs(shape, size_ratio)
    return last + 1 / (size_ratio - 1)


def cost(
    shape: str, version: Version, statistics: PolicyStatistics, options: PolicyOptions
) -> float:
    """Blocks read and written for the load of ``statistics``, weighted by the space it takes."""
    ratio = options.size_ratio
    size = sum(run.size for run in version.runs)
    entries = sum(table.entries for table in version.tables)
    entries_per_block = max(1.0, options.block_size * entries / max(size, 1))
    count = levels(size, options)
    written = statistics.puts * write_amplification(shape, count, ratio) / entries_per_block
    probes = statistics.gets * options.false_positives + statistics.scans
    space = (1 + space_amplification(shape, ratio)) / 2
    return (READ_AND_WRITTEN * written + probes * runs(shape, count, ratio)) * (
        1 + SPACE_WEIGHT * (space - 1)
    )
