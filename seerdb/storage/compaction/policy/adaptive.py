"""Adaptive: the shape that the load of late makes the cheapest.

Many puts and few lookups ask for tiers, many lookups and scans for levels, most loads for
something in between. A change of shape rewrites much of the tree, so it has to pay: the shape
stays until another would cost a fifth less, by the model in ``cost.py``. An opening, which knows
nothing of the load, goes on with the shape that the tree has.
"""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.policy.cost import cost
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

SHAPES: dict[str, Policy] = {LEVELED: leveled, LAZY_LEVELED: lazy_leveled, TIERED: tiered}


def closest(version: Version, options: PolicyOptions) -> str:
    """The shape that the tree has, or nearly: for which the least has to be rewritten now. The
    default where that goes for several."""

    def due(shape: str) -> int:
        plan = SHAPES[shape](version, PolicyStatistics(), options)
        return 0 if plan is None or plan.move else plan.size

    return min((LAZY_LEVELED, LEVELED, TIERED), key=due)


def choose(version: Version, statistics: PolicyStatistics, options: PolicyOptions) -> str:
    """The shape the tree should have from now on, given the one it was to have so far."""
    costs = {shape: cost(shape, version, statistics, options) for shape in SHAPES}
    cheapest = min(costs, key=costs.__getitem__)
    pays = costs[cheapest] < HYSTERESIS * costs[statistics.shape]
    return cheapest if pays else statistics.shape


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
