"""Cutting and flipping the bytes of every kind of file and object.

What is opened afterwards is either right, as far as the rules for the end of the log allow, or
an error that says what is damaged. Never wrong data, another exception, or a hang.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest

from seerdb import DB, ConflictError, CorruptionError, UnavailableError
from seerdb.ids import SeqNo
from seerdb.storage.manifest.store import load
from seerdb.storage.object_store.names import manifest_name, table_name, wal_name
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.testing.crash import CrashError
from seerdb.testing.model import Contents, Model, contents_after
from tests.crash.trace import Run, Step, Verb, Write, check_contents
from tests.fixtures.database import PATH, ROOMY, WAL, World, fill

WRITES: tuple[Write, ...] = tuple(
    Write(
        (
            ("put", b"key %d" % (number % 7), b"%d" % number * 5),
            ("put", b"only %d" % number, b""),
            *([("delete_range", b"key 2", b"key 4")] if number % 10 == 9 else []),
        )
    )
    for number in range(24)
)


class Place(NamedTuple):
    """Where the frame of a commit lies."""

    segment: int
    start: int
    end: int


class Logged(NamedTuple):
    """A killed database that has everything in its log, and where."""

    world: World
    model: Model
    places: list[Place]

    @property
    def last(self) -> int:
        return max(list_segments(self.world.files, WAL))

    def in_use(self, segment: int) -> int:
        """Where the last frame of a segment ends, SEAL included."""
        return max(place.end for place in find_frames(self.world) if place.segment == segment)

    def survivors(self, segment: int, start: int, end: int) -> set[int]:
        """The seqs whose frames have no byte in ``[start, end)`` of a segment."""
        return {
            seq
            for seq, place in enumerate(self.places, 1)
            if place.segment != segment or place.end <= start or place.start >= end
        }

    def before(self, segment: int, offset: int) -> set[int]:
        """The seqs whose frames end at or before an offset of a segment."""
        return {
            seq
            for seq, place in enumerate(self.places, 1)
            if (place.segment, place.end) <= (segment, offset)
        }


def find_frames(world: World) -> list[Place]:
    """What was written to segments behind their headers, from the trace of the disk."""
    names: dict[str, str] = {}
    frames = []
    for operation in world.files.trace:
        verb, *words = operation.split(" ")
        if verb == "rename":
            names[words[0]] = words[1]
        if verb == "write":
            path = names.get(words[0], words[0])
            offset, length = map(int, words[1].split("+"))
            if path.endswith(".wal") and offset >= HEADER_SIZE:
                segment = int(path.rpartition("/")[2].removesuffix(".wal"))
                frames.append(Place(segment, offset, offset + length))
    return frames


@cache
def logged() -> Logged:
    world = World(takes_tables=False, memtable_capacity=4096)
    run = Run(world)
    db = world.open()
    for write in WRITES:
        run._do(db, write)
    frames = find_frames(world)
    # The last frame of a segment that has a successor is SEAL.
    places = [place for place, after in pairwise(frames) if place.segment == after.segment]
    places.append(frames[-1])
    assert len(places) == len(WRITES)
    assert places[-1].segment >= 3
    return Logged(world, run.model, places)


def cut(world: World, path: str, size: int) -> None:
    file = world.files.open(path)
    file.truncate(size)
    file.close()


def flip(world: World, path: str, offset: int) -> None:
    file = world.files.open(path)
    byte = file.read_at(offset, 1)[0]
    file.write_at(offset, bytes([byte ^ 1 << offset % 8]))
    file.close()


def read_file(world: World, path: str) -> bytes:
    file = world.files.open_read(path)
    return file.read_at(0, file.size())


def contents(db: DB) -> Contents:
    return {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}  # type: ignore[misc]


END = 16 << 10
"""Of every segment."""


def offsets(log: Logged, segment: int, step: int) -> Iterator[int]:
    """Every ``step``-th byte in use, fewer among the zeros of header and tail."""
    yield from range(0, 72, step)
    yield from range(72 + segment, HEADER_SIZE, 400 + step)
    yield from range(HEADER_SIZE, log.in_use(segment), step)
    yield from range(log.in_use(segment), END, 900 + step)


def test_the_log_cut_anywhere_is_a_prefix_or_an_error() -> None:
    log = logged()
    for segment in list_segments(log.world.files, WAL):
        for size in offsets(log, segment, 1):
            world = log.world.kill()
            cut(world, segment_path(WAL, segment), size)
            whole = size >= log.in_use(segment)
            if whole or (segment == log.last and size >= HEADER_SIZE):
                db = world.open()
                assert db.visible_seq == len(log.survivors(segment, size, END))
                check_contents(db, log.model, db.visible_seq)
            else:
                with pytest.raises(CorruptionError):
                    world.open()


@pytest.mark.parametrize("mode", ["point_in_time", "salvage"])
def test_a_cut_log_is_opened_by_the_mode_that_allows_it(mode: str) -> None:
    log = logged()
    for segment in list_segments(log.world.files, WAL):
        for size in offsets(log, segment, 9):
            world = log.world.kill()
            cut(world, segment_path(WAL, segment), size)
            check_mode(log, world, mode, Damage(segment, size, END))


def test_a_flipped_bit_in_the_log_is_found() -> None:
    log = logged()
    last_frame = log.places[-1].start
    for segment in list_segments(log.world.files, WAL):
        for offset in offsets(log, segment, 3):
            world = log.world.kill()
            flip(world, segment_path(WAL, segment), offset)
            if 72 <= offset < HEADER_SIZE or offset >= log.in_use(segment):
                check_contents(world.open(), log.model)
            elif segment == log.last and offset >= last_frame:
                # Nothing behind it proves that it was ever durable: a torn tail.
                check_contents(world.open(), log.model, log.model.seq - 1)
            else:
                with pytest.raises(CorruptionError):
                    world.open()


@pytest.mark.parametrize("mode", ["point_in_time", "salvage"])
def test_a_log_with_a_flipped_bit_is_opened_by_the_mode_that_allows_it(mode: str) -> None:
    log = logged()
    for segment in list_segments(log.world.files, WAL):
        for offset in offsets(log, segment, 17):
            world = log.world.kill()
            flip(world, segment_path(WAL, segment), offset)
            if 72 <= offset < HEADER_SIZE or offset >= log.in_use(segment):
                check_contents(world.open(recovery=mode), log.model)
                continue
            if offset < HEADER_SIZE:
                check_mode(log, world, mode, Damage(segment, 0, END))
            else:
                check_mode(log, world, mode, Damage(segment, offset, offset + 1))


class Damage(NamedTuple):
    """Bytes ``start`` to ``end`` of a segment are not what they were."""

    segment: int
    start: int
    end: int


def check_mode(log: Logged, world: World, mode: str, damage: Damage) -> None:
    """Opening in a mode keeps all that it may; then strictness is content again."""
    segment, start, end = damage
    before = read_file(world, segment_path(WAL, segment))
    if start >= log.in_use(segment):
        survivors = log.survivors(segment, END, END)
    elif mode == "salvage":
        survivors = log.survivors(segment, start, end)
    else:
        survivors = log.before(segment, start)
    expected = contents_after((seq, WRITES[seq - 1].operations) for seq in sorted(survivors))
    db = world.open(recovery=mode)
    assert contents(db) == expected
    assert db.verify().problems == []
    recovered = db.statistics().recovery
    if recovered.quarantined:
        assert recovered.damaged
        assert recovered.quarantined[0] == segment_path(f"{PATH}/quarantine", segment)
        assert read_file(world, recovered.quarantined[0]) == before
    else:
        assert segment == log.last or start >= log.in_use(segment), "lost without a word"
    strict = world.lose_power(segment).open()
    assert contents(strict) == expected
    assert strict.put(b"after", b"") > max(survivors, default=0)
    assert strict.get(b"after") == b""


@pytest.mark.parametrize("ship_interval", [0, 1.0])
def test_nothing_is_acknowledged_after_a_salvage_that_a_new_machine_would_not_find(
    ship_interval: float,
) -> None:
    """The log that was shipped spanned what was lost, and nobody reads beyond a gap."""
    world = World(takes_tables=False, ship_interval=ship_interval, **ROOMY)
    rows = fill(world.open(), 12)
    world = world.kill()
    [segment] = list_segments(world.files, WAL)
    flip(world, segment_path(WAL, segment), HEADER_SIZE + 1700)
    db = world.open(recovery="salvage")
    assert db.visible_seq == 12
    rows = {key: value for key, value in rows.items() if db.get(key)}
    assert len(rows) == 11
    for life in range(3):
        with pytest.raises(UnavailableError, match="salvaged"):
            db.put(b"%d" % life, b"", durability="object")
        assert db.statistics().shipping.unshipped_seq == 1
        rows[b"%d" % life] = b""
        world = world.kill()
        db = world.open()
    world.takes_tables = True
    world = world.kill()
    db = world.open()
    assert db.put(b"after", b"", durability="object") == 16
    assert db.statistics().shipping.unshipped_seq == 0
    assert dict(world.lose_machine().open().scan()) == rows | {b"after": b""}


@pytest.mark.parametrize("mode", ["point_in_time", "salvage"])
def test_what_is_saved_stays_in_the_bucket_until_tables_have_it(mode: str) -> None:
    """The branch was before the damaged segment, so all of the log there was void with it."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    rows = fill(db, 12)
    db.put(b"shipped", b"", durability="object")
    world = world.kill()
    [segment] = list_segments(world.files, WAL)
    flip(world, segment_path(WAL, segment), HEADER_SIZE + 1700)
    db = world.open(recovery=mode)
    saved = dict(db.scan())
    assert saved == {**rows, b"shipped": b""} if mode == "salvage" else 0 < len(saved) < 12
    assert dict(world.lose_machine().open().scan()) == saved


