"""Checks a whole table: every byte, and that every entry is where a lookup looks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from itertools import pairwise

from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError
from seerdb.ids import BlobId
from seerdb.storage.digest import NONE, digest
from seerdb.storage.entry import BLOB, BLOB_WITH_EXPIRY, DELETE, MERGE
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.names import blob_name, table_name
from seerdb.storage.pointer import POINTER_SIZE, Place, count_by_blob
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT, Block, Columns
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.packed import pack
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.value import expiries, expiry_marks, pointer_in

_POINTING = bytes((BLOB, BLOB_WITH_EXPIRY))
_COUNTED = ("values", "bytes")

Position = tuple[bytes, int]
"""Key and negated seq: entries are in the order of these."""


Places = Mapping[BlobId, Container[Place]]
"""What lies in blobs."""


def verify_table(meta: TableMeta, data: bytes, blobs: Places | None = None) -> None:
    """Raise ``CorruptionError`` unless ``data`` is the table that ``meta`` describes, and what it
    points at is in those ``blobs`` that are known.

    The error names the part that is damaged, if the parts' own checksums tell which.
    """
    name = table_name(meta.id)
    if len(data) != meta.size:
        raise TruncatedError("wrong length", name=name, expected=meta.size, found=len(data))
    _verify_entries(TableReader(meta, data[meta.tail_offset :]), data, blobs or {})
    found = crc32c(data)
    if found != meta.checksum:
        raise ChecksumError("wrong checksum", name=name, expected=meta.checksum, found=found)


def _verify_entries(reader: TableReader, data: bytes, blobs: Places) -> None:
    meta = reader.meta
    entries = deletes = merges = 0
    ends: list[int] = []
    pointed: Counter[tuple[BlobId, str]] = Counter()
    before, sums = (meta.smallest, -meta.max_seq - 1), NONE
    for number in range(reader.block_count):
        offset, length = reader.block_range(number)
        block = reader.decode_block(number, data[offset : offset + length])
        columns = block.columns()
        _verify_order(meta, before, columns, offset)
        _verify_lookups(reader, block, columns, offset)
        before = columns.keys[-1], -columns.seqs[-1]
        sums += digest(pack(columns.keys, columns.seqs, columns.kinds, columns.values))
        entries += len(columns.keys)
        deletes += columns.kinds.count(DELETE)
        ends += expiries(columns.kinds, columns.values)
        merges += columns.kinds.count(MERGE)
        _verify_pointers(reader, block, columns, blobs, offset)
        for blob, (values, size) in count_by_blob(b"".join(_pointers(columns))).items():
            pointed.update({(blob, "values"): values, (blob, "bytes"): size})
    expected = (meta.entries, meta.deletes, meta.expiring, meta.merges)
    if (entries, deletes, len(ends), merges) != expected:
        raise CorruptionError(
            "wrong number of entries, deletes, expiring values and merges",
            name=table_name(meta.id),
            expected=expected,
            found=(entries, deletes, len(ends), merges),
        )
    if meta.digest and meta.digest != str(sums):
        raise CorruptionError(
            "its entries are not those that the manifest says",
            name=table_name(meta.id),
            expected=meta.digest,
            found=str(sums),
        )
    noted, marks = (meta.first_expiry, meta.half_expired), expiry_marks(ends, entries)
    if meta.first_expiry and noted != marks:
        raise CorruptionError(
            "its values expire at other times than the manifest says",
            name=table_name(meta.id),
            expected=noted,
            found=marks,
        )
    referred = {(ref.id, what): getattr(ref, what) for ref in meta.blobs for what in _COUNTED}
    if pointed != referred:
        raise CorruptionError(
            "does not point into blobs as the manifest says",
            name=table_name(meta.id),
            expected=referred,
            found=dict(pointed),
        )


def _pointers(columns: Columns) -> Iterator[bytes]:
    """Those of the entries, as they are stored; an end may stand before."""
    for kind, stored in zip(columns.kinds, columns.values, strict=True):
        if kind in _POINTING:
            yield stored[-POINTER_SIZE:]


def _verify_pointers(
    reader: TableReader, block: Block, columns: Columns, blobs: Places, offset: int
) -> None:
    for key, kind, stored in zip(columns.keys, columns.kinds, columns.values, strict=True):
        pointer = pointer_in(block.decode(kind, stored)) if kind in _POINTING else None
        place = pointer.place if pointer is not None else None
        if place is not None and place not in blobs.get(place.blob, (place,)):
            raise CorruptionError(
                f"key {key!r} points at what is not in its blob",
                name=table_name(reader.meta.id),
                offset=offset,
                found=place,
                expected=f"one of the values in {blob_name(place.blob)}",
            )


def _verify_order(meta: TableMeta, before: Position, columns: Columns, offset: int) -> None:
    """Check the order of entries that follow ``before``, and the bounds of the table."""
    keys, seqs = columns.keys, columns.seqs
    for left, right in pairwise([before, *((k, -s) for k, s in zip(keys, seqs, strict=True))]):
        if left >= right:
            raise CorruptionError(
                "entries are out of order",
                name=table_name(meta.id),
                offset=offset,
                expected=f"after key {left[0]!r}, seq {-left[1]}",
                found=f"key {right[0]!r}, seq {-right[1]}",
            )
    if not meta.min_seq <= min(seqs) <= max(seqs) <= meta.max_seq or keys[-1] > meta.largest:
        raise CorruptionError(
            "an entry is out of the table's bounds",
            name=table_name(meta.id),
            offset=offset,
            expected=f"keys up to {meta.largest!r}, seqs {meta.min_seq} to {meta.max_seq}",
            found=f"keys up to {keys[-1]!r}, seqs {min(seqs)} to {max(seqs)}",
        )


def _verify_lookups(reader: TableReader, block: Block, columns: Columns, offset: int) -> None:
    """Check that each entry is found by the lookup for it."""
    find, may_contain, may_hold = block.find, reader.filter.may_contain, reader.may_hold
    for key, seq, kind, value in zip(*columns, strict=True):
        digest = key_hash(key)
        hit = find(key, digest >> FINGERPRINT_SHIFT, seq)
        passes = may_contain(digest) and may_hold(key, key)
        if not passes or hit != (seq, block.decode(kind, value)):
            raise CorruptionError(
                f"key {key!r} is there but a lookup does not find it",
                name=table_name(reader.meta.id),
                offset=offset,
            )
