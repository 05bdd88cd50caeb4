"""A bucket that fails: outages, short bodies, writes whose outcome is unknown, bad stores."""

from __future__ import annotations

import pytest

from seerdb import (
    DB,
    BusyError,
    CorruptionError,
    FencedError,
    InvalidRequestError,
    SeerDBError,
    UnavailableError,
    UnsupportedFormatError,
)
from seerdb.storage.object_store.names import manifest_name
from seerdb.storage.pieces import Body
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import World, fill, fill_until


def is_degraded(db: DB) -> bool:
    return not all(check.ok for check in db.health())


def test_writes_go_on_while_the_bucket_is_away_and_nothing_is_lost() -> None:
    """PB-19."""
    world = World()
    db = world.open()
    rows = fill(db, 5)
    world.store.outage = True
    rows |= fill(db, 60, start=100)
    assert dict(db.scan()) == rows
    [bucket] = [check for check in db.health() if check.name == "bucket"]
    assert not bucket.ok
    assert "degraded" in bucket.detail
    with pytest.raises(UnavailableError):
        db.flush()
    with pytest.raises(UnavailableError):
        db.compact()
    world.store.outage = False
    world.clock.advance(60.0)
    db.flush()
    assert not is_degraded(db)
    assert dict(db.scan()) == rows
    assert dict(world.lose_machine().open().scan()) == rows


def test_no_less_than_nothing_is_left_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the database was opened again with a smaller one."""
    world = World(wal_budget=128 << 10)
    db = world.open()
    fill(db, 5)
    world.store.outage = True
    with pytest.raises(UnavailableError):
        db.flush()
    monkeypatch.setattr(type(db._engine.gauges), "wal_bytes", 129 << 10)
    [bucket] = [check for check in db.health() if check.name == "bucket"]
    assert bucket.detail.endswith("writes go on for 0 bytes more")


def test_a_crash_during_an_outage_loses_nothing() -> None:
    world = World()
    db = world.open()
    rows = fill(db, 5)
    world.store.outage = True
    rows |= fill(db, 60, start=100)
    for seed in range(10):
        assert dict(world.lose_power(seed).open().scan()) == rows


def test_the_budget_of_the_log_bounds_an_outage_and_the_end_of_it_heals() -> None:
    world = World(wal_budget=128 << 10)
    db = world.open()
    rows = fill(db, 1)
    world.store.outage = True
    more, refusal = fill_until(db, BusyError)
    assert "wal_budget" in str(refusal)
    assert isinstance(refusal, BusyError)
    assert refusal.retry_after_seconds > 0
    assert len(more) > 40
    rows |= more
    held = sum(name.endswith(".wal") for name in world.files.list("data/wal"))
    assert held * (16 << 10) <= 128 << 10
    with pytest.raises(BusyError):
        db.put(b"more", b"", durability="memory")
    assert dict(db.scan()) == rows
    world.store.outage = False
    world.clock.advance(60.0)
    rows |= fill(db, 20, start=50_000)
    db.flush()
    assert dict(db.scan()) == rows
    assert db.statistics().stalls.refused >= 2
    assert dict(world.lose_machine().open().scan()) == rows


def test_closing_during_an_outage_keeps_the_log() -> None:
    world = World()
    db = world.open()
    rows = fill(db, 20)
    world.store.outage = True
    rows |= fill(db, 20, start=100)
    db.put(b"weak", b"1", durability="memory")
    db.close()
    world.store.outage = False
    assert dict(world.lose_power(3).open().scan()) == rows | {b"weak": b"1"}


def test_reads_that_need_the_bucket_say_so_while_it_is_away() -> None:
    world = World(block_cache_capacity=0)
    db = world.open()
    rows = fill(db, 20)
    db.flush()
    db.close()
    db = world.open()
    world.store.outage = True
    with pytest.raises(UnavailableError):
        db.get(b"k0001")
    with pytest.raises(UnavailableError):
        list(db.scan())
    world.store.outage = False
    world.clock.advance(60.0)
    assert dict(db.scan()) == rows


def test_a_database_opens_again_once_the_bucket_is_back() -> None:
    world = World()
    db = world.open()
    rows = fill(db, 20)
    world = world.lose_power(1)
    world.store.outage = True
    with pytest.raises(UnavailableError):
        world.open()
    world.store.outage = False
    assert dict(world.open().scan()) == rows


@pytest.mark.parametrize("fault", ["short", "corrupt"])
def test_a_bad_body_is_never_served(fault: str) -> None:
    """A short body is fetched again; a wrong one is an error. Either way no wrong answer."""
    base = World(block_cache_capacity=0)
    rows = fill(base.open(), 30)
    first = base.kill()
    first.open().flush()
    for operation in ("get_range", "get"):
        for skip in range(12):
            world = first.kill()
            getattr(world.store, fault)(operation, skip=skip)
            try:
                db = world.open()
                assert dict(db.scan()) == rows
                assert db.multi_get(list(rows)) == list(rows.values())
            except CorruptionError:
                assert fault == "corrupt"
                assert dict(world.kill().open().scan()) == rows, "only the answer was wrong"


@pytest.mark.parametrize(
    "operation", ["put", "put_if_absent", "delete", "get", "list", "get_range"]
)
@pytest.mark.parametrize("kind", ["fail", "time_out_after"])
def test_one_failed_request_is_tried_again_unseen(operation: str, kind: str) -> None:
    for skip in range(8):
        world = World()
        getattr(world.store, kind)(operation, skip=skip)
        db = world.open()
        rows = fill(db, 20)
        db.put(b"o", b"1", durability="object")
        db.flush()
        rows[b"o"] = b"1"
        rows |= fill(db, 20, start=100)
        db.compact()
        assert dict(db.scan()) == rows
        assert db.verify().ok
        db.close()
        assert dict(world.lose_machine().open().scan()) == rows


@pytest.mark.parametrize("match", ["tables/", "manifest/", "wal/"])
def test_a_write_that_times_out_after_it_happened_happens_once(match: str) -> None:
    """PB-16. However often: the table, the manifest's edit, the claim or the shipped log."""
    for times in (1, 4, 5, 6, 11):
        world = World()
        db = world.open()
        rows = fill(db, 5)
        operation = "put" if match == "tables/" else "put_if_absent"
        world.store.time_out_after(operation, match=match, times=times)
        for _ in range(4):
            try:
                db.put(b"o", b"1", durability="object")
                db.flush()
                break
            except UnavailableError:
                world.clock.advance(60.0)
        rows[b"o"] = b"1"
        rows |= fill(db, 5, start=100)
        db.flush()
        assert dict(db.scan()) == rows
        assert db._engine.manifest.state.version.tables
        assert db.verify().ok
        assert dict(world.lose_machine().open().scan()) == rows