def test_a_salvage_takes_from_the_bucket_what_is_damaged_here() -> None:
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    rows = fill(db, 12) | {b"shipped": b"", b"after": b""}
    db.put(b"shipped", b"", durability="object")
    db.put(b"after", b"")
    world = world.kill()
    [segment] = list_segments(world.files, WAL)
    flip(world, segment_path(WAL, segment), HEADER_SIZE + 1700)
    db = world.open(recovery="salvage")
    assert dict(db.scan()) == rows
    recovered = db.statistics().recovery
    assert recovered.damaged
    assert recovered.shipped_records == 1
    assert db.put(b"next", b"", durability="object") == 15
    assert dict(world.lose_machine().open().scan()) == rows | {b"next": b""}


@pytest.mark.parametrize("lost", ["the header", "the end", "the end, and a successor is there"])
def test_a_salvage_takes_from_the_bucket_what_follows_all_that_can_be_read(lost: str) -> None:
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    rows = fill(db, 12) | {b"shipped": b""}
    db.put(b"shipped", b"", durability="object")
    [segment] = list_segments(world.files, WAL)
    end = find_frames(world)[-1].start
    world = world.kill()
    if lost != "the header":
        world.open()  # seals it
        world = world.kill()
    if lost == "the end":
        world.files.remove(segment_path(WAL, segment + 1))
    flip(world, segment_path(WAL, segment), 0 if lost == "the header" else end)
    db = world.open(recovery="salvage")
    assert dict(db.scan()) == rows
    assert db.statistics().recovery.damaged
    assert dict(world.lose_machine().open().scan()) == rows
    assert db.put(b"next", b"", durability="object") == 14
    rows[b"next"] = b""
    assert dict(world.kill().open().scan()) == dict(world.lose_machine().open().scan()) == rows


