"""A writer that comes back after another took over is told exactly what was lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from seerdb import DB, ConflictError, LostError, promote
from seerdb.events import LogOvertaken, LostCommits
from seerdb.standby import Standby
from seerdb.storage.verify import LocalLog, VerifyReport, verify_database
from seerdb.storage.wal.segments import segment_path
from seerdb.testing.crash import CrashError
from tests.fixtures.database import ROOMY, World


def failed_over(shipped: int, local: int, **settings: Any) -> tuple[World, DB, dict[int, bytes]]:
    """The old primary "a" has died with writes of which only so many were shipped, and "b" goes
    on; the world, "b", and the keys of "a" by seq."""
    world = World(**ROOMY, **settings)
    older = world.open("a")
    keys = {}
    for number in range(shipped + local):
        key = b"a%d" % number
        keys[older.put(key, b"v", durability="object" if number < shipped else "local")] = key
    world = world.kill()
    newer = world.open("b")
    newer.put(b"b", b"v", durability="object")
    return world, newer, keys


def overtaken(world: World) -> LogOvertaken:
    return [each for each in world.events if isinstance(each, LogOvertaken)][-1]


def check_lost(world: World, db: DB, keys: dict[int, bytes], epoch: int = 1) -> None:
    """What is told as lost is what is not there, and what clients are told of each commit."""
    told = {
        seq
        for each in overtaken(world).lost
        for seq in range(each.first, each.last + 1)
        if each.epoch == epoch
    }
    assert told == {seq for seq, key in keys.items() if db.get(key) is None}
    for seq in keys:
        if seq in told:
            with pytest.raises(LostError):
                db.check_commit(epoch, seq)
        else:
            db.check_commit(epoch, seq)


def test_it_is_refused_by_seq_and_put_apart_when_told_to() -> None:
    world, newer, keys = failed_over(shipped=5, local=4)
    newer.close()
    for _ in range(2):
        with pytest.raises(ConflictError, match="up to seq 9 in a/wal, 4 are lost: seq 6 to 9 of"):
            world.open("a")
    db = world.open("a", recovery="salvage")
    report = overtaken(world)
    assert report == LogOvertaken(
        directory="a/quarantine", last_seq=9, lost=[LostCommits(1, 6, 9)], whole=True
    )
    assert db.takeover.own_log == report
    assert db.stats()["takeover"]["own_log"]["lost"] == [{"epoch": 1, "from": 6, "to": 9}]
    check_lost(world, db, keys)
    assert db.statistics().recovery.quarantined == [f"a/quarantine/{1:020d}.wal"]
    assert world.files.exists(f"a/quarantine/{1:020d}.wal")


def test_so_it_is_by_a_promotion_and_by_a_standby_before_it_takes_over() -> None:
    world, newer, keys = failed_over(shipped=1, local=2)
    waiting = Standby.open("a", components=world.components(world.settings), **world.settings)
    found = waiting.find_overtaken()
    assert found is not None
    assert (found.directory, found.lost) == ("a/wal", [LostCommits(1, 2, 3)])
    newer.close()
    db = promote("a", components=world.components(world.settings), **world.settings)
    assert db.takeover.own_log is not None
    assert db.takeover.own_log.lost == found.lost
    check_lost(world, db, keys)
    assert waiting.find_overtaken() is None, "it is put apart"


def test_a_log_of_which_nothing_is_lost_is_put_apart_without_asking() -> None:
    world, newer, keys = failed_over(shipped=5, local=0)
    newer.close()
    db = world.open("a")
    assert db.takeover.own_log == overtaken(world)
    assert overtaken(world).nothing_lost
    assert db.statistics().recovery.quarantined == [f"a/quarantine/{1:020d}.wal"]
    check_lost(world, db, keys)
    assert db.get(b"b") == b"v"


def test_a_log_that_is_kept_though_tables_hold_it_keeps_nobody_from_coming_back() -> None:
    world = World(**ROOMY, wal_retention="count:3")
    older = world.open("a")
    older.put(b"k", b"v")
    older.close()
    world.open("b").close()
    assert world.open("a").get(b"k") == b"v"
    assert overtaken(world).lost == []


def test_several_lives_and_several_ranges() -> None:
    """Nothing reaches the tables, so the log holds all of it."""
    world = World(**ROOMY, takes_tables=False)
    world.open("a").put(b"0", b"safe", durability="object")
    for life in (1, 2, 3):
        world = world.kill()
        db = world.open("a")
        for number in range(life):
            db.put(b"%d%d" % (life, number), b"lost")
    assert db.epoch == 4
    world.open("b").close()
    with pytest.raises(
        ConflictError,
        match="6 are lost: seq 2 of epoch 2, seq 3 to 4 of epoch 3, seq 5 to 7 of epoch 4",
    ):
        world.kill().open("a")


def test_a_second_overtaking_tells_of_the_second_log_alone() -> None:
    world, newer, _ = failed_over(shipped=1, local=1)
    newer.close()
    db = world.open("a", recovery="salvage")
    seqs = [db.put(b"again%d" % number, b"v") for number in range(3)]
    epoch = db.epoch
    world = world.kill()
    world.open("b", recovery="salvage").close()
    with pytest.raises(ConflictError, match="3 are lost"):
        world.open("a")
    world.open("a", recovery="salvage").close()
    assert overtaken(world).lost == [LostCommits(epoch, seqs[0], seqs[-1])]


def test_who_claimed_and_died_before_he_went_on_makes_nobody_believe_that_all_is_there() -> None:
    """He began no branch, so nothing in the bucket says yet where the log ends."""
    world = World(**ROOMY)
    older = world.open("a")
    older.put(b"k", b"safe", durability="object")
    older.put(b"k", b"lost")
    world = world.kill()
    world.store.fail("get", match="wal/", times=1000)
    with pytest.raises(Exception, match=r"."):
        world.open("b")
    world = world.kill()
    with pytest.raises(ConflictError, match="1 is lost: seq 2 of epoch 1"):
        world.open("a")
    assert world.open("c").get(b"k") == b"safe"


@pytest.mark.parametrize("where", ["header", "middle"])
def test_of_a_damaged_log_it_is_told_what_is_lost_at_least(where: str) -> None:
    world, newer, _ = failed_over(shipped=2, local=6)
    newer.close()
    path = segment_path("a/wal", 1)
    file = world.files.open(path)
    offset = 8 if where == "header" else file.read_at(0, 64 << 10).index(b"a5")
    file.write_at(offset, bytes(each ^ 0xFF for each in file.read_at(offset, 2)))
    file.close()
    words = "none that can be read is lost" if where == "header" else "at least 5 are lost"
    with pytest.raises(ConflictError, match=words):
        world.open("a")
    db = world.open("a", recovery="salvage")
    report = overtaken(world)
    assert not report.whole
    seqs = {seq for each in report.lost for seq in range(each.first, each.last + 1)}
    assert seqs == (set() if where == "header" else {3, 4, 5, 7, 8})
    assert db.get(b"b") == b"v"


def test_a_missing_segment_is_damage() -> None:
    world = World(**ROOMY | {"memtable_capacity": 4096}, takes_tables=False)
    older = world.open("a")
    while older.statistics().wal.active_segment < 3:
        older.put(b"k", b"v" * 200)
    world = world.kill()
    world.takes_tables = True
    world.open("b").close()
    world.files.remove(segment_path("a/wal", 1))
    with pytest.raises(ConflictError, match="at least"):
        world.open("a")


def test_verify_tells_before_anything_is_opened() -> None:
    world, newer, _ = failed_over(shipped=2, local=2)
    newer.close()
    report = VerifyReport()
    verify_database(world.bucket, report, log=LocalLog(world.files, "a/wal"))
    [note] = report.notes
    assert note.endswith("up to seq 4 in a/wal, 2 are lost: seq 3 to 4 of epoch 1")
    assert report.ok


def segments_kept(world: World) -> list[str]:
    names = [*world.files.list("a/wal"), *world.files.list("a/quarantine")]
    return sorted(name for name in names if name.endswith(".wal"))


def with_three_segments() -> World:
    """ "a" was overtaken with a log of three segments, none of them flushed."""
    world = World(**ROOMY | {"memtable_capacity": 4096}, takes_tables=False)
    older = world.open("a")
    while older.statistics().wal.active_segment < 3:
        older.put(b"k", b"v" * 200)
    world = world.kill()
    world.open("b").close()
    return world.kill()


def test_whoever_dies_while_he_puts_it_apart_has_told_before() -> None:
    """The bytes are kept, and what is lost of those that are still to be moved is told again."""
    world = with_three_segments()
    world.open("a", recovery="salvage").close()
    [lost] = overtaken(world).lost
    points = [each for each in world.crash_points() if each.device == "disk"]
    told_again = set()
    for point in points:
        world = with_three_segments()
        world.crash_at(point)
        with suppress(CrashError):
            world.open("a", recovery="salvage").close()
        after = world.lose_power(1)
        kept = segments_kept(after)
        after.open("a", recovery="salvage").close()
        told = [each for each in world.events + after.events if isinstance(each, LogOvertaken)]
        assert told[0].lost == [lost]
        assert set(kept[:3]) <= set(segments_kept(after))
        told_again.add(tuple((each.lost[0].first, each.whole) for each in told[1:]))
    assert len(told_again) > 2, "some died between two segments"
