"""Rewriting what is mostly expired, which no merge may come by for a long time.

What has expired is hidden but stays until its table is merged. A table of which half of the
entries have expired is rewritten where it is, so each byte of it is written once for one that goes:
values go at once, and keys too where nothing older can be under them. Not where operands may be
merged: for their sake what has expired may have to be remembered, and the table would be no less
due than before.
"""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.storage.compaction.plan import Plan, collides, rewrite
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.manifest.version import Version

LATE_SECONDS = 5
"""So long after the end: a commit that is on its way has the time of its beginning, and what
expired since is not dropped yet."""


def rewrite_expired(
    version: Version, now: int, options: PolicyOptions, running: Sequence[Plan] = ()
) -> Plan | None:
    """The rewrite of a table that is mostly expired at the second ``now``, or nothing.

    Applied again and again it comes to nothing.
    """
    if options.has_merges:
        return None
    for run in version.runs:
        for table in run.tables:
            if 0 < table.half_expired <= now - LATE_SECONDS:
                plan = rewrite(version, run, table, options.table_size)
                if not any(collides(plan, other) for other in running):
                    return plan
    return None
