"""Recoveries that were themselves interrupted, or left what the next one refused.

Each was found by crashing at every operation of a recovery (``tests/crash``).
"""

from __future__ import annotations

import random

import pytest

from seerdb import CorruptionError, UnavailableError
from seerdb.errors import DiskError
from seerdb.storage.wal.format import HEADER_SIZE, encode_frame, encode_put, encode_record
from seerdb.storage.wal.reader import scan_segment
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.testing.crash import CrashError
from tests.fixtures.database import ROOMY, WAL, World, fill


def crash_after_first_write(world: World) -> World:
    """Open, and die right after the first write of a file: that of SEAL."""
    probe = world.kill()
    probe.open()
    writes = [n for n, name in enumerate(probe.files.trace, 1) if name.startswith("write")]
    crashed = world.kill()
    crashed.files.crash_at = writes[0] + 1
    with pytest.raises(CrashError):
        crashed.open()
    return crashed


def test_a_recovered_log_is_durable_before_its_seal_says_so() -> None:
    """After a mere kill the log is in the page cache. SEAL was written before that was synced;
    a power loss that kept SEAL but not the records made them look corrupt."""
    world = World(**ROOMY)
    db = world.open()
    db.put(b"durable", b"1")
    for number in range(5):
        db.put(b"k%d" % number, b"v" * 600, durability="memory")
    crashed = crash_after_first_write(world.kill())
    for seed in range(50):
        assert crashed.lose_power(seed).open().get(b"durable") == b"1"


def test_a_seal_found_in_the_page_cache_is_made_durable_before_a_successor() -> None:
    """Killed between writing SEAL and its sync: the segment counted as sealed, a successor was
    created, and a power loss took the SEAL away."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    db.put(b"k", b"1")
    sealing = len(world.files.trace) + 2  # sync is free, SEAL is written, then synced
    world.files.crash_at = sealing
    with pytest.raises(CrashError):
        db.flush()
    after = world.kill()
    after.open().put(b"k", b"2")
    for seed in range(30):
        assert after.lose_power(seed).open().get(b"k") == b"2"


@pytest.mark.parametrize("retention", ["count:5", "duration:1000"])
def test_an_empty_segment_that_is_kept_does_not_look_damaged(retention: str) -> None:
    """A segment without records was released, but kept by the retention, without a SEAL."""
    world = World(wal_retention=retention, takes_tables=False, **ROOMY)
    db = world.open()
    probe = World(wal_retention=retention, takes_tables=False, **ROOMY)
    probe.open().put(b"k", b"1")
    named = next(n for n, name in enumerate(probe.files.trace) if name.endswith(f"{1:020}.wal"))
    world.files.crash_at = named + 3  # the name is durable, nothing is written
    with pytest.raises(CrashError):
        db.put(b"k", b"1")
    after = world.kill()
    assert list_segments(after.files, WAL) == [1]
    assert after.kill().open().statistics().recovery.records == 0
    after.open().put(b"k", b"2")
    for seed in range(5):
        assert after.lose_power(seed).open().get(b"k") == b"2"


def test_a_torn_tail_is_cut_the_same_way_when_salvaging() -> None:
    """Salvaging once read on behind a torn tail and sealed with the wrong count."""
    world = World(**ROOMY)
    db = world.open()
    db.put(b"durable", b"1")
    for number in range(6):
        db.put(b"k%d" % number, b"v" * 700, durability="memory")
    for seed in range(40):
        torn = world.lose_power(seed)
        strict = dict(torn.kill().open().scan())
        salvaged = torn.open(recovery="salvage")
        assert dict(salvaged.scan()) == strict
        assert salvaged.statistics().recovery.quarantined == []
        assert dict(torn.lose_power(seed).open().scan()) == strict


def test_a_new_machine_that_dies_while_it_takes_over_loses_nothing() -> None:
    """It claimed the database under its own name first, so its next opening took its empty
    log for the whole truth, and every write acknowledged at level object was gone."""
    world = World(**ROOMY)
    db = world.open()
    rows = {b"k%d" % number: b"v" for number in range(5)}
    for key, value in rows.items():
        db.put(key, value, durability="object")
    probe = world.lose_machine()
    probe.open()
    for point in probe.crash_points():
        crashed = world.lose_machine()
        crashed.crash_at(point)
        with pytest.raises(CrashError):
            crashed.open()
        assert dict(crashed.lose_power(point.number).open().scan()) == rows


def test_after_a_salvage_that_lost_the_first_record_the_log_has_no_gap() -> None:
    """The segment that replaced the damaged one began where its first record did, not where
    the tables end; before its flush a strict opening took that for a missing segment."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    for number in range(4):
        db.put(b"k%d" % number, b"v")
    after = world.kill()
    file = after.files.open(segment_path(WAL, 1))
    file.write_at(4096 + 30, b"\xff")
    file.sync(metadata=True)
    assert len(dict(after.open(recovery="salvage").scan())) == 3
    assert len(dict(after.lose_power(1).open().scan())) == 3


def test_a_database_that_could_not_start_lets_go_of_its_directory() -> None:
    """A failure after the log was recovered left the directory locked for good."""
    world = World(wal_retention="count:3")
    db = world.open()
    for number in range(60):
        db.put(b"k%d" % number, b"v" * 100)
    rows = dict(db.scan())
    after = world.kill()
    really = after.files.rename
    after.files.rename = refuse  # type: ignore[method-assign]
    with pytest.raises(DiskError, match="by plan"):
        after.open(wal_retention="flushed")
    after.files.rename = really  # type: ignore[method-assign]
    assert dict(after.open().scan()) == rows


