"""Which failures are tried again, how long it waits, and what becomes of ambiguous writes."""

from __future__ import annotations

from random import Random

import pytest

from seerdb.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    TruncatedError,
    UnavailableError,
)
from seerdb.storage.object_store.retrying import RetryingObjectStore
from seerdb.storage.pieces import Pieces
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore

MINE, OTHERS = b"write id 1", b"write id 2"


class HighestRandom(Random):
    """Makes every wait the longest possible one."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
def store(faulty: FaultyObjectStore, clock: FakeClock) -> RetryingObjectStore:
    return RetryingObjectStore(faulty, clock=clock, random=HighestRandom())


def operations(faulty: FaultyObjectStore) -> list[str]:
    return [each.operation for each in faulty.trace]


def test_every_operation_survives_four_failures(
    store: RetryingObjectStore, faulty: FaultyObjectStore
) -> None:
    for operation in ("put", "put_if_absent", "get", "get_range", "list", "delete"):
        faulty.fail(operation, times=4)
    store.put("a", b"0123")
    store.put_if_absent("b", b"b")
    assert store.get("a") == b"0123"
    assert store.get_range("a", 1, 2) == b"12"
    assert [info.name for info in store.list("")] == ["a", "b"]
    store.delete(iter(["a", "b"]))
    assert store.list("") == []


def test_the_fifth_failure_is_the_callers(
    store: RetryingObjectStore, faulty: FaultyObjectStore
) -> None:
    faulty.outage = True
    with pytest.raises(UnavailableError, match="outage"):
        store.get("a")
    assert operations(faulty) == ["get"] * 5


def test_waits_double_up_to_the_cap(faulty: FaultyObjectStore, clock: FakeClock) -> None:
    faulty.outage = True
    store = RetryingObjectStore(
        faulty, clock=clock, random=HighestRandom(), attempts=6, base_seconds=0.5, cap_seconds=3.0
    )
    with pytest.raises(UnavailableError):
        store.list("")
    assert clock.slept == 0.5 + 1.0 + 2.0 + 3.0 + 3.0


def test_waits_are_spread_from_nothing_to_the_full_wait(
    faulty: FaultyObjectStore, clock: FakeClock
) -> None:
    faulty.outage = True
    waits = []
    for seed in range(200):
        store = RetryingObjectStore(
            faulty, clock=clock, random=Random(seed), attempts=2, base_seconds=1.0
        )
        before = clock.slept
        with pytest.raises(UnavailableError):
            store.list("")
        waits.append(clock.slept - before)
    assert min(waits) < 0.1
    assert max(waits) > 0.9


def test_answers_are_not_tried_again(store: RetryingObjectStore, faulty: FaultyObjectStore) -> None:
    faulty.fail("put", error=InvalidRequestError("no"))
    with pytest.raises(NotFoundError):
        store.get("missing")
    with pytest.raises(InvalidRequestError):
        store.put("a", b"a")
    assert operations(faulty) == ["get", "put"]


def test_no_attempt_follows_once_it_is_futile(faulty: FaultyObjectStore, clock: FakeClock) -> None:
    faulty.outage = True
    store = RetryingObjectStore(
        faulty, clock=clock, random=Random(0), give_up=lambda: len(faulty.trace) == 2
    )
    with pytest.raises(UnavailableError):
        store.get("a")
    assert len(faulty.trace) == 2


def test_a_short_body_is_read_again_as_often_as_any_failure(
    store: RetryingObjectStore, faulty: FaultyObjectStore, clock: FakeClock
) -> None:
    """A network that cuts two bodies in a row made sound objects count as damaged."""
    store.put("a", b"0123")
    faulty.fail("get", times=4, error=TruncatedError("cut", name="a"))
    faulty.short("get_range", times=4)
    assert store.get("a") == b"0123"
    assert clock.slept == 0.05 + 0.1 + 0.2 + 0.4
    assert store.get_range("a", 0, 4) == b"0123"


def test_an_object_that_stays_short_is_truncated(
    store: RetryingObjectStore, faulty: FaultyObjectStore
) -> None:
    store.put("a", b"0123")
    with pytest.raises(TruncatedError):
        store.get_range("a", 0, 5)
    assert operations(faulty) == ["put", *["get_range"] * 5]


def test_a_creation_that_timed_out_but_happened_succeeds(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    faulty.time_out_after("put_if_absent")
    store.put_if_absent("manifest/1", MINE)
    assert bucket.get("manifest/1") == MINE
    assert operations(faulty) == ["put_if_absent", "put_if_absent", "get"]


def test_a_creation_sent_twice_below_us_succeeds(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    # As when the HTTP client repeats a request on its own: the first answer we see is "exists".
    bucket.put_if_absent("manifest/1", MINE)
    store.put_if_absent("manifest/1", MINE)
    assert operations(faulty) == ["put_if_absent", "get"]


def test_a_creation_that_another_won_is_refused(
    store: RetryingObjectStore, bucket: MemoryObjectStore
) -> None:
    bucket.put_if_absent("manifest/1", OTHERS)
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("manifest/1", MINE)
    assert bucket.get("manifest/1") == OTHERS


def test_a_creation_that_another_won_during_our_failure_is_refused(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    faulty.fail("put_if_absent")
    bucket.put_if_absent("manifest/1", OTHERS)
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("manifest/1", MINE)
    assert bucket.get("manifest/1") == OTHERS


def test_a_creation_that_happened_in_the_last_attempt_succeeds(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    faulty.fail("put_if_absent", times=4)
    faulty.time_out_after("put_if_absent")
    store.put_if_absent("manifest/1", MINE)
    assert bucket.get("manifest/1") == MINE
    assert operations(faulty) == ["put_if_absent"] * 5 + ["get"]


def test_a_creation_that_another_won_while_all_attempts_failed_is_refused(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    bucket.put_if_absent("manifest/1", OTHERS)
    faulty.fail("put_if_absent", times=5)
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("manifest/1", MINE)


@pytest.mark.parametrize("failures", [0, 4])
def test_a_creation_in_pieces_is_compared_as_one(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore, failures: int
) -> None:
    """Whether another attempt follows, or the one that timed out was the last."""
    faulty.fail("put_if_absent", times=failures)
    faulty.time_out_after("put_if_absent")
    store.put_if_absent("wal/1", Pieces((MINE[:3], b"", MINE[3:])))
    assert bucket.get("wal/1") == MINE
    store.put_if_absent("wal/1", Pieces((MINE[:5], MINE[5:])))
    for others in (OTHERS, MINE[:-1], MINE + b"1"):
        with pytest.raises(AlreadyExistsError):
            store.put_if_absent("wal/1", Pieces((others[:3], others[3:])))
    assert bucket.get("wal/1") == MINE


def test_a_creation_of_which_no_trace_is_found_is_unknown(
    store: RetryingObjectStore, faulty: FaultyObjectStore
) -> None:
    faulty.fail("put_if_absent", times=5)
    with pytest.raises(UnavailableError, match="manifest/1 was created is unknown"):
        store.put_if_absent("manifest/1", MINE)


def test_a_creation_that_cannot_be_read_back_is_unknown(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    faulty.time_out_after("put_if_absent", times=5)
    faulty.fail("get")
    with pytest.raises(UnavailableError, match="unknown"):
        store.put_if_absent("manifest/1", MINE)
    assert bucket.get("manifest/1") == MINE
    assert operations(faulty) == ["put_if_absent"] * 5 + ["get"]


def test_a_refused_creation_whose_object_vanishes_is_unknown(
    store: RetryingObjectStore, faulty: FaultyObjectStore
) -> None:
    faulty.fail("put_if_absent", error=AlreadyExistsError("taken"))
    with pytest.raises(UnavailableError, match="unknown"):
        store.put_if_absent("manifest/1", MINE)


def test_reading_back_after_a_refusal_is_tried_again(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    bucket.put_if_absent("manifest/1", MINE)
    faulty.fail("get", times=2)
    store.put_if_absent("manifest/1", MINE)
    assert operations(faulty) == ["put_if_absent", "get", "get", "get"]


def test_a_creation_is_not_taken_for_anothers_by_one_damaged_answer(
    store: RetryingObjectStore, faulty: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    faulty.time_out_after("put_if_absent")
    faulty.corrupt("get")
    store.put_if_absent("manifest/1", MINE)
    assert bucket.get("manifest/1") == MINE
    assert operations(faulty) == ["put_if_absent"] * 2 + ["get"] * 2
