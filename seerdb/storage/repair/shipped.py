"""The shipped log as far as it is sound, and where in it a repaired database goes on.

An object is collected only once tables hold all of it. So where the log begins past what the
tables are known to hold, what is missing in between was in tables, and the log goes on from there;
behind any other gap it does not. So of an object that is damaged the records before the damage
count as those of a shorter one would: a state after some commit, without any later one. Those
behind the damage are behind a gap.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import MAX_SEQ, Epoch, SeqNo, TableId, table_id
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.names import WAL_PREFIX, parse_wal_name, wal_name
from seerdb.storage.repair.report import Loss
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.reader import SegmentScan, read_segment
from seerdb.storage.wal.repair import segment_of
from seerdb.storage.workers.threads import in_order


class Stretch(NamedTuple):
    """An object, of which the records from ``first`` to ``last`` count. ``name``: in the new
    database; ``source``: the object that has them, with its ``checksum``; ``is_cut``: that one is
    damaged behind them, or has no record of the next seq."""

    name: str
    first: int
    last: int
    source: str
    checksum: Checksum
    is_cut: bool

    def body(self, data: bytes) -> bytes:
        """The object's bytes, of those of its source."""
        if not self.is_cut:
            return data
        scan = read_segment(data, self.source, None)
        return segment_of(scan.header, _records(scan, self.first, self.last))


@dataclass
class ShippedLog:
    """``branches``: empty objects that say from which seq on lower epochs are void."""

    stretches: list[Stretch] = field(default_factory=list)
    branches: list[tuple[Epoch, int, str]] = field(default_factory=list)
    damaged: list[Loss] = field(default_factory=list)
    database_id: str = ""
    epoch: int = 0

    @property
    def last_seq(self) -> int:
        """The last commit that counts; 0: there is none."""
        return max((each.last for each in self.stretches), default=0)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """First and last seq of what the objects hold, and of what is damaged of them."""
        sound = [(each.first, each.last) for each in self.stretches]
        return sound + [(loss.min_seq, loss.max_seq) for loss in self.damaged if loss.min_seq]

    def voids(self, table: TableId, max_seq: int) -> bool:
        """Whether a table holds what a later owner of the log has declared void."""
        return any(
            table < table_id(epoch, 0) and max_seq >= first for epoch, first, _ in self.branches
        )

    def branches_after(self, epoch: int) -> bool:
        """Whether a later owner went on otherwise: each home that takes a log over says where."""
        return any(above > epoch for above, _, _ in self.branches)

    def continues(self, after: int) -> list[Stretch]:
        """The objects that go on after a seq without a gap, in order."""
        chosen: list[Stretch] = []
        for each in sorted(self.stretches, key=lambda each: (each.first, -each.last)):
            if each.last > after:
                if each.first > after + 1:
                    break
                chosen.append(each)
                after = each.last
        return chosen

    def reach(self, after: int) -> int:
        """How far the log goes that continues a seq; that seq where none does."""
        return max((each.last for each in self.continues(after)), default=after)

    def begins_after(self, seq: int) -> int | None:
        """The first seq above ``seq`` that the log has; ``None``: there is none."""
        later = [max(each.first, seq + 1) for each in self.stretches if each.last > seq]
        return min(later, default=None)


def read_shipped_log(store: ObjectStore, database_id: str, threads: Executor) -> ShippedLog:
    """Read every object. ``database_id``: whose log it must be; "" for that of the newest object.

    Raises: ``UnavailableError``.
    """
    log = ShippedLog(database_id=database_id)
    parsed = ((parse_wal_name(info.name), info.name) for info in store.list(WAL_PREFIX))
    places = sorted(((place, name) for place, name in parsed if place is not None), reverse=True)
    log.epoch = max((epoch for (epoch, _, _), _ in places), default=0)
    log.branches = [(epoch, first, name) for (epoch, first, last), name in places if last < first]
    holding = []
    for (epoch, first, last), name in places:
        above = (start for other, start, _ in log.branches if other > epoch)
        end = min(above, default=MAX_SEQ)
        if first <= last and first < end:
            holding.append((name, epoch, first, last, end))

    def read(each: tuple[str, Epoch, int, int, int]) -> _Segment | Loss:
        name, _, first, last, _ = each
        return _read(store, name, first, last)

    for (name, epoch, first, last, end), found in zip(
        holding, in_order(threads, read, holding), strict=True
    ):
        if isinstance(found, Loss):
            log.damaged.append(found)
            continue
        log.database_id = log.database_id or found.database_id
        if found.database_id == log.database_id:
            if found.loss is not None and found.loss.min_seq < end:
                log.damaged.append(found.loss)
            target = wal_name(epoch, SeqNo(first), SeqNo(found.last))
            upto = min(found.last, end - 1)
            stretch = Stretch(target, first, upto, name, found.checksum, found.is_cut)
            log.stretches.append(stretch)
        else:
            problem = f"a segment of another database's log: {found.database_id}"
            log.damaged.append(Loss(name, problem, min_seq=first, max_seq=last))
    return log


class _Segment(NamedTuple):
    """``last``: of the records before any damage; ``loss``: those from there on."""

    database_id: str
    checksum: Checksum
    last: int
    is_cut: bool
    loss: Loss | None


def _read(store: ObjectStore, name: str, first: int, last: int) -> _Segment | Loss:
    try:
        data = store.get(name)
        scan = read_segment(data, name, None)
    except (CorruptionError, NotFoundError) as error:
        return Loss(name, str(error), min_seq=first, max_seq=last)
    upto = first - 1 + len(_records(scan, first, last))
    loss = None
    if upto < last:
        problem = f"it does not hold what its name says, but seq {first} to {upto} of that"
        problem = str(scan.error()) if scan.damages else problem
        loss = Loss(name, problem, min_seq=upto + 1, max_seq=last)
        if upto < first:
            return loss
    is_cut = bool(scan.damages or loss)
    return _Segment(scan.header.database_id.hex(), Checksum.of(data), upto, is_cut, loss)


def _records(scan: SegmentScan, first: int, last: int) -> list[Record]:
    """Those of these seqs before the first that is missing."""
    there = (record for record in scan.records if first <= record[0] <= last)
    return [record for seq, record in zip(count(first), there, strict=False) if record[0] == seq]
