"""Two ways that must lead to the same: what the one says is the test of the other."""

from __future__ import annotations

import random

import pytest

from seerdb import DB
from tests.db.layers import LAYERS, WITHOUT_TABLES, Layered
from tests.fixtures.database import World

ROWS = {b"%03d" % number: b"v%d" % (number * number) for number in range(60)}


def everything(db: DB) -> tuple[object, ...]:
    """All that reads say, but for seqs."""
    return list(db.scan()), list(db.scan(reverse=True)), db.multi_get(list(ROWS))


@pytest.mark.parametrize("layer", LAYERS)
def test_all_that_was_put_and_deleted_is_nothing(layer: str) -> None:
    layered = Layered(layer)
    for start in range(0, 60, 10):
        layered.write(*(("put", key, ROWS[key]) for key in list(ROWS)[start : start + 10]))
    layered.delete_range(b"000", b"045")
    for key in list(ROWS)[40:]:
        layered.delete(key)
    empty = everything(World().open())
    assert everything(layered.db) == empty
    assert everything(layered.world.kill().open()) == empty
    if layer not in WITHOUT_TABLES:
        layered.db.compact()
        assert everything(layered.db) == empty
        assert layered.db.statistics().tables == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_the_order_of_puts_of_different_keys_does_not_matter(layer: str) -> None:
    found = []
    for seed in range(3):
        layered = Layered(layer)
        keys = list(ROWS)
        random.Random(seed).shuffle(keys)
        for start in range(0, 60, 12):
            layered.write(*(("put", key, ROWS[key]) for key in keys[start : start + 12]))
        found.append(everything(layered.db))
    assert found == [found[0]] * 3
    assert found[0][0] == sorted(ROWS.items())


@pytest.mark.parametrize("again", ["flush", "compact"])
def test_what_is_done_again_changes_nothing(again: str) -> None:
    world = World()
    db = world.open()
    for number, (key, value) in enumerate(ROWS.items()):
        db.put(key, value)
        if number % 20 == 7:
            db.delete_range(b"00", b"005")
            db.flush()
    getattr(db, again)()
    before = everything(db)
    version, requests = db._engine.manifest.state.version, len(world.store.trace)
    for _ in range(3):
        getattr(db, again)()
    assert (db._engine.manifest.state.version, everything(db)) == (version, before)
    changes = {"put", "put_if_absent", "delete"}
    assert not [op for op in world.store.trace[requests:] if op.operation in changes]


def test_one_batch_one_by_one_and_an_ingest_show_the_same() -> None:
    databases = [World().open() for _ in range(3)]
    with databases[0].batch() as batch:
        for key, value in ROWS.items():
            batch.put(key, value)
    for key, value in ROWS.items():
        databases[1].put(key, value)
    databases[2].ingest(ROWS.items())
    found = [everything(db) for db in databases]
    assert found == [found[0]] * 3
    for db in databases:
        db.compact()
    assert [everything(db) for db in databases] == found


def test_the_parts_of_a_scan_are_the_whole() -> None:
    layered = Layered("all layers")
    for key, value in ROWS.items():
        layered.put(key, value)
    layered.delete_range(b"020", b"030")
    whole = list(layered.db.scan())
    for cut in [b"0", b"0199", b"02", b"025", b"030", b"0599", b"9"]:
        left, right = layered.db.scan(end=cut), layered.db.scan(cut)
        assert [*left, *right] == whole
        left, right = layered.db.scan(end=cut, reverse=True), layered.db.scan(cut, reverse=True)
        assert [*right, *left] == whole[::-1]
