"""The state of a database at a seq or a time: which tables to start from, and the log after them.

A :class:`Timeline` says which states there were, a :class:`Log` has the records between them.
:func:`at_seq` and :func:`at_time` put both together; they read nothing of tables and change
nothing. An instant that cannot be told raises ``HistoryError``, which names what can.

The tables to start from must not be from later than the instant, to the second: a merge leaves out
what has expired by then. Where the log of such an early start is gone, a later one does as well if
nothing in either may expire.

Beside a writer a segment of the local log may be let go of between being listed and being read.
Tables hold it then, and the bucket has it if it is to be shipped. So that is neither the end of
the log nor a gap in it, but :class:`Released`: look again, at the log first and then at the
timeline, and what was let go of is found in the one or told of by the other. It ends, as no segment
comes back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import NamedTuple

from seerdb.errors import CorruptionError, DiskError, HistoryError, NotFoundError
from seerdb.storage.local.files import FileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import BLOB_PREFIX, TABLE_PREFIX
from seerdb.storage.retention.timeline import Mark, Timeline, read_timeline
from seerdb.storage.shipping.shipped import list_shipped
from seerdb.storage.value import SECOND_US
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import HEADER_SIZE, decode_header
from seerdb.storage.wal.reader import read_segment
from seerdb.storage.wal.replay import check_database
from seerdb.storage.wal.segments import list_segments, segment_path


class Stretch(NamedTuple):
    """A part of the log that can be read: records from ``first`` on, up to ``last`` at most."""

    first: int
    last: int
    read: Callable[[], list[Record]]
    is_near: bool
    """Whether it is on the local disk."""


class Released(Exception):
    """A segment of the local log was let go of since it was listed."""


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


@dataclass
class Log:
    """The log, as far as it is there: parts that may overlap, in any order."""

    stretches: list[Stretch]
    newest: int | None = None
    """Of an open database, the commit up to which its past is read: where neither log nor tables
    lead there, something is missing."""

    def after(self, seq: int) -> Iterator[list[Record]]:
        """The records after ``seq``, without a gap, until there are no more that follow.

        A part that is damaged or gone counts as missing if another has the same records. Raises:
        ``CorruptionError``, ``DiskError``, ``UnavailableError`` and :class:`Released` where no
        other has.
        """
        left = [each for each in self.stretches if each.last > seq]
        released = seq
        failure: CorruptionError | DiskError | None = None
        while stretch := _best(left, seq + 1):
            left.remove(stretch)
            try:
                records = _following(stretch.read(), seq)
            except Released:
                released = max(released, stretch.last)
                continue
            except NotFoundError:
                continue  # collected since it was listed: no instant that is kept needs it
            except (CorruptionError, DiskError) as damage:
                failure = damage
                continue
            if records:
                failure = None
                seq = records[-1][0]
                yield records
        if seq < released:
            raise Released
        if failure is not None:
            raise failure

    def time_of(self, seq: int) -> int | None:
        """When ``seq`` was committed, in microseconds; ``None`` where its record is missing."""
        records = next(self.after(seq - 1), [])
        return records[0][1] if records else None


def _best(stretches: list[Stretch], seq: int) -> Stretch | None:
    """Of those that may have ``seq`` one on this disk, or else the one that reaches furthest."""
    fitting = (each for each in stretches if each.first <= seq <= each.last)
    return max(fitting, key=lambda each: (each.is_near, each.last), default=None)


def _following(records: list[Record], seq: int) -> list[Record]:
    later = [record for record in records if record[0] > seq]
    return [
        record
        for _, record in takewhile(
            lambda numbered: numbered[0] == numbered[1][0], enumerate(later, seq + 1)
        )
    ]


def shipped_log(store: ObjectStore, database_id: str) -> list[Stretch]:
    """What the bucket has of the log: one LIST. See ``shipping/shipped.py`` for what counts of
    it."""
    found: list[Stretch] = []
    for name, first, last, end in list_shipped(store):
        counted = min(last, end - 1)
        read = _shipped_reader(store, database_id, name, first, counted)
        found.append(Stretch(first, counted, read, is_near=False))
    return found


def _shipped_reader(
    store: ObjectStore, database_id: str, name: str, first: int, last: int
) -> Callable[[], list[Record]]:
    def read() -> list[Record]:
        scan = read_segment(store.get(name), name, None)
        check_database(scan, database_id)
        if scan.damages:
            raise scan.error()
        return [record for record in scan.records if first <= record[0] <= last]

    return read


def live_log(
    files: FileSystem,
    directory: str,
    store: ObjectStore,
    database_id: str,
    position: tuple[int, int, int],
) -> Log:
    """All there is of the log of an open database up to a position, on its disk and in the bucket.

    ``position``: the active segment, how much of it is synced, and the last seq in that.
    """
    # In this order: what is let go of on the disk meanwhile is in the bucket.
    near = _local_log(files, directory, database_id, position)
    return Log(near + shipped_log(store, database_id), newest=position[2])


def _local_log(
    files: FileSystem, directory: str, database_id: str, position: tuple[int, int, int]
) -> list[Stretch]:
    """The segments that are not reused yet."""
    active, synced, seq = position
    found: list[Stretch] = []
    for segment in sorted(list_segments(files, directory), reverse=True):
        path = segment_path(directory, segment)
        try:
            first = decode_header(_read_file(files, path, HEADER_SIZE), path).first_seq
        except (DiskError, CorruptionError):
            continue  # reused since it was listed
        if first > seq:
            continue  # begun since then, or empty
        size = synced if segment == active else None
        read = _segment_reader(files, path, segment, size, database_id)
        found.append(Stretch(first, seq, read, is_near=True))
        seq = first - 1
    return found


def _segment_reader(
    files: FileSystem, path: str, segment: int, size: int | None, database_id: str
) -> Callable[[], list[Record]]:
    def read() -> list[Record]:
        try:
            scan = read_segment(_read_file(files, path, size), path, segment)
            check_database(scan, database_id)
        except (DiskError, CorruptionError):
            _check_not_reused(files, path)
            raise
        _check_not_reused(files, path)
        return scan.records

    return read


def _check_not_reused(files: FileSystem, path: str) -> None:
    """Raise :class:`Released` unless what was read is the segment's: a file that is used again
    loses its name first."""
    if not files.exists(path):
        raise Released(path)


def _read_file(files: FileSystem, path: str, size: int | None) -> bytes:
    file = files.open_read(path)
    try:
        return file.read_at(0, file.size() if size is None else size)
    finally:
        file.close()


def past_of(store: ObjectStore, since_us: int = 0) -> tuple[Timeline, Log]:
    """What a bucket alone tells of the instants since a time: the states of which all is there, and
    the shipped log. Where a collector works beside, hold what is read
    (``retention/checkpoints.py``).

    Raises: ``NotFoundError`` where there is no database, ``CorruptionError``,
    ``UnavailableError``.
    """
    try:
        timeline = read_timeline(store, since_us)
    except NotFoundError:
        timeline = read_timeline(store, since_us)  # a collector was faster
    if timeline is None:
        raise NotFoundError("there is no database in this bucket: manifest/ is empty")
    objects = store.list(TABLE_PREFIX) + store.list(BLOB_PREFIX)
    timeline.keep_whole({info.name for info in objects})
    return timeline, Log(shipped_log(store, timeline.state.database_id))


def live_instant(look: Callable[[], tuple[Timeline, Log]], kind: str, wanted: int) -> Instant:
    """The state of an open database at a ``seq`` or a ``time`` of those that are over.

    ``look`` lists what there is, the log of :func:`live_log` before the timeline. Raises:
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
    of it any more, as it was when it was in tables.

    Raises: ``HistoryError``, and as :meth:`Log.after`.
    """
    base = _first_with_most(timeline, seq)
    if base is None:
        raise _before(timeline, f"seq {seq:,}")
    records = _up_to(timeline, log, base, seq)
    time_us = records[-1][1] if records else log.time_of(seq) or base.time_us
    exact = timeline.base((time_us // SECOND_US + 1) * SECOND_US - 1)
    if exact is None or exact.number >= base.number or not timeline.may_expire(exact, base):
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


def when(time_us: int) -> str:
    """A time for people, in UTC."""
    return f"{datetime.fromtimestamp(time_us / SECOND_US, UTC):%FT%T.%f}Z"


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


class Span(NamedTuple):
    """Instants every one of which can be told."""

    first_seq: int
    last_seq: int
    first_us: int
    last_us: int


def spans(timeline: Timeline, log: Log) -> list[Span]:
    """What can be told, oldest first; between one and the next is a gap in the log.

    Reads no log but what follows the newest tables. Raises as :meth:`Log.after`.
    """
    parts = sorted((each.first, each.last) for each in log.stretches)
    found: list[Span] = []
    for mark in timeline.marks:
        last = found[-1] if found else None
        if last is not None and _covered(parts, last.last_seq) + mark.ingested >= mark.last_seq:
            found[-1] = last._replace(last_seq=mark.last_seq, last_us=mark.time_us)
        else:
            found.append(Span(mark.last_seq, mark.last_seq, mark.time_us, mark.time_us))
    for records in log.after(found[-1].last_seq):
        seq, time_us, _ = records[-1]
        last_us = max(time_us, found[-1].last_us)
        found[-1] = found[-1]._replace(last_seq=seq, last_us=last_us)
    return found


def _covered(log: list[tuple[int, int]], seq: int) -> int:
    """The last seq up to which there is log without a gap after ``seq``."""
    for first, last in log:
        if first > seq + 1:
            break
        seq = max(seq, last)
    return seq
