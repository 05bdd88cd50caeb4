"""What tables and blobs say of themselves, once every byte of them is checked.

A table tells everything that a manifest says of it but its level, its run and, where it was made
by an ingest, its seq.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from crc32c import crc32c
from msgspec.structs import replace

from seerdb.errors import MALFORMED, CorruptionError, NotFoundError, TruncatedError
from seerdb.ids import BlobId, TableId
from seerdb.storage.blob.format import Directory
from seerdb.storage.blob.verify import verify_blob
from seerdb.storage.entry import BLOB, BLOB_WITH_EXPIRY
from seerdb.storage.manifest.version import BlobRef, BlobUse, TableMeta
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import blob_name, table_name
from seerdb.storage.pointer import POINTER_SIZE, count_by_blob
from seerdb.storage.repair.report import Loss
from seerdb.storage.sstable.format import (
    FOOTER_SIZE,
    UNASSIGNED_SEQ,
    TableProperties,
    decode_footer,
    unseal,
)
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.sstable.verify import verify_table
from seerdb.storage.value import expiries, expiry_marks
from seerdb.storage.workers.threads import in_order

_POINTING = bytes((BLOB, BLOB_WITH_EXPIRY))
PROVISIONAL_SEQ = 1
"""Of a table whose seq only a manifest knew, until one is chosen."""

Progress = Callable[[str, int, int], None]


class SoundTable(NamedTuple):
    """A table that is what it was. ``is_flushed``: made of a memtable, not by a merge or an ingest;
    ``has_seq``: whether its seqs are known; ``is_gone``: the manifest removed it, and it is at hand
    only for what it tells of others, and to hide what they bring back."""

    meta: TableMeta
    is_flushed: bool
    has_seq: bool
    is_gone: bool = False


@dataclass
class Survey:
    """What was found, in the order of names."""

    tables: list[SoundTable] = field(default_factory=list)
    damaged: list[Loss] = field(default_factory=list)


class _SoundBlob(NamedTuple):
    ref: BlobRef
    directory: Directory


def survey(
    store: ObjectStore,
    tables: list[TableId],
    blobs: list[BlobId],
    named: Mapping[TableId, TableMeta],
    threads: Executor,
    progress: Progress,
) -> Survey:
    """Read these objects. ``named``: what a manifest says of tables, which they must live up to.

    Raises: ``UnavailableError``.
    """
    found = Survey()
    sound: dict[BlobId, _SoundBlob] = {}
    for done, blob in enumerate(in_order(threads, lambda each: _read_blob(store, each), blobs), 1):
        if isinstance(blob, Loss):
            found.damaged.append(blob)
        else:
            sound[blob.ref.id] = blob
        progress("blobs", done, len(blobs))

    def read(table: TableId) -> SoundTable | Loss:
        return _read_table(store, table, named.get(table), sound)

    for done, table in enumerate(in_order(threads, read, tables), 1):
        if isinstance(table, Loss):
            found.damaged.append(table)
        else:
            found.tables.append(table)
        progress("tables", done, len(tables))
    return found


class Glimpse(NamedTuple):
    """What a table says of itself, unchecked but for that."""

    table: TableId
    min_seq: int
    max_seq: int
    is_flushed: bool


def glimpse(store: ObjectStore, table: TableId) -> Glimpse | None:
    """Look at a table; ``None`` for one that does not know its seqs. Raises: ``CorruptionError``,
    ``NotFoundError``, ``UnavailableError``."""
    name = table_name(table)
    told, _ = _properties(name, store.get(name))
    if told.max_seq == UNASSIGNED_SEQ:
        return None
    return Glimpse(table, told.min_seq, told.max_seq, told.max_timestamp_us > 0)


def loss_of(meta: TableMeta, problem: str) -> Loss:
    """A table that a manifest, or its own tail, describes."""
    return Loss(
        table_name(meta.id), problem, meta.smallest, meta.largest, meta.min_seq, meta.max_seq
    )


def _read_blob(store: ObjectStore, blob: BlobId) -> _SoundBlob | Loss:
    name = blob_name(blob)
    try:
        data = store.get(name)
        total = sum(place.length for place in Directory(blob, data))
        use = BlobUse(blob, len(data), crc32c(data), total, 0, 0)
        directory = verify_blob(use, data)
    except (CorruptionError, NotFoundError) as error:
        return Loss(name, str(error))
    return _SoundBlob(BlobRef(blob, use.size, use.checksum, total, 0, 0), directory)


def _read_table(
    store: ObjectStore,
    table: TableId,
    named: TableMeta | None,
    blobs: Mapping[BlobId, _SoundBlob],
) -> SoundTable | Loss:
    name, told = table_name(table), named
    try:
        data = store.get(name)
        properties, offset = _properties(name, data)
        told = named or _described(table, data, properties, offset)
        pointed = told if named else _with_blobs(told, data, blobs)
        _check_blobs(pointed, blobs)
        verify_table(pointed, data, {ref.id: blobs[ref.id].directory for ref in pointed.blobs})
    except (CorruptionError, NotFoundError) as error:
        return loss_of(told, str(error)) if told is not None else Loss(name, str(error))
    has_seq = named is not None or properties.max_seq != UNASSIGNED_SEQ
    return SoundTable(pointed, properties.max_timestamp_us > 0, has_seq)


def _properties(name: str, data: bytes) -> tuple[TableProperties, int]:
    """What a table says of itself, and where its tail begins, which is where its footer begins."""
    if len(data) < FOOTER_SIZE:
        raise TruncatedError("the table has no footer", name=name, expected=FOOTER_SIZE)
    offset = int.from_bytes(data[-FOOTER_SIZE : -FOOTER_SIZE + 8], "little")
    footer = decode_footer(data[offset:], name=name, tail_offset=offset)
    start = footer.properties_offset
    payload = unseal(data[start:-FOOTER_SIZE], name=name, offset=start)
    try:
        return msgspec.msgpack.decode(payload, type=TableProperties), offset
    except MALFORMED as error:
        raise CorruptionError(
            f"no properties are there: {error}", name=name, offset=start
        ) from error


def _described(
    table: TableId, data: bytes, properties: TableProperties, tail_offset: int
) -> TableMeta:
    is_known = properties.max_seq != UNASSIGNED_SEQ
    return TableMeta(
        id=table,
        level=0,
        run=0,
        size=len(data),
        checksum=crc32c(data),
        entries=properties.entries,
        deletes=properties.deletes,
        range_deletes=properties.range_deletes,
        smallest=properties.smallest,
        largest=properties.largest,
        min_seq=properties.min_seq if is_known else PROVISIONAL_SEQ,
        max_seq=properties.max_seq if is_known else PROVISIONAL_SEQ,
        tail_offset=tail_offset,
        expiring=properties.expiring,
        merges=properties.merges,
        pointers=properties.pointers,
    )


def _with_blobs(meta: TableMeta, data: bytes, blobs: Mapping[BlobId, _SoundBlob]) -> TableMeta:
    """The description with what only the entries tell: where they point, when they expire."""
    if not meta.pointers and not meta.expiring:
        return meta
    reader = TableReader(meta, data[meta.tail_offset :])
    pointers: list[bytes] = []
    ends: list[int] = []
    for number in range(reader.block_count):
        offset, length = reader.block_range(number)
        columns = reader.decode_block(number, data[offset : offset + length]).columns()
        ends += expiries(columns.kinds, columns.values)
        pointers += [
            stored[-POINTER_SIZE:]
            for kind, stored in zip(columns.kinds, columns.values, strict=True)
            if kind in _POINTING
        ]
    first_expiry, half_expired = expiry_marks(ends, meta.entries)
    refs = [
        replace(_blob(blobs, blob, table_name(meta.id)).ref, values=values, bytes=size)
        for blob, (values, size) in sorted(count_by_blob(b"".join(pointers)).items())
    ]
    return replace(meta, first_expiry=first_expiry, half_expired=half_expired, blobs=tuple(refs))


def _check_blobs(meta: TableMeta, blobs: Mapping[BlobId, _SoundBlob]) -> None:
    for ref in meta.blobs:
        found = _blob(blobs, ref.id, table_name(meta.id)).ref
        if replace(found, values=ref.values, bytes=ref.bytes) != ref:
            raise CorruptionError(
                f"it points into {blob_name(ref.id)}, which is not what the manifest says",
                name=table_name(meta.id),
            )


def _blob(blobs: Mapping[BlobId, _SoundBlob], blob: BlobId, name: str) -> _SoundBlob:
    if blob not in blobs:
        raise CorruptionError(
            f"it points into {blob_name(blob)}, which is damaged or missing", name=name
        )
    return blobs[blob]
