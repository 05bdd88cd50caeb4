"""Instants out of marks and log: where to start, what to apply, and what cannot be told."""

from __future__ import annotations

import random

import pytest

from seerdb.errors import CorruptionError, DiskError, HistoryError, NotFoundError
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.names import wal_name
from seerdb.storage.past.history import at_seq, at_time, live_instant
from seerdb.storage.past.log import Log, Released, Stretch, shipped_log
from seerdb.storage.retention.timeline import Mark, Timeline
from seerdb.storage.wal.columns import Record
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.wal.samples import HEADER, frame, put, segment

SECOND = 1_000_000


def timeline(*marks: tuple[float, int, str]) -> Timeline:
    """Marks of (second, last seq, "" or "ingest" or "expiring")."""
    made = Timeline(ManifestState(number=1))
    made.marks = [
        Mark(number, int(at * SECOND), seq, 1, what == "ingest", what == "expiring")
        for number, (at, seq, what) in enumerate(marks, 1)
    ]
    return made


def records(*each: tuple[int, float]) -> list[Record]:
    return [(seq, int(at * SECOND), b"") for seq, at in each]


def stretch(*each: tuple[int, float], is_near: bool = False) -> Stretch:
    found = records(*each)
    return Stretch(found[0][0], found[-1][0], lambda: found, is_near)


def failing(first: int, last: int, error: Exception) -> Stretch:
    def read() -> list[Record]:
        raise error

    return Stretch(first, last, read, is_near=False)


WHOLE = Log([stretch((1, 1.0), (2, 2.0)), stretch((3, 3.0), (4, 4.0), (5, 5.0))])
MARKS = timeline((0.0, 0, ""), (2.5, 2, ""), (4.5, 3, ""))


def seqs(found: list[Record]) -> list[int]:
    return [record[0] for record in found]


@pytest.mark.parametrize(
    ("second", "base", "applied", "seq"),
    [
        (0.5, 0, [], 0),
        (1.0, 0, [1], 1),
        (2.4, 0, [1, 2], 2),
        (2.5, 2, [], 2),
        (4.2, 2, [3, 4], 4),
        (4.7, 3, [4], 4),
        (9.0, 3, [4, 5], 5),
    ],
)
def test_a_time_begins_with_the_tables_of_then(
    second: float, base: int, applied: list[int], seq: int
) -> None:
    found = at_time(MARKS, Log(WHOLE.stretches, newest=5), int(second * SECOND))
    assert (found.base.last_seq, seqs(found.records), found.seq) == (base, applied, seq)
    assert found.time_us == second * SECOND


def test_a_seq_begins_with_the_tables_that_hold_most_of_it() -> None:
    for seq, base, applied in ((1, 0, [1]), (2, 2, []), (3, 3, []), (5, 3, [4, 5])):
        found = at_seq(MARKS, WHOLE, seq)
        assert (found.base.last_seq, seqs(found.records), found.seq) == (base, applied, seq)
        assert found.time_us == seq * SECOND


def test_tables_from_which_a_merge_has_dropped_what_expired_later_are_not_begun_with() -> None:
    late = timeline((0.0, 0, "expiring"), (7.5, 2, ""))
    found = at_seq(late, WHOLE, 2)
    assert (found.base.last_seq, seqs(found.records)) == (0, [1, 2])
    nothing_expires = timeline((0.0, 0, ""), (7.5, 2, ""))
    assert at_seq(nothing_expires, WHOLE, 2).base.last_seq == 2
    same_second = timeline((0.0, 0, "expiring"), (2.9, 2, ""))
    assert at_seq(same_second, WHOLE, 2).base.last_seq == 2


def test_where_only_later_tables_are_left_what_they_may_lack_is_not_shown_in_part() -> None:
    """Of what had expired by then, a merge may have dropped some and left some."""
    late = timeline((7.5, 2, "expiring"), (9.5, 3, ""))
    for seq in (2, 4):
        found = at_seq(late, WHOLE, seq)
        assert (found.seq, found.time_us) == (seq, (7.5 if seq == 2 else 9.5) * SECOND)
    assert at_seq(timeline((1.5, 1, "expiring"), (9.5, 3, "")), WHOLE, 2).time_us == 2 * SECOND


