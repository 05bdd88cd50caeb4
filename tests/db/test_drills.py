"""Restore drills: what they find, what they leave, and who hears of it."""

from __future__ import annotations

import pytest

from seerdb import ChecksumError, ConflictError, CorruptionError, NotFoundError
from seerdb.errors import ClosedError, UnavailableError
from seerdb.storage.drill import run as drill_run
from seerdb.storage.drill.moment import digest_of
from seerdb.storage.drill.run import run_drill
from seerdb.storage.drill.scratch import OVER_SECONDS, scratch_folder
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.object_store.names import (
    BACKUP_PREFIX,
    BLOB_PREFIX,
    HOLD_PREFIX,
    TABLE_PREFIX,
    WAL_PREFIX,
)
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.fixtures.backups import back_up
from tests.fixtures.database import ROOMY, World, collect_garbage
from tests.fixtures.drills import Scene


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


def test_of_backups_that_hold_the_same_the_one_made_last_is_the_newest() -> None:
    scene = Scene()
    last = back_up(scene.world, scene.repository)
    assert last.seq == scene.backup.seq
    assert scene.drill().backup == last.id


def test_what_has_expired_since_counts_nowhere() -> None:
    scene = Scene(compaction="tiered")
    with_ttl = scene.drill()
    scene.clock.advance(1000.0)
    scene.db.compact()
    assert scene.drill().digest == with_ttl.digest


def test_what_expired_before_the_tables_of_a_backup_were_made_counts_nowhere() -> None:
    """It is not in them, and the log that had it is gone."""
    scene = Scene(**ROOMY, history_retention=0.0)
    scene.db.put(b"short", b"", ttl=20.0, durability="object")
    scene.db.put(b"long", b"", ttl=1e6, durability="object")
    with_log = back_up(scene.world, scene.repository)
    scene.clock.advance(1000.0)
    scene.db.compact()
    collect_garbage(scene.world, scene.db)
    report = scene.drill()
    assert (report.backup, report.compared) == (with_log.id, True)
    assert not scene.world.bucket.list(WAL_PREFIX)


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
    monkeypatch.setattr(
        drill_run, "digest_of", lambda *args: digest_of(*args)._replace(digest="0" * 32)
    )
    with pytest.raises(ChecksumError, match=rf"{scene.backup.id}.*expected .* entries, .*0{{32}}"):
        scene.drill()
    scene.check_left()


def test_what_cannot_be_drilled_is_told() -> None:
    scene = Scene()
    with pytest.raises(NotFoundError, match="there is no backup x"):
        scene.drill("x")
    repository, scene.repository = scene.repository, MemoryObjectStore(scene.clock)
    with pytest.raises(NotFoundError, match="neither a backup nor a database"):
        scene.drill()
    scene.repository = scene.world.bucket
    with pytest.raises(NotFoundError, match="there is no backup yet"):
        scene.drill()
    other = World(clock=scene.clock, seed=7)
    with other.open() as db:
        db.put(b"k", b"v")
    scene.repository, scene.world = repository, other
    with pytest.raises(ConflictError, match="holds backups of database"):
        scene.drill()
    scene.check_left()


def test_a_descriptor_that_is_damaged_is_named_and_makes_no_other_backup_a_bad_one() -> None:
    scene = Scene()
    first, newest = (f"{BACKUP_PREFIX}{each.id}" for each in (scene.first, scene.backup))
    scene.repository.put(newest, scene.repository.get(newest)[:-1])
    assert scene.drill(scene.first.id).backup == scene.first.id
    for backup in (None, scene.backup.id):
        with pytest.raises(CorruptionError, match=newest):
            scene.drill(backup)
    scene.repository.put(first, b"")
    for backup in (None, scene.first.id):
        with pytest.raises(CorruptionError, match=BACKUP_PREFIX):
            scene.drill(backup)
    scene.check_left()


@pytest.mark.crash
def test_a_death_anywhere_leaves_nothing_for_good_and_nothing_of_others_is_touched() -> None:
    number = 1  # what is not ours was put first
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


def test_a_hold_of_which_it_is_unknown_whether_it_was_put_goes_at_once() -> None:
    scene = Scene()
    scene.world.store.time_out_after("put_if_absent", match=HOLD_PREFIX)
    with pytest.raises(UnavailableError):
        scene.drill()
    scene.check_left()


def test_a_drill_is_good_though_the_bucket_denies_letting_go_of_its_hold() -> None:
    scene = Scene()
    scene.world.store.fail("delete", match=HOLD_PREFIX, times=1 << 20)
    report = scene.drill()
    assert report.compared
    assert report.note.startswith("the hold is left in the bucket")
    assert [info.name for info in scene.scratch.list("")] == ["theirs"]


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
    assert moved > 5_000
    assert scene.clock.monotonic() - before > moved / 1000 - 3
    control.cancel()
    with pytest.raises(ClosedError):
        drill()
    scene.check_left()
