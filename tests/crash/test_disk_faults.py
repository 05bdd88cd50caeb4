"""A local disk that fails or fills, and files in it that are not what they should be."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from seerdb import (
    DB,
    CorruptionError,
    DiskFullError,
    LockedError,
    PoisonedError,
    UnsupportedFormatError,
)
from seerdb.errors import DiskError
from seerdb.events import Poisoned
from seerdb.storage.local.files import File
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.testing.machine import disk_error
from tests.fixtures.database import PATH, ROOMY, WAL, World, fill, fill_until


@pytest.mark.parametrize("level", ["memory", "local", "object"])
def test_a_failed_sync_poisons_the_database_until_it_is_opened_again(level: str) -> None:
    world = World(**ROOMY)
    db = world.open()
    rows = fill(db, 5)
    world.files.fail_sync()
    with pytest.raises(PoisonedError):
        db.put(b"lost", b"?")
    for _ in range(3):
        with pytest.raises(PoisonedError, match="earlier one failed"):
            db.put(b"more", b"?", durability=level)
    with pytest.raises(PoisonedError):
        db.delete(b"k0001")
    with pytest.raises(PoisonedError):
        db.flush()
    assert dict(db.scan()) == rows
    assert db.get(b"k0001") == rows[b"k0001"]
    assert db.get(b"lost") is None
    assert [type(event) for event in world.events].count(Poisoned) == 1
    assert [check.name for check in db.health() if not check.ok] == ["writes", "flush"][:1]
    for after in (world.kill(), *map(world.lose_power, range(5))):
        recovered = dict(after.open().scan())
        assert recovered in (rows, rows | {b"lost": b"?"})
    db.close()
    again = world.open()
    assert again.put(b"more", b"1") > 5
    assert again.get(b"k0001") == rows[b"k0001"]


def test_a_sync_that_fails_while_sealing_poisons_too() -> None:
    world = World(**ROOMY)
    db = world.open()
    rows = fill(db, 5)
    world.files.fail_sync()
    with pytest.raises(PoisonedError):
        db.flush()
    with pytest.raises(PoisonedError):
        db.put(b"more", b"?")
    assert dict(db.scan()) == rows
    assert dict(world.lose_power(1).open().scan()) == rows


def test_a_full_disk_in_the_middle_of_an_append_loses_nothing_acknowledged() -> None:
    world = World(**ROOMY)
    db = world.open()
    rows = fill(db, 5)
    world.files.no_space = True
    with pytest.raises(PoisonedError) as caught:
        db.put(b"lost", b"?")
    assert isinstance(caught.value.__cause__, DiskFullError)
    with pytest.raises(PoisonedError):
        db.put(b"more", b"?", durability="memory")
    assert dict(db.scan()) == rows
    world.files.no_space = False
    assert dict(world.lose_power(1).open().scan()) == rows


def test_a_full_disk_when_a_segment_is_made_heals_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The spare is used up first; then writes are refused, not poisoned. That was not counted, and
    not told by readiness, where ``min_free_disk`` is 0."""
    world = World(takes_tables=False)
    db = world.open()
    rows = fill(db, 3)
    monkeypatch.setattr(world.files, "open", refuse_new_files(world))
    rows |= fill_until(db, DiskFullError)[0]
    for _ in range(3):
        with pytest.raises(DiskFullError) as refusal:
            db.put(b"more", b"?")
    assert dict(db.scan()) == rows
    assert dict(world.lose_power(2).open().scan()) == rows
    assert told_of_disk(db) == (4, str(refusal.value), "", True), "there is room again"
    with pytest.raises(DiskFullError) as refusal:
        db.put(b"more", b"?")
    world.files.free_space = (16 << 10) - 1
    assert told_of_disk(db) == (5, str(refusal.value), str(refusal.value), False)
    monkeypatch.undo()
    rows |= fill(db, 50, start=20_000)
    assert told_of_disk(db) == (5, str(refusal.value), "", True), "one was found after all"
    assert dict(db.scan()) == rows
    assert dict(world.lose_power(2).open().scan()) == rows


