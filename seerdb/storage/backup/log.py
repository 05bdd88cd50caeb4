"""The shipped log in a bucket or a repository: what its objects cover, and reading it in order.

Only the names say what is covered, so that gaps are found without reading anything. As everywhere
an empty object begins a branch, which voids what lower epochs hold from its first seq on; see
``shipping/shipped.py``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import MAX_SEQ
from seerdb.storage.backup.descriptor import Descriptor
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
from seerdb.storage.object_store.names import WAL_PREFIX, parse_wal_name
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.reader import read_segment
from seerdb.storage.wal.replay import check_database
from seerdb.storage.workers.threads import InlineExecutor

MOST_AHEAD = 64
BYTES_AHEAD = 64 << 20
"""Objects, and their bytes, that are fetched at once."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What of one object counts: the commits ``first`` to ``last``, of those up to ``end`` that it
    holds."""

    name: str
    size: int
    first: int
    last: int
    end: int


class Log:
    """Stretches of log, and the branches that say what of others is void. Immutable."""

    def __init__(self, stretches: Iterable[Stretch], branches: Sequence[str] = ()) -> None:
        self.stretches = sorted(stretches, key=lambda each: (each.first, each.last, each.name))
        self.branches = branches
        self._reached = list(accumulate((each.last for each in self.stretches), max))
        """The last commit in each stretch and those before it."""

    def voids(self, stretch: Stretch) -> bool:
        """Whether a branch says that commits of a stretch, which counted once, are no more."""
        place = parse_wal_name(stretch.name)
        return place is not None and border_of(place[0], self.branches) <= stretch.last

    def without(self, stretch: Stretch) -> Log:
        """All but that one."""
        return Log((each for each in self.stretches if each != stretch), self.branches)

    def reach(self, after: int) -> int:
        """The last commit to which there is log without a gap after ``after``; that itself when
        there is none."""
        for each in self._from(after):
            if each.first > after + 1:
                break
            after = max(after, each.last)
        return after

    def reaches(self, seqs: Sequence[int]) -> list[int]:
        """:meth:`reach` of each, in one pass. Requires: ascending order."""
        found: list[int] = []
        for seq in seqs:
            known = found[-1] if found else -1
            found.append(known if known > seq else self.reach(seq))
        return found

    def between(self, after: int, upto: int) -> list[Stretch]:
        """The stretches that hold the commits after ``after`` up to ``upto``; those that add
        nothing to the ones before are left out."""
        needed: list[Stretch] = []
        reach = after
        for each in self._from(after):
            if each.first > upto or reach >= upto:
                break
            if each.last > reach:
                needed.append(each)
                reach = each.last
        return needed

    def _from(self, after: int) -> Iterator[Stretch]:
        """The stretches in order, without those that end by ``after`` as all before them do."""
        return islice(self.stretches, bisect_right(self._reached, after), None)


def border_of(epoch: int, branches: Iterable[str]) -> int:
    """The first commit of those in ``epoch`` that ``branches``, names of objects, make void."""
    places = (place for name in branches if (place := parse_wal_name(name)))
    return min((first for above, first, _ in places if above > epoch), default=MAX_SEQ)


def log_of(listed: Iterable[ObjectInfo]) -> Log:
    """The log that a listing shows."""
    parsed = [(place, info) for info in listed if (place := parse_wal_name(info.name))]
    branches = [info.name for (_, first, last), info in parsed if last < first]
    borders = {epoch: border_of(epoch, branches) for epoch in {place[0] for place, _ in parsed}}
    stretches = [
        Stretch(info.name, info.size, first, min(last, borders[epoch] - 1), last)
        for (epoch, first, last), info in parsed
        if first <= last and first < borders[epoch]
    ]
    return Log(stretches, branches)


def log_within(backup: Descriptor) -> Log:
    """The log that belongs to a backup, as it counted when that was taken: of each object the
    commits up to where the next one begins."""
    parsed = [(place, each) for each in backup.log if (place := parse_wal_name(each.name))]
    ends = [first - 1 for (_, first, _), _ in parsed[1:]] + [int(backup.seq)]
    return Log(
        Stretch(each.name, each.size, first, min(last, end), last)
        for ((_, first, last), each), end in zip(parsed, ends, strict=False)
    )


def read_log(store: ObjectStore) -> Log:
    """The log in ``store``: one LIST."""
    return log_of(store.list(WAL_PREFIX))


def records(
    store: ObjectStore,
    log: Log,
    database_id: str,
    *,
    after: int,
    upto: int,
    threads: Executor | None = None,
) -> Iterator[list[Record]]:
    """The commits after ``after`` up to ``upto`` in order, an object's at a time; ``threads`` fetch
    some ahead. In place of an object that is damaged or gone, others that hold the same commits are
    taken.

    Raises: ``CorruptionError`` for a gap, or for an object in whose place there is none;
    ``NotFoundError`` for such a one that is gone.
    """
    while after < upto:
        fetched = _fetched(store, log.between(after, upto), threads or InlineExecutor())
        for stretch, data in fetched:
            try:
                found = _decoded(stretch, data, database_id)
            except (CorruptionError, NotFoundError):
                log = log.without(stretch)
                if log.reach(after) < min(stretch.last, upto):
                    raise
                break
            fresh = [record for record in found if after < record[0] <= upto]
            if fresh and fresh[0][0] != after + 1:
                raise gap(after, fresh[0][0])
            if fresh:
                yield fresh
                after = fresh[-1][0]
        else:
            if after < upto:
                raise gap(after, upto)


def _fetched(
    store: ObjectStore, stretches: Sequence[Stretch], threads: Executor
) -> Iterator[tuple[Stretch, bytes | NotFoundError]]:
    place = 0
    while place < len(stretches):
        sizes = accumulate(each.size for each in stretches[place : place + MOST_AHEAD])
        count = max(1, sum(size <= BYTES_AHEAD for size in sizes))
        some = stretches[place : place + count]
        get = partial(_get, store)
        yield from zip(some, threads.map(get, [each.name for each in some]), strict=True)
        place += count


def _get(store: ObjectStore, name: str) -> bytes | NotFoundError:
    try:
        return store.get(name)
    except NotFoundError as error:
        return error


def _decoded(stretch: Stretch, data: bytes | NotFoundError, database_id: str) -> list[Record]:
    if isinstance(data, NotFoundError):
        raise data
    return decode_stretch(stretch, data, database_id)


def decode_stretch(stretch: Stretch, data: bytes, database_id: str) -> list[Record]:
    """The commits that count of an object. Raises: ``CorruptionError`` unless it is sound and
    holds what its name says."""
    scan = read_segment(data, stretch.name, None)
    check_database(scan, database_id)
    found = [record for record in scan.records if stretch.first <= record[0] <= stretch.end]
    if scan.damages or len(found) != stretch.end - stretch.first + 1:  # they ascend
        raise CorruptionError(
            "a shipped log does not hold what its name says",
            name=stretch.name,
            expected=f"seq {stretch.first} to {stretch.end}",
            found=f"{len(found)} of those",
        )
    return [record for record in found if record[0] <= stretch.last]


def time_of(store: ObjectStore, log: Log, database_id: str, seq: int) -> int | None:
    """When a commit was made, microseconds since 1970; ``None`` where no log tells."""
    if not log.between(seq - 1, seq):
        return None
    try:
        [[(_, time_us, _)]] = records(store, log, database_id, after=seq - 1, upto=seq)
    except (CorruptionError, NotFoundError):
        return None
    return time_us


def gap(after: int, found: int) -> CorruptionError:
    """What is wrong where commits are missing after ``after``."""
    return CorruptionError(
        "the log has a gap", name=WAL_PREFIX, expected=f"seq {after + 1}", found=f"seq {found}"
    )
