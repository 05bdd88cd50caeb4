"""A job that is stopped, slowed down and counted, without knowing of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from seerdb.errors import ClosedError
from seerdb.storage.jobs.control import (
    NAP_SECONDS,
    SAVED_SECONDS,
    JobControl,
    JobCounts,
    under_control,
)
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.pieces import Pieces
from seerdb.storage.workers.pace import Pace, at_full_speed
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import MemoryObjectStore

KIB = 1024


class Rig:
    def __init__(self, rate: int = 0) -> None:
        self.clock, self.control = FakeClock(), JobControl()
        self.control.rate = rate
        self.inner = MemoryObjectStore()
        self.inner.put("tables/in", bytes(1000 * KIB))
        self.store, self.pace = self.run()

    def run(self, *, is_forgotten: bool = False) -> tuple[ObjectStore, Pace]:
        return under_control(
            self.control, self.inner, at_full_speed, self.clock, lambda: is_forgotten
        )


def test_without_control_nothing_is_between_a_job_and_its_store() -> None:
    store = MemoryObjectStore()
    assert under_control(None, store, at_full_speed, FakeClock()) == (store, at_full_speed)


def test_what_goes_through_a_job_is_counted() -> None:
    rig = Rig()
    assert rig.store.get_range("tables/in", 10, 30) == bytes(30)
    rig.store.put("out", Pieces((b"12", b"345")))
    assert rig.store.get("out") == b"12345"
    rig.store.put_if_absent("other", b"123")
    rig.pace(7)
    rig.pace()
    assert rig.control.counts == JobCounts(read=30, written=8, entries=7)
    assert [info.name for info in rig.store.list("o")] == ["other", "out"]
    rig.store.delete(["out"])
    assert [info.name for info in rig.inner.list("o")] == ["other"]
    assert rig.clock.slept == 0


def test_what_a_job_reads_of_blobs_is_within_its_rate_but_none_of_its_inputs() -> None:
    rig = Rig(rate=10 * KIB)
    rig.inner.put("blobs/in", bytes(20 * KIB))
    rig.store.get_range("blobs/in", 0, 20 * KIB)
    assert rig.control.counts == JobCounts()
    assert rig.clock.slept == pytest.approx(2.0, abs=2 * NAP_SECONDS)


def test_all_that_a_job_reads_and_writes_is_within_its_rate() -> None:
    rig = Rig(rate=10 * KIB)
    for number in range(20):
        rig.store.get_range("tables/in", 0, 5 * KIB)
        rig.store.put(f"{number}", bytes(4 * KIB))
        rig.store.get(f"{number}")
    assert rig.clock.slept == pytest.approx(20 * 13 / 10, abs=SAVED_SECONDS)


def test_what_is_not_used_is_saved_for_a_while_only() -> None:
    rig = Rig(rate=10 * KIB)
    rig.clock.advance(1000)
    rig.store.get_range("tables/in", 0, int(SAVED_SECONDS * 10 * KIB))
    assert rig.clock.slept == 0
    rig.store.get_range("tables/in", 0, 10 * KIB)
    assert rig.clock.slept == pytest.approx(1, abs=0.01)


def test_a_new_rate_holds_from_the_next_nap_on() -> None:
    rig = Rig(rate=10 * KIB)
    sleep, naps = rig.clock.sleep, []

    def sleeping(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds)
        if len(naps) == 3:
            rig.control.rate = 1000 * KIB

    rig.clock.sleep = sleeping  # type: ignore[method-assign]
    rig.store.get_range("tables/in", 0, 500 * KIB)
    assert max(naps) == NAP_SECONDS
    assert rig.clock.slept == pytest.approx(0.3 + 0.5, abs=0.05)
    rig.control.rate = 0
    rig.store.get_range("tables/in", 0, 1000 * KIB)
    assert rig.clock.slept == pytest.approx(0.3 + 0.5, abs=0.05)


def test_a_cancelled_job_ends_at_its_next_step() -> None:
    rig = Rig()
    rig.control.cancel()
    for step in (
        rig.pace,
        lambda: rig.store.put("out", b""),
        lambda: rig.store.put_if_absent("out", b""),
        lambda: rig.store.get("tables/in"),
        lambda: rig.store.get_range("tables/in", 0, 1),
    ):
        with pytest.raises(ClosedError, match="cancelled"):
            step()
    assert [info.name for info in rig.inner.list("")] == ["tables/in"]


def test_a_job_that_waits_for_its_rate_notices_that_it_is_cancelled() -> None:
    rig = Rig(rate=1)
    sleep = rig.clock.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if rig.clock.slept > 0.95:
            rig.control.cancel()

    rig.clock.sleep = sleeping  # type: ignore[method-assign]
    with pytest.raises(ClosedError):
        rig.store.get_range("tables/in", 0, 1000 * KIB)
    assert rig.clock.slept <= 1.1


def test_a_job_that_nobody_waits_for_ends_too() -> None:
    _, pace = Rig().run(is_forgotten=True)
    with pytest.raises(ClosedError):
        pace()


def test_the_numbers_may_move_to_where_another_process_sees_them() -> None:
    control, there = JobControl(), [0] * 5
    control.rate = 9
    control.count(read=1, written=2, entries=3)
    with control.shared(there):
        other = JobControl(there)
        assert (other.rate, other.counts, other.is_cancelled) == (9, (1, 2, 3), False)
        other.count(entries=4)
        control.rate = 8
        control.cancel()
        assert (other.rate, other.is_cancelled) == (8, True)
    there[:] = [0] * 5
    assert (control.counts, control.is_cancelled) == ((1, 2, 7), True)


class Hesitating(list[int]):
    """Others run between a look at a number and what is made of it."""

    def __getitem__(self, position: Any) -> Any:
        number = super().__getitem__(position)
        time.sleep(0.0005)
        return number


def test_requests_beside_each_other_are_all_counted_and_within_the_rate() -> None:
    rig = Rig(rate=10 * KIB)
    with rig.control.shared(Hesitating([0] * 5)), ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(rig.store.get_range, "tables/in", 0, KIB) for _ in range(64)]:
            future.result()
    assert rig.control.counts.read == 64 * KIB
    assert rig.clock.slept >= 64 / 10 - SAVED_SECONDS
