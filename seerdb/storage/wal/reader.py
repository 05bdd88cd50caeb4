"""Reads a segment back, and tells a torn tail from corruption.

A power loss may leave the unsynced end of a segment in any state: cut short, with holes, with
later frames whole. Damage at offset X is such a *torn tail* unless a sound frame anywhere after
X states that more than X bytes had been synced when it was written (``synced > X``, see
``format.py``): then X had once been on the disk and is *corruption*. SEAL is written after a
sync of everything before it, so damage in a sealed segment is always corruption; and the next
segment is created after SEAL is durable, so a segment that has a successor but no SEAL is
corruption too. Only that last rule needs to know the neighbours; see :func:`classify`.

The walk itself is in ``frames.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, DiskError, TruncatedError
from seerdb.storage.local.files import FileSystem
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import (
    BATCH,
    CRC_SIZE,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    RECORD_FIELDS,
    RECORD_HEADER_SIZE,
    SegmentHeader,
    decode_frame_header,
    decode_header,
)
from seerdb.storage.wal.frames import Damage, FrameReader, Stamp, Take
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.wal.window import Window

__all__ = [
    "Condition",
    "Damage",
    "Record",
    "SegmentScan",
    "classify",
    "first_seq_of",
    "header_of",
    "read_segment",
    "scan_segment",
]


class Condition(Enum):
    """What a scan says about a segment."""

    SOUND = "sound"
    TORN = "torn"
    """Unsynced bytes at the end were lost; everything before is complete."""
    CORRUPT = "corrupt"
    """Bytes that were once durable are not what was written."""


@dataclass(frozen=True, slots=True)
class SegmentScan:
    """What :func:`read_segment` found.

    ``records`` are those before the first damage (when salvaging, all that are sound); it is
    empty when somebody else took them, but ``count``, ``first`` and ``last`` tell of them in any
    case. ``end`` is the offset after the last sound frame before the first damage; the last
    ``partial`` of the records before the damage stand in the damaged frame at ``end``.
    """

    name: str
    header: SegmentHeader
    records: list[Record]
    count: int
    first: Stamp | None
    last: Stamp | None
    end: int
    partial: int
    sealed: bool
    damages: tuple[Damage, ...]
    torn_bytes: int
    """Bytes of a torn tail, from the first damage to the last trace of a frame."""

    @property
    def damage(self) -> Damage | None:
        """The first damage; ``None`` when all is sound."""
        return self.damages[0] if self.damages else None

    def error(self) -> CorruptionError:
        """The error to raise when this scan is corruption."""
        proven = (damage for damage in self.damages if damage.proven)
        damage = next(proven, self.damage)
        if damage is None:
            return TruncatedError(
                "a segment with a successor has no SEAL",
                name=self.name,
                offset=self.end,
                hint="its end was lost",
            )
        return ChecksumError(
            damage.reason,
            name=self.name,
            offset=damage.offset,
            expected=damage.expected,
            found=damage.found,
        )


def classify(scan: SegmentScan, *, is_last: bool) -> Condition:
    """The condition of a scanned segment; ``is_last``: no segment has a higher id."""
    if any(damage.proven for damage in scan.damages):
        return Condition.CORRUPT
    if not scan.sealed and not is_last:
        return Condition.CORRUPT
    return Condition.TORN if scan.damages else Condition.SOUND


def read_segment(
    data: bytes, name: str, expected_segment: int | None, *, salvage: bool = False
) -> SegmentScan:
    """Everything sound in the segment ``data``, up to the first damage.

    ``expected_segment`` is the id in the file's name (``None``: any). ``salvage``: go on after
    damage, with whatever is proven sound by its own checksum.

    Raises: ``TruncatedError``, ``ChecksumError``, ``UnsupportedFormatError`` for a header that
    cannot be used, ``CorruptionError`` for a segment under another one's name. Damage after the
    header is reported, not raised.
    """

    def read_at(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    records: list[Record] = []
    window = Window(read_at, len(data))
    return _scan(window, name, expected_segment, records, records.extend, salvage=salvage)


def scan_segment(
    files: FileSystem,
    directory: str,
    segment: int,
    *,
    salvage: bool = False,
    take: Take | None = None,
) -> SegmentScan:
    """:func:`read_segment` of a segment's file, of which it has only a window in memory.

    ``take`` is given the records instead of the result, some at a time and before anything is
    known of what follows them.
    Requires: nobody writes to the file. Raises: also ``DiskError``, and what ``take`` raises.
    """
    path = segment_path(directory, segment)
    records: list[Record] = []
    file = files.open_read(path)
    try:
        window = Window(file.read_at, file.size())
        return _scan(window, path, segment, records, take or records.extend, salvage=salvage)
    finally:
        file.close()


def _scan(
    window: Window,
    name: str,
    expected_segment: int | None,
    records: list[Record],
    take: Take,
    *,
    salvage: bool,
) -> SegmentScan:
    header = _decoded(window.read(0, HEADER_SIZE), name, expected_segment)
    frames = FrameReader(window, header, take, salvage=salvage)
    frames.run()
    damages = tuple(frames.damages)
    torn = bool(damages) and not any(damage.proven for damage in damages)
    return SegmentScan(
        name=name,
        header=header,
        records=records,
        count=frames.count,
        first=frames.first,
        last=frames.last,
        end=frames.end,
        partial=frames.partial,
        sealed=frames.sealed,
        damages=damages,
        torn_bytes=frames.trace_end - damages[0].offset if torn else 0,
    )


def _decoded(data: bytes, name: str, expected_segment: int | None) -> SegmentHeader:
    header = decode_header(data, name)
    if expected_segment is not None and header.segment != expected_segment:
        raise CorruptionError(
            "the file holds another segment than its name says",
            name=name,
            offset=0,
            expected=expected_segment,
            found=header.segment,
            hint="was it renamed or copied over?",
        )
    return header


def first_seq_of(header: bytes, frames: bytes, name: str, segment: int) -> int | None:
    """The seq of the first record of ``frames``, which may start anywhere in the segment; ``None``
    unless a sound one is there. Copies nothing of a frame that is not compressed: one may be as
    large as a batch. Raises: as :func:`read_segment`."""
    decoded = _decoded(header, name, segment)
    frame = decode_frame_header(frames[:FRAME_HEADER_SIZE], HEADER_SIZE, decoded)
    if frame is None:
        return None
    if frame.raw:
        scan = read_segment(header + frames[: frame.end - HEADER_SIZE], name, segment)
        return None if scan.first is None else scan.first[0]
    body = memoryview(frames)[FRAME_HEADER_SIZE : frame.end - HEADER_SIZE]
    if len(body) < RECORD_HEADER_SIZE:
        return None
    stated, length, kind, seq, _ = RECORD_FIELDS.unpack_from(body)
    record = body[CRC_SIZE : RECORD_HEADER_SIZE + length]
    is_whole = len(record) == RECORD_HEADER_SIZE - CRC_SIZE + length
    if not is_whole or stated != crc32c(record, decoded.salt):
        return None
    return seq if kind == BATCH and seq >= decoded.first_seq else None


def header_of(files: FileSystem, path: str) -> SegmentHeader | None:
    """The header of a segment's file; ``None`` when it is damaged, or the file is gone."""
    try:
        file = files.open_read(path)
    except DiskError:
        return None
    try:
        return decode_header(file.read_at(0, HEADER_SIZE), path)
    except CorruptionError:
        return None
    finally:
        file.close()
