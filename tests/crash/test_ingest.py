"""An ingest that dies, or whose bucket does: all of it is there afterwards, or nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from seerdb import DB, ConflictError, FencedError, UnavailableError
from seerdb.errors import DiskFullError
from seerdb.events import CompactionCompleted
from seerdb.storage.ingest import dump, sorting
from seerdb.storage.ingest import run as ingest
from seerdb.storage.object_store.names import MANIFEST_PREFIX, TABLE_PREFIX
from seerdb.testing.model import Model
from tests.crash.trace import (
    Ingest,
    Run,
    Step,
    Verb,
    check_contents,
    check_recovery,
    delete,
    delete_range,
    outcomes,
    put,
)
from tests.fixtures.database import PATH, ROOMY, World, collect_garbage

FAT = random.Random(1).randbytes(300)
ROWS = Ingest(tuple((b"k%02d" % (number * 7 % 24), FAT) for number in range(24)))

TRACE: tuple[Step, ...] = (
    put(b"a", b"1"),
    put(b"k03", b"old"),
    put(b"k04", b"old", "object"),
    delete_range(b"k05", b"k20", "memory"),
    ROWS,
    put(b"k03", b"new"),
    delete(b"k04", "memory"),
    put(b"b", b"2", "object"),
    Verb("compact"),
    put(b"c", FAT, "memory"),
    Ingest(((b"c", b"3"), (b"k05", b"x"), (b"c", b"4"))),
    Ingest(((b"d", b"5"),)),
    put(b"e", b"6", "object"),
    Verb("reopen"),
    delete_range(b"k0", b"k1"),
    Ingest(((b"k06", b"y"), (b"k01", b""))),
    put(b"f", b"7"),
)

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kept": {"wal_retention": "count:2", "wal_compression": "zstd", "compression": "none"},
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort of a dozen rows needs several runs, which need two merges, and makes many tables."""
    monkeypatch.setattr(sorting, "SORT_MEMORY", 3000)
    monkeypatch.setattr(sorting, "MERGE_MEMORY", 3000)
    monkeypatch.setattr(dump, "CHUNK_BYTES", 700)
    monkeypatch.setattr(ingest, "TABLE_SIZE", 2000)


def run(setting: str, steps: tuple[Step, ...], crash: Any = None) -> Run:
    world = World(**SETTINGS[setting])
    world.crash_at(crash)
    return Run(world).execute(steps)


def test_the_trace_ingests_in_every_way_there_is() -> None:
    done = run("plain", TRACE)
    assert not done.died
    trace = done.world.files.trace
    runs = [line for line in trace if line.startswith("create ") and "/ingest/" in line]
    assert len(runs) > 5
    [first, *_] = (e for e in done.world.events if isinstance(e, CompactionCompleted))
    assert len(first.inputs) > 3
    check_recovery(done.world.kill(), done.model, "memory")


@pytest.mark.crash
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("shard", range(4))
def test_a_crash_at_every_operation_leaves_all_of_an_ingest_or_nothing(
    setting: str, shard: int
) -> None:
    for point in run(setting, TRACE).world.crash_points()[shard::4]:
        crashed = run(setting, TRACE, point)
        assert crashed.died
        for level, world in outcomes(crashed.world, range(1, 2)):
            check_recovery(world, crashed.model, level)
            assert scratch_files(world) == []


def scratch_files(world: World) -> list[str]:
    if not world.files.exists(f"{PATH}/ingest"):
        return []
    return world.files.list(f"{PATH}/ingest")


def begin(**settings: Any) -> tuple[World, DB, Model]:
    """A database with rows in tables and in memory, and what it should say."""
    world = World(**ROOMY, **settings)
    db = world.open()
    model = Model()
    for position, (key, value) in enumerate([(b"a", b"1"), (b"k03", b"old"), (b"k04", b"old")]):
        model.attempt([("put", key, value)])
        model.acknowledge(db.put(key, value), "local")
        if position == 0:
            db.flush()
    return world, db, model


def attempt(model: Model) -> None:
    model.attempt([("put", *pair) for pair in ROWS.pairs])


def test_without_a_bucket_nothing_is_changed_and_writes_go_on() -> None:
    world, db, model = begin()
    world.store.outage = True
    with pytest.raises(UnavailableError):
        db.ingest(ROWS.pairs)
    check_contents(db, model)
    model.attempt([("put", b"b", b"2")])
    model.acknowledge(db.put(b"b", b"2"), "local")
    assert scratch_files(world) == []
    world.store.outage = False
    world.clock.advance(60.0)
    attempt(model)
    model.acknowledge(db.ingest(ROWS.pairs).seq, "object")
    check_contents(db, model)


@pytest.mark.parametrize("skip", range(3))
def test_a_table_that_cannot_be_uploaded_makes_all_of_it_garbage(skip: int) -> None:
    world, db, model = begin()
    before = db.statistics().tables
    world.store.fail("put", match=TABLE_PREFIX, skip=skip, times=1 << 30)
    with pytest.raises(UnavailableError):
        db.ingest(ROWS.pairs)
    check_contents(db, model)
    assert db.statistics().tables == before
    check_recovery(world.lose_power(1), model, "local")


def in_doubt(world: World, db: DB, *, happens: bool) -> None:
    """Ingest while the answers about its manifest record are lost."""
    db.flush()
    if happens:
        world.store.time_out_after("put_if_absent", match=MANIFEST_PREFIX, times=1 << 30)
    else:
        world.store.fail("put_if_absent", match=MANIFEST_PREFIX, times=1 << 30)
    world.store.fail("get", match=MANIFEST_PREFIX, times=1 << 30)
    with pytest.raises(UnavailableError):
        db.ingest(ROWS.pairs)


