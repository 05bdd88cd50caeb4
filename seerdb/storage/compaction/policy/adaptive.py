"""Adaptive: the shape that the load of late makes the cheapest.

Many puts and few lookups ask for tiers, many lookups and scans for levels, most loads for
something in between. A change of shape may rewrite much of the tree, so it has to pay: the shape
stays until another would cost a fifth less, by the model in ``cost.py``, and in about an hour of
this load save as much as it takes to make the tree so. After a quiet night a scan or two are all
the load there is, and no reason to rewrite everything. An opening, which knows nothing of the load,
goes on with the shape that the tree has.
"""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.policy.cost import READ_AND_WRITTEN, cost
from seerdb.storage.compaction.policy.given import (
    LAZY_LEVELED,
    LEVELED,
    TIERED,
    Policy,
    PolicyOptions,
    PolicyStatistics,
)
from seerdb.storage.compaction.policy.lazy_leveled import lazy_leveled
from seerdb.storage.compaction.policy.leveled import leveled
from seerdb.storage.compaction.policy.tiered import tiered
from seerdb.storage.manifest.version import Version

HYSTERESIS = 0.8
"""What another shape may cost of what this one does, for a change."""

LASTS = 8
"""How many times as long as it was watched a load is taken to last: about an hour, for one that
fades as in ``load.py``."""

SHAPES: dict[str, Policy] = {LEVELED: leveled, LAZY_LEVELED: lazy_leveled, TIERED: tiered}


def closest(version: Version, options: PolicyOptions) -> str:
    """The shape that the tree has, or nearly: for which the least has to be rewritten now. The
    default where that goes for several."""
    return min(
        (LAZY_LEVELED, LEVELED, TIERED), key=lambda shape: _rewritten(shape, version, options)
    )


def choose(version: Version, statistics: PolicyStatistics, options: PolicyOptions) -> str:
    """The shape the tree should have from now on, given the one it was to have so far."""
    costs = {shape: cost(shape, version, statistics, options) for shape in SHAPES}
    cheapest = min(costs, key=costs.__getitem__)
    if costs[cheapest] >= HYSTERESIS * costs[statistics.shape]:
        return statistics.shape
    saved = LASTS * (costs[statistics.shape] - costs[cheapest])
    rewritten = _rewritten(cheapest, version, options) / options.block_size
    return cheapest if saved >= READ_AND_WRITTEN * rewritten else statistics.shape


def _rewritten(shape: str, version: Version, options: PolicyOptions) -> int:
    """Bytes that have to be merged at once when the tree is to have this shape."""
    plan = SHAPES[shape](version, PolicyStatistics(), options)
    return 0 if plan is None or plan.move else plan.size


def adaptive(
    version: Version,
    statistics: PolicyStatistics,
    options: PolicyOptions,
    running: Sequence[Plan] = (),
) -> Plan | None:
    """See :class:`~seerdb.storage.compaction.policy.given.Policy`.

    Requires: :func:`choose` was asked for the shape.
    """
    return SHAPES[statistics.shape](version, statistics, options, running)
