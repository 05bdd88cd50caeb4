"""Taking back the space of values that are dead: the merge of a table with nothing, in its place.

Any merge takes along what lives in blobs that are mostly dead. This one is for tables that no
other merge is due for.
"""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.storage.blob.liveness import most_wasteful
from seerdb.storage.compaction.plan import Plan, collides, rewrite
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.manifest.version import Version


def reclaim(version: Version, options: PolicyOptions, running: Sequence[Plan] = ()) -> Plan | None:
    """Rewrite the table whose blobs waste the most, if they waste enough.

    Applied again and again it comes to nothing, as what it moves lies in blobs that are all live.
    """
    wasteful = most_wasteful(version)
    if wasteful is None:
        return None
    [table] = wasteful.tables
    plan = rewrite(version, wasteful, table, max(options.table_size, table.size))
    if not plan.dying or any(collides(plan, other) for other in running):
        return None
    return plan
