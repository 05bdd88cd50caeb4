"""Restore drills of an open database: when they come, and who hears of what became of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import seerdb
from seerdb import DB, CorruptionError, DrillReport
from seerdb.errors import BusyError, ClosedError, InvalidRequestError, UnavailableError
from seerdb.events import DrillCompleted, WorkFailed
from seerdb.storage.drill import schedule
from seerdb.storage.drill.outcome import DrillOutcome, load_outcome, save_outcome
from seerdb.storage.drill.places import DrillJob
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.workers import job_process
from tests.db.conftest import OpenDB
from tests.fixtures.database import World, fill
from tests.fixtures.drills import Scene
from tests.fixtures.events import PATIENCE, Heard

# Of an open database.


def drilled(tmp_path: Path, open_db: OpenDB, **settings: Any) -> tuple[DB, Heard]:
    """A database with a backup of all that it has, which drills."""
    heard = Heard()
    db = open_db(
        components=seerdb.Components(listener=heard),
        drill_interval=3600.0,
        drill_repository=str(tmp_path / "copies"),
        **settings,
    )
    fill(db, 50)
    db.backup(str(tmp_path / "copies"))
    return db, heard


@pytest.mark.parametrize("background", ["thread", "process"])
def test_an_open_database_drills_and_tells_of_it(
    tmp_path: Path, open_db: OpenDB, background: str
) -> None:
    db, heard = drilled(tmp_path, open_db, background=background)
    assert [check.name for check in db.health() if check.name == "restore drill"] == []
    assert db.statistics().values["drill_success"] == 0
    report = db.drill()
    assert (report.seq, report.entries, report.compared) == (50, 50, True)
    [check] = [check for check in db.health() if check.name == "restore drill"]
    assert (check.ok, check.is_warning) == (True, True)
    assert report.backup in check.detail
    assert f"{report.rpo_seconds:,.0f} seconds old, restored in" in check.detail
    values = db.statistics().values
    names = ("drills", "drill_failures", "drill_success", "drill_compared", "drill_seconds")
    assert [values[name] for name in names] == [1, 0, 1, 1, report.seconds]
    assert db.stats()["drills"]["last"]["report"]["digest"] == report.digest
    heard.wait_for(DrillCompleted, report.backup)
    assert not (tmp_path / "copies" / "drills").exists() or not list(
        (tmp_path / "copies" / "drills").rglob("*.sst")
    )


def test_a_failed_drill_is_loud_and_a_restart_remembers_it(tmp_path: Path, open_db: OpenDB) -> None:
    db, heard = drilled(tmp_path, open_db)
    [table] = (tmp_path / "copies" / "tables").iterdir()
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptionError, match=table.name):
        db.drill()
    heard.wait_for(WorkFailed, "restore drill")
    for _ in range(2):
        [check] = [check for check in db.health() if not check.ok]
        assert (check.name, check.is_warning) == ("restore drill", True)
        assert table.name in check.detail
        assert db.statistics().values["drill_success"] == 0
        assert db.statistics().values["drill_ended_time"] > 0
        db.close()
        db = open_db(drill_interval=3600.0, drill_repository=str(tmp_path / "copies"))


def test_a_drill_without_a_process_left_is_tried_again(
    tmp_path: Path, open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, _ = drilled(tmp_path, open_db, background="process")
    monkeypatch.setattr(schedule, "run_in_worker", _die)
    with pytest.raises(UnavailableError, match="the process of the drill died"):
        db.drill()


def test_a_drill_for_which_no_process_can_be_started_is_tried_again(
    tmp_path: Path, open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It told an error of Python's, and counted as that of the backup."""
    db, _ = drilled(tmp_path, open_db, background="process")
    with monkeypatch.context() as patch:
        patch.setattr(job_process, "get_executable", lambda: "/no/such/python")
        db.prepare()
        with pytest.raises(UnavailableError, match=r"no process for the drill .*/no/such/python"):
            db.drill()


