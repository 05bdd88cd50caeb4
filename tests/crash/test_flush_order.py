"""The order in which a flush makes things durable, and what a crash inside it leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from seerdb import ChecksumError, UnavailableError
from seerdb.storage.wal.segments import list_segments
from seerdb.testing.crash import CrashError
from seerdb.testing.model import Model
from tests.crash.trace import check_recovery
from tests.fixtures.database import WAL, CrashPoint, World


class Journal(list[str]):
    """What happened on disk and in the bucket, in one order."""

    def watch(self, world: World, patch: pytest.MonkeyPatch) -> None:
        step: Callable[..., None] = world.files.step
        run: Callable[..., object] = world.store._run

        def stepping(operation: str, *effects: object) -> None:
            self.append(operation)
            step(operation, *effects)

        def running(operation: str, names: tuple[str, ...], request: object) -> object:
            result = run(operation, names, request)
            self.append(f"{operation} {' '.join(names)}")
            return result

        patch.setattr(world.files, "step", stepping)
        patch.setattr(world.store, "_run", running)

    def first(self, *parts: str) -> int:
        """Where the first entry with all of ``parts`` is."""
        return next(n for n, entry in enumerate(self) if all(part in entry for part in parts))


def test_sstable_write_before_wal_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Table uploaded, read back, named by the manifest; only then is its log let go of."""
    world = World()
    db = world.open()
    db.put(b"k", b"v")
    journal = Journal()
    journal.watch(world, monkeypatch)
    db.flush()
    sealed = journal.first("write", "wal/")
    uploaded = journal.first("put tables/")
    verified = journal.first("get tables/")
    committed = journal.first("put_if_absent manifest/")
    released = journal.first("rename", "00000000000000000001.wal")
    assert sealed < uploaded < verified < committed < released
    assert any("sync" in entry for entry in journal[sealed:uploaded]), "SEAL is durable first"
    assert journal[released + 1] == f"sync directory {WAL}"


def test_a_table_that_reads_back_differently_is_not_used() -> None:
    world = World()
    db = world.open()
    db.put(b"k", b"v")
    world.store.corrupt("get", match="tables/", times=2)
    with pytest.raises(ChecksumError, match="reads back differently"):
        db.flush()
    db.flush()
    assert db.get(b"k") == b"v"
    assert len(db._engine.manifest.state.version.tables) == 1
    assert db.verify().ok


def test_flush_crash_leaves_wal_intact() -> None:
    """A crash at any operation of a flush: the log still has what the manifest does not."""
    world = World()
    db = world.open()
    model = Model()
    for number in range(5):
        model.attempt([("put", b"k%d" % number, b"v")])
        model.acknowledge(db.put(b"k%d" % number, b"v"), "local")
    disk, bucket = world.files.operations, len(world.store.trace)
    db.flush()
    points = [
        point
        for point in world.crash_points()
        if point.number > (disk if point.device == "disk" else bucket)
    ]
    assert len(points) > 6
    for point in points:
        crashed = flush_until(point)
        check_recovery(crashed.kill(), model, "memory")
        check_recovery(crashed.lose_power(3), model, "local")


def flush_until(point: CrashPoint) -> World:
    world = World()
    world.crash_at(point)
    db = world.open()
    for number in range(5):
        db.put(b"k%d" % number, b"v")
    try:
        db.flush()
    except CrashError:
        return world
    raise AssertionError(f"{point} was not reached")


@pytest.mark.parametrize("operation", ["put", "put_if_absent"])
def test_a_failed_flush_stays_readable_and_is_made_good(operation: str) -> None:
    """Whether the upload fails or the manifest's edit."""
    world = World()
    db = world.open()
    db.put(b"k", b"v")
    world.store.fail(operation, times=1 << 30)
    with pytest.raises(UnavailableError):
        db.flush()
    assert db.get(b"k") == b"v"
    assert list(db.scan()) == [(b"k", b"v")]
    world.store._faults.clear()
    world.clock.advance(60.0)
    db.flush()
    assert db.get(b"k") == b"v"
    assert list_segments(world.files, WAL) == []
    assert dict(world.lose_machine().open().scan()) == {b"k": b"v"}


def test_concurrent_flush_sequence_monotonic() -> None:
    """Several threads write and flush at once: what the tables reach never goes back, and no
    write is lost."""
    world = World(background="thread")
    db = world.open()
    reached: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            reached.append(db._engine.manifest.state.last_seq)

    def work(name: bytes) -> None:
        for number in range(30):
            db.put(b"%b%d" % (name, number), b"v" * 100, durability="memory")
            if number % 5 == 4:
                assert db.flush().last_seq >= number

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=work, args=(name,)) for name in (b"a", b"b", b"c")]
    watcher.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    watcher.join()
    assert reached == sorted(reached)
    assert db.flush().last_seq == 90
    expected = {b"%b%d" % (name, n): b"v" * 100 for name in (b"a", b"b", b"c") for n in range(30)}
    assert dict(db.scan()) == expected
    db.close()
    db._engine.runtime.close()
    assert dict(world.lose_machine().open(background="inline").scan()) == expected
