"""Distinct types for numbers that must not be mixed."""

from __future__ import annotations

from typing import NewType

SeqNo = NewType("SeqNo", int)
"""The sequence number of a commit: 1, 2, 3 …; never reused. All operations of a batch share one."""

SegmentId = NewType("SegmentId", int)
"""The number of a WAL segment in its data directory; never reused."""

Epoch = NewType("Epoch", int)
"""The number of a writer's claim on the database; the higher one fences the lower."""

TableId = NewType("TableId", str)
"""``<8 digits epoch>-<12 digits counter>``: unique, because no two writers share an epoch."""

MAX_SEQ = SeqNo((1 << 63) - 1)


def table_id(epoch: Epoch, counter: int) -> TableId:
    """The id of the ``counter``-th table made in ``epoch``."""
    return TableId(f"{epoch:08d}-{counter:012d}")
