"""A database that keeps a lease acknowledges nothing without it, and is taken over from in time."""

from __future__ import annotations

import pytest

from seerdb import DB, FencedError, UnavailableError
from seerdb.events import Fenced, WorkFailed
from seerdb.storage.lease.record import LeaseRecord, decode_lease
from seerdb.storage.lease.takeover import SeqRange
from seerdb.storage.lease.watch import read_lease
from seerdb.storage.manifest.writer import CHECKPOINT_EVERY
from seerdb.testing.crash import CrashError
from tests.fixtures.database import ROOMY, World

SECONDS = 6.0
LEVELS = ("memory", "interval", "local", "object")


def leased() -> tuple[World, DB]:
    world = World(**ROOMY, lease=SECONDS)
    return world, world.open("a")


def lease_of(world: World) -> LeaseRecord:
    record = decode_lease(read_lease(world.bucket))
    assert record is not None
    return record


def test_writes_are_taken_for_as_long_as_it_is_renewed() -> None:
    world, db = leased()
    for number in range(50):
        db.put(b"k", b"%d" % number)
        world.clock.advance(1.0)
    assert lease_of(world).seq >= 48
    assert lease_of(world).number >= 16


@pytest.mark.parametrize("level", LEVELS)
def test_in_an_outage_writes_are_refused_when_it_runs_out_and_taken_again_after_it(
    level: str,
) -> None:
    world, db = leased()
    db.put(b"k", b"before", durability=level)
    world.store.outage = True
    world.clock.advance(SECONDS / 2)
    db.put(b"k", b"meanwhile", durability="memory")
    world.clock.advance(SECONDS / 2)
    seq = db.visible_seq
    for _ in range(3):
        with pytest.raises(UnavailableError, match="the lease of this writer ran out"):
            db.put(b"k", b"too late", durability=level)
    assert (db.visible_seq, db.get(b"k")) == (seq, b"meanwhile")
    assert not {check.name: check.ok for check in db.health()}["lease"]
    world.store.outage = False
    world.clock.advance(60.0)
    db.put(b"k", b"again", durability=level)
    assert {check.name: check.ok for check in db.health()}["lease"]
    assert any(isinstance(each, WorkFailed) and each.work == "lease" for each in world.events)
    db.close()
    assert lease_of(world).released


@pytest.mark.parametrize("level", LEVELS)
def test_a_process_that_stood_still_acknowledges_nothing(level: str) -> None:
    """PB-08."""
    world, db = leased()
    db.put(b"k", b"before", durability=level)
    world.clock.advance(1000.0)  # stopped by SIGSTOP; another opened the database meanwhile
    newer = world.open("b")
    for _ in range(3):
        with pytest.raises(FencedError):
            db.put(b"k", b"zombie", durability=level)
    assert db.get(b"k") == b"before"
    newer.put(b"k", b"newer")
    assert [type(event) for event in world.events].count(Fenced) == 1


