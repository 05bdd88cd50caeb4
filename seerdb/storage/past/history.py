"""The state of a database at a seq or a time: which tables to start from, and the log after them.

A ``Timeline`` says which states there were, a ``Log`` has the records between them. :func:`at_seq`
and :func:`at_time` put both together; they read nothing of tables and change nothing. An instant
that cannot be told raises ``HistoryError``, which names what can.

The tables to start from must not be from later than the instant, to the second: a merge leaves out
what has expired by then. Where the log of such an early start is gone, a later one does as well if
nothing in either may expire.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from seerdb.clock import when
from seerdb.errors import HistoryError, NotFoundError
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import BLOB_PREFIX, TABLE_PREFIX
from seerdb.storage.past.log import Log, Released, shipped_log
from seerdb.storage.retention.timeline import Mark, Timeline, read_timeline
from seerdb.storage.value import SECOND_US
from seerdb.storage.wal.columns import Record


class Instant(NamedTuple):
    """What the database was at an instant."""

    base: Mark
    """The tables to start from, and"""
    records: list[Record]
    """what was committed after them."""
    seq: int
    """The newest commit that counts."""
    time_us: int
    """What expires is gone by this time."""


def past_of(store: ObjectStore) -> tuple[Timeline, Log]:
    """What a bucket alone tells of all instants: the states of which all is there, and
    the shipped log. Where a collector works beside, hold what is read
    (``retention/checkpoints.py``).

    Raises: ``NotFoundError`` where there is no database, ``CorruptionError``,
    ``UnavailableError``.
    """
    try:
        timeline = read_timeline(store, 0)
    except NotFoundError:
        timeline = read_timeline(store, 0)  # a collector was faster
    if timeline is None:
        raise NotFoundError("there is no database in this bucket: manifest/ is empty")
    objects = store.list(TABLE_PREFIX) + store.list(BLOB_PREFIX)
    timeline.keep_whole({info.name for info in objects})
    return timeline, Log(shipped_log(store, timeline.state.database_id))


def live_instant(look: Callable[[], tuple[Timeline, Log]], kind: str, wanted: int) -> Instant:
    """The state of an open database at a ``seq`` or a ``time`` of those that are over.

    ``look`` lists what there is, the log (``live_log``) before the timeline. Raises:
    ``HistoryError``, ``CorruptionError``, ``DiskError``, ``UnavailableError``.
    """
    at = at_time if kind == "time" else at_seq
    while True:
        timeline, log = look()
        try:
            return at(timeline, log, wanted)
        except Released:
            continue


def at_time(timeline: Timeline, log: Log, time_us: int) -> Instant:
    """The state at a time: all that was committed no later, and nothing else.

    Of an open database no time is after the end. Raises: ``HistoryError``, and as
    :meth:`Log.after`.
    """
    base = timeline.base(time_us)
    if base is None:
        raise _before(timeline, when(time_us))
    records: list[Record] = []
    is_closed = False
    for following in log.after(base.last_seq):
        count = bisect_right(following, time_us, key=lambda record: record[1])
        records += following[:count]
        if count < len(following):
            is_closed = True
            break
    seq, last_us = records[-1][:2] if records else (base.last_seq, base.time_us)
    if not is_closed:
        later = next((mark for mark in timeline.marks if mark.last_seq > seq), None)
        if later is not None and not (later.ingested and later.last_seq == seq + 1):
            raise gap(seq + 1, later, when(time_us))
        if later is None and log.newest is not None and log.newest > seq:
            raise gap(seq + 1, None, when(time_us))
        newest_us = max(last_us, timeline.marks[-1].time_us)
        if later is None and log.newest is None and time_us > newest_us:
            raise _after(when(time_us), when(newest_us))
    return Instant(base, records, seq, time_us)


def at_seq(timeline: Timeline, log: Log, seq: int) -> Instant:
    """The state after the commit ``seq``, as it was when that was made; where the log has no record
    of it any more, or no tables of then are left, as it was when it was in those that are.

    Raises: ``HistoryError``, and as :meth:`Log.after`.
    """
    base = _first_with_most(timeline, seq)
    if base is None:
        raise _before(timeline, f"seq {seq:,}")
    records = _up_to(timeline, log, base, seq)
    time_us = records[-1][1] if records else log.time_of(seq) or base.time_us
    exact = timeline.base((time_us // SECOND_US + 1) * SECOND_US - 1)
    if exact is None:
        return Instant(base, records, seq, max(time_us, base.time_us))
    if exact.number >= base.number or not timeline.may_expire(exact, base):
        return Instant(base, records, seq, time_us)
    return Instant(exact, _up_to(timeline, log, exact, seq), seq, time_us)


def _first_with_most(timeline: Timeline, seq: int) -> Mark | None:
    """The oldest of the states whose tables hold the most of what was committed up to ``seq``."""
    marks = timeline.marks
    position = bisect_right(marks, seq, key=lambda mark: mark.last_seq)
    most = marks[position - 1].last_seq
    return next((mark for mark in marks if mark.last_seq == most), None) if position else None


def _up_to(timeline: Timeline, log: Log, base: Mark, seq: int) -> list[Record]:
    records: list[Record] = []
    reached = base.last_seq
    if reached < seq:
        for following in log.after(reached):
            records += following[: seq - reached]
            reached = records[-1][0]
            if reached == seq:
                break
    if reached < seq:
        later = next((mark for mark in timeline.marks if mark.last_seq > reached), None)
        if later is None and (log.newest is None or log.newest < seq):
            raise _after(f"seq {seq:,}", f"seq {max(reached, log.newest or 0):,}")
        raise gap(reached + 1, later, f"seq {seq:,}")
    return records


def _before(timeline: Timeline, what: str) -> HistoryError:
    first = timeline.marks[0]
    return HistoryError(
        f"{what} is before what is kept, which begins with seq {first.last_seq:,} at "
        f"{when(first.time_us)}; the setting history_retention says how much is"
    )


def _after(what: str, newest: str) -> HistoryError:
    return HistoryError(f"{what} is after the end, which is {newest}")


def gap(first: int, later: Mark | None, what: str) -> HistoryError:
    """Why an instant cannot be told that is after ``first``, up to ``later`` or the end."""
    message = f"{what} cannot be told: the log from seq {first:,} on is not there"
    if later is not None:
        message += f"; the next state that can is seq {later.last_seq:,} of {when(later.time_us)}"
    return HistoryError(message)
