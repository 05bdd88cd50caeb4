"""The merge of everything into one run, which is done when somebody asks for it."""

from __future__ import annotations

from seerdb.storage.compaction.plan import BOTTOM_LEVEL, Plan, make_plan, position
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.manifest.version import Version


def merge_all(version: Version, options: PolicyOptions) -> Plan | None:
    """Nothing when it is one run already in which nothing is left to drop or to fold.

    Requires: no other plan is running.
    """
    runs = version.runs
    if not runs:
        return None
    target = position(runs[0]) if len(runs) == 1 else (BOTTOM_LEVEL, -runs[0].number)
    return make_plan(version, runs, target, options.table_size)