@pytest.mark.parametrize("level", ["interval", "local", "object"])
def test_a_process_that_stood_still_inside_of_a_write_does_not_acknowledge_it(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PB-08."""
    world, db = leased()
    db.put(b"k", b"before", durability=level)
    log = db._engine.log
    sync = log.sync

    def stand_still() -> None:
        sync()
        world.clock.advance(SECONDS)

    world.clock.advance(1.0)
    monkeypatch.setattr(log, "sync", stand_still)
    for _ in range(2):
        with pytest.raises(FencedError, match="ran out while a write was under way"):
            db.put(b"k", b"unheard", durability=level)
    assert db.get(b"k") == b"before", "nobody reads what was not acknowledged"
    assert world.kill().open("a").get(b"k") == b"unheard", "but the log has it"


@pytest.mark.parametrize("level", LEVELS)
def test_a_write_that_flushes_for_longer_than_the_lease_renews_it_before_it_goes_on(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``background`` ``inline`` flushes and merges run in writes, and nobody renews beside
    them: the write was not acknowledged, and no other one taken until the next opening."""
    world = World(**ROOMY | {"memtable_capacity": 4096}, lease=SECONDS)
    db = world.open("a")
    flush = db._engine.background.flush
    wake, flushed = flush.wake, list[float]()

    def take_long() -> None:
        wake()
        world.clock.advance(SECONDS)
        flushed.append(world.clock.monotonic())

    monkeypatch.setattr(flush, "wake", take_long)
    for number in range(50):
        db.put(b"%d" % number, bytes(200), durability=level)
    assert len(flushed) > 1


def test_who_opens_a_database_whose_holder_lives_waits_for_the_lease_and_fences_it() -> None:
    world, older = leased()
    older.put(b"k", b"older", durability="object")
    before = world.clock.slept
    newer = world.open("b")
    assert world.clock.slept - before == SECONDS
    assert newer.get(b"k") == b"older"
    with pytest.raises(FencedError):
        older.put(b"k", b"zombie")


@pytest.mark.parametrize("deaths", [2, CHECKPOINT_EVERY + 1])
@pytest.mark.parametrize("lease", [0.0, SECONDS])
def test_a_claimant_that_died_while_it_waited_leaves_the_wait_to_the_next(
    lease: float, deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a checkpoint is due: no claimant makes one before it has waited."""
    world = World(**ROOMY, lease=10 * SECONDS)
    older = world.open("a")
    older.put(b"k", b"older", durability="object")

    def die(_seconds: float) -> None:
        raise CrashError("while it waits")

    for _ in range(deaths):
        with monkeypatch.context() as patch:
            patch.setattr(world.clock, "sleep", die)
            with pytest.raises(CrashError):
                world.open("b", lease=lease)
    before = world.clock.slept
    newer = world.open("b", lease=lease)
    assert world.clock.slept - before == 10 * SECONDS
    newer.put(b"k", b"newer")
    with pytest.raises(FencedError):
        older.put(b"k", b"zombie")


def test_a_closed_database_makes_nobody_wait() -> None:
    world, db = leased()
    db.put(b"k", b"v")
    db.close()
    before = world.clock.slept
    assert world.open("b").get(b"k") == b"v"
    assert world.clock.slept == before


def test_a_database_that_crashed_does_not_wait_for_itself() -> None:
    world, db = leased()
    db.put(b"k", b"v")
    world = world.kill()
    assert world.open("a").get(b"k") == b"v"
    assert world.clock.slept == 0.0


def test_a_database_that_could_not_flush_at_its_end_keeps_the_lease_from_others() -> None:
    world, db = leased()
    db.put(b"k", b"v")
    world.store.fail("put", match="tables/", times=1000)
    db.close()
    assert not lease_of(world).released
    world.store = World(bucket=world.bucket, clock=world.clock).store
    before = world.clock.slept
    world.open("a").close()
    assert world.clock.slept == before


def test_without_a_lease_nothing_is_asked_or_written_for_one() -> None:
    world = World(**ROOMY)
    db = world.open("a")
    db.put(b"k", b"v")
    db.close()
    world.open("b").close()
    assert not [each for each in world.store.trace if "lease" in each.names]


def test_renewals_are_counted_and_priced_apart() -> None:
    world, db = leased()
    for _ in range(10):
        world.clock.advance(SECONDS / 3)
        db.put(b"k", b"v")
    rows = {row.operation: row for row in db.statistics().store_requests if row.purpose == "lease"}
    assert rows["put"].requests == rows["get"].requests == 11
    assert rows["put"].dollars == pytest.approx(11 * 0.005 / 1000)


def test_a_takeover_tells_what_was_not_shipped() -> None:
    world, older = leased()
    for number in range(5):
        older.put(b"%d" % number, b"v", durability="object")
    for number in range(5, 9):
        older.put(b"%d" % number, b"v", durability="local")
    world.clock.advance(SECONDS / 3)
    older._engine.opened.keeper.renew()  # type: ignore[union-attr]
    newer = world.open("b")
    report = newer.takeover
    assert (report.epoch, report.seq, report.shipped_seq) == (2, 5, 5)
    assert report.lost == SeqRange(6, 9)
    assert report.previous is not None
    assert (report.previous.epoch, report.previous.seq, report.previous.shipped_seq) == (1, 9, 5)
    assert newer.visible_seq == 5
    assert newer.stats()["takeover"]["lost"] == {"from": 6, "to": 9}


def test_nothing_is_lost_by_a_takeover_from_a_closed_database() -> None:
    world, older = leased()
    older.put(b"k", b"v")
    older.close()
    newer = world.open("b")
    assert (newer.takeover.seq, newer.takeover.lost) == (1, None)
    assert newer.takeover.previous is not None
    assert newer.takeover.previous.released


def test_a_fresh_database_took_nothing_over() -> None:
    _, db = leased()
    assert (db.takeover.epoch, db.takeover.seq, db.takeover.lost) == (1, 0, None)
    assert db.takeover.previous is None
