"""The whole log in the bucket, as it is written: no gap, no loss, no second story (I3, I4)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from seerdb import (
    DB,
    BusyError,
    ConflictError,
    CorruptionError,
    FencedError,
    UnavailableError,
)
from seerdb.events import ShippingStopped
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.names import parse_wal_name, wal_name
from seerdb.storage.wal.segments import segment_path
from seerdb.testing.objects import MemoryObjectStore
from tests.crash.trace import Run, Step, Verb, Write, check_recovery, put
from tests.fixtures.database import ROOMY, WAL, World, fill, fill_until

pytestmark = pytest.mark.crash

SHIPPING: dict[str, Any] = {"ship_interval": 1.0}


def ship(db: DB) -> None:
    """What happens when the interval is over."""
    db._engine.shipper.ask()
    db._engine.background.ship.wake()


def shipped(world: World) -> list[tuple[int, int]]:
    """First and last seq of the objects that hold records, by epoch, then by seq."""
    places = [parse_wal_name(info.name) for info in world.bucket.list("wal/")]
    return [(first, last) for _, first, last in filter(None, places) if first <= last]


def truth(world: World) -> dict[bytes, bytes]:
    """What a new machine finds in the bucket."""
    return dict(world.lose_machine().open().scan())


def check_contiguous(ranges: list[tuple[int, int]], last: int) -> None:
    following = 1
    for first, end in ranges:
        assert first == following
        following = end + 1
    assert following == last + 1


def refuse_log(world: World) -> None:
    """Not "unavailable", after which nothing would be asked of the bucket for a while."""
    refusal = CorruptionError("the bucket takes no log, by plan")
    world.store.fail("put_if_absent", match="wal/", times=1 << 30, error=refusal)


def segments(world: World) -> list[str]:
    return [name for name in world.files.list(WAL) if name.endswith(".wal")]


def test_what_was_written_at_any_level_is_in_the_bucket_when_the_interval_is_over() -> None:
    world = World(**ROOMY, **SHIPPING)
    db = world.open()
    rows = {}
    for level in ("memory", "interval", "local", "object", "memory"):
        db.put(level.encode(), b"1", durability=level)
        rows[level.encode()] = b"1"
        ship(db)
        assert truth(world) == rows
    check_contiguous(shipped(world), 5)


def test_what_is_due_is_shipped_though_somebody_waits_for_less() -> None:
    world = World(**ROOMY, **SHIPPING)
    db = world.open()
    db.put(b"a", b"1")
    engine = db._engine
    told: list[object] = []
    engine.shipper.enqueue([(told.extend, "ticket", 1)], engine.committer.place())
    db.put(b"b", b"1")
    ship(db)
    assert told == [("ticket", 1)]
    assert shipped(world) == [(1, 1), (2, 2)]


def test_nothing_is_asked_of_the_bucket_when_nothing_was_written() -> None:
    world = World(**ROOMY, **SHIPPING)
    db = world.open()
    ship(db)
    fill(db, 3)
    ship(db)
    before = len(world.store.trace)
    for _ in range(3):
        ship(db)
    assert len(world.store.trace) == before


def test_increments_and_segments_continue_each_other_over_flushes_and_ingests() -> None:
    world = World(**SHIPPING)
    db = world.open()
    rows = fill(db, 7)
    ship(db)
    rows |= fill(db, 30, start=100)
    db.ingest([(b"a", b"ingested"), (b"b", b"ingested")])
    rows |= {b"a": b"ingested", b"b": b"ingested"}
    rows |= fill(db, 5, start=200)
    ship(db)
    db.flush()
    rows |= fill(db, 5, start=300)
    ship(db)
    ranges = shipped(world)
    assert ranges[0] == (1, 7)
    holes = [after[0] for before, after in pairwise(ranges) if before[1] + 1 != after[0]]
    assert holes == [39], "the ingest has its seq from the manifest"
    assert ranges[-1][1] == db.visible_seq
    assert dict(db.scan()) == rows == truth(world)


def test_a_segment_is_kept_until_it_is_shipped_though_tables_hold_it() -> None:
    world = World(**SHIPPING)
    db = world.open()
    refuse_log(world)
    rows = fill(db, 60)
    db.flush()
    status = db.statistics()
    assert status.flushed_seq == 60
    assert status.wal.unshipped_segments == len(segments(world)) > 3
    assert not shipped(world)
    world.store._faults.clear()
    world.clock.advance(60.0)
    ship(db)
    check_contiguous(shipped(world), 60)
    assert (segments(world), db.statistics().wal.unshipped_segments) == ([], 0)
    assert dict(db.scan()) == rows


def test_without_shipping_only_level_object_is_in_the_bucket_and_nothing_is_kept() -> None:
    world = World()
    db = world.open()
    fill(db, 60)
    db.flush()
    assert (shipped(world), segments(world)) == ([], [])
    db.put(b"o", b"1", durability="object")
    assert shipped(world) == [(61, 61)]


def test_the_budget_of_the_log_bounds_what_is_not_shipped_and_says_so() -> None:
    world = World(wal_budget=128 << 10, **SHIPPING)
    db = world.open()
    refuse_log(world)
    rows, refusal = fill_until(db, BusyError)
    assert "flushed but not shipped to the bucket" in str(refusal)
    assert "wal_budget" in str(refusal)
    assert "the last ship failed" in str(refusal), "the reason is told"
    assert len(segments(world)) * (16 << 10) <= 128 << 10
    world.store._faults.clear()
    world.clock.advance(60.0)
    rows |= fill(db, 20, start=50_000)
    assert dict(db.scan()) == rows
    ship(db)
    check_contiguous(shipped(world), db.visible_seq)


def test_after_an_outage_of_everything_all_of_it_is_shipped() -> None:
    world = World(**SHIPPING)
    db = world.open()
    rows = fill(db, 10)
    ship(db)
    world.store.outage = True
    rows |= fill(db, 60, start=100)
    ship(db)
    assert db._engine.background.ship.error is not None
    world.store.outage = False
    world.clock.advance(60.0)
    ship(db)
    check_contiguous(shipped(world), 70)
    db.flush()
    assert dict(db.scan()) == rows == truth(world)
    assert db.statistics().wal.unshipped_segments == 0


@pytest.mark.parametrize("takes_tables", [True, False])
def test_a_backlog_is_shipped_by_the_next_life(takes_tables: bool) -> None:
    world = World(takes_tables=takes_tables, **SHIPPING)
    db = world.open()
    rows = fill(db, 10)
    ship(db)
    world.store.fail("put_if_absent", match="wal/", times=1 << 30)
    rows |= fill(db, 60, start=100)
    ship(db)
    assert shipped(world)[-1][1] == 10
    after = world.lose_power(3)
    db = after.open()
    check_contiguous(shipped(after), 70)
    assert dict(db.scan()) == rows
    assert truth(after) == rows
    again = after.kill()
    again.open()
    assert shipped(again) == shipped(after), "nothing is shipped twice"


def test_a_clean_close_ships_everything() -> None:
    world = World(**SHIPPING)
    db = world.open()
    rows = fill(db, 33)
    db.close()
    check_contiguous(shipped(world), 33)
    assert segments(world) == []
    puts = world.bucket.calls["put_if_absent"]
    db = world.open()
    ship(db)
    assert world.bucket.calls["put_if_absent"] == puts + 1, "the claim"
    assert dict(db.scan()) == rows


def test_a_shipped_write_is_never_lost_by_a_power_failure() -> None:
    """Its seq would be given out again, to another write."""
    world = World(**ROOMY, **SHIPPING)
    db = world.open()
    for number in range(20):
        db.put(b"k%d" % number, b"1", durability="memory")
    ship(db)
    db.put(b"weak", b"1", durability="memory")
    for seed in range(5):
        after = world.lose_power(seed)
        db = after.open()
        assert db.visible_seq >= 20
        assert db.statistics().recovery.shipped_records == 0, "the disk had all of it"


def test_a_disk_that_lost_what_was_shipped_gets_it_back() -> None:
    """A disk restored from an older copy: its next write would have taken a seq that is used."""
    world = World(**ROOMY, **SHIPPING)
    db = world.open()
    rows = fill(db, 5)
    ship(db)
    old = world.kill()
    rows |= fill(db, 5, start=100)
    ship(db)
    old.bucket._objects = dict(world.bucket._objects)
    db = old.open()
    assert dict(db.scan()) == rows
    assert db.put(b"new", b"1") == 11
    ship(db)
    check_contiguous(shipped(old), 11)
    assert truth(old) == rows | {b"new": b"1"}


def test_an_attempt_that_nobody_heard_of_is_repeated_as_it_was() -> None:
    for times in (1, 4, 5, 6, 11):
        world = World(takes_tables=False, **SHIPPING)
        db = world.open()
        rows = fill(db, 3)
        world.store.time_out_after("put_if_absent", match="wal/", times=times)
        world.store.fail("get", match="wal/", times=1)
        for _ in range(14):
            ship(db)
            world.clock.advance(60.0)
            rows |= fill(db, 2, start=int(world.clock.now()) % 10_000)
        ship(db)
        check_contiguous(shipped(world), db.visible_seq)
        assert db._engine.shipper.conflict is None
        assert truth(world) == rows


def test_other_bytes_under_the_name_of_ours_stop_shipping_for_good_and_loudly() -> None:
    """PB-14."""
    world = World(**SHIPPING)
    db = world.open()
    rows = fill(db, 3)
    theirs = wal_name(db._engine.manifest.epoch, 1, 3)  # type: ignore[arg-type]
    world.bucket.put(theirs, b"another story")
    ship(db)
    rows |= fill(db, 40, start=100)
    ship(db)
    assert world.bucket.get(theirs) == b"another story"
    assert shipped(world) == [(1, 3)], "nothing else is shipped"
    with pytest.raises(ConflictError, match="another process writes as this database"):
        db.put(b"o", b"1", durability="object")
    rows[b"o"] = b"1"
    db.flush()
    assert db.statistics().wal.unshipped_segments == len(segments(world)) > 0
    [check] = [check for check in db.health() if check.name == "shipping"]
    assert not check.ok
    assert theirs in check.detail
    assert theirs in db.statistics().shipping.stopped
    assert [type(event) for event in world.events].count(ShippingStopped) == 1
    after = world.kill()
    db = after.open()
    assert after.bucket.get(theirs) == b"another story", "it is void, and nobody reads it"
    check_contiguous([each for each in shipped(after) if each != (1, 3)], 44)
    assert dict(db.scan()) == rows == truth(after)
    again = after.kill()
    again.open()
    assert shipped(again) == shipped(after), "that was once"


def test_the_older_of_two_writers_learns_of_it_with_the_interval() -> None:
    world = World(**ROOMY, **SHIPPING)
    older = world.open("older")
    older.put(b"k", b"older")
    newer = world.open("newer")
    newer.put(b"k", b"newer")
    ship(older)
    with pytest.raises(FencedError):
        older.put(b"k", b"older again")
    ship(newer)
    assert truth(world) == {b"k": b"newer"}


def test_a_machine_that_takes_over_goes_on_where_the_shipped_log_ended() -> None:
    world = World(**ROOMY, **SHIPPING)
    rows: dict[bytes, bytes] = {}
    for number in range(3):
        db = world.open()
        rows |= fill(db, 4, start=10 * number)
        ship(db)
        check_contiguous(shipped(world), 4 * number + 4)
        world = world.lose_machine()
    assert dict(world.open().scan()) == rows


def test_after_damage_the_log_goes_on_from_before_it() -> None:
    """A recovery to the point before the damage gives the lost seqs out again."""
    world = World(takes_tables=False, **ROOMY, **SHIPPING)
    db = world.open()
    for number in range(6):
        db.put(b"k%d" % number, b"before")
        ship(db)
    after = world.kill()
    file = after.files.open(segment_path(WAL, 1))
    file.write_at(file.read_at(0, 65536).index(b"k2before"), b"X")
    db = after.open(recovery="point_in_time")
    assert db.put(b"k9", b"after") == 3
    ship(db)
    assert sorted(dict(db.scan())) == [b"k0", b"k1", b"k9"]
    assert truth(after) == dict(db.scan())


def history(world: World) -> DB:
    """Four objects of three writes each; no table."""
    db = world.open()
    for round_ in range(4):
        fill(db, 3, start=10 * round_)
        ship(db)
    return db


def test_a_reader_names_the_gap() -> None:
    world = World(**ROOMY, **SHIPPING)
    history(world)
    names = [info.name for info in world.bucket.list("wal/")]
    world.bucket.delete([names[1]])
    with pytest.raises(CorruptionError, match="gap: expected 'seq 4', found 'seq 7'"):
        world.lose_machine().open()
    db = world.lose_machine().open(recovery="point_in_time")
    assert db.visible_seq == 3


class StaleListing(MemoryObjectStore):
    """Does not list what was put there lately."""

    hidden = 0

    def list(self, prefix: str) -> list[ObjectInfo]:
        found = super().list(prefix)
        return found[: len(found) - self.hidden] if prefix == "wal/" else found


def test_a_listing_that_lags_behind_shows_an_earlier_moment_and_nothing_mixed() -> None:
    world = World(bucket=StaleListing(), **ROOMY, **SHIPPING)
    db = history(world)
    expected = dict(db.scan())
    for hidden in range(4):
        stale = StaleListing()
        stale._objects, stale.hidden = dict(world.bucket._objects), hidden
        db = World(bucket=stale, **ROOMY, **SHIPPING).open()
        assert list(db.scan()) == list(expected.items())[: 12 - 3 * hidden]


def test_what_is_there_twice_or_overlaps_counts_once() -> None:
    world = World(takes_tables=False, **ROOMY, **SHIPPING)
    history(world)
    rows = truth(world)
    after = world.kill()
    db = after.open(ship_interval=0)
    db.put(b"more", b"1", durability="object")  # ships the whole segment again, in this epoch
    ranges = shipped(after)
    assert len(ranges) == len(set(ranges)) > 4
    assert truth(after) == rows | {b"more": b"1"}


def test_a_full_local_disk_does_not_stop_shipping() -> None:
    world = World(**ROOMY, **SHIPPING)
    db = world.open()
    rows = fill(db, 3)
    world.files.no_space = True
    ship(db)
    assert truth(world) == rows


def test_a_full_bucket_is_an_outage() -> None:
    world = World(**ROOMY, **SHIPPING)
    db = world.open()
    rows = fill(db, 3)
    world.store.fail(
        "put_if_absent", match="wal/", times=100, error=UnavailableError("the disk is full")
    )
    ship(db)
    assert "the disk is full" in str(db._engine.background.ship.error)
    world.store._faults.clear()
    world.clock.advance(60.0)
    ship(db)
    assert truth(world) == rows


def test_the_age_and_the_seq_of_what_is_at_risk_are_known() -> None:
    world = World(takes_tables=False, **ROOMY, **SHIPPING)
    db = world.open()
    assert db.statistics().shipping.unshipped_seq == 0
    fill(db, 3)
    world.clock.advance(5.0)
    fill(db, 3, start=10)
    found = db.statistics().shipping
    assert (found.unshipped_seq, found.unshipped_seconds) == (1, 5.0)
    ship(db)
    assert db.statistics().shipping.unshipped_seq == 0
    world.clock.advance(7.0)
    fill(db, 1, start=20)
    world.clock.advance(2.0)
    found = db.statistics().shipping
    assert (found.shipped_seq, found.unshipped_seq, found.unshipped_seconds) == (6, 7, 2.0)
    world.clock.advance(100.0)
    [check] = [check for check in db.health() if check.name == "shipping"]
    assert not check.ok
    assert "seq 7 and later are on this disk only, for 102.0 seconds" in check.detail
    after = world.kill()
    refuse_log(after)
    after.clock.advance(10.0)
    found = after.open().statistics().shipping
    assert (found.unshipped_seq, found.unshipped_seconds) == (7, 124.0), "not younger than that"


STEPS: tuple[Step, ...] = (
    put(b"a", b"1", "memory"),
    Verb("ship"),
    put(b"b", b"1"),
    put(b"a", b"2", "object"),
    Verb("ship"),
    Write((("put", b"c", b"1"), ("delete", b"b", b""))),
    Verb("flush"),
    put(b"d", b"1", "memory"),
    Verb("ship"),
    Verb("wait"),
    Verb("reopen"),
    put(b"a", b"3"),
    Verb("ship"),
    Verb("flush"),
    put(b"d", b"2", "object"),
    Verb("ship"),
)
"""Ships of every kind; see ``Run``."""


class Shipped(Run):
    """Has a verb more."""

    def _do(self, db: DB, step: Step) -> DB:
        if step == Verb("ship"):
            ship(db)
            if db._engine.background.ship.error is None:
                self.model.secure(self.model.seq, "object")
            return db
        return super()._do(db, step)


@pytest.mark.parametrize("takes_tables", [True, False])
def test_a_crash_at_every_operation_of_a_ship_loses_nothing(takes_tables: bool) -> None:
    steps = STEPS if takes_tables else tuple(each for each in STEPS if each != Verb("flush"))
    undisturbed = World(takes_tables=takes_tables, **ROOMY, **SHIPPING)
    Shipped(undisturbed).execute(steps)
    for point in undisturbed.crash_points():
        world = World(takes_tables=takes_tables, **ROOMY, **SHIPPING)
        world.crash_at(point)
        run = Shipped(world).execute(steps)
        assert run.died
        check_recovery(world.lose_machine(), run.model, "object")
        check_recovery(world.kill(), run.model, "memory")
        check_recovery(world.lose_power(point.number), run.model, "local")
        after = world.lose_power(point.number + 1)
        db = after.open()
        ship(db)
        assert truth(after) == dict(db.scan())
