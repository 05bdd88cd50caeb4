"""Numbers that a job in another process shares with the one that waits for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from seerdb.errors import BusyError
from seerdb.storage.workers import shared_numbers
from seerdb.storage.workers.shared_numbers import SHARED_JOBS, SHARED_NUMBERS, Board


@pytest.fixture
def board() -> Iterator[Board]:
    with closing(Board()) as made:
        yield made


def test_both_ends_see_the_same_numbers(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_numbers, "_boards", [])
    shared_numbers.share(board.fileno())
    with board.lend() as (place, here), board.lend() as (other, beside):
        there = shared_numbers.numbers_at(place)
        for position in range(SHARED_NUMBERS):
            here[position] = -1 - position
        assert [there[position] for position in range(SHARED_NUMBERS)] == [
            -1 - position for position in range(SHARED_NUMBERS)
        ]
        there[0] = 1 << 62
        assert here[0] == 1 << 62
        assert place != other
        assert not any(beside[position] for position in range(SHARED_NUMBERS))
    with board.lend() as (again, here):
        assert again in (place, other)
        assert not any(here[position] for position in range(SHARED_NUMBERS)), "not those of before"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes a disk, and has room there")
def test_a_full_disk_has_no_part_in_it(board: Board) -> None:
    """A page without room ended the process that wrote to it."""
    place = Path(f"/proc/self/fd/{board.fileno()}").readlink()
    assert str(place).startswith("/memfd:")


def test_so_many_jobs_share_numbers_and_no_more(board: Board) -> None:
    for _ in range(2):
        with ExitStack() as jobs:
            places = {jobs.enter_context(board.lend())[0] for _ in range(SHARED_JOBS)}
            assert places == set(range(SHARED_JOBS))
            with pytest.raises(BusyError, match=f"{SHARED_JOBS} jobs wait for processes"):
                jobs.enter_context(board.lend())
