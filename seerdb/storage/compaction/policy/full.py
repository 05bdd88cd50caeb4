"""The merge of everything into one run, which is done when somebody asks for it.

That of a clone rewrites whatever it borrows, so that the clone stands by itself afterwards.
"""

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
from seerdb.storage.object_store.lender import Loans
from seerdb.storage.object_store.names import blob_name, made_in


def merge_all(version: Version, seq: int, now: int, options: PolicyOptions) -> Plan | None:
    """But for runs of which all is newer than ``seq``; nothing when it is one run already in which,
    at the second ``now``, nothing is to be dropped or folded, and nothing is borrowed."""
    runs = since(version, seq)
    if not runs:
        return None
    target = position(runs[0]) if len(runs) == 1 else (BOTTOM_LEVEL, -runs[0].number)
    tables = [table for run in runs for table in run.tables]
    if any(_is_borrowed(options.loans, name) for table in tables for name in table.objects):
        blobs = {ref.id for table in tables for ref in table.blobs}
        borrowed = frozenset(b for b in blobs if _is_borrowed(options.loans, blob_name(b)))
        return make_plan(version, runs, target, options.table_size, rewrites=borrowed)
    plan = make_plan(version, runs, target, options.table_size)
    return None if plan is None or changes_nothing(plan, now) else plan


def _is_borrowed(loans: Loans, name: str) -> bool:
    epoch = made_in(name) if loans.lenders else None
    return epoch is not None and loans.lender_of(name, epoch) is not None
