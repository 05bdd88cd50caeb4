"""Restore drills: what they find, what they leave, and who hears of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seerdb
from seerdb import DB, ChecksumError, ConflictError, CorruptionError, DrillReport, NotFoundError
from seerdb.errors import BusyError, ClosedError, InvalidRequestError, UnavailableError
from seerdb.events import DrillCompleted, WorkFailed
from seerdb.storage.control import JobControl
from seerdb.storage.drill import run as drill_run
from seerdb.storage.drill import schedule
from seerdb.storage.drill.outcome import DrillOutcome, load_outcome, save_outcome
from seerdb.storage.drill.run import run_drill
from seerdb.storage.drill.scratch import OVER_SECONDS, scratch_folder
from seerdb.storage.object_store.names import BACKUP_PREFIX, BLOB_PREFIX, HOLD_PREFIX, TABLE_PREFIX
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.backups import back_up
from tests.fixtures.database import World, collect_garbage, fill
from tests.fixtures.events import Heard

PAST: dict[str, Any] = {"history_retention": 10_000.0, "blob_threshold": 150}


class Scene:
    """A database, a repository with two backups of it, and a place to restore in."""

    def __init__(self, **settings: Any) -> None:
        self.world = World(**(PAST | settings))
        self.clock = self.world.clock
        self.repository = MemoryObjectStore(self.clock)
        self.scratch = FaultyObjectStore(MemoryObjectStore(self.clock), self.clock)
        self.scratch.put("theirs", b"not ours")
        self.db = self.world.open()
        self.write(0)
        self.first = back_up(self.world, self.repository)
        self.write(10)
        self.backup = back_up(self.world, self.repository)
        self.clock.advance(100.0)

    def write(self, start: int) -> None:
        fill(self.db, 30, start=start)
        self.db.delete_range(b"k0003", b"k0005")
        self.db.put(b"fresh", b"%d" % start, ttl=20.0)
        self.db.put(b"last", b"%d" % start, durability="object")

    def drill(self, backup: str | None = None) -> DrillReport:
        return run_drill(
            self.world.store,
            self.repository,
            self.scratch,
            backup=backup,
            control=JobControl(),
            clock=self.clock,
            random_bytes=self.world.random.randbytes,
        )

    def check_left(self) -> None:
        assert [info.name for info in self.scratch.list("")] == ["theirs"]
        assert not self.world.bucket.list(HOLD_PREFIX)

    def damage(self, prefix: str) -> str:
        """Change a byte of the newest such object in the repository; returns its name."""
        name = self.repository.list(prefix)[-1].name
        data = bytearray(self.repository.get(name))
        data[len(data) // 2] ^= 1
        self.repository.put(name, bytes(data))
        return name


def test_the_newest_backup_brings_back_what_was_there() -> None:
    scene = Scene()
    report = scene.drill()
    assert (report.backup, report.seq) == (scene.backup.id, scene.backup.seq)
    assert (report.compared, report.note, report.rpo_seconds) == (True, "", 0.0)
    shown = scene.db.digest(report.seq, second=1_700_000_001)
    assert (report.entries, report.digest) == (shown.entries, shown.digest)
    scene.check_left()
    scene.write(20)
    scene.db.compact()
    collect_garbage(scene.world, scene.db)
    later = scene.drill()
    assert (later.digest, later.compared) == (report.digest, True)
    assert later.rpo_seconds == pytest.approx(scene.clock.now() - 1700000000, abs=1)
    first = scene.drill(scene.first.id)
    assert first.seq == scene.first.seq < later.seq
    assert first.compared
    scene.check_left()


def test_what_has_expired_since_counts_nowhere() -> None:
    scene = Scene(compaction="tiered")
    with_ttl = scene.drill()
    scene.clock.advance(1000.0)
    scene.db.compact()
    assert scene.drill().digest == with_ttl.digest


def test_a_backup_of_what_the_database_has_forgotten_is_read_and_not_compared() -> None:
    scene = Scene(history_retention=0.0)
    for start in range(3):
        scene.write(start)
        scene.db.compact()
        collect_garbage(scene.world, scene.db)
    report = scene.drill()
    assert not report.compared
    assert "cannot tell what it was" in report.note
    assert report.entries > 30
    scene.check_left()


def test_a_checkpoint_of_the_same_commit_is_compared_however_old() -> None:
    scene = Scene(history_retention=0.0)
    scene.db.checkpoint("with-the-backup")
    back_up(scene.world, scene.repository)
    for start in range(3):
        scene.write(start)
        scene.db.compact()
        collect_garbage(scene.world, scene.db)
    assert scene.drill().compared


def test_a_backup_that_was_replaced_in_place_since_is_compared_with_what_was_then() -> None:
    scene = Scene()
    scene.db.restore_in_place(scene.first.seq)
    assert scene.drill().compared


@pytest.mark.parametrize("prefix", [TABLE_PREFIX, BLOB_PREFIX, BACKUP_PREFIX])
def test_damage_in_a_backup_is_found(prefix: str) -> None:
    scene = Scene()
    name = scene.damage(prefix)
    with pytest.raises((CorruptionError, NotFoundError), match=name.rsplit("/", 1)[1]):
        scene.drill()
    scene.check_left()


@pytest.mark.parametrize("prefix", [TABLE_PREFIX, BLOB_PREFIX])
def test_a_missing_object_is_found_also_where_another_way_leads_there(prefix: str) -> None:
    state = Scene().db._engine.manifest.state
    names = [name for table in state.version.tables for name in table.objects]
    for name in (name for name in names if name.startswith(prefix)):
        scene = Scene()
        scene.repository.delete([name])
        with pytest.raises((CorruptionError, NotFoundError), match=name):
            scene.drill()
        scene.check_left()


def test_a_backup_that_brings_back_something_else_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    digest_of = drill_run.digest_of
    monkeypatch.setattr(
        drill_run, "digest_of", lambda *args: digest_of(*args)._replace(digest="0" * 32)
    )
    with pytest.raises(ChecksumError, match=rf"{scene.backup.id}.*expected .* entries, .*0{{32}}"):
        scene.drill()
    scene.check_left()


def test_what_cannot_be_drilled_is_told() -> None:
    scene = Scene()
    with pytest.raises(NotFoundError, match="no sound backup x in the repository"):
        scene.drill("x")
    repository, scene.repository = scene.repository, MemoryObjectStore(scene.clock)
    with pytest.raises(NotFoundError, match="neither a backup nor a database"):
        scene.drill()
    scene.repository = scene.world.bucket
    with pytest.raises(NotFoundError, match="no sound backup yet"):
        scene.drill()
    other = World(clock=scene.clock, seed=7)
    with other.open() as db:
        db.put(b"k", b"v")
    scene.repository, scene.world = repository, other
    with pytest.raises(ConflictError, match="holds backups of database"):
        scene.drill()
    scene.check_left()


@pytest.mark.crash
def test_a_death_anywhere_leaves_nothing_for_good_and_nothing_of_others_is_touched() -> None:
    number = 0
    while True:
        number += 1
        scene = Scene()
        scene.scratch.crash_at = number
        try:
            scene.drill()
        except CrashError:
            pass
        else:
            break
        left = len(scene.scratch._inner.list("drills/"))
        scene.scratch = FaultyObjectStore(scene.scratch._inner, scene.clock)
        scene.clock.advance(OVER_SECONDS / 2)
        scene.drill()
        assert len(scene.scratch.list("drills/")) == left, "it might be at work"
        scene.clock.advance(OVER_SECONDS)
        scene.drill()
        scene.check_left()
    assert number > 10


def test_a_failing_store_fails_the_drill_and_what_it_left_goes_with_the_next() -> None:
    scene = Scene()
    scene.scratch.fail("put", match=TABLE_PREFIX, times=1 << 30)
    with pytest.raises(UnavailableError):
        scene.drill()
    scene.check_left()
    scene.scratch._faults.clear()
    scene.scratch.fail("delete", times=1 << 30)
    with pytest.raises(UnavailableError):
        scene.drill()
    scene.scratch._faults.clear()
    scene.clock.advance(OVER_SECONDS + 1)
    scene.drill()
    scene.check_left()


def test_two_drills_in_one_place_leave_each_other_alone_as_long_as_both_live() -> None:
    scene = Scene()
    randoms = scene.world.random.randbytes
    with scratch_folder(scene.scratch, scene.clock, randoms) as folder:
        for number in range(20):
            folder.put(f"tables/{number}", b"")
            scene.clock.advance(OVER_SECONDS / 2)
            scene.drill()
        assert len(folder.list("")) == 20
    scene.check_left()


def test_a_drill_keeps_to_its_rate_and_ends_when_it_is_told_to() -> None:
    scene = Scene()
    control = JobControl()
    control.rate = 1000
    before = scene.clock.monotonic()

    def drill() -> None:
        run_drill(
            scene.world.store,
            scene.repository,
            scene.scratch,
            backup=None,
            control=control,
            clock=scene.clock,
            random_bytes=scene.world.random.randbytes,
        )

    drill()
    moved = sum(control.counts[:2])
    assert moved > 10_000
    assert scene.clock.monotonic() - before > moved / 1000 - 3
    control.cancel()
    with pytest.raises(ClosedError):
        drill()
    scene.check_left()


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
    monkeypatch.setattr(schedule.DrillJob, "run", wait)

    def run() -> None:
        try:
            drills.run()
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    assert drills.statistics.is_running
    with pytest.raises(BusyError):
        db.drill()
    db.close()
    thread.join(30)
    assert [str(error) for error in errors] == ["the job was cancelled"]
    assert (drills.statistics.drills, drills.statistics.last) == (0, None)
    with pytest.raises(ClosedError):
        drills.run()


# When they come.


class Agenda:
    """Drills on a schedule that is looked at instead of waited for."""

    background, is_inline = "thread", False

    def __init__(self, scene: Scene, **settings: Any) -> None:
        self.scene = scene
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.outcomes: list[BaseException | None] = []
        values = {"drill_interval": 3600.0, "drill_repository": "/nowhere"} | settings
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
        self.drills._drill = self._drill  # type: ignore[method-assign]

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
        thread.join(30)


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
