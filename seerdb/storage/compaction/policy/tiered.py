"""Tiered: the fewest rewrites. Every tier keeps up to T-1 runs, the last one too, so what was
overwritten or deleted may take up to T-1 times the space of what is left."""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.tiers import merge_similar
from seerdb.storage.manifest.version import Version


def tiered(
    version: Version,
    statistics: PolicyStatistics,
    options: PolicyOptions,
    running: Sequence[Plan] = (),
) -> Plan | None:
    """See :class:`~seerdb.storage.compaction.policy.given.Policy`."""
    return merge_similar(version, version.runs, options, running)
