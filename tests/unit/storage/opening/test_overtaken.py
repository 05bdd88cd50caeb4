"""What of an overtaken log is lost: the rule, against a model that looks at each commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.events import LogOvertaken, LostCommits
from seerdb.ids import MAX_SEQ
from seerdb.storage.opening.overtaken import Held, in_words, is_whole, lost_of


def survived_up_to(reaches: dict[int, int]) -> Callable[[int], int]:
    return lambda epoch: reaches.get(epoch, MAX_SEQ)


def test_what_is_above_where_the_successor_went_on_is_lost() -> None:
    held = [Held(1, 1, [(1, 9)], sound=True)]
    assert lost_of(held, survived_up_to({1: 6})) == [LostCommits(1, 7, 9)]
    assert lost_of(held, survived_up_to({1: 9})) == []
    assert lost_of(held, survived_up_to({1: 0})) == [LostCommits(1, 1, 9)]


def test_it_is_told_by_epoch_as_clients_know_their_commits() -> None:
    held = [
        Held(1, 1, [(1, 3)], sound=True),
        Held(1, 4, [(4, 5)], sound=True),
        Held(2, 6, [(6, 6)], sound=True),
        Held(4, 7, [(7, 9)], sound=True),
    ]
    assert lost_of(held, survived_up_to({1: 2, 2: 2, 4: 2})) == [
        LostCommits(1, 3, 5),
        LostCommits(2, 6, 6),
        LostCommits(4, 7, 9),
    ]


def test_what_recovery_wrote_anew_is_told_once() -> None:
    """It died before it had put the damaged segment apart, of which it dropped the end."""
    held = [Held(1, 1, [(1, 5), (8, 9)], sound=False), Held(2, 1, [(1, 5)], sound=True)]
    assert lost_of(held, survived_up_to({1: 3, 2: 3})) == [
        LostCommits(1, 8, 9),
        LostCommits(2, 4, 5),
    ]
    assert lost_of(held, survived_up_to({1: 3, 2: 5})) == [LostCommits(1, 8, 9)]


def test_a_hole_in_the_log_is_no_part_of_a_range() -> None:
    held = [Held(1, 1, [(1, 4), (6, 9)], sound=True)]
    assert lost_of(held, survived_up_to({1: 2})) == [LostCommits(1, 3, 4), LostCommits(1, 6, 9)]


@pytest.mark.parametrize(
    ("held", "whole"),
    [
        ([], True),
        ([Held(1, 1, [(1, 9)], sound=True)], True),
        ([Held(1, 1, [(1, 9)], sound=False)], False),
        ([Held(1, 6, [(6, 9)], sound=True)], True),  # the segments before were flushed
        ([Held(1, 7, [(7, 9)], sound=True)], False),  # one that was not is missing
        ([Held(1, 1, [(1, 9)], sound=True), Held(2, 10, [], sound=True)], True),
        ([Held(1, 1, [(1, 9)], sound=True), Held(2, 11, [(11, 11)], sound=True)], False),
        ([Held(1, 1, [(1, 3)], sound=True), Held(1, 6, [(6, 6)], sound=True)], True),  # an ingest
    ],
)
def test_a_log_is_whole_if_nothing_that_can_be_lost_is_missing(
    held: list[Held], whole: bool
) -> None:
    assert is_whole(held, survived_up_to({1: 5, 2: 5})) is whole


@st.composite
def logs(draw: st.DrawFn) -> list[Held]:
    """Segments as one home leaves them: epochs and seqs go up, with restarts that wrote anew."""
    held, epoch, following = [], 1, draw(st.integers(1, 5))
    for _ in range(draw(st.integers(0, 6))):
        restarts = draw(st.integers(0, 2))
        first = max(1, following - (draw(st.integers(0, 4)) if restarts else 0))
        epoch += restarts
        seqs = [seq for seq in range(first, first + draw(st.integers(0, 6))) if draw(st.booleans())]
        held.append(Held(epoch, first, [(seq, seq) for seq in seqs], sound=True))
        following = max([following, *(seq + 1 for seq in seqs)])
    return held


@given(logs(), st.lists(st.tuples(st.integers(1, 14), st.integers(1, 40)), max_size=5))
def test_a_commit_is_lost_if_and_only_if_no_epoch_that_holds_it_survived(
    held: list[Held], branches: list[tuple[int, int]]
) -> None:
    def survived(epoch: int) -> int:
        return min((first for above, first in branches if above > epoch), default=MAX_SEQ) - 1

    holders: dict[int, list[int]] = {}
    for each in held:
        for first, last in each.runs:
            for seq in range(first, last + 1):
                holders.setdefault(seq, []).append(each.epoch)
    expected = {
        (max(epochs), seq)
        for seq, epochs in holders.items()
        if all(seq > survived(epoch) for epoch in epochs)
    }
    lost = lost_of(held, survived)
    told = [(each.epoch, seq) for each in lost for seq in range(each.first, each.last + 1)]
    assert (len(told), set(told)) == (len(expected), expected)
    assert [(each.epoch, each.first) for each in lost] == sorted(
        (each.epoch, each.first) for each in lost
    )
    following = {(each.epoch, each.last + 1) for each in lost}
    assert not following & {(each.epoch, each.first) for each in lost}, "in as few as there can be"


@pytest.mark.parametrize(
    ("lost", "whole", "words"),
    [
        ([], True, "none is lost"),
        ([], False, "none that can be read is lost"),
        ([LostCommits(1, 7, 7)], True, "1 is lost: seq 7 of epoch 1"),
        (
            [LostCommits(1, 7, 1000), LostCommits(2, 1001, 1001)],
            False,
            "at least 995 are lost: seq 7 to 1,000 of epoch 1, seq 1,001 of epoch 2",
        ),
    ],
)
def test_it_is_said_in_words(lost: list[LostCommits], whole: bool, words: str) -> None:
    log = LogOvertaken(directory="a/wal", last_seq=1001, lost=lost, whole=whole)
    assert in_words(log) == f"of the writes up to seq 1,001 in a/wal, {words}"
