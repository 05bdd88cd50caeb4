"""Tiering: neighbours in age that are of similar size become one run.

A tier is what T runs of similar size form; merging them makes one run of the next tier, so
data is rewritten once a tier, log_T of the number of flushes times in all, and a tier keeps at
most T-1 runs (O'Neil et al., "The log-structured merge-tree", 1996, with several components a
level; "tiering" in Dayan and Idreos, "Dostoevsky", SIGMOD 2018). Tiers are told from actual
sizes, as in RocksDB's universal compaction, not from counters: what shrinks in a merge because
keys were overwritten stays in its tier, and neither very small nor very large flushes upset it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seerdb.storage.compaction.plan import (
    BOTTOM_LEVEL,
    Plan,
    Position,
    collides,
    free_stretches,
    make_plan,
    position,
)
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.manifest.version import Run, Version

TIERS = 4
"""Runs are merged, however unequal, when there are more than fill so many tiers."""


def merge_similar(
    version: Version,
    runs: Sequence[Run],
    options: PolicyOptions,
    running: Sequence[Plan],
    *,
    lowest: int = BOTTOM_LEVEL - 1,
) -> Plan | None:
    """Merge T or more similar ones among ``runs``, which are neighbours in ``version``.

    Those that are being merged are left alone, and others not merged across them. The result is
    not below level ``lowest``, unless it is the oldest run.
    """
    stretches = free_stretches(runs, running)
    surplus = sum(map(len, stretches)) + len(running) - max_runs(options)
    for stretch in stretches:
        for first, count in _windows(stretch, options.size_ratio, surplus):
            window = stretch[first : first + count]
            target = _place(version, window, lowest)
            plan = make_plan(version, window, target, options.table_size)
            if plan is not None and not any(collides(plan, other) for other in running):
                return plan
    return None


def max_runs(options: PolicyOptions) -> int:
    """How many runs there are at most where :func:`merge_similar` finds nothing to do."""
    return TIERS * options.size_ratio


def _windows(runs: Sequence[Run], size_ratio: int, surplus: int) -> Iterator[tuple[int, int]]:
    """First and count of runs to merge, the best first; ``surplus`` of them however unequal."""
    for first in range(len(runs) - 1):
        count = _similar(runs[first:], size_ratio)
        if count >= size_ratio:
            yield first, count
    if surplus > 0 and len(runs) > 1:
        yield 0, min(surplus + 1, len(runs))


def _similar(runs: Sequence[Run], size_ratio: int) -> int:
    """How many, from the first on, are not much larger than the largest before them."""
    largest = runs[0].size
    for count, run in enumerate(runs):
        if 2 * run.size > size_ratio * largest:
            return count
        largest = max(largest, run.size)
    return len(runs)


def _place(version: Version, window: Sequence[Run], lowest: int) -> Position:
    """A level below the oldest of the window, if that is still above what is older."""
    newest, oldest = window[0], window[-1]
    places = [position(run) for run in version.runs]
    older = places[places.index(position(oldest)) + 1 :]
    if not older:
        return BOTTOM_LEVEL, -newest.number
    below = max(oldest.level, min(oldest.level + 1, lowest)), -newest.number
    return below if below < older[0] else position(oldest)
