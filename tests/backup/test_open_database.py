"""Backups of an open database, called for and in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import seerdb
from seerdb import (
    BusyError,
    ClosedError,
    InvalidRequestError,
    NotFoundError,
    Transfer,
    UnavailableError,
)
from seerdb.storage.backup import tasks
from seerdb.storage.backup.copying import Progress
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.names import HOLD_PREFIX, LOCK_PREFIX, TABLE_PREFIX
from seerdb.storage.pieces import Body
from seerdb.storage.retention import checkpoints
from seerdb.testing.objects import MemoryObjectStore, StallingObjectStore
from tests.fixtures.database import World, collect_garbage, fill
from tests.fixtures.events import PATIENCE


def test_a_backup_holds_everything_that_was_committed_before(tmp_path: Path) -> None:
    world = World()
    with world.open() as db:
        rows = fill(db, 50)
        report = db.backup(str(tmp_path / "repository"), label="mine", keep=True)
        assert report.seq == 50
        assert not world.bucket.list(HOLD_PREFIX)
        [backup] = db.recovery_points(str(tmp_path / "repository")).backups
        assert (backup.id, backup.label, backup.keep) == (report.id, "mine", True)
        own = db.recovery_points().ranges[-1]
        assert own.last_seq == 50
    seerdb.restore(str(tmp_path / "repository"), str(tmp_path / "new"))
    with seerdb.DB.open(str(tmp_path / "new"), background="inline") as db:
        assert dict(db.scan()) == rows


@pytest.mark.parametrize("is_background", [False, True])
def test_a_backup_is_made_though_the_bucket_denies_letting_go_of_its_hold(
    is_background: bool, tmp_path: Path
) -> None:
    world, repository = World(), str(tmp_path / "repository")
    with world.open() as db:
        world.store.fail("delete", match=HOLD_PREFIX, times=1 << 20)
        rows = fill(db, 50)
        if is_background:
            db.start_backup(repository)
            _join()
            [status] = db.backups()
            assert (status.state, status.error) == ("done", None)
            report = status.report
        else:
            report = db.backup(repository)
        assert report is not None
        [note] = report.notes
        assert note.startswith("the hold is left in the bucket")
        assert "24 hours" in note
        assert len(world.bucket.list(HOLD_PREFIX)) == 1
    seerdb.restore(repository, str(tmp_path / "new"))
    with seerdb.DB.open(str(tmp_path / "new"), background="inline") as db:
        assert dict(db.scan()) == rows


def test_a_bucket_is_backed_up_though_it_denies_letting_go_of_the_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(store: ObjectStore, name: str) -> None:
        raise UnavailableError(f"{name}: denied")

    source, repository = str(tmp_path / "db"), str(tmp_path / "repository")
    with seerdb.DB.open(source, background="inline", min_free_disk=0) as db:
        fill(db, 50)
    monkeypatch.setattr(checkpoints, "release", denied)
    [note] = seerdb.backup(source, repository).notes
    assert note.startswith("the hold is left in the bucket")
    assert note.endswith("denied")


def test_every_commit_between_two_backups_can_be_restored_however_soon_they_follow(
    tmp_path: Path,
) -> None:
    world = World(ship_interval=60.0)
    repository = str(tmp_path / "repository")
    with world.open() as db:
        fill(db, 5)
        first = db.backup(repository)
        for number in range(20):
            db.put(b"later", b"%d" % number)
        last = db.backup(repository)
        [whole] = db.recovery_points(repository).ranges
    assert (whole.first_seq, whole.last_seq) == (first.seq, last.seq) == (5, 25)


def test_what_is_copied_stays_while_it_is_compacted_and_collected(tmp_path: Path) -> None:
    """PB-12."""
    world = World()
    with world.open() as db:
        rows = fill(db, 100)
        fill(db, 100)
        busy: list[Progress] = []

        def rewrite(progress: Progress) -> None:
            if not busy:
                busy.append(progress)
                db.delete_range(b"k", b"l")
                db.compact()
                collect_garbage(world, db)

        transfer = Transfer(jobs=1, watch=rewrite)
        assert db.backup(str(tmp_path / "repository"), transfer=transfer).seq == 200
        assert busy
        assert not list(db.scan())
        collect_garbage(world, db)
    seerdb.restore(str(tmp_path / "repository"), str(tmp_path / "new"))
    with seerdb.DB.open(str(tmp_path / "new"), background="inline") as db:
        assert dict(db.scan()) == rows


def test_backups_beside_a_busy_writer_hold_all_commits_up_to_their_seq(tmp_path: Path) -> None:
    stop = threading.Event()
    settings: dict[str, Any] = {
        "memtable_capacity": 64 << 10,
        "min_free_disk": 0,
        "wal_segment_size": 1 << 20,
    }
    with seerdb.DB.open(str(tmp_path / "db"), **settings) as db:

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                db.put(b"%08d" % number, b"v" * 200, durability="memory")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            seqs = [db.backup(str(tmp_path / "repository")).seq for _ in range(3)]
        finally:
            stop.set()
            writer.join()
    points = seerdb.recovery_points(str(tmp_path / "repository")).backups
    assert [point.seq for point in points] == seqs
    for number, point in enumerate(points):
        new = str(tmp_path / f"new{number}")
        seerdb.restore(str(tmp_path / "repository"), new, backup=point.id)
        with seerdb.DB.open(new, background="inline", min_free_disk=0) as db:
            expected = [b"%08d" % each for each in range(1, point.seq + 1)]
            assert list(db.scan(keys_only=True)) == expected


def test_a_backup_in_the_background_is_told_of_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seerdb.DB.open(str(tmp_path / "db")) as db:
        fill(db, 50)
        go_on, flush = threading.Event(), db._tasks._flush

        def flush_later() -> None:
            assert go_on.wait(PATIENCE)
            flush()

        monkeypatch.setattr(db._tasks, "_flush", flush_later)
        began = db.start_backup(str(tmp_path / "repository"))
        assert [began.state, *(each.state for each in db.backups())] == ["running"] * 2
        go_on.set()
        _join()
        [status] = db.backups()
        assert (status.id, status.state, status.error) == (began.id, "done", None)
        assert status.objects == status.total_objects == 1
        assert status.report is not None
        assert status.report.seq == 50


def test_a_backup_that_fails_in_the_background_is_told_of(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "file").write_text("")
    with world.open() as db:
        fill(db, 5)
        db.start_backup(str(tmp_path / "file"))
        _join()
        [status] = db.backups()
        assert status.state == "failed"
        assert status.error
        assert any("backup" in str(event) for event in world.events)
        with pytest.raises(NotFoundError):
            db.cancel_backup("other")


def test_one_backup_at_a_time_runs_in_the_background_and_can_be_cancelled(tmp_path: Path) -> None:
    with seerdb.DB.open(str(tmp_path / "db")) as db:
        fill(db, 50)
        db.flush()
        slow = Transfer(rate=1)
        fill(db, 50, start=50)
        began = db.start_backup(str(tmp_path / "repository"), transfer=slow)
        with pytest.raises(BusyError):
            db.start_backup(str(tmp_path / "repository"))
        db.cancel_backup(began.id)
        _join()
        [status] = db.backups()
        assert status.state == "failed"
        assert "cancelled" in str(status.error)
        assert db.backup(str(tmp_path / "repository")).seq == 100


def test_closing_the_database_ends_its_backups(tmp_path: Path) -> None:
    db = seerdb.DB.open(str(tmp_path / "db"))
    fill(db, 50)
    db.flush()
    fill(db, 50, start=50)
    db.start_backup(str(tmp_path / "repository"), transfer=Transfer(rate=1))
    db.close()
    assert not _threads()
    with pytest.raises(ClosedError):
        db.start_backup(str(tmp_path / "repository"))


def test_closing_the_database_cuts_off_a_repository_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for five attempts to time out, longer than a server has to stop."""
    repository = StallingObjectStore(MemoryObjectStore())
    db = seerdb.DB.open(str(tmp_path / "db"))
    monkeypatch.setattr(StoreLocation, "open", lambda *_: repository)
    monkeypatch.setattr(tasks, "CLOSE_SECONDS", 0.01)
    fill(db, 50)
    repository.stalls = True
    db.start_backup(str(tmp_path / "repository"))
    assert repository.is_waited_for.wait(PATIENCE)
    closing = threading.Thread(target=db.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    ended = not closing.is_alive()
    repository.close()
    assert ended
    assert not _threads()


def test_a_cancelled_backup_is_cut_off_from_a_repository_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went on until its request had timed out, five times."""
    repository = StallingObjectStore(MemoryObjectStore())
    monkeypatch.setattr(tasks, "CANCEL_SECONDS", 0.01)
    with seerdb.DB.open(str(tmp_path / "db")) as db:
        with monkeypatch.context() as patch:
            patch.setattr(StoreLocation, "open", lambda *_: repository)
            fill(db, 50)
            repository.stalls = True
            began = db.start_backup(str(tmp_path / "repository"))
            assert repository.is_waited_for.wait(PATIENCE)
            for _ in range(2):
                db.cancel_backup(began.id)
            _join(PATIENCE)
            [status] = db.backups()
            repository.close()
        assert status.state == "failed"
        assert "cancelled" in str(status.error)
        assert db.backup(str(tmp_path / "repository")).seq == 50


class _Uploading(StallingObjectStore):
    """A repository that answers, to which each table takes until the store is closed."""

    def put(self, name: str, data: Body) -> None:
        if name.startswith(TABLE_PREFIX):
            self.is_waited_for.set()
            self._closed.wait()
        super().put(name, data)

    def delete(self, names: Iterable[str]) -> None:
        self._pass()
        super().delete(names)


@pytest.mark.parametrize("closes", [False, True])
def test_a_backup_that_is_cut_off_from_a_long_upload_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, closes: bool
) -> None:
    """It kept prunes out for ten minutes."""
    objects, begun = MemoryObjectStore(), threading.Event()

    def open_repository(_: StoreLocation) -> ObjectStore:
        repository = _Uploading(objects)
        repository.is_waited_for = begun
        return repository

    monkeypatch.setattr(tasks, "CANCEL_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "CLOSE_SECONDS", 0.01)
    with seerdb.DB.open(str(tmp_path / "db")) as db:
        fill(db, 50)
        monkeypatch.setattr(StoreLocation, "open", open_repository)
        began = db.start_backup(str(tmp_path / "repository"))
        assert begun.wait(PATIENCE)
        assert objects.list(LOCK_PREFIX)
        if closes:
            db.close()
        else:
            db.cancel_backup(began.id)
            _join(PATIENCE)
        assert not objects.list(LOCK_PREFIX)


class _Silent(StallingObjectStore):
    """A repository that lets nobody go of a lock."""

    def delete(self, names: Iterable[str]) -> None:
        self.stalls = True
        self._pass()


def test_a_close_cuts_a_backup_off_from_its_lock_too_where_the_repository_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database could not be closed, for ever."""
    objects, opened, begun = MemoryObjectStore(), list[_Silent](), threading.Event()

    def open_repository(_: StoreLocation) -> ObjectStore:
        opened.append(_Silent(objects))
        opened[-1].is_waited_for = begun
        return opened[-1]

    monkeypatch.setattr(tasks, "CLOSE_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "LET_GO_SECONDS", 0.01)
    with seerdb.DB.open(str(tmp_path / "db")) as db, monkeypatch.context() as patch:
        fill(db, 50)
        patch.setattr(StoreLocation, "open", open_repository)
        db.start_backup(str(tmp_path / "repository"))
        assert begun.wait(PATIENCE)
        closing = threading.Thread(target=db.close, daemon=True)
        closing.start()
        closing.join(20)
        was_closed = not closing.is_alive()
        for each in opened:
            each.close()
    assert was_closed
    assert objects.list(LOCK_PREFIX)


def test_a_cancel_that_finds_no_thread_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one was a success, and the backup waited for its repository all the same."""
    repository = StallingObjectStore(MemoryObjectStore())
    monkeypatch.setattr(tasks, "CANCEL_SECONDS", 0.01)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with seerdb.DB.open(str(tmp_path / "db")) as db:
        fill(db, 50)
        with monkeypatch.context() as patch:
            patch.setattr(StoreLocation, "open", lambda *_: repository)
            repository.stalls = True
            began = db.start_backup(str(tmp_path / "repository"))
            assert repository.is_waited_for.wait(PATIENCE)
            with monkeypatch.context() as without:
                without.setattr(threading.Thread, "start", refuse)
                with pytest.raises(BusyError):
                    db.cancel_backup(began.id)
            db.cancel_backup(began.id)
            _join(PATIENCE)
            [status] = db.backups()
            repository.close()
        assert status.state == "failed"


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"jobs": 65}, {"rate": -1}])
def test_a_transfer_without_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidRequestError):
        Transfer(**wrong)  # type: ignore[arg-type]


def _threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "seerdb-backup"]


def _join(seconds: float | None = None) -> None:
    for thread in _threads():
        thread.join(seconds)
