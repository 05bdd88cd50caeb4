"""The shipped log as far as it is sound, and where in it a repaired database goes on.

An object is collected only once tables hold all of it. So where the log begins past what the
tables are known to hold, what is missing in between was in tables, and the log goes on from there;
behind any other gap it does not.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import MAX_SEQ, Epoch, TableId, table_id
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.names import WAL_PREFIX, parse_wal_name
from seerdb.storage.repair.report import Loss
from seerdb.storage.wal.reader import read_segment
from seerdb.storage.workers.threads import in_order


class Stretch(NamedTuple):
    """An object, of which the records from ``first`` to ``last`` count."""

    name: str
    first: int
    last: int
    checksum: Checksum


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
            holding.append((name, first, last, end))

    def read(each: tuple[str, int, int, int]) -> _Segment | Loss:
        return _read(store, *each[:3])

    for (name, first, last, end), found in zip(
        holding, in_order(threads, read, holding), strict=True
    ):
        if isinstance(found, Loss):
            log.damaged.append(found)
            continue
        log.database_id = log.database_id or found.database_id
        if found.database_id == log.database_id:
            log.stretches.append(Stretch(name, first, min(last, end - 1), found.checksum))
        else:
            problem = f"a segment of another database's log: {found.database_id}"
            log.damaged.append(Loss(name, problem, min_seq=first, max_seq=last))
    return log


class _Segment(NamedTuple):
    database_id: str
    checksum: Checksum


def _read(store: ObjectStore, name: str, first: int, last: int) -> _Segment | Loss:
    try:
        data = store.get(name)
        scan = read_segment(data, name, None)
        if scan.damages:
            raise scan.error()
    except (CorruptionError, NotFoundError) as error:
        return Loss(name, str(error), min_seq=first, max_seq=last)
    seqs = [seq for seq, _, _ in scan.records if first <= seq <= last]
    if not seqs or (seqs[0], seqs[-1]) != (first, last):
        problem = f"it does not hold what its name says, but {len(seqs)} records of that"
        return Loss(name, problem, min_seq=first, max_seq=last)
    return _Segment(scan.header.database_id.hex(), Checksum.of(data))
