"""Sequence numbers after a crash: what is written then hides everything from before."""

from __future__ import annotations

import pytest

from tests.fixtures.database import ROOMY, World

CRASHES = pytest.mark.parametrize("crash", ["kill", "lose_power"])


def after(world: World, crash: str) -> World:
    return world.kill() if crash == "kill" else world.lose_power(1)


@CRASHES
def test_overwrite_after_crash_shadows_old(crash: str) -> None:
    world = World()
    world.open().put(b"k", b"old")
    db = after(world, crash).open()
    db.put(b"k", b"new")
    assert db.get(b"k") == b"new"


@CRASHES
def test_delete_after_crash_hides_old_put(crash: str) -> None:
    world = World()
    world.open().put(b"k", b"v")
    db = after(world, crash).open()
    db.delete(b"k")
    assert db.get(b"k") is None
    assert list(db.scan()) == []


@CRASHES
def test_range_delete_after_crash_hides_old_puts(crash: str) -> None:
    world = World()
    old = world.open()
    for number in range(10):
        old.put(b"key_%02d" % number, b"val_%02d" % number)
    db = after(world, crash).open()
    db.delete_range(b"key_03", b"key_07")
    left = [number for number in range(10) if not 3 <= number < 7]
    assert list(db.scan()) == [(b"key_%02d" % n, b"val_%02d" % n) for n in left]
    assert [db.get(b"key_%02d" % n) is not None for n in range(10)] == [
        n in left for n in range(10)
    ]


@CRASHES
def test_lsn_continuity_across_crash_cycles(crash: str) -> None:
    world = World()
    seqs = []
    for number in range(1, 5):
        seqs.append(world.open().put(b"k", b"v%d" % number))
        world = after(world, crash)
    assert seqs == sorted(set(seqs))
    assert world.open().get(b"k") == b"v4"


@CRASHES
def test_overwrite_after_crash_shadows_sstable(crash: str) -> None:
    world = World()
    old = world.open()
    for number in range(30):
        old.put(b"key_%04d" % number, b"old_%04d" % number)
    old.flush()
    old.put(b"key_0010", b"pre-crash")
    db = after(world, crash).open()
    db.put(b"key_0010", b"post-crash")
    assert dict(db.scan(b"key_", b"key_\xff"))[b"key_0010"] == b"post-crash"
    assert db.get(b"key_0010") == b"post-crash"


@CRASHES
def test_post_crash_lsn_strictly_higher(crash: str) -> None:
    world = World()
    old = world.open()
    before = [old.put(key, b"v1") for key in (b"a", b"b", b"c")]
    db = after(world, crash).open()
    assert db.visible_seq == max(before)
    assert db.put(b"b", b"v2") > max(before)
    assert db.multi_get([b"a", b"b", b"c"]) == [b"v1", b"v2", b"v1"]


@CRASHES
def test_lsn_across_crash_cycles_with_flush(crash: str) -> None:
    world = World()
    for cycle in range(1, 3):
        db = world.open()
        db.put(b"k", b"table-%d" % cycle)
        for number in range(20):
            db.put(b"pad_%04d" % (20 * cycle + number), b"x" * 64)
        db.flush()
        world = after(world, crash)
    world.open().put(b"k", b"memtable-3")
    db = after(world, crash).open()
    assert db.get(b"k") == b"memtable-3"
    assert dict(db.scan())[b"k"] == b"memtable-3"


def test_seqs_of_a_table_count_even_if_the_log_is_gone() -> None:
    world = World()
    old = world.open()
    last = [old.put(b"k", b"%d" % number) for number in range(5)][-1]
    old.flush()
    db = world.lose_machine().open()
    assert db.put(b"k", b"new") > last
    assert db.get(b"k") == b"new"


def test_seqs_of_the_shipped_log_count_even_if_the_log_is_gone() -> None:
    world = World(**ROOMY)
    last = world.open().put(b"k", b"old", durability="object")
    db = world.lose_machine().open()
    assert db.get(b"k") == b"old"
    assert db.put(b"k", b"new") > last
    assert db.get(b"k") == b"new"


@pytest.mark.parametrize("flushed", [False, True])
def test_timestamps_never_go_back_though_the_clock_does(*, flushed: bool) -> None:
    """The newest is the one in the log, where the manifest is older, or that of the manifest."""
    world = World()
    db = world.open()
    world.clock.set_now(1_800_000_000.0)
    db.put(b"k", b"1")
    if flushed:
        db.flush()
    following = world.kill()
    following.clock.set_now(1_000_000_000.0)
    db = following.open()
    assert db._engine.opened.clock.committed_us >= 1_800_000_000_000_000
    for level in ("memory", "local"):
        reached = db._engine.opened.clock.committed_us
        db.put(b"k", b"2", durability=level)
        assert db._engine.opened.clock.committed_us >= reached
    db.close()
    assert following.open().get(b"k") == b"2"