def heal(world: World) -> None:
    world.store._faults.clear()
    world.clock.advance(60.0)


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.parametrize("then", ["flush", "compact", "ingest", "close"])
def test_an_outcome_that_was_unknown_is_found_out_before_anything_else_is_published(
    happens: bool, then: str
) -> None:
    world, db, model = begin()
    assert db.get(b"k03") == b"old"  # in the row cache
    db.flush()
    assert db.get(b"k03") == b"old"
    in_doubt(world, db, happens=happens)
    check_contents(db, model)
    model.attempt([("put", *pair) for pair in ROWS.pairs] if happens else [])
    model.acknowledge(model.seq, "local")
    writes = [(b"k04", b"new"), (b"z", b"1")]
    for key, value in writes:
        model.attempt([("put", key, value)])
        model.acknowledge(db.put(key, value), "local")
    assert db.get(b"k03") == b"old", "not known yet"
    assert db._engine.outputs._in_flight, "nor whether they are garbage"
    heal(world)
    if then == "ingest":
        model.attempt([("put", b"k05", b"2")])
        model.acknowledge(db.ingest([(b"k05", b"2")]).seq, "object")
    elif then == "close":
        db.close()
        db = world.open()
    else:
        getattr(db, then)()
    check_contents(db, model)
    assert db._engine.outputs._in_flight == set()
    assert db.verify().problems == []
    check_recovery(world.lose_power(1), model, "local")


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.parametrize("level", ["memory", "local", "object"])
def test_a_death_with_an_unknown_outcome_loses_no_write_made_since(
    happens: bool, level: str
) -> None:
    world, db, model = begin()
    in_doubt(world, db, happens=happens)
    model.attempt([("put", *pair) for pair in ROWS.pairs] if happens else [])
    model.acknowledge(model.seq, "object" if happens else "memory")
    world.store._faults = [each for each in world.store._faults if each.operation != "get"]
    world.clock.advance(5.0)  # the store is asked again
    for number in range(5):
        model.attempt([("put", b"k%02d" % number, b"since")])
        model.acknowledge(db.put(b"k%02d" % number, b"since", durability=level), level)
    for survives, after in outcomes(world, range(3)):
        after.store._faults.clear()
        check_recovery(after, model, survives)


def test_a_segment_that_was_begun_and_not_written_to_goes_on_behind_an_ingest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, db, model = begin()
    db.flush()
    with pytest.raises(ConflictError):
        db.put(b"a", b"2", expect=99)  # begins the segment
    attempt(model)
    model.acknowledge(db.ingest(ROWS.pairs).seq, "object")
    commits = db.statistics().commits
    assert (commits.commits, commits.operations) == (4, 3)
    for number in range(3):
        model.attempt([("put", b"b%d" % number, b"2")])
        model.acknowledge(db.put(b"b%d" % number, b"2"), "local")
    check_recovery(world.lose_power(1), model, "local")
    seals: list[tuple[int, int]] = []
    monkeypatch.setattr(db._engine.log, "seal", lambda *counts: seals.append(counts))
    db._engine.committer.rotate()
    assert seals == [(model.seq, 3)], "what the log says of itself is what it holds"


def test_two_writers_and_the_older_one_ingests_nothing() -> None:
    world, db, model = begin()
    db.flush()
    other = world.open("elsewhere")
    with pytest.raises(FencedError):
        db.ingest(ROWS.pairs)
    with pytest.raises(FencedError):
        db.put(b"x", b"y")
    check_contents(other, model)
    other.put(b"b", b"2")


def test_what_a_failed_ingest_uploaded_is_collected() -> None:
    world, db, model = begin()
    world.store.fail("put", match=TABLE_PREFIX, skip=2, times=1 << 30)
    with pytest.raises(UnavailableError):
        db.ingest(ROWS.pairs)
    heal(world)
    orphans = len(world.bucket.list(TABLE_PREFIX)) - db.statistics().tables
    assert orphans == 2
    collect_garbage(world, db)
    assert len(world.bucket.list(TABLE_PREFIX)) == db.statistics().tables
    check_contents(db, model)


def test_a_disk_without_room_for_runs_refuses() -> None:
    world, db, model = begin(min_free_disk=1 << 20)
    world.files.free_space = 1 << 19
    with pytest.raises(DiskFullError, match="min_free_disk"):
        db.ingest(ROWS.pairs)
    check_contents(db, model)
    world.files.free_space = 1 << 30
    db.ingest(ROWS.pairs)
    assert scratch_files(world) == []


def test_files_of_a_dead_ingest_are_removed_at_the_next_opening() -> None:
    world, db, model = begin()

    def dying() -> Iterator[tuple[bytes, bytes]]:
        yield from ROWS.pairs
        worlds.append(world.kill())

    worlds: list[World] = []
    db.ingest(dying())
    [after] = worlds
    assert len(scratch_files(after)) > 1
    check_contents(after.open(), model)
    assert scratch_files(after) == []


def test_random_lives_with_ingests_agree_with_a_model() -> None:
    draw = random.Random(11)
    for seed in range(6):
        world, model = World(seed=seed), Model()
        db = world.open()
        for _ in range(40):
            rows = [(b"%03d" % draw.randrange(40), draw.randbytes(30)) for _ in range(8)]
            if draw.random() < 0.4:
                attempted = [("put", *row) for row in rows]
                model.attempt(attempted)
                model.acknowledge(db.ingest(rows).seq, "object")
            else:
                model.attempt([("put", *rows[0])])
                model.acknowledge(db.put(*rows[0]), "local")
            if draw.random() < 0.1:
                world = world.lose_power(seed)
                db = world.open()
            check_contents(db, model)
