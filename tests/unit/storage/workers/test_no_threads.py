"""A system that gives the process no other thread: what is refused, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from seerdb.clock import SystemClock
from seerdb.db import DB
from seerdb.errors import BusyError, UnavailableError
from seerdb.replica import Replica
from seerdb.storage.drill.schedule import RETRY_SECONDS
from seerdb.storage.workers.lanes import LAST_RETRY_SECONDS, Lane
from seerdb.storage.workers.threads import Workers

PATIENCE = 60


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers("thread", SystemClock())
    yield made
    made.close()


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_turn_that_was_refused_is_not_taken_later(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor keeps what it refuses: two threads took turns of one flush lane."""
    gate, is_done, turns = threading.Event(), threading.Event(), list[str]()
    workers.submit_lane(lambda: turns.append(f"held: {gate.wait(PATIENCE)}"))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BusyError, match="no other thread"):
            workers.submit_lane(lambda: turns.append("refused"))
    gate.set()
    workers.submit_lane(is_done.set)
    assert is_done.wait(PATIENCE)
    workers.close()
    assert turns == ["held: True"]


def test_a_lane_without_a_thread_is_tried_again(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, calls, is_up = list[float](), list[Callable[[], None]](), False

    def call_later(seconds: float, call: Callable[[], None]) -> None:
        waits.append(seconds)
        calls.append(call)

    def work() -> bool:
        if not is_up:
            raise UnavailableError("away")
        return False

    monkeypatch.setattr(workers.timer, "call_later", call_later)
    lane = Lane("flush", work, workers, lambda *_: True)
    lane.wake_and_wait(lambda: False)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        patched.setattr(workers._lanes, "_idle_semaphore", threading.Semaphore(0))
        with pytest.raises(BusyError):
            calls.pop()()
    assert waits[-1] == LAST_RETRY_SECONDS
    is_up = True
    calls.pop()()
    assert lane.wait(lambda: lane.error is None, PATIENCE)
    lane.close()


def test_a_turn_that_nobody_could_be_told_of_is_taken_later(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica whose look found no thread never looked again."""
    waits, calls, turns = list[float](), list[Callable[[], None]](), list[str]()

    def call_later(seconds: float, call: Callable[[], None]) -> None:
        waits.append(seconds)
        calls.append(call)

    def work() -> bool:
        turns.append("taken")
        return False

    monkeypatch.setattr(workers.timer, "call_later", call_later)
    lane = Lane("follow", work, workers, lambda *_: True)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BusyError):
            lane.wake()
    assert waits == [LAST_RETRY_SECONDS]
    calls.pop()()
    assert lane.wait(lambda: turns == ["taken"], PATIENCE)
    lane.close()


def test_a_lane_whose_next_attempt_cannot_be_timed_works_when_it_is_woken(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as at work for ever, and who waited for it never returned."""
    is_up = False

    def work() -> bool:
        if not is_up:
            raise UnavailableError("away")
        return False

    def refuse_call(_seconds: float, _call: object) -> None:
        raise BusyError("no other thread", retry_after_seconds=1.0)

    lane = Lane("follow", work, workers, lambda *_: True)
    with monkeypatch.context() as patched:
        patched.setattr(workers.timer, "call_later", refuse_call)
        lane.wake_and_wait(lambda: False, PATIENCE)
        assert lane.wake_and_wait(lambda: not lane._running, PATIENCE)
    is_up = True
    assert lane.wake_and_wait(lambda: lane.error is None, 10)
    lane.close()


def test_the_timer_starts_with_the_first_call_for_which_there_is_a_thread(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, is_done = list[str](), threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BusyError, match="no other thread"):
            workers.timer.call_later(0, lambda: made.append("refused"))
    workers.timer.call_later(0, is_done.set)
    assert is_done.wait(PATIENCE)
    assert made == []


def refuse_from(monkeypatch: pytest.MonkeyPatch, first: int) -> list[str]:
    """Threads are refused from the ``first`` on; returns the names of those that were wanted."""
    wanted, start = list[str](), threading.Thread.start

    def count(thread: threading.Thread) -> None:
        wanted.append(thread.name)
        if len(wanted) >= first:
            refuse(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", count)
    return wanted


def test_an_opening_that_gets_no_thread_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was the timer's, the directory stayed locked until the end of the process."""
    names = set[str]()
    for first in range(1, 20):
        with monkeypatch.context() as patched, suppress(BusyError):
            wanted = refuse_from(patched, first)
            DB.open(tmp_path / "db", lease=1.0).close()
        names |= {name.rstrip("0123456789_") for name in wanted}
        if len(wanted) < first:
            break
        DB.open(tmp_path / "db", lease=1.0).close()
    assert {"seerdb-lease", "seerdb-timer", "seerdb-lane"} <= names


def test_a_backup_that_gets_no_thread_does_not_count_as_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each later one was refused as long as the database was open."""
    with DB.open(tmp_path / "db") as db:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(BusyError, match="no other thread"):
                db.start_backup(str(tmp_path / "repository"))
        assert db.backups() == []
        db.start_backup(str(tmp_path / "repository"))


def test_what_copies_and_reads_without_a_thread_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DB.open(tmp_path / "db", background="inline") as db:
        db.put(b"key", b"value")
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(BusyError, match="no other thread"):
                db.backup(str(tmp_path / "repository"))
        db.backup(str(tmp_path / "repository"))


def test_a_log_for_which_the_timer_has_no_thread_is_synced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was poisoned, and took no write until it was opened again."""
    with DB.open(tmp_path / "db", background="inline", sync_interval=60.0) as db:
        db.put(b"key", b"0", durability="local")
        before = db.stats()["wal"]["syncs"]
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            db.put(b"key", b"1", durability="interval")
        assert db.stats()["wal"]["syncs"] == before + 1
        db.put(b"key", b"2", durability="interval")
        assert db.stats()["wal"]["syncs"] == before + 1


def test_a_drill_for_which_there_is_no_thread_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no other one until the next opening."""
    waits = list[float]()
    repository = str(tmp_path / "repository")
    with DB.open(tmp_path / "db", drill_interval=3600.0, drill_repository=repository) as db:
        drills = db._drills
        monkeypatch.setattr(drills, "_later", waits.append)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(BusyError):
                drills._start()
        assert waits == [RETRY_SECONDS]


def test_a_replica_that_got_no_thread_for_a_look_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It showed the same for ever, and told nobody."""
    with (
        DB.open(tmp_path / "db"),
        Replica.open(tmp_path / "replica", store=str(tmp_path / "db" / "bucket")) as replica,
    ):
        replica.refresh()
        follower = replica._follower
        assert follower.lane.wait(lambda: not follower.lane.has_work, PATIENCE)
        waits = list[float]()
        monkeypatch.setattr(
            follower.runtime.workers.timer, "call_later", lambda seconds, _: waits.append(seconds)
        )
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            patched.setattr(
                follower.runtime.workers._lanes, "_idle_semaphore", threading.Semaphore(0)
            )
            with pytest.raises(BusyError):
                follower._look_as(follower._planned)
        assert waits == [LAST_RETRY_SECONDS]
