"""Standbys take over by themselves, once, and lose nothing that was in the bucket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from seerdb import (
    DB,
    ClosedError,
    Components,
    ConflictError,
    CorruptionError,
    FencedError,
    InvalidRequestError,
    NotFoundError,
    ReadOnlyError,
    Standby,
    UnavailableError,
    promote,
)
from seerdb.standby import MOST_REST, STANDBY_LEASE
from seerdb.storage.lease.takeover import SeqRange
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import ROOMY, World

SECONDS = STANDBY_LEASE


@pytest.fixture
def world() -> World:
    return World(**ROOMY, lease=SECONDS)


def standby(world: World, path: str) -> Standby:
    return Standby.open(path, components=world.components(world.settings), **world.settings)


def looks(world: World, waiting: Standby, most: float = 60.0) -> Iterator[DB | None]:
    """What a standby finds whenever it is time to look."""
    for _ in looks_of(world, waiting, most):
        yield waiting.look()


def looks_of(world: World, waiting: Standby, seconds: float) -> Iterator[None]:
    """Stops at each time at which it is to look."""
    started = world.clock.monotonic()
    while world.clock.monotonic() - started <= seconds:
        yield
        world.clock.advance(waiting.next_look)


def wait(world: World, waiting: Standby) -> DB:
    return next(db for db in looks(world, waiting) if db is not None)


def test_it_takes_over_when_the_writer_dies_and_has_what_was_shipped(world: World) -> None:
    primary = world.open("a")
    primary.put(b"safe", b"1", durability="object")
    waiting = standby(world, "b")
    assert waiting.look() is None
    world.clock.advance(2.0)
    primary.put(b"lost", b"2")
    died = world.clock.monotonic()
    db = wait(world, waiting)
    assert world.clock.monotonic() - died <= SECONDS * 7 / 6
    assert dict(db.scan()) == {b"safe": b"1"}
    assert db.put(b"new", b"3", durability="object") == 2
    with pytest.raises(FencedError):
        primary.put(b"k", b"zombie")


def test_it_waits_as_long_as_the_writer_lives(world: World) -> None:
    primary = world.open("a")
    waiting = standby(world, "b")
    for number, db in enumerate(looks(world, waiting)):
        assert db is None
        primary.put(b"k", b"%d" % number)
    assert "the lease of epoch 1 is held" in waiting.state


def test_it_goes_first_where_there_is_no_database(world: World) -> None:
    db = standby(world, "a").look()
    assert db is not None
    assert (db.takeover.epoch, db.options.lease) == (1, SECONDS)


def test_a_restarted_writer_goes_on_at_once_with_its_whole_log(world: World) -> None:
    world.open("a").put(b"k", b"local")
    world = world.kill()
    db = standby(world, "a").look()
    assert db is not None
    assert db.get(b"k") == b"local"


def test_of_two_standbys_one_becomes_the_writer_and_the_other_its_standby(world: World) -> None:
    world.open("a").put(b"k", b"v", durability="object")
    first, second = standby(world, "b"), standby(world, "c")
    assert (first.look(), second.look()) == (None, None)
    world.clock.advance(SECONDS)
    winner = first.look()
    assert winner is not None
    for db in looks(world, second, 4 * SECONDS):
        assert db is None
        winner.put(b"k", b"again")


@pytest.mark.parametrize("first", ["b", "c"])
def test_two_standbys_at_the_same_moment_make_one_writer(world: World, first: str) -> None:
    """Between the last look of one and its claim the other has claimed."""
    world.open("a").put(b"k", b"v", durability="object")
    one, other = standby(world, "b"), standby(world, "c")
    assert (one.look(), other.look()) == (None, None)
    world.clock.advance(SECONDS)
    bid = one._watch.look()
    assert bid is not None
    winner = other.look()
    assert winner is not None
    with pytest.raises(ConflictError, match="took over from epoch 1 first"):
        one._open(bid)
    assert one._watch.is_overtaken(bid)
    assert one.look() is None
    winner.put(b"k", b"once")
    assert winner.takeover.epoch == 2


def test_an_outage_of_the_bucket_moves_nothing(world: World) -> None:
    """Both are cut off; when the bucket is back, the writer renews before the standby claims."""
    primary = world.open("a")
    primary.put(b"k", b"v")
    waiting = standby(world, "b")
    assert waiting.look() is None
    world.store.outage = True
    for _ in range(30):
        world.clock.advance(1.0)
        with pytest.raises(UnavailableError):
            waiting.look()
    world.store.outage = False
    world.clock.advance(60.0)  # what the breaker of the standby rests
    assert waiting.look() is None
    primary.put(b"k", b"again")
    world.clock.advance(SECONDS - 0.1)
    assert waiting.look() is None


def test_a_writer_that_comes_back_as_a_standby_puts_what_was_lost_apart(world: World) -> None:
    primary = world.open("a")
    primary.put(b"safe", b"1", durability="object")
    primary.put(b"lost", b"2")
    second = wait(world, standby(world, "b"))
    second.put(b"new", b"3", durability="object")
    returned = standby(world, "a")
    assert returned.look() is None
    with pytest.raises(ConflictError, match="1 is lost: seq 2 of epoch 1"):
        world.kill().open("a")
    world.clock.advance(SECONDS)
    primary._engine.opened.lock.release()  # its process is dead
    db = wait(world, returned)
    assert dict(db.scan()) == {b"safe": b"1", b"new": b"3"}
    assert db.statistics().recovery.quarantined == ["a/quarantine/00000000000000000001.wal"]


def test_a_writer_without_a_lease_is_left_alone_until_told_otherwise() -> None:
    world = World(**ROOMY)
    world.open("a").put(b"k", b"v", durability="object")
    waiting = standby(world, "b")
    assert [db for db in looks(world, waiting) if db is not None] == []
    assert "keeps no lease" in waiting.state
    db = waiting.take_over()
    assert db.get(b"k") == b"v"


def test_promotion_by_hand_does_not_wait_for_a_death_but_for_the_lease(world: World) -> None:
    primary = world.open("a")
    primary.put(b"a", b"1", durability="object")
    primary.put(b"b", b"2")
    world.clock.advance(2.0)
    primary.put(b"c", b"3")
    before = world.clock.slept
    db = promote("b", components=world.components(world.settings), **world.settings)
    assert world.clock.slept - before == SECONDS
    assert (db.takeover.seq, db.takeover.lost) == (1, SeqRange(2, 2))
    with pytest.raises(FencedError):
        primary.put(b"d", b"4")


def test_a_closed_writer_is_taken_over_from_at_the_first_look(world: World) -> None:
    primary = world.open("a")
    primary.put(b"k", b"v")
    waiting = standby(world, "b")
    assert waiting.look() is None
    primary.close()
    db = waiting.look()
    assert db is not None
    assert (db.get(b"k"), db.takeover.lost, world.clock.slept) == (b"v", None, 0.0)


def test_a_data_directory_of_another_database_is_refused(world: World) -> None:
    world.open("a").close()
    stranger = World(seed=1, files=world.files, clock=world.clock, **ROOMY)
    stranger.open("b").close()
    with pytest.raises(ConflictError, match="belongs to database"):
        standby(world, "b").look()


class Meeting(MemoryObjectStore):
    """Answers GETs of the shipped log only when eight of them have come."""

    def __init__(self) -> None:
        super().__init__()
        self._all_there = threading.Barrier(8)

    def get(self, name: str) -> bytes:
        if name.startswith("wal/"):
            self._all_there.wait(timeout=60.0)
        return super().get(name)


def test_the_shipped_log_is_fetched_side_by_side() -> None:
    """There may be thousands of objects, and writers wait for all of them."""
    components = Components(files=CrashableFileSystem(), object_store=Meeting())
    primary = DB.open("a", components=components, min_free_disk=0)
    expected = {}
    for number in range(8):
        primary.put(b"%d" % number, b"v", durability="object")
        expected[b"%d" % number] = b"v"
    with promote("b", components=components, min_free_disk=0) as db:
        assert dict(db.scan()) == expected
    primary.close()


# Reads while it waits.


def test_while_it_waits_it_shows_what_is_in_the_bucket(world: World) -> None:
    primary = world.open("a")
    primary.put(b"k", b"1", durability="object")
    waiting = standby(world, "b")
    with waiting.follow() as replica:
        replica.refresh()
        assert replica.get(b"k") == b"1"
        assert waiting.look() is None
        primary.put(b"k", b"2")
        replica.refresh()
        assert (replica.get(b"k"), replica.seq) == (b"1", 1), "that is on one disk only"
        primary.put(b"l", b"3", durability="object")
        replica.refresh()
        assert dict(replica.scan()) == {b"k": b"2", b"l": b"3"}
        with pytest.raises(ReadOnlyError, match="this is a standby") as caught:
            replica.flush()
        assert caught.value.primary == replica.primary
        [standing, *others] = replica.health()
        assert (standing.name, standing.ok) == ("standby", False)
        assert "the lease of epoch 1 is held" in standing.detail
        assert {check.name for check in others} >= {"bucket", "follow", "lag"}
        purposes = {row.purpose for row in replica.statistics().store_requests}
        assert {"lease", "manifest"} <= purposes
    with pytest.raises(ClosedError):
        replica.flush()


def test_all_that_it_asks_of_the_bucket_is_counted_once(world: World) -> None:
    primary = world.open("a")
    primary.put(b"k", b"1", durability="object")
    before = sum(world.bucket.calls.values())
    waiting = standby(world, "b")
    waiting.find_overtaken()
    waiting.look()
    with waiting.follow() as replica:
        replica.refresh()
        counted = {(row["purpose"], row["operation"]) for row in replica.stats()["store_requests"]}
        rows = replica.statistics().store_requests
        assert len(counted) == len(rows)
        assert sum(row.requests for row in rows) == sum(world.bucket.calls.values()) - before
        assert replica.statistics().costs.requests == sum(row.dollars for row in rows) > 0


def test_its_status_names_the_writer(world: World) -> None:
    address = "http://127.0.0.1:8000"
    components = replace(world.components(world.settings), address=address)
    DB.open("a", components=components, **world.settings)
    waiting = standby(world, "b")
    waiting.look()
    with waiting.follow() as replica:
        assert replica.stats()["primary"] == replica.primary == address


def test_reading_leaves_nothing_behind(world: World) -> None:
    world.open("a").put(b"k", b"1", durability="object")
    written, files = set(world.store.list("")), world.files.list("")
    with standby(world, "b").follow() as replica:
        replica.refresh()
        assert replica.get(b"k") == b"1"
        assert not world.files.exists("b")
    assert set(world.store.list("")) == written
    assert world.files.list("") == files


def test_takeovers_that_fail_come_less_and_less_often(world: World) -> None:
    primary = world.open("a")
    for number in range(5):
        primary.put(b"%d" % number, b"1", durability="object")
    name = [each.name for each in world.bucket.list("wal/")][2]
    sound = world.bucket.get(name)
    world.bucket.put(name, sound[:-1] + b"x")
    after = world.kill()
    waiting, failed = standby(after, "b"), []
    for _ in looks_of(after, waiting, seconds=3600):
        try:
            assert waiting.look() is None
        except CorruptionError:
            failed.append(after.clock.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(failed)]
    assert SECONDS <= gaps[0] < 3 * SECONDS, "a second attempt comes soon"
    assert sorted(gaps[:5]) == gaps[:5]
    assert MOST_REST <= max(gaps) < MOST_REST + 3 * SECONDS
    assert len(failed) < 3600 / MOST_REST + 10
    after.bucket.put(name, sound)
    assert next(db for db in looks(after, waiting, 2 * MOST_REST) if db).get(b"4") == b"1"


def test_how_far_behind_it_may_be_is_checked(world: World) -> None:
    world.open("a")
    with pytest.raises(InvalidRequestError, match="max_lag must be seconds above 0"):
        standby(world, "b").follow(max_lag=0)


def test_where_there_is_no_database_there_is_nothing_to_follow(world: World) -> None:
    with pytest.raises(NotFoundError):
        standby(world, "a").follow()


@pytest.mark.parametrize("steps", range(1, 13))
def test_whoever_takes_over_shows_nothing_older_than_was_read_before(
    world: World, steps: int
) -> None:
    primary = world.open("a")
    primary.put(b"k", b"0", durability="object")
    waiting = standby(world, "b")
    replica = waiting.follow()
    replica.refresh()
    kinds = ["local", "object", "local", "flush", "local", "local", "object", "local", "flush"]
    for step in range(steps):
        kind = kinds[step % len(kinds)]
        if kind == "flush":
            primary.flush()
        else:
            primary.put(b"k", b"%d" % step, durability=kind)
        if step % 2:
            replica.refresh()
    shown, seq = replica.get_entry(b"k"), replica.seq
    db = wait(world, waiting)
    replica.refresh()
    found = db.get_entry(b"k")
    assert shown is not None
    assert found is not None
    assert (db.visible_seq, found.seq) >= (seq, shown.seq)
    assert replica.seq <= db.visible_seq, "it goes on to follow until it is closed"
    replica.close()
    assert db.get(b"k") == found.value


def test_a_standby_in_a_new_directory_has_no_log_that_was_overtaken(tmp_path: Path) -> None:
    """A real one, which lists no directory that is not there."""
    store = str(tmp_path / "bucket")
    with DB.open(tmp_path / "db", background="inline", min_free_disk=0, store=store) as db:
        db.put(b"k", b"v")
    waiting = Standby.open(tmp_path / "standby", background="inline", store=store)
    assert waiting.find_overtaken() is None
    waiting.close()