def test_a_salvage_that_dies_loses_nothing_of_what_was_shipped() -> None:
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    rows = fill(db, 12) | {b"shipped": b""}
    db.put(b"shipped", b"", durability="object")
    [segment] = list_segments(world.files, WAL)
    flip(world, segment_path(WAL, segment), 0)
    probe = world.kill()
    probe.open(recovery="salvage")
    for point in probe.crash_points():
        crashed = world.kill()
        crashed.crash_at(point)
        with pytest.raises(CrashError):
            crashed.open(recovery="salvage")
        assert dict(crashed.lose_machine().open().scan()) == rows, point
        for after in (crashed.kill(), crashed.lose_power(point.number)):
            assert dict(after.open(recovery="salvage").scan()) == rows, point


def test_a_point_in_time_before_what_a_copy_of_this_machine_shipped_stays_the_end() -> None:
    """What was shipped between both was void up to neither, and came back with another machine."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    fill(db, 12)
    db.put(b"shipped", b"", durability="object")
    world.bucket.put(wal_name(db._engine.manifest.epoch, SeqNo(14), SeqNo(14)), b"not ours")
    with pytest.raises(ConflictError):
        db.put(b"contested", b"", durability="object")
    world = world.kill()
    [segment] = list_segments(world.files, WAL)
    flip(world, segment_path(WAL, segment), HEADER_SIZE + 1700)
    db = world.open(recovery="point_in_time")
    assert 0 < db.put(b"next", b"", durability="object") < 12
    assert dict(world.lose_machine().open().scan()) == dict(db.scan())


def test_a_missing_segment_is_found() -> None:
    log = logged()
    for segment in list_segments(log.world.files, WAL)[:-1]:
        world = log.world.kill()
        world.files.remove(segment_path(WAL, segment))
        with pytest.raises(CorruptionError, match="gap"):
            world.open()


def test_what_follows_a_missing_segment_is_no_point_in_time() -> None:
    log = logged()
    for segment in list_segments(log.world.files, WAL)[:-1]:
        world = log.world.kill()
        world.files.remove(segment_path(WAL, segment))
        db = world.open(recovery="point_in_time")
        last = db.visible_seq
        assert last == max(log.before(segment, 0), default=0)
        check_contents(db, log.model, last)
        check_contents(world.lose_power().open(), log.model, last)


STEPS: tuple[Step, ...] = (
    *WRITES[:8],
    Verb("flush"),
    *WRITES[8:16],
    Verb("compact"),
    Verb("reopen"),
    *WRITES[16:20],
    Verb("flush"),
    *WRITES[20:],
)


@cache
def flushed() -> Run:
    run = Run(World())
    db = run.world.open()
    for step in STEPS:
        db = run._do(db, step)
    return run


def damaged_bodies(data: bytes, step: int) -> Iterator[bytes]:
    """The data cut everywhere, with a byte too many, and with bits flipped."""
    yield from (data[:size] for size in range(0, len(data), step))
    yield data + b"\0"
    for offset in range(0, len(data), step):
        yield data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]


def test_a_damaged_manifest_object_is_found_or_not_needed() -> None:
    run = flushed()
    state = load(run.world.bucket)
    assert state is not None
    assert 1 < state.checkpoint < state.number - 1
    for number in range(1, state.number + 1):
        name = manifest_name(number)
        for body in damaged_bodies(run.world.bucket.get(name), 5):
            world = run.world.kill()
            world.bucket.put(name, body)
            if number < state.checkpoint:
                check_contents(world.open(), run.model)
            else:
                with pytest.raises(CorruptionError, match=name):
                    world.open()


def test_a_damaged_table_is_an_error_and_never_another_answer() -> None:
    run = flushed()
    keys = sorted(run.model.contents())
    version = run.world.kill().open()._engine.manifest.state.version
    assert len(version.tables) >= 3
    for name in map(table_name, (table.id for table in version.tables[1:])):
        for body in damaged_bodies(run.world.bucket.get(name), 5):
            world = run.world.kill()
            world.bucket.put(name, body)
            db = world.open()
            assert any(name in problem for problem in db.verify().problems)
            for key in keys:
                with suppress(CorruptionError):
                    assert db.get(key) == run.model.get(key)
            with suppress(CorruptionError):
                check_contents(db, run.model)


@cache
def shipped() -> Run:
    run = Run(World())
    db = run.world.open()
    for number, write in enumerate(WRITES[:9]):
        db = run._do(db, Write(write.operations, "object" if number % 4 == 3 else "memory"))
    return run


def test_a_damaged_shipped_log_is_found_by_the_machine_that_needs_it() -> None:
    run = shipped()
    names = [info.name for info in run.world.bucket.list("wal/")]
    assert len(names) == 2
    check_contents(run.world.lose_machine().open(), run.model, 8)
    for number, name in enumerate(names):
        for body in damaged_bodies(run.world.bucket.get(name), 11):
            world = run.world.lose_machine()
            world.bucket.put(name, body)
            check_shipped(world, run.model, at_least=4 * number)


def check_shipped(world: World, model: Model, *, at_least: int) -> None:
    """Strict: whole or refused; to a point in time: what is before the damage."""
    try:
        check_contents(world.open(), model, 8)
    except CorruptionError:
        db = world.open(recovery="point_in_time")
        assert at_least <= db.visible_seq < 8
        check_contents(db, model, db.visible_seq)


def test_a_damaged_identity_of_the_data_directory_is_found() -> None:
    log = logged()
    for body in damaged_bodies(read_file(log.world, f"{WAL}/HOME"), 1):
        world = log.world.kill()
        world.files.remove(f"{WAL}/HOME")
        file = world.files.open(f"{WAL}/HOME", create=True)
        file.write_at(0, body)
        for mode in ("strict", "salvage"):
            with pytest.raises(CorruptionError, match="HOME"):
                world.open(recovery=mode)
