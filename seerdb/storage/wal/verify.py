"""Checks segment files without changing anything: what ``seerdb wal-verify`` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from seerdb.errors import CorruptionError, SeerDBError
from seerdb.storage.local.files import FileSystem, read_whole
from seerdb.storage.wal.format import decode_batch
from seerdb.storage.wal.reader import (
    Condition,
    Damage,
    SegmentScan,
    classify,
    read_segment,
)
from seerdb.storage.wal.segments import list_segments, parse_segment_name


class SegmentReport(NamedTuple):
    """What is known of one file. Numbers that cannot be known are 0.

    ``records`` and the seqs count everything sound, also behind damage. ``length`` is how many
    bytes are in use before the first damage, ``size`` what the file has. ``problem`` says in one
    sentence what is wrong, and is empty when ``condition`` is ``SOUND``.
    """

    path: str
    condition: Condition
    problem: str
    segment: int
    epoch: int
    records: int
    first_seq: int
    last_seq: int
    length: int
    size: int
    sealed: bool
    torn_bytes: int
    damages: tuple[Damage, ...]


def verify_segments(files: FileSystem, paths: Iterable[str]) -> list[SegmentReport]:
    """A report on each file, in the order given; nothing is changed and nothing is raised for
    what is wrong with a file.

    The name gives the expected segment id. A file that is not the newest segment of its
    directory must be sealed; one with another name may end anywhere.
    """
    return [_verify(files, path) for path in paths]


def _verify(files: FileSystem, path: str) -> SegmentReport:
    directory, _, name = path.rpartition("/")
    segment = parse_segment_name(name)
    size = 0
    try:
        data = read_whole(files, path)
        size = len(data)
        scan = read_segment(data, path, segment, salvage=True)
        # None, if this one is taken back meanwhile and the next has not begun.
        others = list_segments(files, directory or ".")
        is_last = segment is None or segment >= max(others, default=segment)
    except SeerDBError as error:
        return _unreadable(path, segment or 0, size, str(error))
    condition = classify(scan, is_last=is_last)
    problem = _bad_batch(scan)
    if problem:
        condition = Condition.CORRUPT
    elif condition is Condition.CORRUPT:
        problem = str(scan.error())
    elif condition is Condition.TORN:
        problem = f"{path}: the last {scan.torn_bytes:,} bytes are a torn tail: {scan.error()}"
    return SegmentReport(
        path=path,
        condition=condition,
        problem=problem,
        segment=scan.header.segment,
        epoch=scan.header.epoch,
        records=len(scan.records),
        first_seq=scan.records[0][0] if scan.records else 0,
        last_seq=scan.records[-1][0] if scan.records else 0,
        length=scan.end,
        size=size,
        sealed=scan.sealed,
        torn_bytes=scan.torn_bytes,
        damages=scan.damages,
    )


def _bad_batch(scan: SegmentScan) -> str:
    """What is wrong with the first batch whose checksum is right and whose content is not."""
    for seq, _, payload in scan.records:
        try:
            decode_batch(payload, scan.name)
        except CorruptionError as error:
            return f"the batch of seq {seq} cannot be decoded: {error}"
    return ""


def _unreadable(path: str, segment: int, size: int, problem: str) -> SegmentReport:
    return SegmentReport(
        path=path,
        condition=Condition.CORRUPT,
        problem=problem,
        segment=segment,
        epoch=0,
        records=0,
        first_seq=0,
        last_seq=0,
        length=0,
        size=size,
        sealed=False,
        torn_bytes=0,
        damages=(),
    )