def test_of_states_with_the_same_contents_the_first_is_begun_with() -> None:
    merged = timeline((0.0, 0, ""), (2.5, 2, "expiring"), (8.0, 2, ""))
    assert at_seq(merged, WHOLE, 2).base.number == 2


def test_an_ingest_is_in_no_log_and_no_gap() -> None:
    marks = timeline((0.0, 0, ""), (2.5, 2, ""), (3.0, 3, "ingest"), (6.0, 4, ""))
    log = Log([stretch((1, 1.0), (2, 2.0)), stretch((4, 4.0))])
    assert at_time(marks, log, int(2.9 * SECOND)).seq == 2
    assert at_time(marks, log, int(3.5 * SECOND)).seq == 3
    assert at_time(marks, log, int(4.5 * SECOND)).seq == 4
    assert at_seq(marks, log, 3).time_us == 3 * SECOND


def test_a_gap_is_named() -> None:
    log = Log([stretch((1, 1.0)), stretch((4, 4.0))])
    marks = timeline((0.0, 0, ""), (2.5, 2, ""), (4.5, 3, ""))
    with pytest.raises(HistoryError, match=r"seq 2 on is not there.* seq 2 of"):
        at_time(marks, log, int(1.5 * SECOND))
    with pytest.raises(HistoryError, match=r"seq 3 on is not there.* seq 3 of"):
        at_time(marks, log, 3 * SECOND)
    assert at_seq(marks, log, 2).base.last_seq == 2


def test_what_is_before_all_and_after_the_end_is_refused() -> None:
    with pytest.raises(HistoryError, match="before what is kept"):
        at_time(MARKS, WHOLE, -1)
    with pytest.raises(HistoryError, match="before what is kept"):
        at_seq(timeline((2.5, 2, "")), WHOLE, 1)
    with pytest.raises(HistoryError, match="after the end, which is seq 5"):
        at_seq(MARKS, WHOLE, 6)
    with pytest.raises(HistoryError, match="after the end, which is 1970-01-01T00:00:05"):
        at_time(MARKS, WHOLE, 6 * SECOND)
    assert at_time(MARKS, WHOLE, 5 * SECOND).seq == 5


def test_parts_of_the_log_complete_each_other_and_near_ones_are_read_first() -> None:
    read: list[str] = []

    def noted(name: str, part: Stretch) -> Stretch:
        def note() -> list[Record]:
            read.append(name)
            return part.read()

        return part._replace(read=note)

    log = Log(
        [
            noted("far", stretch((2, 2.0), (3, 3.0))),
            noted("near", stretch((1, 1.0), (2, 2.0), (3, 3.0), is_near=True)),
            noted("more", stretch((3, 3.0), (4, 4.0))),
        ]
    )
    assert [seqs(each) for each in log.after(0)] == [[1, 2, 3], [4]]
    assert read == ["near", "more"]


@pytest.mark.parametrize("seed", range(20))
def test_parts_in_any_order_lead_as_far_as_they_go(seed: int) -> None:
    chance = random.Random(seed)
    parts = []
    for _ in range(12):
        first = chance.randrange(1, 30)
        covered = range(first, first + chance.randrange(1, 9))
        is_near = chance.random() < 0.3
        parts.append(stretch(*((seq, float(seq)) for seq in covered), is_near=is_near))
    there = {seq for part in parts for seq in range(part.first, part.last + 1)}
    for after in range(30):
        end = next(seq for seq in range(after, 60) if seq + 1 not in there)
        found = [seq for records in Log(parts).after(after) for seq in seqs(records)]
        assert found == list(range(after + 1, end + 1))


