"""A takeover that dies at any of its operations: the next one loses nothing that was safe."""

from __future__ import annotations

import pytest

from seerdb import DB, FencedError, SeerDBError, Standby
from seerdb.standby import STANDBY_LEASE
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import Operation
from tests.fixtures.database import ROOMY, CrashPoint, World

pytestmark = pytest.mark.crash

SAFE = {b"a": b"1", b"b": b"2"}


def after_a_death() -> World:
    """A writer has died that shipped some of its log; its lease was just renewed."""
    world = World(**ROOMY, lease=STANDBY_LEASE)
    primary = world.open("primary")
    for key, value in SAFE.items():
        primary.put(key, value, durability="object")
    primary.flush()
    primary.put(b"b", b"2", durability="object")
    primary.put(b"lost", b"", durability="local")
    return world.kill()


def take_over(world: World, path: str, *, by_hand: bool = False) -> DB:
    waiting = Standby.open(path, components=world.components(world.settings), **world.settings)
    if by_hand:
        return waiting.take_over()
    for _ in range(100):
        db = waiting.look()
        if db is not None:
            return db
        world.clock.advance(waiting.next_look)
    raise AssertionError("nobody took over")


def live(world: World, *, by_hand: bool = False) -> dict[bytes, bytes]:
    """A standby takes over, writes and closes; what was acknowledged by then."""
    promised = dict(SAFE)
    try:
        db = take_over(world, "standby", by_hand=by_hand)
        for number in range(3):
            key = b"new%d" % number
            db.put(key, b"v", durability="object")
            promised[key] = b"v"
            world.clock.advance(STANDBY_LEASE / 3)
        db.close()
    except CrashError:
        pass
    return promised


def points(*, by_hand: bool = False) -> list[CrashPoint]:
    world = after_a_death()
    live(world, by_hand=by_hand)
    return world.crash_points()


@pytest.mark.parametrize("point", points(), ids=lambda point: f"{point.device}-{point.number}")
def test_the_next_standby_finds_all_that_was_in_the_bucket(point: CrashPoint) -> None:
    check_death(point, by_hand=False)


def test_so_it_does_after_a_promotion_by_hand() -> None:
    for point in points(by_hand=True):
        check_death(point, by_hand=True)


def check_death(point: CrashPoint, *, by_hand: bool) -> None:
    """Whoever takes over dies there: the next one has all that was promised."""
    world = after_a_death()
    world.crash_at(point)
    promised = live(world, by_hand=by_hand)
    for following in (world.lose_machine(), world.lose_power(1), world.kill()):
        path = "standby" if following.files.exists("standby") else "third"
        db = take_over(following, path)
        found = dict(db.scan())
        assert found.items() >= promised.items()
        assert b"lost" not in found
        assert db.verify().problems == []
        db.put(b"after", b"", durability="object")
        db.close()
        assert dict(following.lose_machine().open("fourth").scan()).keys() == {*found, b"after"}


def bucket_operations() -> list[Operation]:
    world = after_a_death()
    live(world)
    return list(world.store.trace)


@pytest.mark.parametrize("operation", bucket_operations(), ids=lambda each: str(each.number))
def test_a_request_that_happened_unheard_or_fails_once_stops_no_takeover(
    operation: Operation,
) -> None:
    for plan in ("time_out_after", "fail"):
        world = after_a_death()
        earlier = sum(
            each.operation == operation.operation
            for each in bucket_operations()[: operation.number - 1]
        )
        getattr(world.store, plan)(operation.operation, skip=earlier)
        waiting = Standby.open("s", components=world.components(world.settings), **world.settings)
        db = None
        for _ in range(100):
            try:
                db = waiting.look()
            except SeerDBError:
                db = None
            if db is not None:
                break
            world.clock.advance(max(waiting.next_look, 0.1))
        assert db is not None
        assert dict(db.scan()) == SAFE


def successor(world: World) -> World:
    """Another machine at the same bucket, at the same time."""
    return World(bucket=world.bucket, clock=world.clock, **ROOMY, lease=STANDBY_LEASE)


def test_the_former_writer_acknowledges_nothing_wherever_its_successor_died() -> None:
    died, number = True, 0
    while died:
        number += 1
        world = World(**ROOMY, lease=STANDBY_LEASE)
        primary = world.open("primary")
        primary.put(b"a", b"1", durability="object")
        other = successor(world)
        other.store.crash_at = number
        died = False
        world.clock.advance(STANDBY_LEASE)
        try:
            take_over(other, "standby")
        except CrashError:
            died = True
        claimed = any(
            each.operation == "put_if_absent" and each.names[0].startswith("manifest/")
            for each in other.store.trace[: number - 1]
        )
        if claimed:
            with pytest.raises(FencedError):
                primary.put(b"zombie", b"", durability="local")
        else:
            primary.put(b"alive", b"", durability="local")
    assert number > 10
