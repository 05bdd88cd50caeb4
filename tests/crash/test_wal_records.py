"""Single records of the log: cut, damaged, synced or not."""

from __future__ import annotations

import random

import pytest

from seerdb import DB, ChecksumError
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.storage.wal.segments import list_segments, segment_path
from tests.fixtures.database import ROOMY, WAL, World


def log_path(world: World) -> str:
    [segment] = list_segments(world.files, WAL)
    return segment_path(WAL, segment)


def writes(world: World) -> list[tuple[int, int]]:
    """Offset and length of every frame, from the trace of the disk."""
    frames = []
    for operation in world.files.trace:
        verb, *words = operation.split(" ")
        if verb == "write":
            offset, length = map(int, words[1].split("+"))
            if offset >= HEADER_SIZE and length < 8192:
                frames.append((offset, length))
    return frames


def damage(world: World, offset: int) -> None:
    file = world.files.open(log_path(world))
    file.write_at(offset, bytes([file.read_at(offset, 1)[0] ^ 0x10]))


def cut(world: World, size: int) -> None:
    world.files.open(log_path(world)).truncate(size)


def test_partial_wal_record_crash() -> None:
    """A record cut anywhere is skipped, all before it stays, and what is appended after the
    recovery survives the next one."""
    world = World(**ROOMY, takes_tables=False)
    db = world.open()
    for number in range(6):
        db.put(b"k%d" % number, b"v%d" % number)
    offset, length = writes(world)[-1]
    for size in range(offset, offset + length):
        torn = world.kill()
        cut(torn, size)
        recovered = torn.open()
        assert dict(recovered.scan()) == {b"k%d" % n: b"v%d" % n for n in range(5)}
        assert recovered.statistics().recovery.damaged == []
        recovered.put(b"after", b"1")
        again = torn.lose_power(size).open()
        assert dict(again.scan()) == dict(recovered.scan())


def test_wal_record_crc_corruption() -> None:
    """A record with a wrong checksum before the end is refused, by name and offset."""
    world = World(**ROOMY)
    db = world.open()
    for number in range(6):
        db.put(b"k%d" % number, b"v%d" % number)
    offset, length = writes(world)[2]
    for position in range(offset, offset + length):
        damaged = world.kill()
        damage(damaged, position)
        with pytest.raises(ChecksumError) as caught:
            damaged.open()
        assert caught.value.name == log_path(damaged)
        assert offset <= (caught.value.offset or 0) <= position
        assert "salvage" in str(caught.value)


def test_wal_batch_partial_write() -> None:
    """A batch of ten cut anywhere yields none of it; ten records cut after the fifth, five."""
    batched, single = World(**ROOMY), World(**ROOMY)
    one, ten = batched.open(), single.open()
    one.put(b"before", b"")
    with one.batch() as batch:
        for number in range(10):
            batch.put(b"k%d" % number, b"v%d" % number)
    for number in range(10):
        ten.put(b"k%d" % number, b"v%d" % number)
    offset, length = writes(batched)[-1]
    for size in range(offset, offset + length):
        torn = batched.kill()
        cut(torn, size)
        assert list(torn.open().scan()) == [(b"before", b"")]
    whole = batched.kill()
    cut(whole, offset + length)
    assert len(list(whole.open().scan())) == 11
    fifth, length = writes(single)[4]
    cut(single, fifth + length)
    kept = dict(single.kill().open().scan())
    assert kept == {b"k%d" % number: b"v%d" % number for number in range(5)}


LEVELS = ["memory", "interval", "local", "object"]


def written(level: str, sync: str) -> tuple[World, DB]:
    world = World(sync=sync, **ROOMY)
    db = world.open()
    db.put(b"first", b"0")
    for number in range(5):
        db.put(b"k%d" % number, b"v", durability=level)
    return world, db


@pytest.mark.parametrize("sync", ["data", "full"])
@pytest.mark.parametrize("level", LEVELS)
def test_wal_sync_policy_guarantees(level: str, sync: str) -> None:
    """PB-07. Every level survives the death of the process; from ``local`` on also a power loss;
    and ``object`` the loss of the machine."""
    world, db = written(level, sync)
    expected = dict(db.scan())
    db._engine.runtime.close()
    assert dict(world.kill().open().scan()) == expected
    for seed in range(20):
        survived = dict(world.lose_power(seed).open().scan())
        assert survived.items() <= expected.items()
        if level in {"local", "object"}:
            assert survived == expected
        assert survived[b"first"] == b"0"
    elsewhere = dict(world.lose_machine().open().scan())
    assert elsewhere == (expected if level == "object" else {})


def test_level_memory_really_syncs_nothing() -> None:
    lost = {
        len(dict(written("memory", "data")[0].lose_power(seed).open().scan())) for seed in range(20)
    }
    assert min(lost) < 6, "or the level above would be tested by accident"


def test_a_synced_write_makes_those_before_it_durable() -> None:
    world = World(**ROOMY)
    db = world.open()
    for number in range(5):
        db.put(b"k%d" % number, b"v", durability="memory")
    db.put(b"last", b"v", durability="local")
    for seed in range(20):
        assert dict(world.lose_power(seed).open().scan()) == dict(db.scan())


def test_garbage_behind_the_end_of_the_log_is_no_record() -> None:
    world = World(**ROOMY)
    db = world.open()
    db.put(b"k", b"v")
    offset, length = writes(world)[-1]
    noise = random.Random(1).randbytes(4096)
    for start in range(offset + length, offset + length + 64):
        torn = world.kill()
        torn.files.open(log_path(torn)).write_at(start, noise)
        assert dict(torn.open().scan()) == {b"k": b"v"}