class Counted(int):
    """Counts how often it is compared."""

    times = 0

    def __le__(self, other: int) -> bool:
        Counted.times += 1
        return super().__le__(other)

    def __lt__(self, other: int) -> bool:
        Counted.times += 1
        return super().__lt__(other)


def test_a_long_log_is_not_searched_from_its_beginning_for_each_part() -> None:
    """A history of a day has 86,400 objects of the shipped log."""
    parts = [
        stretch((seq, 1.0))._replace(first=Counted(seq), last=Counted(seq))
        for seq in range(1, 1001)
    ]
    assert sum(map(len, Log(parts).after(0))) == 1000
    assert Counted.times < 20_000


@pytest.mark.parametrize("error", [CorruptionError("damaged"), NotFoundError("gone")])
def test_a_part_that_cannot_be_read_is_replaced_by_another(error: Exception) -> None:
    log = Log([failing(1, 9, error), stretch((1, 1.0), (2, 2.0))])
    assert [seqs(each) for each in log.after(0)] == [[1, 2]]


def test_damage_that_nothing_replaces_is_raised() -> None:
    log = Log([stretch((1, 1.0)), failing(2, 3, CorruptionError("damaged"))])
    with pytest.raises(CorruptionError, match="damaged"):
        list(log.after(0))
    assert [seqs(each) for each in Log([failing(1, 3, NotFoundError("gone"))]).after(0)] == []


@pytest.mark.parametrize("error", [CorruptionError("damaged"), DiskError("broken"), Released()])
def test_what_cannot_be_read_and_nothing_replaces_is_no_end(error: Exception) -> None:
    with pytest.raises(type(error)):
        list(Log([stretch((1, 1.0)), failing(2, 3, error)]).after(0))


def test_what_was_let_go_of_and_is_there_in_part_is_no_end() -> None:
    log = Log([failing(1, 3, Released()), stretch((1, 1.0), (2, 2.0))])
    found = log.after(0)
    assert seqs(next(found)) == [1, 2]
    with pytest.raises(Released):
        next(found)


@pytest.mark.parametrize(("kind", "wanted"), [("seq", 5), ("time", 9 * SECOND)])
def test_what_was_let_go_of_is_looked_for_again(kind: str, wanted: int) -> None:
    gone = Log([failing(3, 5, Released())], newest=5)
    merely_tables = timeline((0.0, 0, ""), (8.0, 5, ""))
    for then in ((MARKS, Log(WHOLE.stretches, newest=5)), (merely_tables, Log([], newest=5))):
        looks = [then, (MARKS, gone), (MARKS, gone)]
        assert live_instant(looks.pop, kind, wanted).seq == 5
        assert not looks


def test_the_newest_commit_is_led_to_or_missed() -> None:
    log = Log([stretch((4, 4.0))], newest=5)
    with pytest.raises(HistoryError, match=r"the log from seq 5 on is not there$"):
        at_time(MARKS, log, 9 * SECOND)
    with pytest.raises(HistoryError, match=r"the log from seq 5 on is not there$"):
        at_seq(MARKS, log, 5)
    with pytest.raises(HistoryError, match="after the end, which is seq 5"):
        at_seq(MARKS, log, 6)


def test_the_shipped_log_leaves_out_what_a_branch_voids() -> None:
    store = MemoryObjectStore()
    for epoch, first, last, value in ((1, 1, 4, b"old"), (2, 4, 5, b"new")):
        entries = [put(seq, value) for seq in range(first, last + 1)]
        store.put(wal_name(epoch, first, last), segment(frame(*entries)))  # type: ignore[arg-type]
    store.put(wal_name(2, 4, 3), b"")  # type: ignore[arg-type]
    log = Log(shipped_log(store, HEADER.database_id.hex()))
    assert [seqs(each) for each in log.after(0)] == [[1, 2, 3], [4, 5]]
    found = [record for each in log.after(0) for record in each]
    assert all((b"old" in record[2]) == (record[0] < 4) for record in found)
