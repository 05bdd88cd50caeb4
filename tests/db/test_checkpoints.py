"""Checkpoints of a database: what they show, what they keep, and who may call them what."""

from __future__ import annotations

import pytest

from seerdb import DB
from seerdb.errors import AlreadyExistsError, ClosedError, InvalidRequestError, NotFoundError
from seerdb.events import WorkFailed
from seerdb.storage.object_store.names import CHECKPOINT_PREFIX, HOLD_PREFIX
from seerdb.storage.retention.kept import list_checkpoints
from seerdb.storage.verify import VerifyReport, verify_database
from tests.fixtures.database import World, collect_garbage, fill


def kept_objects_are_there(world: World) -> bool:
    names = {info.name for info in world.bucket.list("")}
    return all(kept.objects <= names for _, kept in list_checkpoints(world.bucket))


def test_a_checkpoint_tells_what_it_shows() -> None:
    world = World()
    with world.open() as db:
        seq = db.put(b"a", b"1")
        made = db.checkpoint("first")
        assert (made.name, made.seq, made.expires) == ("first", seq, None)
        assert made.time == world.clock.now()
        assert made.number == db._engine.manifest.state.number
        expiring = db.checkpoint("second", expires=60.0)
        assert expiring.expires == world.clock.now() + 60.0
        assert db.checkpoints() == [made, expiring]
    with world.open() as db:
        assert db.checkpoints() == [made, expiring]
    assert world.bucket.list(HOLD_PREFIX) == []


def test_a_checkpoint_needs_no_name_of_its_own() -> None:
    with World().open() as db:
        seq = db.put(b"a", b"1")
        assert db.checkpoint().name == f"20231114T221320Z-{seq}"


def test_without_a_flush_a_checkpoint_shows_what_tables_hold() -> None:
    with World(memtable_capacity=1 << 20, wal_segment_size=64 << 10).open() as db:
        seq = db.put(b"a", b"1")
        db.flush()
        db.put(b"b", b"1")
        tables = db.statistics().values["tables"]
        assert db.checkpoint(flush=False).seq == seq
        assert db.statistics().values["tables"] == tables


def test_what_a_checkpoint_shows_outlives_compactions_and_collections_until_it_is_dropped() -> None:
    """PB-12."""
    world = World()
    with world.open() as db:
        fill(db, 30)
        db.checkpoint("kept")
        [(_, kept)] = list_checkpoints(world.bucket)
        for _ in range(2):
            fill(db, 30)
            db.compact()
            collect_garbage(world, db)
        assert kept_objects_are_there(world)
        db.drop_checkpoint("kept")
        assert db.checkpoints() == []
        collect_garbage(world, db)
        assert not kept.objects & {info.name for info in world.bucket.list("")}


def test_a_name_is_taken_until_its_checkpoint_is_dropped() -> None:
    with World().open() as db:
        db.put(b"a", b"1")
        db.checkpoint("name")
        with pytest.raises(AlreadyExistsError, match="'name'"):
            db.checkpoint("name")
        db.drop_checkpoint("name")
        with pytest.raises(NotFoundError, match="'name'"):
            db.drop_checkpoint("name")
        db.checkpoint("name")


def test_a_put_that_was_not_heard_of_is_no_other_checkpoint() -> None:
    world = World()
    with world.open() as db:
        db.put(b"a", b"1")
        world.store.time_out_after("put_if_absent", match=CHECKPOINT_PREFIX)
        made = db.checkpoint("name")
        assert db.checkpoints() == [made]


def test_a_checkpoint_is_made_though_the_bucket_denies_letting_go_of_its_hold() -> None:
    world = World()
    with world.open() as db:
        world.store.fail("delete", match=HOLD_PREFIX, times=1 << 20)
        db.put(b"k", b"v")
        made = db.checkpoint("one")
        world.clock.advance(10.0)
        assert db.checkpoints() == [made]
        [told] = [event.error for event in world.events if isinstance(event, WorkFailed)]
        assert told.startswith("the hold is left in the bucket")
        assert len(world.bucket.list(HOLD_PREFIX)) == 1


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "-x", "ä", "x" * 129, 7, b"x"])
def test_names_that_no_checkpoint_may_have(name: str) -> None:
    with World().open() as db:
        with pytest.raises(InvalidRequestError, match="name"):
            db.checkpoint(name)
        with pytest.raises(InvalidRequestError, match="name"):
            db.drop_checkpoint(name)


@pytest.mark.parametrize("expires", [0, -1, float("nan"), float("inf"), True, "1 day"])
def test_lifetimes_that_no_checkpoint_may_have(expires: float) -> None:
    with World().open() as db, pytest.raises(InvalidRequestError, match="expires"):
        db.checkpoint("name", expires)


def test_a_name_is_not_the_beginning_of_another() -> None:
    with World().open() as db:
        db.checkpoint("name-1")
        with pytest.raises(NotFoundError):
            db.drop_checkpoint("name")


def test_a_closed_database_has_no_checkpoints() -> None:
    db: DB = World().open()
    db.close()
    with pytest.raises(ClosedError):
        db.checkpoint()
    with pytest.raises(ClosedError):
        db.checkpoints()
    with pytest.raises(ClosedError):
        db.drop_checkpoint("name")


def test_a_checkpoint_that_is_damaged_or_not_all_there_is_found() -> None:
    world = World()
    with world.open() as db:
        fill(db, 30)
        for name in ("lacking", "damaged", "sound"):
            db.checkpoint(name)
        db.compact()
    assert verified(world) == []
    kept = {info.name: each for info, each in list_checkpoints(world.bucket)}
    gone = min(kept["checkpoints/sound"].objects)
    world.bucket.put("checkpoints/damaged", b"SeerKept")
    with world.open() as db:
        db.drop_checkpoint("sound")
    world.bucket.delete([gone])
    [damaged, lacking] = verified(world)
    assert damaged.startswith("checkpoints/damaged: cut off")
    assert lacking == f"checkpoints/lacking: it names {gone}, which is gone"


def verified(world: World) -> list[str]:
    report = VerifyReport()
    verify_database(world.bucket, report)
    return report.problems
