"""Snapshots: one moment, however much is written, flushed, merged and collected later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from seerdb import DB, ClosedError, InvalidRequestError
from tests.db.conftest import OpenDB
from tests.db.layers import LAYERS, WITHOUT_TABLES, Layered
from tests.fixtures.database import World

NUMBERS = range(300)


def key(number: int) -> bytes:
    return b"%04d" % number


def fill(db: DB, value: bytes) -> None:
    with db.batch(durability="memory") as batch:
        for number in NUMBERS:
            batch.put(key(number), value)


def meddle(db: DB) -> None:
    """Overwrite, delete and add."""
    fill(db, b"newer")
    db.delete(key(7))
    db.delete_range(key(100), key(200))
    db.put(key(150), b"back")
    db.put(b"new key", b"new")


def test_a_snapshot_does_not_see_later_writes(db: DB) -> None:
    fill(db, b"old")
    with db.snapshot() as snapshot:
        meddle(db)
        assert snapshot.seq == 1
        assert snapshot.get(key(7)) == snapshot.get(key(150)) == b"old"
        assert snapshot.get(b"new key") is None
        assert snapshot.multi_get([key(7), b"new key", key(0)]) == [b"old", None, b"old"]
        assert list(snapshot.scan()) == [(key(n), b"old") for n in NUMBERS]
    assert db.get(key(0)) == b"newer"


LATER: dict[str, Callable[[DB], object]] = {
    "flushed": lambda db: db.flush(),
    "compacted": lambda db: db.compact(),
    "compacted twice": lambda db: [step(db) for step in (DB.compact, meddle, DB.compact)],
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("layer", sorted(LAYERS.keys() - WITHOUT_TABLES))
def test_a_snapshot_stays_as_the_data_moves(layer: str, later: str) -> None:
    layered = Layered(layer)
    layered.write(*(("put", key(number), b"oldest") for number in NUMBERS))
    layered.delete_range(key(10), key(20))
    layered.write(*(("put", key(number), b"old") for number in NUMBERS if number % 2))
    layered.delete(key(31))
    db, model = layered.db, layered.model
    with db.snapshot() as snapshot:
        meddle(db)
        LATER[later](db)
        assert list(snapshot.scan()) == model.scan()
        assert list(snapshot.scan(reverse=True)) == model.scan(reverse=True)
        assert snapshot.multi_get([key(n) for n in NUMBERS]) == [model.get(key(n)) for n in NUMBERS]
        assert [snapshot.get(key(n)) for n in NUMBERS] == [model.get(key(n)) for n in NUMBERS]
        arguments: dict[str, Any] = {"prefix": b"00", "limit": 30, "reverse": True}
        assert list(snapshot.scan(**arguments)) == model.scan(**arguments)
        keys = list(snapshot.scan(key(5), key(25), keys_only=True))
        assert keys == [found for found, _ in model.scan(key(5), key(25))]


def test_many_snapshots_at_once(db: DB) -> None:
    snapshots = []
    for number in range(20):
        db.put(b"a", b"%d" % number)
        db.put(b"b%d" % number, b"")
        snapshots.append(db.snapshot())
        if number % 5 == 4:
            db.flush()
    for number, snapshot in enumerate(snapshots):
        assert snapshot.get(b"a") == b"%d" % number
        assert len(list(snapshot.scan(prefix=b"b"))) == number + 1
        snapshot.close()


def test_a_snapshot_of_nothing(db: DB) -> None:
    with db.snapshot() as snapshot:
        db.put(b"a", b"1")
        assert (snapshot.seq, snapshot.get(b"a"), list(snapshot.scan())) == (0, None, [])


def test_a_closed_snapshot_refuses(db: DB) -> None:
    db.put(b"a", b"1")
    snapshot = db.snapshot()
    snapshot.close()
    snapshot.close()
    for call in (
        lambda: snapshot.get(b"a"),
        lambda: snapshot.multi_get([b"a"]),
        snapshot.scan,
    ):
        with pytest.raises(ClosedError, match="snapshot is closed"):
            call()
    assert snapshot.seq == 1


def test_a_snapshot_of_a_closed_database_refuses(open_db: OpenDB) -> None:
    db = open_db()
    db.put(b"a", b"1")
    snapshot = db.snapshot()
    db.close()
    for call in (lambda: snapshot.get(b"a"), lambda: list(snapshot.scan())):
        with pytest.raises(ClosedError, match="database is closed"):
            call()
    snapshot.close()


def test_bad_arguments_of_a_snapshot(db: DB) -> None:
    with db.snapshot() as snapshot:
        for call in (
            lambda: snapshot.get(b""),
            lambda: snapshot.get("a"),  # type: ignore[arg-type]
            lambda: snapshot.multi_get([b"a", b""]),
            lambda: snapshot.scan(b"b", b"a"),
            lambda: snapshot.scan(limit=-1),
        ):
            with pytest.raises(InvalidRequestError):
                call()


def test_a_snapshot_while_others_write(db: DB) -> None:
    """Each commit sets all keys to one value: a snapshot that shows two is torn."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with db.batch(durability="memory") as batch:
                for each in range(20):
                    batch.put(key(each), b"%d" % number)
                if number % 3 == 0:
                    batch.delete_range(key(5), key(15))
                    batch.put(key(9), b"%d" % number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(150):
            with db.snapshot() as snapshot:
                first, again = dict(snapshot.scan()), dict(snapshot.scan(reverse=True))
                assert first == again
                assert len(set(first.values())) <= 1
                assert len(first) in (0, 11, 20)
                assert snapshot.multi_get(list(first)) == list(first.values())
    finally:
        stop.set()
        writer.join()


def test_a_snapshot_keeps_its_tables_from_the_collector() -> None:
    world = World(memtable_capacity=1 << 20)
    db = world.open()
    fill(db, b"old")
    db.flush()
    with db.snapshot() as snapshot:
        fill(db, b"new")
        db.compact()
        old = {info.name for info in world.bucket.list("tables/")}
        for _ in range(3):
            world.clock.advance(1000)
            fill(db, b"newer")
            db.compact()
        assert list(snapshot.scan()) == [(key(n), b"old") for n in NUMBERS]
        kept = old & {info.name for info in world.bucket.list("tables/")}
        assert len(kept) == 1
    world.clock.advance(1000)
    fill(db, b"newest")
    db.compact()
    assert not kept & {info.name for info in world.bucket.list("tables/")}