def refuse(source: str, target: str) -> None:
    raise DiskError(f"{source} to {target}: by plan")


def test_what_two_epochs_of_one_home_shipped_completes_each_other() -> None:
    """The first piece that was shipped after a restart made everything void of the epoch before."""
    world = World(takes_tables=False, memtable_capacity=1024)
    db = world.open()
    rows = {b"k%d" % number: b"v" * 200 for number in range(12)}
    for key, value in rows.items():
        db.put(key, value, durability="object")
    world = world.kill()
    db = world.open()
    for number in range(12):
        db.put(b"l%d" % number, b"v" * 200)
    world.store.fail("put_if_absent", match="wal/", skip=1, times=5)
    with pytest.raises(UnavailableError):
        db.put(b"more", b"1", durability="object")
    recovered = dict(world.lose_machine().open().scan())
    assert recovered.items() >= rows.items()


def test_what_was_shipped_before_damage_is_not_mixed_with_what_came_after_it() -> None:
    """A recovery to the point before the damage gives the lost seqs out again."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    for number in range(6):
        db.put(b"k%d" % number, b"before", durability="object")
    after = world.kill()
    file = after.files.open(segment_path(WAL, 1))
    third = file.read_at(0, 65536).index(b"k2before")
    file.write_at(third, b"X")
    db = after.open(recovery="point_in_time")
    assert db.put(b"k9", b"after", durability="object") == 3
    assert dict(after.lose_machine().open().scan()) == dict(db.scan())
    assert sorted(dict(db.scan())) == [b"k0", b"k1", b"k9"]


def log_with_nonsense(world: World) -> World:
    """The world after a kill; its log has seqs 1 to 5, and no batch is in the one of seq 4."""
    db = world.open()
    for number in range(1, 4):
        db.put(b"k%d" % number, b"v")
    after = world.kill()
    scan = scan_segment(after.files, WAL, 1)
    salt = scan.header.salt
    payloads = {4: b"no batch", 5: encode_put(b"k5", b"v")}
    records = (encode_record(seq, seq, payload, salt) for seq, payload in payloads.items())
    body = b"".join(records)
    data = encode_frame(body, salt=salt, synced=HEADER_SIZE, alignment=1, compress=None)
    after.files.open(segment_path(WAL, 1)).write_at(scan.end, data)
    return after


@pytest.mark.parametrize(
    ("mode", "keys"), [("point_in_time", b"k1 k2 k3"), ("salvage", b"k1 k2 k3 k5")]
)
def test_a_batch_that_makes_no_sense_is_damage_like_any_other(mode: str, keys: bytes) -> None:
    """Its checksum was right, so it was replayed, and no mode could open that log."""
    after = log_with_nonsense(World(**ROOMY))
    with pytest.raises(CorruptionError, match=r"the batch of seq 4.*open with recovery="):
        after.open()
    db = after.open(recovery=mode)
    assert sorted(dict(db.scan())) == keys.split()
    recovery = db.statistics().recovery
    assert (recovery.records, len(recovery.quarantined)) == (len(keys.split()), 1)
    assert sorted(dict(after.lose_power(1).open().scan())) == keys.split()


def test_many_small_segments_become_one_memtable() -> None:
    world = World(takes_tables=False)
    db = world.open()
    rows = fill(db, 40)
    db.delete(b"k0003")
    db.delete_range(b"k0010", b"k0020")
    rows = {key: value for key, value in rows.items() if not b"k0010" <= key < b"k0020"}
    del rows[b"k0003"]
    rows |= fill(db, 20, start=40)
    assert len(list_segments(world.files, WAL)) > 4
    after = world.kill().open(memtable_capacity=1 << 20)
    assert dict(after.scan()) == rows
    found = after.statistics()
    assert (found.memtables.sealed, found.recovery.records) == (1, 62)
    assert found.memtables.sealed_bytes > sum(map(len, rows)) + sum(map(len, rows.values()))
    limited = world.kill().open()
    assert limited.statistics().memtables.sealed > 4
    assert dict(limited.scan()) == rows
    world.takes_tables = True
    flushed = world.kill()
    flushed.open(memtable_capacity=1 << 20).flush()
    assert list_segments(flushed.files, WAL) == []
    assert dict(flushed.kill().open().scan()) == rows


@pytest.mark.parametrize("wal_compression", ["none", "zstd"])
def test_small_writes_behind_a_large_one_are_recovered_in_their_order(wal_compression: str) -> None:
    """A large compressed frame was handed to recovery after hundreds of small ones behind it: what
    was written last was hidden by what was overwritten, and its seqs were given out again."""
    world = World(wal_compression=wal_compression, **ROOMY)
    db = world.open()
    with db.batch() as batch:
        for number in range(100):
            batch.put(b"%d" % number, b"old" + random.Random(number).randbytes(100))
    for number in range(400):
        last = db.put(b"%d" % (number % 100), b"new%d" % number, durability="memory")
    after = world.kill().open()
    assert [value for _, value in after.scan()] == [value for _, value in db.scan()]
    assert after.get(b"99") == b"new399"
    assert after.put(b"next", b"") == last + 1
    after.flush()


def test_a_missing_segment_of_a_single_record_is_found() -> None:
    world = World(takes_tables=False)
    db = world.open()
    for number in range(3):
        db.put(b"%d" % number, b"")
        with pytest.raises(CorruptionError):
            db.flush()
    world.files.remove(segment_path(WAL, 2))
    with pytest.raises(CorruptionError, match="the log has a gap before this segment"):
        world.kill().open()