def told_of_disk(db: DB) -> tuple[int, str, str, bool]:
    """Writes that were refused for want of disk, the last one, why they are now, and whether the
    database is ready."""
    stalls = db.statistics().stalls
    [row] = [row for row in stalls.reasons if row.reason == "disk"]
    [check] = [check for check in db.health() if check.name == "backpressure"]
    return row.refused, row.last, stalls.reason, check.ok


def refuse_new_files(world: World) -> Callable[..., File]:
    """Blocks that a file already has can be overwritten; no new ones are to be had."""
    really = world.files.open

    def opening(path: str, *, create: bool = False, direct: bool = False) -> File:
        if create:
            raise disk_error(errno.ENOSPC, path)
        return really(path, direct=direct)

    return opening


def test_writes_are_refused_below_the_free_space_that_must_stay() -> None:
    world = World(min_free_disk=1 << 20)
    db = world.open()
    rows = fill(db, 3)
    world.files.free_space = 1 << 19
    more, refusal = fill_until(db, DiskFullError)
    rows |= more
    assert "min_free_disk" in str(refusal)
    assert dict(db.scan()) == rows
    world.files.free_space = 1 << 30
    rows |= fill(db, 20, start=20_000)
    db.flush()
    assert dict(world.lose_machine().open().scan()) == rows


def test_the_first_write_needs_a_segment_and_so_free_space() -> None:
    world = World(min_free_disk=1 << 20)
    rows = fill(world.open(), 3)
    after = world.kill()
    after.files.free_space = 1 << 19
    db = after.open()
    with pytest.raises(DiskFullError, match="min_free_disk"):
        db.put(b"refused", b"")
    assert dict(db.scan()) == rows, "reads go on"
    after.files.free_space = 1 << 30
    db.put(b"taken", b"")
    assert dict(db.scan()) == rows | {b"taken": b""}


@pytest.mark.parametrize("operation", ["sync", "remove", "rename", "write", "create"])
def test_an_opening_that_fails_at_the_disk_leaves_the_directory_unlocked(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(takes_tables=False)
    rows = fill(world.open(), 40)
    after = world.kill()
    step = after.files.step

    def failing(name: str, *effects: Callable[[], None]) -> None:
        if name.startswith(operation):
            raise DiskError(f"{name}: by plan")
        step(name, *effects)

    monkeypatch.setattr(after.files, "step", failing)
    with suppress(DiskError):
        after.open().close()
    monkeypatch.undo()
    assert dict(after.open().scan()) == rows


def read_segment_file(world: World, segment: int) -> bytearray:
    file = world.files.open_read(segment_path(WAL, segment))
    return bytearray(file.read_at(0, file.size()))


def put_file(world: World, path: str, data: bytes) -> None:
    world.files.remove(path)
    world.files.open(path, create=True).write_at(0, data)


@pytest.mark.parametrize(
    ("offset", "kind", "message"),
    [
        (0, UnsupportedFormatError, "not a WAL segment"),
        (8, UnsupportedFormatError, "another version"),
        (32, CorruptionError, "header is damaged"),
    ],
)
def test_a_segment_with_a_wrong_header_is_refused(
    offset: int, kind: type[CorruptionError], message: str
) -> None:
    world = World(**ROOMY)
    fill(world.open(), 3)
    world = world.kill()
    data = read_segment_file(world, 1)
    data[offset] ^= 1
    put_file(world, segment_path(WAL, 1), bytes(data))
    with pytest.raises(kind, match=message):
        world.open()


def test_a_segment_under_another_name_is_refused() -> None:
    world = World(**ROOMY)
    fill(world.open(), 3)
    world = world.kill()
    world.files.rename(segment_path(WAL, 1), segment_path(WAL, 2))
    with pytest.raises(CorruptionError, match="another segment than its name says"):
        world.open()


def test_a_segment_of_another_database_is_refused_and_salvaged_around() -> None:
    other = World(seed=5, **ROOMY)
    fill(other.open(), 9)
    world = World(**ROOMY)
    fill(world.open(), 3)
    world = world.kill()
    put_file(world, segment_path(WAL, 1), bytes(read_segment_file(other, 1)))
    with pytest.raises(CorruptionError, match="another database"):
        world.open()
    db = world.open(recovery="salvage")
    assert dict(db.scan()) == {}
    assert len(db.statistics().recovery.quarantined) == 1


def test_files_that_are_not_ours_are_left_alone() -> None:
    world = World()
    db = world.open()
    names = ["notes.txt", "1.wal", "00000000000000000001.wal.bak", "x" * 20 + ".wal"]
    for name in names:
        put_file(world, f"{WAL}/{name}", b"mine")
    rows = fill(db, 60)
    world = world.kill()
    db = world.open()
    rows |= fill(db, 60, start=100)
    db.close()
    for name in names:
        assert world.files.open_read(f"{WAL}/{name}").read_at(0, 9) == b"mine"
    assert dict(world.open().scan()) == rows


def test_a_damaged_disk_tier_is_never_served() -> None:
    """PB-15."""
    world = World(block_cache_capacity=0, disk_cache_capacity=1 << 20)
    db = world.open()
    rows = fill(db, 40)
    db.compact()
    assert dict(db.scan()) == rows
    db.close()
    [name] = [name for name in world.files.list(f"{PATH}/cache") if name.endswith(".parts")]
    path = f"{PATH}/cache/{name}"
    file = world.files.open_read(path)
    data = file.read_at(0, file.size())
    assert len(data) > 1000
    for offset in range(0, len(data), 7):
        damaged = world.kill()
        flipped = data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :]
        put_file(damaged, path, flipped if offset % 2 else data[:offset])
        reading = damaged.open()
        assert dict(reading.scan()) == rows
        assert reading.multi_get(list(rows)) == list(rows.values())
    assert reading.statistics().disk_cache is not None


