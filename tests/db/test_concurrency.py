"""Readers and writers beside each other, and beside seal, flush and compaction.

What can be forced is forced: a dict that lets another writer in at the worst moment.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import count
from typing import Any

import pytest

from seerdb import DB, Batch, Components, Event, SeerDBError
from seerdb.events import CompactionCompleted
from seerdb.storage.memtable import Memtable
from seerdb.storage.pieces import Body
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.database import World


@contextmanager
def running(*loops: Callable[[], object]) -> Iterator[None]:
    """Run each in a thread, again and again, until the block is left; raise what they raise.

    Threads take turns far more often than usual.
    """
    stop = threading.Event()
    interval = sys.getswitchinterval()

    def repeat(loop: Callable[[], object]) -> None:
        while not stop.is_set():
            loop()

    with ThreadPoolExecutor(len(loops)) as pool:
        futures = [pool.submit(repeat, loop) for loop in loops]
        try:
            sys.setswitchinterval(5e-5)
            yield
        finally:
            sys.setswitchinterval(interval)
            stop.set()
    for future in futures:
        future.result()


def test_concurrent_put_delete_same_key(db: DB) -> None:
    """The state in the end is that of the commit with the highest seq, everywhere."""
    commits: dict[int, bytes | None] = {}

    def write(writer: int) -> None:
        for number in range(60):
            if (writer + number) % 3 == 0:
                commits[db.delete(b"key", durability="memory")] = None
            elif (writer + number) % 7 == 0:
                commits[db.delete_range(b"k", b"l", durability="memory")] = None
            else:
                value = b"%d-%d" % (writer, number)
                commits[db.put(b"key", value, durability="memory")] = value

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert sorted(commits) == list(range(1, 361)), "every seq is given out once"
    last = commits[360]
    for step in (lambda: None, db.flush, db.compact):
        step()
        assert db.get(b"key") == last
        assert list(db.scan()) == ([] if last is None else [(b"key", last)])


def test_read_during_immutable_clear(open_db: OpenDB) -> None:
    """Flushes drop memtables all the while; what was acknowledged is never missing."""
    db = open_db(memtable_capacity=8 << 10, background="thread")
    acknowledged = [0]

    def read_newest() -> None:
        number = acknowledged[0]
        if number:
            assert db.get(b"%06d" % number) == b"v" * 50
            assert db.multi_get([b"%06d" % number, b"%06d" % (number // 2 + 1)]) == [b"v" * 50] * 2

    def scan_some() -> None:
        last = acknowledged[0]
        first = max(last - 40, 0)
        rows = list(db.scan(b"%06d" % first, b"%06d" % (last + 1), keys_only=True))
        assert rows == [b"%06d" % number for number in range(max(first, 1), last + 1)]

    with running(read_newest, scan_some):
        for number in range(1, 1500):
            db.put(b"%06d" % number, b"v" * 50, durability="memory")
            acknowledged[0] = number
    db.flush()
    assert db.statistics().flushes.flushes > 10
    assert len(list(db.scan())) == 1499


def test_reads_and_writes_go_on_during_compactions(open_db: OpenDB) -> None:
    db = open_db(memtable_capacity=32 << 10)
    for number in range(300):
        db.put(b"%03d" % number, b"0", durability="memory")
    rounds = count(1)

    def overwrite() -> None:
        value = b"%d" % next(rounds)
        with db.batch(durability="memory") as batch:
            batch.delete_range(b"100", b"110")
            for number in range(300):
                batch.put(b"%03d" % number, value)

    def read() -> None:
        found = db.multi_get([b"000", b"105", b"299"])
        assert len(set(found)) == 1
        assert found[0] is not None
        assert len({value for _, value in db.scan()}) == 1

    with running(overwrite, read):
        for _ in range(8):
            db.compact()
    db.compact()
    assert db.statistics().runs == 1
    assert len(list(db.scan())) == 300


def test_flushes_and_compactions_asked_for_by_many(open_db: OpenDB) -> None:
    db = open_db()

    def work(worker: int) -> None:
        for number in range(5):
            seq = db.put(b"%d-%d" % (worker, number), b"v", durability="memory")
            assert db.flush().last_seq >= seq
            if number % 2:
                db.compact()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(list(db.scan())) == 20
    assert db.verify().problems == []


def test_a_compaction_asked_for_during_another_takes_what_came_since(open_db: OpenDB) -> None:
    """The end of the first was once taken for the end of the second."""
    uploading, go_on = threading.Event(), threading.Event()

    class Gated(MemoryObjectStore):
        gated = False

        def put(self, name: str, data: Body) -> None:
            if self.gated and not uploading.is_set():
                uploading.set()
                assert go_on.wait(60)
            super().put(name, data)

    store = Gated()
    db = open_db(components=Components(object_store=store))
    for key in (b"a", b"b"):
        db.put(key, b"1")
        db.flush()
    store.gated = True
    with ThreadPoolExecutor(2) as callers, ExitStack() as on_exit:
        on_exit.callback(go_on.set)
        first = callers.submit(db.compact)
        assert uploading.wait(60)
        db.put(b"c", b"1")
        db.flush()
        second = callers.submit(db.compact)
        while len(db._engine.compactor._requests.open()) < 2:
            pass
        go_on.set()
        assert len(first.result(60).removed) >= 2
        second.result(60)
        assert db.statistics().runs == 1
    assert [key for key, _ in db.scan()] == [b"a", b"b", b"c"]


def test_seqs_of_one_writer_only_grow(db: DB) -> None:
    def write(writer: int) -> list[int]:
        return [db.put(b"%d" % writer, b"%d" % n, durability="memory") for n in range(300)]

    with ThreadPoolExecutor(4) as pool:
        every = list(pool.map(write, range(4)))
    assert all(seqs == sorted(set(seqs)) for seqs in every)
    assert sorted(seq for seqs in every for seq in seqs) == list(range(1, 1201))
    assert [db.get(b"%d" % writer) for writer in range(4)] == [b"299"] * 4


class Meddler(dict[bytes, Any]):
    """The entries of a memtable; right after the lookup number ``when``, ``act`` happens."""

    def __init__(self, entries: dict[bytes, Any], when: int, act: Callable[[], object]) -> None:
        super().__init__(entries)
        self._lookups = 0
        self._when = when
        self._act = act

    def get(self, key: bytes, default: Any = None) -> Any:
        found = super().get(key, default)
        self._lookups += 1
        if self._lookups == self._when:
            self._act()
        return found


def replace_range(db: DB) -> None:
    """In one batch delete everything and put "k" anew."""
    batch = Batch()
    batch.delete_range(b"a", b"z")
    batch.put(b"k", b"new")
    db.write(batch)


@pytest.mark.parametrize("lookup", [1, 2, 3])
@pytest.mark.parametrize("below", ["active", "sealed", "table", "table not in memory"])
def test_a_batch_with_a_range_delete_is_never_seen_half(below: str, lookup: int) -> None:
    """The reader has just looked "k" up when the batch comes: it sees it before or after."""
    world = World(takes_tables="table" in below)
    db = world.open()
    db.put(b"k", b"old")
    if below != "active":
        with pytest.raises(SeerDBError) if below == "sealed" else nullcontext():
            db.flush()
    if below == "table not in memory":
        db.close()
        db = world.open()
    active = db._engine.live.current.active
    active.newest = Meddler(active.newest, lookup, lambda: replace_range(db))
    assert db.get(b"k") in (b"old", b"new")
    if db.visible_seq == 1:
        return  # it takes fewer lookups
    assert db.get(b"k") == b"new"


def test_who_comes_while_a_batch_with_a_range_delete_is_applied_waits_for_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its range deletes are there before its points."""
    db = World().open()
    db.put(b"k", b"old")
    seen: list[bytes | None] = []
    reader = threading.Thread(target=lambda: seen.append(db.get(b"k")))
    add = Memtable.add

    def late(self: Memtable, *columns: Any) -> None:
        assert self.ranged
        reader.start()
        reader.join(0.2)
        add(self, *columns)

    monkeypatch.setattr(Memtable, "add", late)
    replace_range(db)
    reader.join()
    assert seen == [b"new"]


def test_a_scan_begins_while_keys_are_added() -> None:
    world = World()
    db = world.open()
    db.put(b"b", b"1")

    class Growing(dict[bytes, Any]):
        grown = False

        def __reversed__(self) -> Iterator[bytes]:
            keys = super().__reversed__()
            if not self.grown:
                self.grown = True
                db.put(b"a", b"2")
            return keys

    active = db._engine.live.current.active
    active.newest = Growing(active.newest)
    assert list(db.scan()) == [(b"b", b"1")]
    assert list(db.scan()) == [(b"a", b"2"), (b"b", b"1")]


def test_one_merge_at_a_time(open_db: OpenDB) -> None:
    merges: list[Event] = []
    db = open_db(components=Components(listener=merges.append))
    for number in range(12):
        db.put(b"%d" % number, b"v" * 200, durability="memory")
        db.flush()
    db.compact()
    inputs = [t for merge in merges if isinstance(merge, CompactionCompleted) for t in merge.inputs]
    assert len(inputs) == len(set(inputs)), "no table was merged twice"
    assert db.statistics().tables == 1
