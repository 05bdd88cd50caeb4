"""Distinct types for numbers that must not be mixed."""

from __future__ import annotations

from typing import Annotated, NewType, TypeAlias

from msgspec import Meta

SeqNo = NewType("SeqNo", int)
"""The sequence number of a commit: 1, 2, 3 …; never reused. All operations of a batch share one."""

SegmentId = NewType("SegmentId", int)
"""The number of a WAL segment in its data directory; never reused."""

Epoch = NewType("Epoch", int)
"""The number of a writer's claim on the database; the higher one fences the lower."""

TableId = NewType("TableId", str)
"""``<8 digits epoch>-<12 digits counter>``: unique, because no two writers share an epoch."""

BlobId = NewType("BlobId", str)
"""``<table id>-<6 digits>``: the table it was made with, and its number among that one's blobs."""

MAX_SEQ = SeqNo((1 << 63) - 1)

STORED_END = 10**18
_STORED = Meta(ge=0, lt=STORED_END)
"""What records in the bucket may say of numbers, as names of objects may: no writer gets that far,
and what goes on from one, or adds some up, has room up to 2^63."""
StoredNumber: TypeAlias = Annotated[int, _STORED]
StoredSize: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 43)]
"""Bytes of an object, or within one: 8 TiB are more than any store takes."""
StoredSeqNo: TypeAlias = Annotated[SeqNo, _STORED]
StoredSegmentId: TypeAlias = Annotated[SegmentId, _STORED]
StoredEpoch: TypeAlias = Annotated[Epoch, _STORED]


def table_id(epoch: Epoch, counter: int) -> TableId:
    """The id of the ``counter``-th table made in ``epoch``."""
    return TableId(f"{epoch:08d}-{counter:012d}")


def epoch_of(table: TableId) -> Epoch:
    """The epoch in which a table was made."""
    return Epoch(int(table.partition("-")[0]))


def blob_id(table: TableId, number: int) -> BlobId:
    """The id of the ``number``-th blob made with ``table``."""
    return BlobId(f"{table}-{number:06d}")


def maker_of(blob: BlobId) -> TableId:
    """The table that a blob was made with, which need not point into it any more."""
    return TableId(blob.rpartition("-")[0])
