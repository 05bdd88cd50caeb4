"""``expect``: a write that happens only to the version that the writer has seen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, Event

import pytest

from seerdb import DB, Components, ConflictError
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.db.layers import LAYERS, Layered
from tests.fixtures.events import PATIENCE


@pytest.mark.parametrize("layer", LAYERS)
def test_expectations_in_every_layer(layer: str) -> None:
    layered = Layered(layer)
    layered.put(b"there", b"1")
    layered.write(("put", b"deleted", b"1"), ("put", b"ranged", b"1"), ("put", b"z", b"1"))
    layered.write(("delete", b"deleted", b""), ("delete_range", b"r", b"s"))
    seq = layered.write(("put", b"there", b"2"))
    db = layered.db
    for key in (b"never", b"deleted", b"ranged"):
        with pytest.raises(ConflictError, match="absent"):
            db.put(key, b"x", expect=2)
    for wrong in (0, 1, seq - 1, seq + 1):
        with pytest.raises(ConflictError, match=f"its seq is {seq}"):
            db.put(b"there", b"x", expect=wrong)
        with pytest.raises(ConflictError):
            db.delete(b"there", expect=wrong)
    assert (db.visible_seq, db.get(b"there")) == (seq, b"2")
    assert db.put(b"there", b"3", expect=seq) == seq + 1
    assert db.put(b"deleted", b"4", expect=0) == seq + 2
    assert db.put(b"ranged", b"5", expect=0, durability="memory") == seq + 3
    assert db.delete(b"there", expect=seq + 1) == seq + 4
    assert db.delete(b"never", expect=0) == seq + 5
    assert dict(db.scan()) == {b"deleted": b"4", b"ranged": b"5", b"z": b"1"}


class GatedStore(MemoryObjectStore):
    """Once armed, a ranged read says that it has begun and waits to be let on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_armed = False
        self.begun, self.gate = Event(), Event()

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if self.is_armed:
            self.begun.set()
            self.gate.wait(PATIENCE)
        return super().get_range(name, offset, length)


def test_nobody_waits_while_a_key_is_fetched_to_be_compared(open_db: OpenDB) -> None:
    store = GatedStore()
    components = Components(object_store=store)
    db = open_db(components=components, disk_cache_capacity=0)
    seq = db.put(b"cold", b"1")
    db.close()
    db = open_db(components=components, disk_cache_capacity=0)
    store.is_armed = True
    with ThreadPoolExecutor(2) as pool:
        conditional = pool.submit(db.put, b"cold", b"2", expect=seq)
        assert store.begun.wait(PATIENCE)
        try:
            assert pool.submit(db.put, b"other", b"1").result(PATIENCE) == 2
        finally:
            store.gate.set()
        assert conditional.result(PATIENCE) == 3
    assert dict(db.scan()) == {b"cold": b"2", b"other": b"1"}


def test_a_refused_write_is_nowhere(db: DB) -> None:
    db.put(b"a", b"1")
    with pytest.raises(ConflictError):
        db.put(b"a", b"2", expect=0)
    with pytest.raises(ConflictError):
        db.put(b"b", b"2", expect=1)
    assert db.put(b"c", b"3") == 2
    assert db.statistics().commits.commits == 2
    assert list(db.scan()) == [(b"a", b"1"), (b"c", b"3")]


@pytest.mark.parametrize("durability", ["memory", "local"])
def test_of_many_writers_one_wins_each_version(db: DB, durability: str) -> None:
    writers, rounds = 8, 25
    gate = Barrier(writers)

    def race(writer: int) -> list[int]:
        won, expected = [], 0
        for _ in range(rounds):
            gate.wait(60)
            with suppress(ConflictError):
                won.append(db.put(b"key", b"%d" % writer, expect=expected, durability=durability))
            gate.wait(60)
            entry = db.get_entry(b"key")
            assert entry is not None
            expected = entry.seq
        return won

    with ThreadPoolExecutor(writers) as pool:
        winners = [seq for won in pool.map(race, range(writers)) for seq in won]
    assert sorted(winners) == list(range(1, rounds + 1))


def test_a_counter_that_many_increment(db: DB) -> None:
    def increment(_: int) -> None:
        while True:
            entry = db.get_entry(b"counter")
            value, seq = (int(entry.value), entry.seq) if entry else (0, 0)
            try:
                db.put(b"counter", b"%d" % (value + 1), expect=seq, durability="memory")
            except ConflictError:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(200)))
    assert db.get(b"counter") == b"200"
