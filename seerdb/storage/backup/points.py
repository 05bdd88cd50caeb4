"""What can be restored, for people and programs."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from seerdb.storage.backup.archive import Archive


class BackupPoint(msgspec.Struct, frozen=True):
    """A backup: the commit that it holds everything up to, and what it needs."""

    id: str
    seq: int
    time_us: int
    created_us: int
    label: str
    keep: bool
    objects: int
    bytes: int


class RecoveryRange(msgspec.Struct, frozen=True):
    """Every commit from ``first_seq`` to ``last_seq`` can be restored; when these were made, in
    microseconds since 1970. Where no log tells that, the time is somewhat later."""

    first_seq: int
    last_seq: int
    first_time_us: int
    last_time_us: int


class RecoveryGap(msgspec.Struct, frozen=True):
    """No commit between these two can be restored: log is missing."""

    after_seq: int
    before_seq: int


class RecoveryPoints(msgspec.Struct, frozen=True):
    """All that can be restored from a place. ``damaged`` are backups that cannot be read."""

    database_id: str
    backups: list[BackupPoint]
    ranges: list[RecoveryRange]
    gaps: list[RecoveryGap]
    damaged: list[str]


def recovery_points(archive: Archive) -> RecoveryPoints:
    """What an archive offers; costs two GETs a range."""
    ranges = archive.ranges()
    return RecoveryPoints(
        database_id=archive.database_id,
        backups=[
            BackupPoint(
                id=backup.id,
                seq=backup.seq,
                time_us=backup.time_us,
                created_us=backup.created_us,
                label=backup.label,
                keep=backup.keep,
                objects=len(backup.objects),
                bytes=backup.size,
            )
            for backup in (base.backup for base in archive.bases)
            if backup is not None
        ],
        ranges=[
            RecoveryRange(
                each.first, each.last, archive.time_of(each.first), archive.time_of(each.last)
            )
            for each in ranges
        ],
        gaps=[RecoveryGap(one.last, other.first) for one, other in pairwise(ranges)],
        damaged=[str(error) for error in archive.damaged],
    )
