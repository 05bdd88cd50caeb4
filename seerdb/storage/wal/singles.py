"""Records of one operation each as packed entries, by few calls over many of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seerdb.storage.sstable.order import Bytes
from seerdb.storage.sstable.packed import Lengths, Packed
from seerdb.storage.wal.columns import Record, RecordColumns
from seerdb.storage.wal.format import SINGLE_SIZE
from seerdb.storage.wal.starts import gather, windows

_HEAD = np.dtype([("count", "<u4"), ("kind", "u1"), ("key", "<u2"), ("value", "<u4")])
assert _HEAD.itemsize == SINGLE_SIZE


def packed_singles(records: Sequence[Record]) -> Packed | None:
    """The operations of ``records``, at least one, of whatever kind; ``None`` if one of them is no
    single, or has an empty key."""
    columns = records if isinstance(records, RecordColumns) else RecordColumns.of(records)
    data, starts, sizes = columns.data, columns.starts, columns.sizes
    if int(sizes.min()) < SINGLE_SIZE:
        return None
    heads = gather(data, starts, _HEAD)
    lengths = np.stack((heads["key"], heads["value"]), axis=1).astype(np.int64)
    if (heads["count"] != 1).any() or (lengths.sum(axis=1) + SINGLE_SIZE != sizes).any():
        return None
    if not heads["key"].all():
        return None
    kinds = heads["kind"].copy()
    if (lengths == lengths[0]).all():
        key_size, value_size = lengths[0].tolist()
        rows = columns.rows(SINGLE_SIZE)
        if rows is None:
            rows = windows(data, key_size + value_size)[starts + SINGLE_SIZE]
        parts = np.ascontiguousarray(rows).view(np.uint8)
        return Packed(parts, columns.seqs, kinds, shape=(key_size, value_size))
    parts = _joined(data, starts + SINGLE_SIZE, starts + sizes)
    return Packed(parts, columns.seqs, kinds, lengths=lengths)


def _joined(data: Bytes, starts: Lengths, ends: Lengths) -> Bytes:
    whole, bounds = data.tobytes(), zip(starts.tolist(), ends.tolist(), strict=True)
    return np.frombuffer(b"".join([whole[start:end] for start, end in bounds]), np.uint8)
