"""What to merge next: a pure function of the version (size-tiered).

Runs are ordered by age, and only neighbours in age may be merged. From the newest on, runs are
gathered as long as the next one is not much larger than all gathered together, so each merge
at least doubles what it touches: n tables' worth of data is rewritten about log2(n) times, and
the number of runs stays logarithmic. The same rule is RocksDB's universal compaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from seerdb.storage.manifest.version import Run, Version

RUN_TRIGGER = 4
"""Merge when there are this many runs."""

SIZE_RATIO = 1.2
"""A run joins while it is at most this many times all newer gathered runs."""

URGENT_RUNS = 8
"""With more runs than this a merge does not give way to reads and writes."""

MAX_RUNS = 12
"""Merge something, however unequal, when there are more runs than this."""


@dataclass(frozen=True)
class Plan:
    """Runs to merge, newest first. ``bottom``: no older data exists (I7). ``everything``: all
    runs there were."""

    runs: tuple[Run, ...]
    bottom: bool
    everything: bool = False


def plan_compaction(version: Version) -> Plan | None:
    """The merge that keeps the number of runs bounded, or nothing."""
    runs = version.runs
    if len(runs) < RUN_TRIGGER:
        return None
    for first in range(len(runs) - 1):
        count = _similar(runs, first)
        if count >= RUN_TRIGGER:
            return _plan(runs, first, count)
    if len(runs) > MAX_RUNS:
        return _plan(runs, 0, len(runs) - MAX_RUNS + 1)
    return None


def plan_full(version: Version) -> Plan | None:
    """Merge everything into one run; nothing when it is one without tombstones already."""
    runs = version.runs
    if not runs:
        return None
    if len(runs) == 1 and not any(table.deletes or table.range_deletes for table in runs[0].tables):
        return None
    return Plan(runs, bottom=True, everything=True)


def _similar(runs: tuple[Run, ...], first: int) -> int:
    gathered = runs[first].size
    count = 1
    for run in runs[first + 1 :]:
        if run.size > gathered * SIZE_RATIO:
            break
        gathered += run.size
        count += 1
    return count


def _plan(runs: tuple[Run, ...], first: int, count: int) -> Plan:
    return Plan(runs[first : first + count], bottom=first + count == len(runs))