def _die(*_: object) -> None:
    os._exit(1)


def test_settings_that_do_not_go_together_are_refused(open_db: OpenDB) -> None:
    with pytest.raises(InvalidRequestError, match="drill_interval needs"):
        open_db(drill_interval=3600.0)
    with pytest.raises(InvalidRequestError, match=r"between 60\.0 and .*; or 0 for none"):
        open_db(drill_interval=1.0, drill_repository="/x")
    with pytest.raises(InvalidRequestError, match="drill_repository does not say"):
        open_db().drill()


def test_one_drill_at_a_time_and_none_after_the_close(
    tmp_path: Path, open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, _ = drilled(tmp_path, open_db)
    drills = db._drills
    begun, errors = threading.Event(), list[BaseException]()

    def wait(_: object, control: JobControl) -> DrillReport:
        begun.set()
        while not control.is_cancelled:
            closing.wait(0.001)
        raise ClosedError("the job was cancelled")

    closing = threading.Event()
    monkeypatch.setattr(DrillJob, "run", wait)

    def run() -> None:
        try:
            drills.run()
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(PATIENCE)
    assert drills.statistics.is_running
    with pytest.raises(BusyError):
        db.drill()
    db.close()
    thread.join(PATIENCE)
    assert [str(error) for error in errors] == ["the job was cancelled"]
    assert (drills.statistics.drills, drills.statistics.last) == (0, None)
    with pytest.raises(ClosedError):
        drills.run()


def test_a_close_does_not_wait_for_a_repository_that_does_not_answer(
    tmp_path: Path, open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for five attempts to time out, longer than a server has to stop."""
    db, _ = drilled(tmp_path, open_db)
    asked, answered = threading.Event(), threading.Event()

    def wait(*_: object) -> DrillReport:
        asked.set()
        answered.wait(PATIENCE)
        raise UnavailableError("timed out")

    monkeypatch.setattr(DrillJob, "run", wait)
    monkeypatch.setattr(schedule, "CLOSE_SECONDS", 0.01)
    db._drills._start()
    assert asked.wait(PATIENCE)
    closing = threading.Thread(target=db.close, daemon=True)
    closing.start()
    closing.join(PATIENCE / 2)
    ended = not closing.is_alive()
    answered.set()
    assert ended


# When they come.


class Agenda:
    """Drills on a schedule that is looked at instead of waited for."""

    background, is_inline = "thread", False

    def __init__(self, scene: Scene, **settings: Any) -> None:
        self.scene = scene
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.outcomes: list[BaseException | None] = []
        values: dict[str, Any] = {
            "drill_interval": 3600.0,
            "drill_repository": "/nowhere",
        } | settings
        around = schedule.Surroundings(
            store=scene.world.store,
            location=None,
            directory="data",
            files=scene.world.files,
            workers=self,  # type: ignore[arg-type]  # as much of it as is used
            clock=scene.clock,
            random_bytes=scene.world.random.randbytes,
            listener=scene.world.events.append,
        )
        self.drills = schedule.Drills(seerdb.Options(**values), around)
        self.drills._drill = self._drill  # type: ignore[method-assign, assignment]

    @property
    def timer(self) -> Agenda:
        return self

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append((seconds, call))

    def start_thread(self, run: Callable[[], None], _: str) -> threading.Thread:
        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def _drill(self, _: JobControl) -> DrillReport:
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return DrillReport("b", 1, 1, "d", compared=True, note="", rpo_seconds=0.0, seconds=1.0)

    def due(self) -> float:
        """In how many seconds the only one that is planned comes."""
        [(seconds, _)] = self.calls
        return seconds

    def go(self, outcome: BaseException | None) -> None:
        """Have it come, and end like that."""
        self.outcomes.append(outcome)
        self.scene.clock.advance(self.due())
        self.calls.pop()[1]()
        thread = self.drills._thread
        assert thread is not None
        thread.join(PATIENCE)


def test_drills_come_at_their_interval_and_sooner_after_a_store_was_away() -> None:
    agenda = Agenda(Scene())
    agenda.drills.begin()
    for outcome, next_in in (
        (None, 3600.0),
        (UnavailableError("away"), 600.0),
        (BusyError("busy", retry_after_seconds=1.0), 600.0),
        (CorruptionError("damaged", name="x"), 3600.0),
        (RuntimeError("a bug"), 3600.0),
        (None, 3600.0),
    ):
        agenda.go(outcome)
        assert agenda.due() == next_in, outcome
        last = agenda.drills.statistics.last
        assert last is not None
        assert last.ok == (outcome is None)
    assert agenda.drills.statistics.drills == 6
    assert agenda.drills.statistics.failures == 4
    told = [each.error for each in agenda.scene.world.events if isinstance(each, WorkFailed)]
    assert len(told) == 4


@pytest.mark.parametrize(
    ("step", "left"), [(0.0, 3600.0), (1000.0, 2600.0), (1e6, 0.0), (-5e5, 3600.0), (-1e9, 3600.0)]
)
def test_a_restart_goes_on_with_the_interval_whatever_the_clock_says(
    step: float, left: float
) -> None:
    scene = Scene()
    agenda = Agenda(scene)
    agenda.drills.begin()
    agenda.go(None)
    agenda.drills.close()
    scene.clock.set_now(scene.clock.now() + step)
    after = Agenda(scene)
    after.drills.begin()
    assert after.due() == pytest.approx(left, abs=0.01)
    assert after.drills.statistics.last is not None


def test_the_first_drill_comes_though_every_life_is_shorter_than_the_interval() -> None:
    """Each restart began the first interval anew, so there was never one."""
    scene = Scene()
    for left in (3600.0, 2600.0, 1600.0, 600.0):
        agenda = Agenda(scene)
        agenda.drills.begin()
        assert agenda.due() == pytest.approx(left, abs=0.01)
        assert agenda.drills.statistics.last is None
        agenda.drills.close()
        scene.clock.advance(1000.0)
    agenda = Agenda(scene)
    agenda.drills.begin()
    assert agenda.due() == 0.0
    agenda.go(CorruptionError("damaged", name="x"))
    agenda.drills.close()
    last = Agenda(scene).drills.statistics.last
    assert last is not None
    assert "damaged" in last.error


def test_an_outcome_is_remembered_whatever_its_listener_does() -> None:
    scene = Scene()
    agenda = Agenda(scene)
    agenda.drills.begin()

    def listen(_: object) -> None:
        raise RuntimeError("a bug of the listener")

    agenda.drills._around = replace(agenda.drills._around, listener=listen)
    agenda.go(KeyError())
    last = Agenda(scene).drills.statistics.last
    assert last is not None
    assert last.error == "KeyError"


def test_a_disk_that_is_full_is_told_and_drills_go_on() -> None:
    scene = Scene()
    scene.world.files.no_space = True
    agenda = Agenda(scene)
    agenda.drills.begin()
    agenda.go(None)
    assert agenda.due() == 3600.0
    assert agenda.drills.statistics.last is not None
    told = [each.work for each in scene.world.events if isinstance(each, WorkFailed)]
    assert told == ["remember a restore drill"] * 2
    assert Agenda(scene).drills.statistics.last is None


def test_without_an_interval_none_comes() -> None:
    agenda = Agenda(Scene(), drill_interval=0.0)
    agenda.drills.begin()
    assert agenda.calls == []


def test_an_outcome_that_cannot_be_read_is_none() -> None:
    files = World().files
    files.make_directory("data")
    assert load_outcome(files, "data") is None
    save_outcome(files, "data", DrillOutcome(1.0, error="x"))
    save_outcome(files, "data", DrillOutcome(2.0, error="y"))
    assert load_outcome(files, "data") == DrillOutcome(2.0, error="y")
    file = files.open("data/DRILL")
    file.write_at(12, b"!")
    file.close()
    assert load_outcome(files, "data") is None
