"""Blobs that are gone, cut, changed or exchanged: a clear error, never another value."""

from __future__ import annotations

import random

import pytest

from seerdb import DB, ChecksumError, CorruptionError, TruncatedError, UnavailableError
from seerdb.events import FlushCompleted, WorkFailed
from seerdb.storage.object_store.names import BLOB_PREFIX
from tests.fixtures.database import ROOMY, World

pytestmark = pytest.mark.crash

SIZE = 500
ROWS = {b"%02d" % number: random.Random(number).randbytes(SIZE) for number in range(6)}
SMALL = {b"small": b"1", b"zero": b""}


def filled() -> tuple[World, DB, str]:
    """A world whose only blob, which is named, has all of ``ROWS``."""
    world = World(blob_threshold=100, **ROOMY)
    db = world.open()
    for key, value in (ROWS | SMALL).items():
        db.put(key, value)
    db.flush()
    [blob] = world.bucket.list(BLOB_PREFIX)
    return world, db, blob.name


def replace_blob(world: World, name: str, data: bytes) -> None:
    world.bucket.put(name, data)


def check_reads(db: DB, damaged: set[bytes], error: type[Exception]) -> None:
    """Reads of damaged values fail, and all others go on."""
    for key, value in (ROWS | SMALL).items():
        if key in damaged:
            with pytest.raises(error):
                db.get(key)
            with pytest.raises(error):
                db.multi_get([b"small", key])
        else:
            assert db.get(key) == value
    if damaged:
        with pytest.raises(error):
            list(db.scan())
    assert list(db.scan(keys_only=True)) == sorted(ROWS | SMALL)
    assert dict(db.scan(b"small")) == SMALL


def test_a_blob_that_is_gone() -> None:
    world, db, name = filled()
    world.bucket.delete([name])
    check_reads(db, set(ROWS), CorruptionError)
    [problem] = db.verify().problems
    assert name in problem
    assert "gone" in problem


@pytest.mark.parametrize("kept", [0, 1, SIZE, 3 * SIZE, 6 * SIZE + 53])
def test_a_blob_that_is_cut(kept: int) -> None:
    world, db, name = filled()
    replace_blob(world, name, world.bucket.get(name)[:kept])
    whole = kept // (SIZE + 9)
    check_reads(db, set(list(ROWS)[whole:]), TruncatedError)
    [problem] = db.verify().problems
    assert name in problem


def test_every_byte_that_is_changed_is_found() -> None:
    """SB-37: reading a value by its pointer checked nothing."""
    world, db, name = filled()
    sound = world.bucket.get(name)
    for position in range(0, len(sound), 7):
        damaged = bytearray(sound)
        damaged[position] ^= 0x10
        replace_blob(world, name, bytes(damaged))
        number = position // (SIZE + 9)
        if number < len(ROWS):
            with pytest.raises(CorruptionError):
                db.get(b"%02d" % number)
        [problem] = db.verify().problems
        assert name in problem


def test_another_blob_under_the_name_is_never_served() -> None:
    """One that is sound in itself, as a store with mixed up names might return it."""
    world, db, name = filled()
    twin, other, _ = filled()
    for key in ROWS:
        other.put(key, ROWS[key][::-1])
    other.flush()
    [_, exchanged] = twin.bucket.list(BLOB_PREFIX)
    replace_blob(world, name, twin.bucket.get(exchanged.name))
    check_reads(db, set(ROWS), ChecksumError)
    assert db.verify().problems


def test_a_compaction_of_a_damaged_blob_fails_and_changes_nothing() -> None:
    world, db, name = filled()
    for key in list(ROWS)[:5]:
        db.delete(key)
    db.flush()
    sound = world.bucket.get(name)
    damaged = bytearray(sound)
    damaged[5 * (SIZE + 9) + 100] ^= 1
    replace_blob(world, name, bytes(damaged))
    db.compact()
    lane = db._engine.background.compaction
    assert isinstance(lane.error, CorruptionError), "the value that is left could not be moved"
    assert dict(db.scan(b"small")) == SMALL
    assert db.statistics().blobs.values == 1
    replace_blob(world, name, sound)
    db.compact()
    assert lane.error is None
    assert dict(db.scan()) == {b"05": ROWS[b"05"], **SMALL}
    assert db.verify().problems == []


def test_nothing_is_collected_while_a_blob_is_missing() -> None:
    world, db, name = filled()
    sound = world.bucket.get(name)
    db.put(b"more", b"m" * 300)
    db.compact()
    world.bucket.delete([name])
    world.clock.advance(10_000)
    before = world.bucket.list("")
    db._engine.background.garbage.wake()
    assert "missing" in str(db._engine.background.garbage.error)
    assert world.bucket.list("") == before
    replace_blob(world, name, sound)
    db._engine.background.garbage.wake()
    assert len(world.bucket.list("tables/")) == 1


def test_a_bucket_that_is_away_says_so() -> None:
    world, db, _ = filled()
    world.store.fail("get_range", match=BLOB_PREFIX, times=50, error=UnavailableError("planned"))
    with pytest.raises(UnavailableError):
        db.get(b"01")
    world.clock.advance(1000)
    world.store.fail("get_range", match=BLOB_PREFIX, times=0)
    assert db.get(b"small") == b"1"


@pytest.mark.parametrize("operation", ["put", "get"])
def test_a_blob_that_was_not_stored_as_it_was_sent_is_made_again(operation: str) -> None:
    world = World(blob_threshold=100, **ROOMY)
    db = world.open()
    for key, value in ROWS.items():
        db.put(key, value)
    if operation == "get":
        world.store.corrupt("get", match=BLOB_PREFIX)
    else:
        world.store.fail("put", match=BLOB_PREFIX, error=ChecksumError("planned"))
    db.flush()
    events = [
        type(event) for event in world.events if isinstance(event, WorkFailed | FlushCompleted)
    ]
    assert events == [WorkFailed, FlushCompleted]
    assert dict(world.lose_machine().open().scan()) == ROWS
    assert db.verify().problems == []
