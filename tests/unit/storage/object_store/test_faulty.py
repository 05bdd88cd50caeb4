"""The doubles do what tests rely on: faults strike what they name, and the dead stay dead."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from seerdb.errors import NotFoundError, TruncatedError, UnavailableError
from seerdb.testing.clock import FakeClock
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore, Operation


@pytest.fixture
def store(bucket: MemoryObjectStore) -> FaultyObjectStore:
    return FaultyObjectStore(bucket)


def test_a_fault_strikes_the_operation_name_and_turn_it_names(
    store: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    store.fail("put", match="tables/", skip=1, times=2)
    store.put("manifest/1", b"")
    store.put("tables/1", b"")
    assert store.list("tables/")
    for name in ("tables/2", "tables/3"):
        with pytest.raises(UnavailableError, match=name):
            store.put(name, b"")
    store.put("tables/4", b"")
    assert [info.name for info in bucket.list("")] == ["manifest/1", "tables/1", "tables/4"]


def test_plans_are_used_up_one_after_the_other(store: FaultyObjectStore) -> None:
    store.fail("get", error=NotFoundError("planned"))
    store.fail("get")
    with pytest.raises(NotFoundError, match="planned"):
        store.get("a")
    with pytest.raises(UnavailableError):
        store.get("a")


def test_a_time_out_hides_what_happened(
    store: FaultyObjectStore, bucket: MemoryObjectStore
) -> None:
    store.time_out_after("put_if_absent", times=2)
    for _ in range(2):  # created, then refused: both look the same
        with pytest.raises(UnavailableError, match="timed out"):
            store.put_if_absent("a", b"1")
    assert bucket.get("a") == b"1"
    assert bucket.calls["put_if_absent"] == 2


def test_bodies_are_cut_or_damaged(store: FaultyObjectStore, bucket: MemoryObjectStore) -> None:
    store.put("a", b"0123")
    store.short("get")
    store.corrupt("get_range")
    with pytest.raises(TruncatedError):
        store.get("a")
    assert store.get_range("a", 0, 4) == b"0133"
    assert store.get("a") == bucket.get("a") == b"0123"


def test_delays_pass_by_the_clock_and_add_up() -> None:
    clock = FakeClock()
    store = FaultyObjectStore(MemoryObjectStore(), clock)
    store.delay("list", seconds=2.0)
    store.delay("list", seconds=3.0)
    store.fail("list")
    with pytest.raises(UnavailableError):
        store.list("")
    assert clock.monotonic() == 5.0


def test_an_outage_lasts_until_it_is_over(store: FaultyObjectStore) -> None:
    store.outage = True
    with pytest.raises(UnavailableError, match="outage"):
        store.list("")
    with pytest.raises(UnavailableError, match="outage"):
        store.delete(["a"])
    store.outage = False
    assert store.list("") == []


@pytest.mark.parametrize(("attribute", "left"), [("crash_at", ["1"]), ("crash_after", ["1", "2"])])
def test_a_crash_ends_everything_before_or_after_an_operation(
    store: FaultyObjectStore, bucket: MemoryObjectStore, attribute: str, left: list[str]
) -> None:
    setattr(store, attribute, 2)
    store.put("1", b"")
    for name in ("2", "3"):
        with pytest.raises(CrashError):
            store.put(name, b"")
    with pytest.raises(CrashError):
        store.list("")
    assert [info.name for info in bucket.list("")] == left


def test_a_crash_after_a_refused_operation_hides_the_refusal(store: FaultyObjectStore) -> None:
    store.crash_after = 1
    with pytest.raises(CrashError):
        store.get("missing")


def test_the_trace_names_every_operation_asked_for(store: FaultyObjectStore) -> None:
    store.fail("put")
    with pytest.raises(UnavailableError):
        store.put("a", b"")
    store.list("tables/")
    store.delete(["b", "c"])
    assert store.trace == [
        Operation(1, "put", ("a",)),
        Operation(2, "list", ("tables/",)),
        Operation(3, "delete", ("b", "c")),
    ]


def test_time_passes_only_by_hand() -> None:
    clock = FakeClock(now=100.0)
    clock.sleep(1.5)
    clock.advance(2.0)
    assert (clock.now(), clock.monotonic(), clock.slept) == (103.5, 3.5, 1.5)
    clock.set_now(50.0)
    assert (clock.now(), clock.monotonic()) == (50.0, 3.5)


def test_no_sleep_is_lost_between_threads() -> None:
    clock = FakeClock()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(clock.sleep, [1.0] * 2_000))
    assert clock.monotonic() == clock.slept == 2_000
