"""The log in the bucket as a follower reads it: which objects say what comes next.

Names tell almost everything (see ``shipping/shipped.py``): a stretch is the log of ``first`` to
``last`` as ``epoch`` had it; an empty object begins a branch, which voids what lower epochs put
there from its first seq on. :class:`Listing` is pure and draws the conclusions, :class:`ShippedLog`
does the I/O.

After a claim the log of earlier epochs is not read until the new epoch has put something there: a
home that takes over another's log says first where it goes on, and until then nobody knows how
much of the earlier log counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from seerdb.errors import CorruptionError
from seerdb.ids import MAX_SEQ, Epoch, SeqNo
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import (
    WAL_PREFIX,
    parse_wal_name,
    wal_epoch_prefix,
    wal_name,
)
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import SegmentHeader
from seerdb.storage.wal.reader import SegmentScan, read_segment
from seerdb.storage.wal.replay import check_database


class Stretch(NamedTuple):
    """One object of the shipped log; ``last`` is before ``first`` where it begins a branch."""

    epoch: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """Of the object."""
        return wal_name(Epoch(self.epoch), SeqNo(self.first), SeqNo(self.last))

    @property
    def begins_branch(self) -> bool:
        """Whether it is empty, and voids what lower epochs have from ``first`` on."""
        return self.last < self.first


class Listing:
    """What was listed of the shipped log while ``epoch`` was the newest known. Immutable."""

    def __init__(self, epoch: int, stretches: Iterable[Stretch]) -> None:
        self._branches: list[Stretch] = []
        filled: list[Stretch] = []
        for each in stretches:
            (self._branches if each.begins_branch else filled).append(each)
        self.epoch = epoch
        self.tells_where = any(each.epoch == epoch for each in (*self._branches, *filled))
        """Whether it is known where ``epoch`` goes on with the log of those before it."""
        self._counting = [
            (each, end)
            for each in filled
            if (self.tells_where or each.epoch == epoch)
            and each.first <= (end := min(each.last, self.void_from(each.epoch) - 1))
        ]
        self.newest = max((end for _, end in self._counting), default=0)
        """The last seq of all that counts, 0 where nothing does."""
        self.last = max((each.last for each in filled), default=0)
        """The last seq of all that was listed, whether it counts or not."""

    def void_from(self, epoch: int) -> int:
        """The first seq from which on what ``epoch`` has shipped does not count."""
        return min((each.first for each in self._branches if each.epoch > epoch), default=MAX_SEQ)

    def holding(self, seq: int) -> tuple[Stretch, int] | None:
        """What to read for ``seq``, and up to where it counts: of all stretches that have it, the
        one that reaches farthest."""
        having = (each for each in self._counting if each[0].first <= seq <= each[1])
        return max(having, key=lambda each: (each[1], each[0].epoch), default=None)

    def after(self, seq: int) -> int | None:
        """The first seq above ``seq`` that a stretch which counts begins with; ``None``: none."""
        return min((each.first for each, _ in self._counting if each.first > seq), default=None)


class Piece(NamedTuple):
    """A part of the log: its records, in order, the epoch that they came from, and the header of
    their segment, which that epoch's writer may have from the one before."""

    epoch: int
    header: SegmentHeader
    records: list[Record]


class ShippedLog:
    """Lists and reads the shipped log of one database."""

    def __init__(self, store: ObjectStore, database_id: str) -> None:
        self._store = store
        self._database_id = database_id

    def list(self, epoch: int) -> Listing:
        """What ``epoch``, the newest, has shipped: enough as long as nobody took over."""
        return self._list(epoch, wal_epoch_prefix(Epoch(epoch)))

    def list_all(self, epoch: int) -> Listing:
        """What all epochs have shipped; ``epoch`` is the newest."""
        return self._list(epoch, WAL_PREFIX)

    def _list(self, epoch: int, prefix: str) -> Listing:
        places = (parse_wal_name(info.name) for info in self._store.list(prefix))
        return Listing(epoch, [Stretch(*place) for place in places if place is not None])

    def read(self, listing: Listing, seq: int) -> Piece | None:
        """The records from ``seq`` on of an object that holds it; ``None``: no object does.

        Raises: ``CorruptionError`` for a damaged object, ``NotFoundError`` for one that was
        collected meanwhile.
        """
        found = listing.holding(seq)
        if found is None:
            return None
        stretch, end = found
        scan = self._scan(stretch)
        records = [record for record in scan.records if seq <= record[0] <= end]
        return Piece(stretch.epoch, scan.header, records)

    def _scan(self, stretch: Stretch) -> SegmentScan:
        name = stretch.name
        scan = read_segment(self._store.get(name), name, None)
        check_database(scan, self._database_id)
        seqs = [each[0] for each in scan.records if stretch.first <= each[0] <= stretch.last]
        if scan.damages or not seqs or (seqs[0], seqs[-1]) != (stretch.first, stretch.last):
            raise CorruptionError(
                "a shipped log does not hold what its name says",
                name=name,
                expected=f"seq {stretch.first} to {stretch.last}",
                found=f"{len(seqs)} records",
            )
        return scan
