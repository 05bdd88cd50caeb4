"""Lazy leveling (Dayan and Idreos, "Dostoevsky", SIGMOD 2018), the default: tiers, and below
them one run that holds nearly everything.

What lies above the last run makes its older versions useless but does not free their space. So
the last run is merged with all that is above as soon as this could be more than a T-1st part
of it; space is then bounded by T/(T-1) times what is live, 1.25 for T = 5, and one flush. Each
merge rewrites T bytes for each that comes from above.
"""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.storage.compaction.plan import (
    BOTTOM_LEVEL,
    Plan,
    bounds,
    collides,
    free_stretches,
    make_plan,
    overlapping,
)
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.tiers import merge_similar
from seerdb.storage.manifest.version import Run, Version


def lazy_leveled(
    version: Version,
    statistics: PolicyStatistics,
    options: PolicyOptions,
    running: Sequence[Plan] = (),
) -> Plan | None:
    """See :class:`~seerdb.storage.compaction.policy.given.Policy`."""
    runs = version.runs
    if sum(run.weight for run in runs) < options.size_ratio * options.base_size:
        return merge_similar(version, runs, options, running)  # too little to care for space
    plan = _merge_into_last(version, options, running)
    if plan is not None and not any(collides(plan, other) for other in running):
        return plan
    return merge_similar(version, runs[:-1], options, running)


def _merge_into_last(
    version: Version, options: PolicyOptions, running: Sequence[Plan]
) -> Plan | None:
    """Merge what is above the last run into it, when it is too much."""
    last = version.runs[-1]
    target = BOTTOM_LEVEL, -last.number
    if last.level < BOTTOM_LEVEL:
        down = make_plan(version, (last,), target, options.table_size)
        if down is not None and down.move:
            return down
    above = free_stretches(version.runs[:-1], running)[-1]
    if not above or not _is_too_much(above, last, options.size_ratio):
        return None
    if last.level == BOTTOM_LEVEL:
        last = overlapping(last, *bounds(above))
    return make_plan(version, (*above, last), target, options.table_size)


def _is_too_much(above: Sequence[Run], last: Run, size_ratio: int) -> bool:
    """Whether size over what is live may exceed T/(T-1).

    At worst each delete above means one average entry of ``last``: with ``dead`` bytes so, that
    is (size + last) / (last - dead). What range deletes mean the version does not tell.
    """
    size = sum(run.weight for run in above)
    deletes = sum(table.deletes for run in above for table in run.tables)
    entries = sum(table.entries for table in last.tables)
    dead = min(last.weight, deletes * last.weight // max(entries, 1))
    return (size_ratio - 1) * size + size_ratio * dead > last.weight
