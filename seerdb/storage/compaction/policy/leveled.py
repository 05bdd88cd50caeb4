"""Leveled: the fewest runs to read, and no merge is large.

One run a level, each T times as large as the one above; what a level has too much goes down a
table at a time. As in RocksDB with dynamic level bytes, targets follow from the largest level
upwards, so that the last one always holds nearly everything, and data enters at the *base*, the
highest level whose target is not too small. What lies above it, level 0 mostly, is the *top*,
and tiered. The level that is most over its target goes first, and of it the table under which
the fewest bytes have to be rewritten, deletes counting for what they may free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from seerdb.storage.compaction.plan import (
    BOTTOM_LEVEL,
    Plan,
    bounds,
    collides,
    free_stretches,
    make_plan,
    overlapping,
    position,
)
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.tiers import merge_similar
from seerdb.storage.manifest.version import Run, TableMeta, Version

LEVEL_TABLES = 16
"""A level is made of about so many tables at least, so that one is a small part of it."""


def leveled(
    version: Version,
    statistics: PolicyStatistics,
    options: PolicyOptions,
    running: Sequence[Plan] = (),
) -> Plan | None:
    """See :class:`~seerdb.storage.compaction.policy.given.Policy`."""
    levels = _Levels(version, options, running)
    for plan in levels.due():
        if not any(collides(plan, other) for other in running):
            return plan
    return merge_similar(version, levels.top, options, running, lowest=levels.base - 1)


class _Levels:
    """A version as leveling sees it: the top, and the levels from the base on."""

    def __init__(self, version: Version, options: PolicyOptions, running: Sequence[Plan]) -> None:
        self._version = version
        self._options = options
        self._running = running
        self._busy = {table.id for plan in running for table in plan.tables}
        levels = {level: list(runs) for level, runs in groupby(version.runs, attrgetter("level"))}
        largest = max((_size(runs) for level, runs in levels.items() if level), default=0)
        self._targets: dict[int, int] = {
            level: largest // options.size_ratio ** (BOTTOM_LEVEL - level)
            for level in range(1, BOTTOM_LEVEL + 1)
        }
        self._top_target = options.size_ratio * options.base_size
        wide = (n for n, size in self._targets.items() if size >= self._top_target)
        self.base = next(wide, BOTTOM_LEVEL)
        self.top = [run for run in version.runs if run.level < self.base]
        self._levels = {n: levels.get(n, []) for n in range(self.base, BOTTOM_LEVEL + 1)}

    def due(self) -> Iterator[Plan]:
        """What is too much where it is, the most urgent first."""
        for runs in self._levels.values():
            if len(runs) > 1:
                yield from self._plan(runs[:-1], runs[-1])
        scores = {0: self._free_size(self.top) / self._top_target}
        for level, runs in self._levels.items():
            if level < BOTTOM_LEVEL and len(runs) == 1:
                scores[level] = self._free_size(runs) / self._targets[level]
        for level in sorted(scores, key=scores.__getitem__, reverse=True):
            if scores[level] > 1:
                yield from self._push_table(level) if level else self._push_top()

    def _push_top(self) -> Iterator[Plan]:
        """Merge the top into the first level that is made for so much."""
        pushed = list(free_stretches(self.top, self._running)[-1])
        size = _size(pushed)
        for level, runs in self._levels.items():
            if pushed and (size <= self._targets[level] or level == BOTTOM_LEVEL):
                yield from self._plan(pushed, runs[0] if runs else Run(level, pushed[0].number, ()))
                return
            pushed += runs

    def _push_table(self, level: int) -> Iterator[Plan]:
        """Merge a table of a level into the next, the cheapest first; those that can be moved go
        together."""
        [run] = self._levels[level]
        below = self._levels[level + 1]
        into = below[0] if below else Run(level + 1, run.number, ())
        surplus = self._free_size([run]) - self._targets[level]
        costs = [_cost(table, into) for table in run.tables]
        for first in sorted(range(len(costs)), key=costs.__getitem__):
            tables = run.tables[first : first + 1]
            if not costs[first]:
                tables = _movable(run.tables[first:], into, surplus)
            if tables[0].id not in self._busy:
                yield from self._plan([Run(run.level, run.number, tables)], into)

    def _plan(self, runs: Sequence[Run], into: Run) -> Iterator[Plan]:
        """Merge ``runs`` with what they overlap in the run ``into``, which may be empty."""
        inputs = (*runs, overlapping(into, *bounds(runs)))
        size = self._table_size(into.level)
        plan = make_plan(self._version, inputs, position(into), size)
        if plan is not None:
            yield plan

    def _table_size(self, level: int) -> int:
        share = self._targets[level] // LEVEL_TABLES
        return min(self._options.table_size, max(share, self._options.base_size))

    def _free_size(self, runs: Sequence[Run]) -> int:
        return sum(t.size for run in runs for t in run.tables if t.id not in self._busy)


def _size(runs: Sequence[Run]) -> int:
    return sum(run.size for run in runs)


def _movable(tables: Sequence[TableMeta], into: Run, surplus: int) -> tuple[TableMeta, ...]:
    """The first of ``tables``, and those after it up to a surplus, while all of them together
    overlap nothing in ``into``."""
    count, size = 1, tables[0].size
    for table in tables[1:]:
        if size >= surplus or overlapping(into, tables[0].smallest, table.largest).tables:
            break
        count, size = count + 1, size + table.size
    return tuple(tables[:count])


def _cost(table: TableMeta, into: Run) -> float:
    """Bytes of ``into`` to be rewritten for each byte that goes down or may be freed there."""
    covered = overlapping(into, table.smallest, table.largest)
    rewritten = covered.size
    entries = sum(each.entries for each in covered.tables)
    return rewritten / (table.size + table.deletes * rewritten / max(entries, 1))
