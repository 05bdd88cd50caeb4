"""What is counted, under what, and what it costs."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest

from seerdb.errors import AlreadyExistsError, NotFoundError, TruncatedError, UnavailableError
from seerdb.options import PRICE_NAMES
from seerdb.storage.object_store.meter import (
    MeteredObjectStore,
    Operation,
    Prices,
    Purpose,
    RequestMeter,
    RequestStatistics,
)
from seerdb.storage.pieces import Pieces
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore


@pytest.fixture
def meter() -> RequestMeter:
    return RequestMeter()


@pytest.fixture
def store(faulty: FaultyObjectStore, meter: RequestMeter, clock: FakeClock) -> MeteredObjectStore:
    return MeteredObjectStore(faulty, meter, Purpose.READ, clock)


def of(meter: RequestMeter, operation: Operation) -> RequestStatistics:
    (found,) = [each for each in meter.statistics() if each.operation is operation]
    return found


def test_requests_bytes_and_time_are_counted_by_operation(
    store: MeteredObjectStore, faulty: FaultyObjectStore, meter: RequestMeter
) -> None:
    faulty.delay("get", seconds=0.25, times=2)
    store.put("a", bytes(100))
    store.put_if_absent("b", Pieces((bytes(4), bytes(6))))
    assert store.get("a") == bytes(100)
    assert store.get("b") == bytes(10)
    assert store.get_range("a", 90, 10) == bytes(10)
    assert len(store.list("")) == 2
    store.delete(["a"])
    read = Purpose.READ
    assert meter.statistics() == (
        RequestStatistics(read, Operation.DELETE, 1),
        RequestStatistics(read, Operation.GET, 2, bytes_in=110, seconds=0.5),
        RequestStatistics(read, Operation.GET_RANGE, 1, bytes_in=10),
        RequestStatistics(read, Operation.LIST, 1),
        RequestStatistics(read, Operation.PUT, 1, bytes_out=100),
        RequestStatistics(read, Operation.PUT_IF_ABSENT, 1, bytes_out=10),
    )


def test_purposes_are_kept_apart(
    faulty: FaultyObjectStore, meter: RequestMeter, clock: FakeClock
) -> None:
    for purpose in (Purpose.FLUSH, Purpose.COMPACTION, Purpose.FLUSH):
        MeteredObjectStore(faulty, meter, purpose, clock).put("a", b"xy")
    assert meter.statistics() == (
        RequestStatistics(Purpose.COMPACTION, Operation.PUT, 1, bytes_out=2),
        RequestStatistics(Purpose.FLUSH, Operation.PUT, 2, bytes_out=4),
    )


def test_an_error_is_a_request_without_an_answer(
    store: MeteredObjectStore, faulty: FaultyObjectStore, meter: RequestMeter
) -> None:
    store.put("a", b"a")
    faulty.fail("get")
    faulty.short("get", skip=1)
    with pytest.raises(UnavailableError):
        store.get("a")
    with pytest.raises(NotFoundError):
        store.get("missing")
    with pytest.raises(TruncatedError):
        store.get("a")
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("a", b"bc")
    gets = of(meter, Operation.GET)
    assert (gets.requests, gets.errors, gets.bytes_in) == (3, 2, 0)
    creations = of(meter, Operation.PUT_IF_ABSENT)
    assert (creations.requests, creations.errors, creations.bytes_out) == (1, 0, 2)


def test_pages_of_a_thousand_are_requests(store: MeteredObjectStore, meter: RequestMeter) -> None:
    for number in range(1_001):
        store.put(f"{number:04}", b"")
    store.list("0")  # 1,000 objects
    assert of(meter, Operation.LIST).requests == 1
    store.list("")
    assert of(meter, Operation.LIST).requests == 3
    store.delete(f"{number:04}" for number in range(1_001))
    assert of(meter, Operation.DELETE).requests == 2


def test_what_a_worker_counted_is_added(store: MeteredObjectStore, meter: RequestMeter) -> None:
    store.put("a", b"abc")
    elsewhere = RequestMeter()
    elsewhere.merge(meter.statistics())
    elsewhere.merge([RequestStatistics(Purpose.FLUSH, Operation.PUT, 2, 1, 3, 4, 0.5)])
    meter.merge(pickle.loads(pickle.dumps(elsewhere.statistics())))
    assert meter.statistics() == (
        RequestStatistics(Purpose.FLUSH, Operation.PUT, 2, 1, 3, 4, 0.5),
        RequestStatistics(Purpose.READ, Operation.PUT, 2, bytes_out=6),
    )


def test_no_request_is_lost_between_threads(store: MeteredObjectStore, meter: RequestMeter) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(str(number), b"x"), range(2_000)))
    puts = of(meter, Operation.PUT)
    assert puts.requests == puts.bytes_out == 2_000


def test_dollars_follow_the_price_list() -> None:
    paid = {operation: 1_000_000 * Prices().of_request(operation) for operation in Operation}
    assert paid[Operation.GET] == paid[Operation.GET_RANGE] == pytest.approx(0.4)
    assert paid[Operation.PUT] == paid[Operation.PUT_IF_ABSENT] == pytest.approx(5.0)
    assert paid[Operation.LIST] == pytest.approx(5.0)
    assert paid[Operation.DELETE] == 0
    assert Prices(0, 0, delete=0.5).of_request(Operation.DELETE) == 0.0005
    assert Prices().of_storage(100 << 30) == pytest.approx(2.30)


def test_prices_are_named_as_in_the_setting() -> None:
    assert tuple(price.name for price in fields(Prices)) == PRICE_NAMES


def test_a_meter_with_a_clock_knows_what_was_asked_of_late(clock: FakeClock) -> None:
    meter = RequestMeter(clock)
    flush_put = (Purpose.FLUSH, Operation.PUT)
    meter.merge([RequestStatistics(*flush_put, 6)])
    assert meter.recent_in_seconds(60) == {flush_put: 6}
    clock.advance(86_400)
    assert meter.recent_in_seconds(60) == {}
    assert of(meter, Operation.PUT).requests == 6
    assert RequestMeter().recent_in_seconds(60) == {}
