"""The merge of everything into one run, which is done when somebody asks for it."""

from __future__ import annotations

from seerdb.storage.compaction.plan import (
    BOTTOM_LEVEL,
    Plan,
    changes_nothing,
    make_plan,
    position,
)
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.compaction.policy.ranged import since
from seerdb.storage.manifest.version import Version


def merge_all(version: Version, seq: int, now: int, options: PolicyOptions) -> Plan | None:
    """But for runs of which all is newer than ``seq``; nothing when it is one run already in which,
    at the second ``now``, nothing is to be dropped or folded."""
    runs = since(version, seq)
    if not runs:
        return None
    target = position(runs[0]) if len(runs) == 1 else (BOTTOM_LEVEL, -runs[0].number)
    plan = make_plan(version, runs, target, options.table_size)
    return None if plan is None or changes_nothing(plan, now) else plan