def test_a_disk_tier_of_another_table_is_never_served() -> None:
    world = World(block_cache_capacity=0, disk_cache_capacity=1 << 20)
    db = world.open()
    fill(db, 10)
    db.flush()
    rows = dict.fromkeys(fill(db, 10), b"new")
    for key in rows:
        db.put(key, b"new")
    db.flush()
    assert dict(db.scan()) == rows
    db.close()
    first, second, *_ = [n for n in world.files.list(f"{PATH}/cache") if n.endswith(".parts")]
    file = world.files.open_read(f"{PATH}/cache/{first}")
    put_file(world, f"{PATH}/cache/{second}", file.read_at(0, file.size()))
    assert dict(world.open().scan()) == rows


def test_a_full_disk_costs_the_disk_tier_only_hits() -> None:
    world = World(block_cache_capacity=0, disk_cache_capacity=1 << 20)
    db = world.open()
    rows = fill(db, 40)
    db.flush()
    db.close()
    db = world.open()
    world.files.no_space = True
    assert dict(db.scan()) == rows
    statistics = db.statistics().disk_cache
    assert statistics is not None
    assert statistics.errors > 0


HOLDER = """
import sys
from seerdb import DB
db = DB.open(sys.argv[1], min_free_disk=0, background="inline")
db.put(b"k", b"v")
print("open", flush=True)
sys.stdin.read()
"""


def test_a_data_directory_of_a_living_process_is_locked(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LockedError, match=str(holder.pid)):
            DB.open(path)
        holder.kill()
    with DB.open(path, min_free_disk=0, background="inline") as db:
        assert db.get(b"k") == b"v"


def test_a_segment_list_is_not_confused_by_names() -> None:
    world = World()
    fill(world.open(), 3)
    assert list_segments(world.files, WAL) == [1]


@pytest.mark.parametrize(
    ("interrupt", "words"),
    [(KeyboardInterrupt(), "KeyboardInterrupt()"), (SystemExit(143), "SystemExit(143)")],
)
def test_an_interrupt_that_poisons_a_database_is_told_by_its_kind(
    monkeypatch: pytest.MonkeyPatch, interrupt: BaseException, words: str
) -> None:
    """Of Ctrl-C the event said nothing, of SIGTERM event and error said ``143``."""
    world = World(**ROOMY)
    db = world.open()

    def sync() -> None:
        raise interrupt

    monkeypatch.setattr(db._engine.log, "sync", sync)
    with pytest.raises(type(interrupt)):
        db.put(b"key", b"value")
    assert Poisoned(words) in world.events
    with pytest.raises(PoisonedError, match=f"failed .{type(interrupt).__name__}"):
        db.put(b"key", b"value")