def test_a_claim_that_times_out_after_it_happened_does_not_lock_anybody_out() -> None:
    """PB-16."""
    world = World()
    rows = fill(world.open(), 5)
    for times in (1, 5, 6):
        world = world.kill()
        world.store.time_out_after("put_if_absent", match="manifest/", times=times)
        for _ in range(2):
            try:
                db = world.open()
                break
            except UnavailableError:
                world.clock.advance(60.0)
        assert dict(db.scan()) == rows


class NoCreateIfAbsent(MemoryObjectStore):
    """As many "S3-compatible" stores: the condition is ignored."""

    def put_if_absent(self, name: str, data: Body) -> None:
        self.put(name, data)


class RefusesCondition(MemoryObjectStore):
    def put_if_absent(self, name: str, data: Body) -> None:
        raise InvalidRequestError("this store knows no conditions")


@pytest.mark.parametrize("store", [NoCreateIfAbsent, RefusesCondition])
def test_a_store_that_cannot_create_if_absent_is_refused(store: type[MemoryObjectStore]) -> None:
    world = World(bucket=store())
    with pytest.raises(InvalidRequestError, match="create if absent: NO"):
        world.open()
    assert world.bucket.list("") == [], "nothing is left behind"
    with pytest.raises(InvalidRequestError):
        world.open()


def test_tables_without_a_manifest_are_refused() -> None:
    world = World()
    db = world.open()
    fill(db, 20)
    db.close()
    bucket = world.bucket
    bucket.delete([info.name for info in bucket.list("manifest/")])
    before = bucket.list("")
    for after in (world.kill(), world.lose_machine()):
        with pytest.raises(CorruptionError, match="no manifest"):
            after.open()
        assert after.bucket.list("") == before, "nothing was changed"


def test_a_shipped_log_without_a_manifest_is_refused() -> None:
    world = World()
    world.open().put(b"k", b"v", durability="object")
    bucket = world.bucket
    bucket.delete([info.name for info in bucket.list("manifest/")])
    assert not bucket.list("tables/")
    with pytest.raises(CorruptionError, match="no manifest"):
        world.lose_machine().open()


def test_a_log_without_its_bucket_is_refused() -> None:
    world = World()
    fill(world.open(), 3)
    world = world.kill()
    world.bucket._objects.clear()
    with pytest.raises(CorruptionError, match="no manifest"):
        world.open()


def test_a_manifest_from_the_future_is_refused() -> None:
    world = World()
    fill(world.open(), 3)
    world = world.kill()
    name = manifest_name(1)
    data = bytearray(world.bucket.get(name))
    data[8] = 2
    world.bucket.put(name, bytes(data))
    with pytest.raises(UnsupportedFormatError, match="another release"):
        world.open()


def test_a_foreign_object_in_the_bucket_is_left_alone() -> None:
    world = World()
    db = world.open()
    foreign = ["manifest/README", "tables/x.sst", "wal/notes.txt", "elsewhere/y"]
    for name in foreign:
        world.bucket.put(name, b"not ours")
    rows = fill(db, 40)
    db.compact()
    world.clock.advance(10_000.0)
    rows |= fill(db, 40, start=100)
    db.compact()
    db.close()
    assert dict(world.open().scan()) == rows
    assert all(world.bucket.get(name) == b"not ours" for name in foreign)


@pytest.mark.parametrize(("times", "error"), [(1, FencedError), (9, UnavailableError)])
def test_a_damaged_answer_to_who_took_over_is_asked_for_again(
    times: int, error: type[SeerDBError]
) -> None:
    """It was told as damage of the database."""
    world = World()
    db = world.open()
    db.put(b"first", b"1", durability="object")
    world.open("elsewhere")
    world.store.corrupt("get", match="manifest/", times=times)
    with pytest.raises(error):
        db.put(b"second", b"2", durability="object")


def test_one_damaged_answer_after_an_unheard_creation_does_not_stop_shipping() -> None:
    world = World()
    db = world.open()
    world.store.time_out_after("put_if_absent", match="wal/")
    world.store.corrupt("get", match="wal/")
    db.put(b"first", b"1", durability="object")
    db.put(b"second", b"2", durability="object")
    assert dict(world.lose_machine().open().scan()) == {b"first": b"1", b"second": b"2"}
