"""What is to be shipped next, and what is still needed for it."""

from __future__ import annotations

from seerdb.ids import MAX_SEQ
from seerdb.storage.wal.backlog import Backlog, Place, Stretch
from seerdb.storage.wal.format import HEADER_SIZE


def new(
    shipped_seq: int = 0, *recovered: int, following: int = 1, keeps_all: bool = True
) -> Backlog:
    return Backlog(shipped_seq, recovered, following, keeps_all=keeps_all)


def test_a_new_log_has_nothing_to_ship() -> None:
    backlog = new()
    assert backlog.next() is None
    assert (backlog.shipped_seq, backlog.needed_from) == (0, 1)


def test_increments_of_a_segment_then_its_rest_then_the_next_segment() -> None:
    backlog = new()
    backlog.reached(Place(1, 5000, 3))
    assert backlog.next() == Stretch(Place(1, HEADER_SIZE, 0), Place(1, 5000, 3))
    backlog.shipped(Place(1, 5000, 3))
    assert backlog.next() is None
    backlog.sealed(Place(1, 7000, 8))
    backlog.reached(Place(2, 6000, 9))
    assert backlog.next() == Stretch(Place(1, 5000, 3), Place(1, 7000, 8))
    assert backlog.needed_from == 1
    backlog.shipped(Place(1, 7000, 8))
    assert backlog.needed_from == 2
    assert backlog.next() == Stretch(Place(2, HEADER_SIZE, 8), Place(2, 6000, 9))


def test_a_segment_sealed_while_a_part_of_it_is_shipped_is_not_done() -> None:
    backlog = new()
    backlog.reached(Place(1, 5000, 3))
    backlog.sealed(Place(1, 7000, 8))
    backlog.shipped(Place(1, 5000, 3))
    assert backlog.next() == Stretch(Place(1, 5000, 3), Place(1, 7000, 8))


def test_what_was_reached_never_goes_back() -> None:
    backlog = new()
    backlog.reached(Place(1, 6000, 4))
    backlog.reached(Place(1, 5000, 3))
    assert backlog.next() == Stretch(Place(1, HEADER_SIZE, 0), Place(1, 6000, 4))


def test_a_seq_without_bytes_is_nothing_to_ship() -> None:
    """An ingest takes one."""
    backlog = new()
    backlog.reached(Place(1, 5000, 3))
    backlog.shipped(Place(1, 5000, 3))
    backlog.reached(Place(1, 5000, 4))
    assert backlog.next() is None


def test_segments_of_earlier_lives_come_first_and_are_to_be_measured() -> None:
    backlog = new(20, 3, 5, following=7)
    stretch = backlog.next()
    assert stretch == Stretch(Place(3, HEADER_SIZE, 20), Place(3, 0, 0))
    assert not stretch.is_measured
    backlog.shipped(Place(3, 9000, 25))
    assert (backlog.next(), backlog.needed_from) == (
        Stretch(Place(5, HEADER_SIZE, 25), Place(5, 0, 0)),
        5,
    )
    backlog.shipped(Place(5, 9000, 22))
    assert (backlog.shipped_seq, backlog.needed_from) == (25, 7)
    backlog.reached(Place(7, 5000, 26))
    assert backlog.next() == Stretch(Place(7, HEADER_SIZE, 25), Place(7, 5000, 26))


def test_only_who_ships_all_keeps_segments() -> None:
    assert new(keeps_all=False).needed_from == MAX_SEQ


def test_what_tables_hold_is_passed_over_by_who_does_not_ship_all() -> None:
    for keeps_all in (True, False):
        backlog = new(keeps_all=keeps_all)
        for segment in range(1, 4):
            backlog.sealed(Place(segment, 5000, 10 * segment))
        backlog.pass_over(3, 20)
        expected = (1, 0) if keeps_all else (3, 20)
        assert (stretch := backlog.next()) is not None
        assert (stretch.begin.segment, stretch.begin.seq) == expected


def test_the_age_is_that_of_the_oldest_that_is_not_safe_and_never_less() -> None:
    backlog = new()
    assert backlog.oldest_mark(0) is None
    for seq, now in ((1, 10.0), (5, 10.05), (9, 12.0), (20, 13.0)):
        backlog.mark(seq, now)
    assert backlog.oldest_mark(0) == 10.0
    assert backlog.oldest_mark(7) == 10.0, "seq 8 came after seq 5, which is not marked"
    assert backlog.oldest_mark(8) == 12.0
    assert backlog.oldest_mark(30) == 13.0


def test_what_was_passed_over_while_it_was_shipped_does_not_come_back() -> None:
    backlog = new(keeps_all=False)
    for segment in range(1, 4):
        backlog.sealed(Place(segment, 5000, 10 * segment))
    backlog.pass_over(3, 20)
    backlog.shipped(Place(1, 5000, 10))
    assert backlog.next() == Stretch(Place(3, HEADER_SIZE, 20), Place(3, 5000, 30))


def test_what_is_passed_over_may_leave_out_segments_that_nobody_needs() -> None:
    backlog = new(0, 3, 4, following=7, keeps_all=False)
    backlog.pass_over(5, 20)
    backlog.reached(Place(7, 5000, 21))
    assert backlog.next() == Stretch(Place(7, HEADER_SIZE, 20), Place(7, 5000, 21))


def test_marks_of_what_is_safe_are_forgotten_though_nobody_asks() -> None:
    for keeps_all in (True, False):
        backlog = new(keeps_all=keeps_all)
        for number in range(1, 1000):
            backlog.mark(number, float(number))
            backlog.sealed(Place(number, 5000, number))
            backlog.shipped(Place(number, 5000, number))
            backlog.pass_over(number + 1, number)
        assert len(backlog._marks) == 1
