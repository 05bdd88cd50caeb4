"""What an opening that failed leaves behind: nothing that is open, and nobody at work."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seerdb import (
    DB,
    BusyError,
    Components,
    CorruptionError,
    DiskError,
    LockedError,
    Options,
    Replica,
    Runtime,
    Standby,
)
from seerdb.clock import SystemClock
from seerdb.storage.engine.assembly import Assembly
from seerdb.storage.flush.flusher import Flusher
from seerdb.storage.local.files import File
from seerdb.storage.local.os_files import OsFileSystem, _OsFile
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.wal.writer import LogWriter
from seerdb.storage.workers.threads import Workers
from seerdb.testing.objects import MemoryObjectStore

PATIENCE = 60


class CountingFileSystem(OsFileSystem):
    """The real one, which knows all files that it opened."""

    def __init__(self) -> None:
        self.opened: list[File] = []

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        self.opened.append(super().open(path, create=create, direct=direct))
        return self.opened[-1]

    @property
    def still_open(self) -> list[str]:
        files = (file for file in self.opened if isinstance(file, _OsFile))
        return [file._path for file in files if file._descriptor >= 0]


def raise_disk_error(*_: Any, **_named: Any) -> None:
    raise DiskError("the disk has failed")


@pytest.fixture
def crashed(tmp_path: Path) -> str:
    """A data directory, with its bucket, whose log is shipped and not flushed."""
    with DB.open(tmp_path / "before", min_free_disk=0) as db:
        db.put(b"key", b"value", durability="object")
        made_meanwhile = shutil.ignore_patterns("unready-*", "spare-*")
        shutil.copytree(tmp_path / "before", tmp_path / "after", ignore=made_meanwhile)
    return str(tmp_path / "after")


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    made = Runtime(background="thread", block_cache_capacity=1 << 20, clock=SystemClock())
    yield made
    made.close()


def test_a_segment_that_could_not_be_written_anew_is_closed(
    crashed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt of a standby to take over kept a descriptor, and the memory of its map."""
    files, options = CountingFileSystem(), Options(store=f"{crashed}/bucket", min_free_disk=0)
    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "append", raise_disk_error)
        with pytest.raises(DiskError, match="has failed"):
            DB.open(tmp_path / "other", options, components=Components(files=files))
    assert files.opened
    assert files.still_open == []
    with DB.open(tmp_path / "other", options) as db:
        assert db.get(b"key") == b"value"


def test_a_segment_that_could_not_be_written_anew_is_removed(
    crashed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk each attempt put one more into quarantine, which nobody empties."""
    options = Options(store=f"{crashed}/bucket", min_free_disk=0)
    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "append", raise_disk_error)
        for _ in range(3):
            with pytest.raises(DiskError, match="has failed"):
                DB.open(tmp_path / "other", options)
    assert [each.name for each in (tmp_path / "other" / "wal").iterdir()] == ["HOME"]
    assert list((tmp_path / "other" / "quarantine").iterdir()) == []
    with DB.open(tmp_path / "other", options) as db:
        assert db.get(b"key") == b"value"


def test_a_standby_of_a_damaged_directory_opens_no_store(
    crashed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[StoreLocation]()

    def note(location: StoreLocation, _timeout: float) -> ObjectStore:
        opened.append(location)
        return MemoryObjectStore()

    monkeypatch.setattr(StoreLocation, "open", note)
    Path(crashed, "wal", "HOME").write_bytes(b"nonsense")
    with pytest.raises(CorruptionError, match="identity of the data directory"):
        Standby.open(crashed)
    assert opened == []


def test_the_disk_cache_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = list[DiskTier]()

    def note(tier: DiskTier) -> None:
        closed.append(tier)

    monkeypatch.setattr(Assembly, "_wire_background", raise_disk_error)
    monkeypatch.setattr(DiskTier, "close", note)
    with pytest.raises(DiskError, match="has failed"):
        DB.open(tmp_path, components=Components(object_store=MemoryObjectStore()))
    assert len(closed) == 1


def test_a_log_that_cannot_be_closed_keeps_nothing_else_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Assembly, "_wire_background", raise_disk_error)
        patch.setattr(LogWriter, "close", raise_disk_error)
        with pytest.raises(DiskError, match="has failed"):
            DB.open(tmp_path, min_free_disk=0)
    DB.open(tmp_path, min_free_disk=0).close()


def test_a_close_that_fails_lets_go_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over NFS, where closing a file may fail. It was locked until the process ended."""
    db = DB.open(tmp_path, min_free_disk=0)
    db.put(b"key", b"value")
    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "close", raise_disk_error)
        with pytest.raises(DiskError, match="has failed"):
            db.close()
    assert not is_locked(str(tmp_path))
    with DB.open(tmp_path, min_free_disk=0) as again:
        assert again.get(b"key") == b"value"


@pytest.mark.parametrize("closes", [False, True], ids=["opening", "close"])
def test_a_replica_that_fails_lets_go_of_its_directory(
    crashed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, closes: bool
) -> None:
    def follow() -> Replica:
        return Replica.open(tmp_path / "replica", store=f"{crashed}/bucket")

    with monkeypatch.context() as patch:
        if closes:
            replica = follow()
            patch.setattr(Workers, "close", raise_disk_error)
            with pytest.raises(DiskError, match="has failed"):
                replica.close()
        else:
            patch.setattr(Runtime, "__init__", raise_disk_error)
            with pytest.raises(DiskError, match="has failed"):
                follow()
    assert not is_locked(str(tmp_path / "replica"))
    follow().close()


def test_nobody_works_on_when_the_directory_is_free(
    crashed: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system gave no other thread, a flush went on beside whoever opened it next."""
    begun, was_locked = threading.Event(), list[bool]()
    flush_one = Flusher.flush_one

    def flush_slowly(flusher: Flusher) -> list[int] | None:
        begun.set()
        given_up.wait(0.3)
        was_locked.append(is_locked(crashed))
        return flush_one(flusher)

    given_up = threading.Event()

    def refuse(_workers: Workers, _run: object) -> None:
        assert begun.wait(PATIENCE)
        raise BusyError("no other thread", retry_after_seconds=1.0)

    with monkeypatch.context() as patch:
        patch.setattr(Flusher, "flush_one", flush_slowly)
        patch.setattr(Workers, "submit_compaction", refuse)
        with pytest.raises(BusyError):
            DB.open(crashed, components=Components(runtime=runtime), min_free_disk=0)
        given_up.set()
        runtime.close()
    assert was_locked
    assert all(was_locked)
    with DB.open(crashed, min_free_disk=0) as db:
        assert db.get(b"key") == b"value"


def is_locked(path: str) -> bool:
    try:
        OsFileSystem().lock(f"{path}/LOCK").release()
    except LockedError:
        return True
    return False
