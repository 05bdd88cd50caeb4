"""The simulated disk forgets, tears and fails as it says."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from seerdb.errors import DiskError, DiskFullError
from seerdb.storage.local.files import File
from seerdb.testing.crash import CrashError
from seerdb.testing.files import CrashableFileSystem

SEEDS = range(200)


def disk_with(content: bytes) -> tuple[CrashableFileSystem, File]:
    """A disk with the durable file ``a``, and the file."""
    files = CrashableFileSystem()
    file = files.open("a", create=True)
    file.write_at(0, content)
    file.sync(metadata=True)
    files.sync_directory(".")
    return files, file


def read(files: CrashableFileSystem, path: str = "a") -> bytes:
    return files.open_read(path).read_at(0, 1 << 20)


def test_what_was_synced_survives_every_power_loss() -> None:
    files, _ = disk_with(b"kept")
    assert {read(files.crash(random.Random(seed))) for seed in SEEDS} == {b"kept"}


def test_an_unsynced_write_is_lost_kept_or_torn_at_sectors() -> None:
    files, file = disk_with(bytes(2048))
    file.write_at(256, b"x" * 1280)
    outcomes = {read(files.crash(random.Random(seed))) for seed in SEEDS}
    for outcome in outcomes:
        assert len(outcome) == 2048
        for start, stop in ((256, 512), (512, 1024), (1024, 1536)):
            assert len(set(outcome[start:stop])) == 1, "a sector is all or nothing"
        assert outcome[:256] + outcome[1536:] == bytes(768)
    assert len(outcomes) == 8


def test_growth_may_keep_the_length_and_lose_the_bytes() -> None:
    files, file = disk_with(b"")
    file.write_at(0, b"x" * 600)
    outcomes = {read(files.crash(random.Random(seed))) for seed in SEEDS}
    assert {b"", bytes(600), b"x" * 600, b"x" * 512, bytes(512) + b"x" * 88} <= outcomes


def test_a_data_sync_keeps_writes_but_not_a_shorter_length() -> None:
    files, file = disk_with(b"abcdef")
    file.write_at(0, b"X")
    file.truncate(2)
    file.sync(metadata=False)
    outcomes = {read(files.crash(random.Random(seed))) for seed in SEEDS}
    assert outcomes == {b"Xb", b"Xbcdef"}
    file.sync(metadata=True)
    assert {read(files.crash(random.Random(seed))) for seed in SEEDS} == {b"Xb"}


def test_directory_changes_happen_in_order_or_not_at_all() -> None:
    files, _ = disk_with(b"1")
    files.open("b", create=True)
    files.rename("a", "c")
    files.remove("b")
    outcomes = {tuple(files.crash(random.Random(seed)).list(".")) for seed in SEEDS}
    assert outcomes == {("a",), ("a", "b"), ("b", "c"), ("c",)}
    files.sync_directory(".")
    assert {tuple(files.crash(random.Random(seed)).list(".")) for seed in SEEDS} == {("c",)}


def test_a_synced_file_without_a_synced_name_may_vanish() -> None:
    files = CrashableFileSystem()
    file = files.open("a", create=True)
    file.write_at(0, b"x")
    file.sync(metadata=True)
    assert {files.crash(random.Random(seed)).exists("a") for seed in SEEDS} == {True, False}


def test_made_directories_are_durable_at_once() -> None:
    files = CrashableFileSystem()
    files.make_directory("data/wal")
    assert all(files.crash(random.Random(seed)).exists("data/wal") for seed in SEEDS)


def test_a_killed_process_loses_nothing_but_its_locks() -> None:
    files, file = disk_with(b"old")
    files.lock("LOCK")
    file.write_at(0, b"new")
    after = files.kill()
    assert read(after) == b"new"
    after.lock("LOCK")
    assert {read(after.crash(random.Random(seed))) for seed in SEEDS} == {b"old", b"new"}


def test_disks_after_a_crash_are_independent() -> None:
    files, file = disk_with(b"old")
    after = files.crash(random.Random(1))
    file.write_at(0, b"new")
    after.open("a").write_at(0, b"two")
    assert (read(files), read(after)) == (b"new", b"two")


def test_a_failed_sync_forgets_what_it_was_to_keep() -> None:
    files, file = disk_with(b"old")
    file.write_at(0, b"new")
    files.fail_sync()
    with pytest.raises(DiskError):
        file.sync(metadata=False)
    file.sync(metadata=False)
    assert read(files) == b"new"
    assert {read(files.crash(random.Random(seed))) for seed in SEEDS} == {b"old"}


def test_no_space_stops_writes_and_creations_only() -> None:
    files, file = disk_with(b"old")
    files.no_space = True
    with pytest.raises(DiskFullError):
        file.write_at(0, b"new")
    with pytest.raises(DiskFullError):
        file.allocate(100)
    with pytest.raises(DiskFullError):
        files.open("b", create=True)
    with pytest.raises(DiskFullError):
        files.make_directory("d")
    assert files.free_bytes(".") == 0
    files.rename("a", "c")
    files.remove("c")
    assert files.list(".") == []
    files.no_space = False
    file.write_at(0, b"new")


def test_death_comes_before_the_chosen_operation_or_halfway() -> None:
    for halfway, left in ((False, b"old"), (True, b"nld")):
        files, file = disk_with(b"old")
        files.crash_at = files.operations + 1
        files.crash_halfway = halfway
        with pytest.raises(CrashError, match="write a 0"):
            file.write_at(0, b"ne")
        assert read(files.kill()) == left


def test_after_death_nothing_works() -> None:
    files, file = disk_with(b"old")
    files.crash_at = files.operations + 1
    with pytest.raises(CrashError):
        files.remove("a")
    attempts: list[Callable[[], object]] = [
        lambda: file.write_at(0, b"x"),
        lambda: file.read_at(0, 1),
        lambda: files.list("."),
        lambda: files.exists("a"),
        lambda: files.open("b", create=True),
    ]
    for attempt in attempts:
        with pytest.raises(CrashError):
            attempt()
    assert files.kill().list(".") == ["a"]


def test_operations_are_counted_and_traced() -> None:
    files, file = disk_with(b"old")
    files.rename("a", "b")
    file.truncate(1)
    file.read_at(0, 1)
    files.list(".")
    assert files.operations == len(files.trace) == 6
    assert files.trace == [
        "create a",
        "write a 0+3",
        "sync a",
        "sync directory .",
        "rename a b",
        "truncate a 1",
    ]


def test_a_file_moved_to_another_directory_is_never_lost() -> None:
    files, _ = disk_with(b"x")
    files.make_directory("d")
    files.rename("a", "d/b")

    def places(seed: int) -> tuple[bool, bool]:
        after = files.crash(random.Random(seed))
        return after.exists("a"), after.exists("d/b")

    assert {places(seed) for seed in SEEDS} == {(True, False), (True, True), (False, True)}
    files.sync_directory(".")
    assert {places(seed) for seed in SEEDS} == {(False, True)}
    files.sync_directory("d")
    files.remove("d/b")
    files.sync_directory("d")
    assert {places(seed) for seed in SEEDS} == {(False, False)}
