"""What becomes of the shipped log: collected once tables hold it, and never missed (I4, I8)."""

from __future__ import annotations

import pytest

from seerdb import DB, FencedError
from seerdb.events import GarbageCollected
from seerdb.storage.engine import assembly
from tests.crash.test_two_writers import truth
from tests.crash.trace import Run, Step, Verb, check_recovery, put
from tests.fixtures.database import ROOMY, World, collect_garbage

pytestmark = pytest.mark.crash

STEPS: tuple[Step, ...] = (
    put(b"a", b"1", "object"),
    put(b"b", b"1", "object"),
    Verb("flush"),
    Verb("wait"),
    put(b"a", b"2", "object"),
    put(b"c", b"1"),
    Verb("flush"),
    put(b"b", b"2", "object"),
    Verb("reopen"),
    put(b"d", b"1", "object"),
    Verb("wait"),
    Verb("flush"),
    put(b"a", b"3", "object"),
    put(b"d", b"2"),
)


@pytest.fixture(autouse=True)
def every_life_collects(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as can be; see ``garbage.COLLECT_EVERY``."""
    monkeypatch.setattr(assembly, "COLLECT_EVERY", 1)


def shipped(world: World) -> list[str]:
    return [info.name for info in world.bucket.list("wal/")]


def filled(world: World) -> list[str]:
    """Those that hold records, and do not begin a branch."""
    return [info.name for info in world.bucket.list("wal/") if info.size]


def collected(world: World) -> list[str]:
    """What was deleted of the shipped log."""
    events = [event for event in world.events if isinstance(event, GarbageCollected)]
    return [name for event in events for name in event.deleted if name.startswith("wal/")]


def collect(world: World, db: DB) -> None:
    """Bring everything into tables and let the collector look when all of it is old."""
    db.flush()
    world.clock.advance(1000.0)
    db.put(b"z", b"", durability="memory")
    db.flush()


def test_it_goes_once_tables_hold_it() -> None:
    world = World(**ROOMY)
    Run(world).execute(STEPS)
    puts = [each for each in world.store.trace if each.operation == "put_if_absent"]
    names = [name for each in puts for name in each.names if name.startswith("wal/")]
    assert (names, len(names)) == (collected(world) + shipped(world), 6)
    assert len(shipped(world)) == 2, "what instants of the last minutes need stays"
    db = world.lose_machine().open()
    assert dict(db.scan()) == {b"a": b"3", b"b": b"2", b"c": b"1", b"d": b"2"}


def test_a_new_machine_finds_all_of_it_after_every_operation() -> None:
    undisturbed = World(**ROOMY)
    Run(undisturbed).execute(STEPS)
    for point in undisturbed.crash_points():
        world = World(**ROOMY)
        world.crash_at(point)
        run = Run(world).execute(STEPS)
        assert run.died
        check_recovery(world.lose_machine(), run.model, "object")


def test_what_no_table_holds_stays_however_old_it_is() -> None:
    world = World(**ROOMY)
    db = world.open()
    db.put(b"a", b"1", durability="object")
    db.flush()
    db.put(b"a", b"2", durability="object")
    collect_garbage(world, db)
    assert (len(collected(world)), len(shipped(world))) == (1, 1)
    assert truth(world) == {b"a": b"2"}


def test_what_an_earlier_life_has_shipped_goes_too() -> None:
    world = World(**ROOMY)
    world.open().put(b"a", b"1", durability="object")
    world = world.kill()
    db = world.open()
    assert len(shipped(world)) == 1
    collect(world, db)
    assert shipped(world) == []
    assert truth(world) == {b"a": b"1", b"z": b""}


def test_takeovers_do_not_make_the_bucket_grow_nor_bring_back_what_they_voided() -> None:
    """Each former owner ships once more when several others have come and collected."""
    world = World(**ROOMY)
    expected: dict[bytes, bytes] = {}
    former: list[DB] = []
    for number in range(6):
        db = world.open(f"owner{number}")
        db.put(b"%d" % number, b"1", durability="object")
        expected[b"%d" % number] = b"1"
        assert truth(world) == expected
        collect(world, db)
        expected[b"z"] = b""
        assert truth(world) == expected
        if number >= 3:
            late = former.pop(0)
            for _ in range(20):
                late.put(b"late", b"1")
            with pytest.raises(FencedError):
                late.put(b"late", b"2", durability="object")
            assert truth(world) == expected
            db.put(b"more", b"%d" % number, durability="object")
            expected[b"more"] = b"%d" % number
            assert truth(world) == expected
        former.append(db)
    assert len(filled(world)) <= 4, "what is late, and what is in no table yet"
    for _ in range(30):
        db.put(b"z", b"")
    collect(world, db)
    assert filled(world) == []
    assert len(shipped(world)) == 5, "an empty object for each takeover"
    assert truth(world) == expected


def test_with_a_damaged_manifest_it_stays() -> None:
    world = World(**ROOMY)
    db = world.open()
    db.put(b"a", b"1", durability="object")
    db.flush()
    before = shipped(world)
    world.clock.advance(1000.0)
    world.store.corrupt("get", match="manifest/", times=100)
    db._engine.background.garbage.wake()
    assert db._engine.background.garbage.error is not None
    assert shipped(world) == before != []


def test_what_a_cut_off_probe_left_behind_goes() -> None:
    world = World(**ROOMY)
    db = world.open()
    world.bucket.put("probe/0123456789abcdef", b"seerdb probe: first writer")
    collect(world, db)
    assert world.bucket.list("probe/") == []
