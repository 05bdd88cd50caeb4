"""Checking a whole database: every byte of manifest, tables and log, and what must hold among them.

Slow and thorough, and it changes nothing. Damage becomes a line of the report, so that one run
finds all of it; only a store or disk that cannot be read at all is raised.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

import msgspec
from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, NotFoundError, TruncatedError
from seerdb.storage.entry import DELETE
from seerdb.storage.files import FileSystem
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import TableMeta, Version, check_version
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import table_name
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.wal.reader import Condition
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.storage.wal.verify import verify_segments


class VerifyReport(msgspec.Struct):
    """What was checked, and one line for each thing that is wrong."""

    tables: int = 0
    entries: int = 0
    bytes: int = 0
    segments: int = 0
    records: int = 0
    last_seq: int = 0
    problems: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


Progress = Callable[[int, int], None]
"""Told how many of how many tables are checked."""


def verify_bucket(
    store: ObjectStore, report: VerifyReport, progress: Progress | None = None
) -> ManifestState | None:
    """Check the manifest and every table it names."""
    try:
        state = load(store)
    except CorruptionError as error:
        report.problems.append(str(error))
        return None
    if state is None:
        report.problems.append("there is no database: no manifest object was found")
        return None
    report.last_seq = state.last_seq
    verify_version(store, state.version, report, progress)
    return state


def verify_version(
    store: ObjectStore, version: Version, report: VerifyReport, progress: Progress | None = None
) -> None:
    """Check every table of a version."""
    check_version(version)
    metas = version.tables
    for number, meta in enumerate(metas, 1):
        try:
            verify_table(meta, store.get(table_name(meta.id)))
        except NotFoundError:
            report.problems.append(f"{table_name(meta.id)}: the manifest names it, but it is gone")
        except CorruptionError as error:
            report.problems.append(str(error))
        report.tables += 1
        report.entries += meta.entries
        report.bytes += meta.size
        if progress is not None:
            progress(number, len(metas))


def verify_table(meta: TableMeta, data: bytes) -> None:
    """Raise ``CorruptionError`` unless ``data`` is the table that ``meta`` describes."""
    name = table_name(meta.id)
    if len(data) != meta.size:
        raise TruncatedError("wrong length", name=name, expected=meta.size, found=len(data))
    found = crc32c(data)
    if found != meta.checksum:
        raise ChecksumError("wrong checksum", name=name, expected=meta.checksum, found=found)
    reader = TableReader(meta, data[meta.tail_offset :])
    entries = deletes = 0
    before = b""
    for number, (offset, stored) in enumerate(_stored_blocks(reader, data)):
        block = reader.decode_block(number, stored)
        keys, seqs, kinds, values = block.columns()
        _check_order(keys, before, name, offset)
        if not meta.min_seq <= min(seqs) <= max(seqs) <= meta.max_seq:
            raise CorruptionError(
                "a seq is out of the table's bounds",
                name=name,
                offset=offset,
                expected=(meta.min_seq, meta.max_seq),
                found=(min(seqs), max(seqs)),
            )
        for key, value in zip(keys, values, strict=True):
            digest = key_hash(key)
            hit = block.find(key, digest >> FINGERPRINT_SHIFT, meta.max_seq)
            if not reader.may_contain(digest) or hit is None or hit[2] != value:
                raise CorruptionError(
                    f"key {key!r} is there but a lookup does not find it", name=name, offset=offset
                )
        before = keys[-1]
        entries += len(keys)
        deletes += bytes(kinds).count(DELETE)
    if (entries, deletes) != (meta.entries, meta.deletes):
        raise CorruptionError(
            "wrong number of entries and deletes",
            name=name,
            expected=(meta.entries, meta.deletes),
            found=(entries, deletes),
        )


def _stored_blocks(reader: TableReader, data: bytes) -> Iterator[tuple[int, bytes]]:
    for number in range(reader.block_count):
        offset, length = reader.block_range(number)
        yield offset, data[offset : offset + length]


def _check_order(keys: list[bytes], before: bytes, name: str, offset: int) -> None:
    if keys[0] <= before or any(a >= b for a, b in zip(keys, keys[1:], strict=False)):
        position = bisect_left(keys, before)
        raise CorruptionError(
            "keys are out of order",
            name=name,
            offset=offset,
            expected=f"above {before!r}",
            found=keys[position - 1 if position else 0],
        )


def verify_log(
    files: FileSystem, directory: str, report: VerifyReport, *, log_start: int = 0
) -> None:
    """Check every segment of a log that is still needed."""
    wanted = [segment for segment in list_segments(files, directory) if segment >= log_start]
    for found in verify_segments(files, [segment_path(directory, each) for each in wanted]):
        report.segments += 1
        report.records += found.records
        report.last_seq = max(report.last_seq, found.last_seq)
        if found.condition is Condition.CORRUPT:
            report.problems.append(found.problem)
