"""A death at every operation while checkpoints come and go and garbage is collected: one that is
there is complete, and nothing is left for good."""

from __future__ import annotations

import pytest

from seerdb import DB
from seerdb.storage.retention.checkpoints import HOLD_SECONDS
from seerdb.storage.retention.kept import list_checkpoints, list_kept
from seerdb.testing.crash import CrashError
from tests.fixtures.database import CrashPoint, World, collect_garbage, fill

pytestmark = pytest.mark.crash


def run(world: World) -> list[str]:
    """Checkpoints, dropped ones and collections; returns the names that must be there."""
    acknowledged: list[str] = []
    try:
        db = world.open()
        for name in ("a", "b"):
            fill(db, 20)
            db.checkpoint(name)
            acknowledged.append(name)
            fill(db, 20)
            db.compact()
            collect_garbage(world, db)
        acknowledged.remove("a")
        db.drop_checkpoint("a")
        collect_garbage(world, db)
        db.close()
    except CrashError:
        pass
    return acknowledged


def check_complete(world: World) -> None:
    names = {info.name for info in world.bucket.list("")}
    for info, kept in list_checkpoints(world.bucket):
        assert kept.objects <= names, f"{info.name} is not complete"


def check_collected(world: World, db: DB) -> None:
    """What nobody keeps any more goes in the end, the holds of the dead among it."""
    world.clock.advance(HOLD_SECONDS)
    for _ in range(3):
        fill(db, 20)
        db.compact()
        collect_garbage(world, db)
    names = {info.name for info in world.bucket.list("tables/")}
    kept = list_kept(world.bucket)
    needed = {name for _, each in kept for name in each.objects}
    needed |= {name for each in db._engine.manifest.state.version.tables for name in each.objects}
    assert all(each.name for _, each in kept), "a hold outlived its owner for good"
    assert names == needed


def settings() -> World:
    return World()


def points() -> list[CrashPoint]:
    world = settings()
    run(world)
    return [point for point in world.crash_points() if point.device == "bucket"]


def test_a_death_at_any_request_leaves_only_complete_checkpoints() -> None:
    for point in points():
        world = settings()
        world.crash_at(point)
        acknowledged = run(world)
        after = world.kill()
        check_complete(after)
        db = after.open()
        there = {each.name for each in db.checkpoints()}
        assert set(acknowledged) <= there <= {*acknowledged, "a", "b"}, point
        fill(db, 20)
        db.compact()
        collect_garbage(after, db)
        check_complete(after)
        check_collected(after, db)
        db.close()
