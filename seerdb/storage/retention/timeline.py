"""The past of a database as its manifest tells it: a mark for each record, and what left when.

Every record is a state of the database, with a time and the seq up to which tables hold it; the
log after that leads to every instant until the next (``past/history.py``). So what is needed to go
back to any instant since some time is what the newest record of that time, the *base*, and all
later ones name, and all log after the base. :meth:`Timeline.needed` says which objects those are;
the collector keeps them, and so what an instant needs stays as long as the retention says, whatever
merges and flushes replace meanwhile.

A timeline is read from the bucket once and then follows what is new; it remembers a few numbers of
each record and the names of what is gone, no versions.
"""

from __future__ import annotations

from bisect import bisect_right
from numbers import Real
from typing import NamedTuple

from seerdb.errors import InvalidRequestError
from seerdb.storage.manifest.edit import INGEST, RESTORE, Checkpoint, Edit, ManifestRecord
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import (
    FetchMany,
    apply,
    begin,
    manifest_numbers,
    read_record,
    read_records,
)
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.value import SECOND_US

FIRST_SECOND, END_SECOND = -62_135_596_800, 253_370_764_800
"""The years that ``datetime`` can tell in every zone, 1 to 9998, in seconds since 1970."""


def instant_us(seconds: float, name: str) -> int:
    """Microseconds since 1970. Raises: ``InvalidRequestError``, about ``name``, for no instant."""
    number: object = seconds
    if not isinstance(number, Real):
        raise InvalidRequestError(f"{name} must be seconds since 1970, not {number!r}")
    if not FIRST_SECOND <= seconds < END_SECOND:
        raise InvalidRequestError(f"{name} must be a time of the years 1 to 9998")
    return int(seconds * SECOND_US)


class Mark(NamedTuple):
    """What a timeline remembers of a manifest record."""

    number: int
    time_us: int
    last_seq: int
    """Everything up to here is in the tables of this state."""
    checkpoint: int
    """Number of the record from which on this state can be loaded."""
    ingested: bool
    """Whether its seq was given to an ingest, or to a restore in place, and is in no log."""
    expiring: bool
    """Whether something in its tables may expire."""
    restored: bool = False
    """Whether all that was before it gave way to what it shows."""


class Needed(NamedTuple):
    """What instants since some time need, beside what the newest state does."""

    number: int
    """All manifest records from here on,"""
    seq: int
    """all log above this,"""
    names: frozenset[str]
    """and these tables and blobs."""


class Timeline:
    """The marks of records that follow each other, up to ``state``. Not thread-safe."""

    def __init__(self, first: ManifestState) -> None:
        """Begins with a state that nothing is known before."""
        self.state = first
        self.marks = [_mark(first, "")]
        self._left: dict[str, int] = {}

    def advance(self, record: ManifestRecord) -> None:
        """Take the next record. Raises: ``CorruptionError`` if it does not fit."""
        before, self.state = self.state, apply(self.state, record)
        if isinstance(record, Edit) and record.remove:
            stays = {name for table in self.state.version.tables for name in table.objects}
            gone = {n for table in before.version.tables for n in table.objects} - stays
            self._left |= dict.fromkeys(gone, record.time_us)
        reason = record.reason if isinstance(record, Edit) else ""
        self.marks.append(_mark(self.state, reason))

    def base(self, time_us: int) -> Mark | None:
        """The newest record of a time; ``None`` where all are later."""
        position = bisect_right(self.marks, time_us, key=lambda mark: mark.time_us)
        return self.marks[position - 1] if position else None

    def needed(self, since_us: int) -> Needed:
        """What the instants since a time need; what is not known of it is before it."""
        base = self.base(since_us) or self.marks[0]
        names = frozenset(name for name, left in self._left.items() if left > since_us)
        return Needed(base.checkpoint or 1, base.last_seq, names)

    def may_expire(self, first: Mark, last: Mark) -> bool:
        """Whether some state of those from ``first`` to ``last`` has what may expire."""
        start = self.marks[0].number
        between = self.marks[first.number - start : last.number - start + 1]
        return any(mark.expiring for mark in between)

    def keep_whole(self, there: set[str]) -> None:
        """Forget the states of which tables or blobs are not among those that are ``there``."""
        lost = [left for name, left in self._left.items() if name not in there]
        if lost:
            whole = max(lost)
            self.marks = [mark for mark in self.marks if mark.time_us >= whole]
            self._left = {name: left for name, left in self._left.items() if left > whole}

    def forget(self, before_us: int) -> None:
        """Remember nothing that only instants before a time need."""
        base = self.base(before_us)
        if base is not None:
            self.marks = self.marks[base.number - self.marks[0].number :]
        self._left = {name: left for name, left in self._left.items() if left > before_us}


def _mark(state: ManifestState, reason: str) -> Mark:
    return Mark(
        number=state.number,
        time_us=state.time_us,
        last_seq=state.last_seq,
        checkpoint=state.checkpoint,
        ingested=reason in (INGEST, RESTORE),
        expiring=any(table.expiring for table in state.version.tables),
        restored=reason == RESTORE,
    )


def read_timeline(
    store: ObjectStore, since_us: int, *, fetch_many: FetchMany | None = None
) -> Timeline | None:
    """What the manifest tells of the instants since a time, as far as its records are there;
    ``None`` where there is no manifest.

    One LIST, and a GET for each record since the newest checkpoint that is no later than that.
    Raises: ``CorruptionError``, ``UnavailableError``; ``NotFoundError`` when a collector was
    faster: try again.
    """
    numbers = manifest_numbers(store)
    if not numbers:
        return None
    first = _first_number(store, numbers, since_us)
    begins, *records = read_records(store, range(first, numbers[-1] + 1), fetch_many)
    timeline = Timeline(begin(begins))
    for record in records:
        timeline.advance(record)
    return timeline


def _first_number(store: ObjectStore, numbers: list[int], since_us: int) -> int:
    """The newest record that a state can be loaded from and that is no later than a time, or the
    oldest from which on nothing was collected."""
    there = set(numbers)
    first = max(read_record(store, numbers[-1]).checkpoint, 1)
    while first in there:
        record = read_record(store, first)
        if record.time_us <= since_us or not isinstance(record, Checkpoint):
            break
        earlier = max(record.checkpoint_before, 1)
        if earlier == first or not there.issuperset(range(earlier, first)):
            break
        first = earlier
    return first


def follow(timeline: Timeline, store: ObjectStore, number: int) -> None:
    """Take the records up to ``number``. Raises as :func:`read_timeline`."""
    for record in read_records(store, range(timeline.state.number + 1, number + 1)):
        timeline.advance(record)


def state_of(store: ObjectStore, mark: Mark, fetch_many: FetchMany | None = None) -> ManifestState:
    """The whole state of a mark: a GET for each record since the checkpoint before it.

    Raises as :func:`read_timeline`.
    """
    records = range(max(mark.checkpoint, 1), mark.number + 1)
    begins, *rest = read_records(store, records, fetch_many)
    state = begin(begins)
    for record in rest:
        state = apply(state, record)
    return state
