"""PB-13. The wall clock of the writer is wrong for a while, and then right again: nothing that was
to stay goes, and nothing that was gone comes back."""

from __future__ import annotations

import pytest

from seerdb.storage.retention.outputs import GRACE_SECONDS
from seerdb.storage.wal.segments import segment_path
from tests.fixtures.backups import content, restore
from tests.fixtures.database import ROOMY, WAL, World, collect_garbage, fill

YEARS = 10 * 365 * 24 * 3600.0
RETENTION = 4 * 3600.0


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("step", [YEARS, -YEARS])
def test_the_past_stays_as_long_as_it_would_have_without_the_step(
    step: float, *, writes: bool
) -> None:
    """The collector took all that was older than the retention by that clock."""
    world = World(history_retention=RETENTION)
    db = world.open()
    states = {}
    for number in range(6):
        world.clock.advance(2 * GRACE_SECONDS)
        fill(db, 20, start=10 * number)
        db.put(b"n", b"%d" % number, durability="object")
        states[db.visible_seq] = dict(db.scan())
        db.compact()
    right = world.clock.now()
    world.clock.set_now(right + step)
    if writes:
        fill(db, 20)
        db.flush()
    db._engine.background.garbage.wake()
    world.clock.set_now(right)
    for seq, state in states.items():
        _, bucket = restore(world, world.bucket, seq=seq)  # goes by no clock
        assert content(world, bucket) == state


def test_what_a_step_kept_goes_once_the_time_has_passed() -> None:
    world = World()
    db = world.open()
    fill(db, 60)
    db.flush()
    old = {info.name for info in world.bucket.list("tables/")}
    db.compact()
    world.clock.set_now(world.clock.now() - YEARS)
    collect_garbage(world, db)
    world.clock.set_now(world.clock.now() + YEARS)
    collect_garbage(world, db)
    assert not old & {info.name for info in world.bucket.list("tables/")}


def test_what_a_former_life_removed_stays_until_the_grace_period_has_really_passed() -> None:
    """Replicas still read it."""
    world = World()
    db = world.open()
    fill(db, 60)
    db.flush()
    old = {info.name for info in world.bucket.list("tables/")}
    db.compact()
    world = world.kill()
    db = world.open()
    world.clock.set_now(world.clock.now() + YEARS)
    for collected in (False, True):
        db._engine.background.garbage.wake()
        assert collected == (not old & {info.name for info in world.bucket.list("tables/")})
        world.clock.advance(2 * GRACE_SECONDS)


def test_a_commit_after_a_crash_is_later_than_those_before_it() -> None:
    """Whatever the clock of the machine shows then; restores to a time go by it."""
    world = World()
    db = world.open()
    world.clock.advance(1000)
    db.put(b"a", b"1")
    before = db._engine.opened.clock.committed_us
    after = world.kill()
    after.clock.set_now(after.clock.now() - 500)
    again = after.open()
    again.put(b"b", b"2")
    assert again._engine.opened.clock.committed_us >= before


def test_a_commit_after_a_salvage_is_later_than_those_that_were_saved() -> None:
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    world.clock.advance(1000)
    fill(db, 4)
    before = db._engine.opened.clock.committed_us
    after = world.kill()
    file = after.files.open(segment_path(WAL, 1))
    file.write_at(4096 + 30, b"\xff")
    after.clock.set_now(after.clock.now() - 500)
    again = after.open(recovery="salvage")
    assert again.statistics().recovery.damaged
    assert again._engine.opened.clock.committed_us >= before
