"""What an opening took over, and what the writer before had that did not come along. Pure."""

from __future__ import annotations

import msgspec

from seerdb.events import LogOvertaken
from seerdb.storage.lease.record import LeaseRecord
from seerdb.storage.manifest.state import ManifestState


class SeqRange(msgspec.Struct, frozen=True):
    """Commits, both ends inclusive."""

    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")


class FormerWriter(msgspec.Struct, frozen=True):
    """What the writer before said in its lease the last time."""

    epoch: int
    home: str
    address: str
    seq: int
    shipped_seq: int
    released: bool
    """It was closed, and nothing of it can be lost."""


class Takeover(msgspec.Struct, frozen=True):
    """How this database became the writer: epoch, and where it went on.

    Everything up to ``seq`` is in it. ``shipped_seq`` of that came from the bucket. ``lost`` are
    commits that the writer before had made, acknowledged at a level below ``object``, and that are
    not in it: as far as that one told, which it did a third of its lease before its end at the
    latest. ``None``: nothing is known to be lost, and where the data directory or what it had
    shipped is whole, nothing is. What came after that its own log knows, exactly, and tells when
    its data directory comes back.

    ``own_log`` is such a log: the one that this data directory had from when it was the writer, and
    that was put apart because others have been since. What it says is exact.
    """

    epoch: int
    seq: int
    shipped_seq: int
    lost: SeqRange | None
    previous: FormerWriter | None
    own_log: LogOvertaken | None


def takeover_of(
    state: ManifestState,
    record: LeaseRecord | None,
    *,
    seq: int,
    shipped_seq: int,
    own_log: LogOvertaken | None,
) -> Takeover:
    """The report of an opening that goes on after ``seq``, given what the lease said."""
    previous = None
    if record is not None:
        previous = FormerWriter(
            epoch=record.epoch,
            home=record.home,
            address=record.address,
            seq=record.seq,
            shipped_seq=record.shipped_seq,
            released=record.released,
        )
    lost = SeqRange(seq + 1, previous.seq) if previous and previous.seq > seq else None
    return Takeover(
        epoch=state.epoch,
        seq=seq,
        shipped_seq=shipped_seq,
        lost=lost,
        previous=previous,
        own_log=own_log,
    )
