"""Many databases in one process: they share threads and memory, and nothing else."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from seerdb import DB, Batch, Components, Runtime, UnavailableError
from seerdb.clock import SystemClock
from seerdb.storage.pieces import Body
from seerdb.storage.workers.threads import BUILDS, FETCH_THREADS
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.db.conftest import OpenDB

COUNT = 20
CACHE = 256 << 10
LANES = 6
"""Of one database."""
PATIENCE = 60


def our_threads() -> Counter[str]:
    """Living threads of ours, by kind."""
    names = [thread.name for thread in threading.enumerate()]
    return Counter("-".join(n.split("-")[:2]).split("_")[0] for n in names if "seerdb" in n)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime(background="thread", block_cache_capacity=CACHE, clock=SystemClock())
    yield runtime
    runtime.close()


def use(number_and_db: tuple[int, DB]) -> None:
    number, db = number_and_db
    for each in range(100):
        db.put(b"%03d" % each, b"%d:%d" % (number, each) * 20, durability="memory")
    db.flush()
    for each in range(0, 100, 2):
        db.delete(b"%03d" % each, durability="memory")
    db.compact()
    assert len(list(db.scan())) == 50


def test_twenty_databases_share_one_runtime(runtime: Runtime, open_db: OpenDB) -> None:
    before = our_threads()
    databases = [open_db(f"db{n}", components=Components(runtime=runtime)) for n in range(COUNT)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, enumerate(databases)))
    threads = our_threads() - before
    assert threads["seerdb-fetch"] <= FETCH_THREADS
    assert threads["seerdb-timer"] <= 1
    lanes = threads["seerdb-lane"] + threads["seerdb-compaction"]
    assert lanes <= LANES * COUNT
    assert threads.total() <= lanes + FETCH_THREADS + 1
    cached = {db.statistics().block_cache.bytes for db in databases}
    assert len(cached) == 1, "one cache, so one number"
    assert cached.pop() <= CACHE
    for number, db in enumerate(databases):
        assert db.get(b"001") == b"%d:1" % number * 20
    assert len({db.statistics().database_id for db in databases}) == COUNT
    databases[0].close()
    for number, db in enumerate(databases[1:], 1):
        db.put(b"after", b"%d" % number)
        assert db.flush().last_seq == db.visible_seq
    again = open_db("db0", components=Components(runtime=runtime))
    assert again.get(b"099") == b"0:99" * 20


def test_a_failing_database_leaves_the_others_alone(runtime: Runtime, open_db: OpenDB) -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    bad = open_db("bad", components=Components(runtime=runtime, object_store=store))
    good = open_db("good", components=Components(runtime=runtime))
    bad.put(b"a", b"1")
    store.outage = True
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(bad.flush)
        for number in range(5):
            good.put(b"%d" % number, b"v")
            assert good.flush().last_seq == number + 1
        with pytest.raises(UnavailableError):
            failing.result(60)
    assert all(check.ok for check in good.health())
    store.outage = False


class StallingObjectStore(MemoryObjectStore):
    """Takes no table until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.has_stalled, self.goes_on = threading.Event(), threading.Event()

    def put(self, name: str, data: Body) -> None:
        if name.startswith("tables/"):
            self.has_stalled.set()
            self.goes_on.wait()
        super().put(name, data)


@pytest.fixture
def stalling(runtime: Runtime, open_db: OpenDB) -> Iterator[list[StallingObjectStore]]:
    """More buckets than there are flushes that build at once, each with a flush that waits."""
    stores = [StallingObjectStore() for _ in range(BUILDS + 1)]
    with ThreadPoolExecutor(len(stores)) as pool:
        try:
            for number, store in enumerate(stores):
                parts = Components(runtime=runtime, object_store=store)
                stalled = open_db(f"stalled{number}", components=parts)
                stalled.put(b"a", b"1")
                pool.submit(stalled.flush)
                assert store.has_stalled.wait(PATIENCE)
            yield stores
        finally:
            for store in stores:
                store.goes_on.set()


@pytest.mark.usefixtures("stalling")
def test_stalling_buckets_keep_no_other_database_from_its_own(
    runtime: Runtime, open_db: OpenDB
) -> None:
    """Four of them had all threads for flushes, and the fifth refused its writes in the end."""
    good = open_db("good", components=Components(runtime=runtime))
    with ThreadPoolExecutor(1) as pool:
        for number in range(3):
            good.put(b"a", b"%d" % number, durability="object")
            assert pool.submit(good.flush).result(PATIENCE).last_seq == number + 1
        pool.submit(good.compact).result(PATIENCE)
    assert all(check.ok for check in good.health())


def test_a_database_with_a_runtime_of_its_own_ends_its_threads(open_db: OpenDB) -> None:
    before = our_threads()
    db = open_db(sync_interval=0.001, durability="interval")
    for number in range(50):
        db.put(b"%d" % number, b"v")
    db.flush()
    db.submit(_one(), sink=lambda outcomes: None)
    assert (our_threads() - before).total() > 0
    db.close()
    assert (our_threads() - before).total() == 0


def _one() -> Batch:
    batch = Batch()
    batch.put(b"a", b"1")
    return batch


@pytest.mark.timeout(60)
@pytest.mark.parametrize("background", ["inline", "thread", "process"])
def test_a_runtime_may_be_closed_again(background: str, open_db: OpenDB) -> None:
    runtime = Runtime(background=background, block_cache_capacity=CACHE, clock=SystemClock())
    db = open_db(components=Components(runtime=runtime))
    db.put(b"a", b"1")
    db.flush()
    db.close()
    for _ in range(3):
        runtime.close()
