"""Replaying a log gives the memtable that the writer had."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import CorruptionError, TruncatedError
from seerdb.ids import MAX_SEQ
from seerdb.storage.memtable import ENTRY_OVERHEAD, RANGE_OVERHEAD, Memtable
from seerdb.storage.operators import BUILT_IN
from seerdb.storage.value import SECOND_US
from seerdb.storage.wal.columns import Record, RecordColumns
from seerdb.storage.wal.format import SINGLE, encode_operations, encode_put
from seerdb.storage.wal.replay import Replay, replay_sealed
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.workers.pace import at_full_speed
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.model import Operation
from tests.unit.storage.memtables import versions
from tests.unit.storage.test_batch import OPERATIONS, SPECIAL_OPERATIONS, batch_of
from tests.unit.storage.wal.samples import HEADER, flipped, frame, put, seal, segment

Form = Callable[[list[Record]], Sequence[Record]]
FORMS: list[Form] = [list, RecordColumns.of]


def replayed(records: list[Record], after: int = 0) -> Memtable:
    replay = Replay(after)
    for record in records:
        replay.take([record])
    return replay.memtable([1])


def written(seq: int, *operations: Operation) -> Record:
    batch = batch_of(list(operations)).normalised()
    return seq, seq * 10, encode_operations(batch.kinds, batch.keys, batch.values)


@given(
    st.lists(st.lists(OPERATIONS, min_size=1, max_size=4), max_size=12)
    | st.lists(st.lists(OPERATIONS, min_size=1, max_size=1), max_size=12),
    st.sampled_from([None, *FORMS]),
)
def test_a_replayed_memtable_is_the_one_that_was_written(
    batches: list[list[Operation]], at_once: Form | None
) -> None:
    live = Memtable([1])
    records: list[Record] = []
    for seq, operations in enumerate(batches, 1):
        batch = batch_of(operations).normalised()
        live.apply(seq, batch.kinds, batch.keys, batch.values)
        records.append(written(seq, *operations))
    if at_once and records:
        replay = Replay()
        replay.take(at_once(records))
        again = replay.memtable([1])
    else:
        again = replayed(records)
    assert (versions(again), again.last_seq) == (versions(live), live.last_seq)
    assert again.tombstones.tombstones == live.tombstones.tombstones
    assert again.ranged is live.ranged


@given(
    st.lists(st.lists(SPECIAL_OPERATIONS, min_size=1, max_size=4), min_size=1, max_size=12),
    st.sets(st.integers(1, 11)),
    st.booleans(),
)
def test_so_it_is_with_values_that_expire_and_merges_however_the_log_is_cut(
    batches: list[list[Operation]], cuts: set[int], folds: bool
) -> None:
    operator = BUILT_IN["append"] if folds else None
    live = Memtable([1], operator)
    segments = [Replay(operator=operator)]
    for seq, operations in enumerate(batches, 1):
        time_us = seq * SECOND_US // 2
        batch = batch_of(operations).normalised().stamped(lambda: time_us)  # noqa: B023 - at once
        live.apply(seq, batch.kinds, batch.keys, batch.values, time_us)
        if seq - 1 in cuts:
            segments.append(Replay(operator=operator))
        payload = encode_operations(batch.kinds, batch.keys, batch.values)
        segments[-1].take([(seq, time_us, payload)])
    again, *newer = [replay.memtable([number]) for number, replay in enumerate(segments)]
    for each in newer:
        again.absorb(each)
    assert versions(again) == versions(live)
    assert (again.last_seq, again.oldest_operand) == (live.last_seq, live.oldest_operand)
    assert set(again.tombstones.tombstones) == set(live.tombstones.tombstones)
    assert (again.ranged, again.special, again.plain) == (live.ranged, live.special, live.plain)


def test_a_value_too_short_to_say_when_it_expires_is_damage() -> None:
    payload = encode_operations(bytes([5]), [b"k"], [b"1234567"])
    with pytest.raises(TruncatedError, match="too short to say when"):
        replayed([(1, 1, payload)])


def test_a_single_operation_is_taken_for_what_it_is() -> None:
    memtable = replayed(
        [
            (1, 10, encode_put(b"a", b"1")),
            (2, 20, encode_put(b"b", b"")),
            written(3, ("delete", b"a", b"")),
            written(4, ("delete_range", b"c", b"d")),
        ]
    )
    assert versions(memtable) == {b"a": (3, None), b"b": (2, b"")}
    assert [tuple(each) for each in memtable.tombstones.tombstones] == [(b"c", b"d", 4)]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_that_looks_like_a_single_put_is_none(form: Form) -> None:
    """Read as one, its columns have lengths that add up too."""
    columns = (b"\1\1", [b"w", b"x"], [b"", b"v" * 504])
    payload = encode_operations(*columns)
    _, _, key_length, value_length = SINGLE.unpack_from(payload)
    assert SINGLE.size + key_length + value_length == len(payload)
    replay = Replay()
    replay.take(form([(1, 1, payload)]))
    memtable = replay.memtable([1])
    assert versions(memtable) == {b"w": (1, b""), b"x": (1, b"v" * 504)}


@pytest.mark.parametrize("form", FORMS)
def test_what_the_tables_hold_is_left_out(form: Form) -> None:
    records = form([(seq, seq, encode_put(b"k%d" % seq, b"v")) for seq in range(1, 8)])
    replay = Replay(after=4)
    replay.take(records[:3])
    assert (replay.records, replay.last_seq) == (0, 0)
    replay.take(records[3:6])
    replay.take(records[6:])
    assert (replay.records, replay.last_seq) == (3, 7)
    assert replay.memtable([1]).first_us == 5
    assert list(replay.memtable([1]).newest) == [b"k5", b"k6", b"k7"]


def test_the_size_is_that_of_every_version_and_of_each_key_once() -> None:
    records = [(seq, seq, encode_put(b"key", b"v" * seq)) for seq in range(1, 8)]
    memtable = replayed([*records, written(8, ("delete", b"gone", b""), ("put", b"e", b""))])
    assert memtable.size == 9 * ENTRY_OVERHEAD + sum(range(1, 8)) + len(b"key" + b"gone" + b"e")


def test_and_that_of_range_tombstones() -> None:
    operations: list[Operation] = [("delete_range", b"a", b"bc"), ("put", b"d", b"e")]
    memtable = replayed([written(1, *operations)])
    assert memtable.size == 3 + RANGE_OVERHEAD + 2 + ENTRY_OVERHEAD
    live, batch = Memtable([1]), batch_of(operations).normalised()
    live.apply(1, batch.kinds, batch.keys, batch.values)
    assert live.size == memtable.size


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        encode_put(b"k", b"v")[:-1],
        encode_put(b"k", b"v") + b"more",
        b"\1\0\0\0\7\1\0\1\0\0\0kv",
        encode_operations(b"\1\2", [b"a", b"b"], [b"v", b""])[:-1],
        encode_put(b"", b"v"),
        encode_operations(b"\2", [b""], [b""]),
        encode_operations(b"\3", [b"b"], [b"a"]),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_that_makes_no_sense_is_named_by_its_seq(payload: bytes, form: Form) -> None:
    replay = Replay()
    with pytest.raises(CorruptionError) as caught:
        replay.take(form([(1, 1, encode_put(b"k", b"v")), (2, 2, payload)]))
    assert caught.value.name == "the batch of seq 2"


def disk_with(**segments: bytes) -> CrashableFileSystem:
    files = CrashableFileSystem()
    files.make_directory("wal")
    for name, data in segments.items():
        path = segment_path("wal", int(name.removeprefix("s")))
        files.open(path, create=True).write_at(0, data)
    return files


def test_a_run_of_segments_is_one_memtable_with_its_first_and_last_time() -> None:
    four = HEADER._replace(segment=4, first_seq=3)
    five = HEADER._replace(segment=5, first_seq=4)
    files = disk_with(
        s3=segment(frame(put(1)), frame(put(2)), frame(seal(2, 2))),
        s4=segment(frame(seal(2, 0)), header=four),
        s5=segment(frame(put(4)), frame(seal(4, 1)), header=five),
    )
    memtable = replay_sealed(files, "wal", (3, 4, 5), at_full_speed)
    assert (memtable.segments, memtable.last_seq) == ([3, 4, 5], 4)
    assert (memtable.first_us, memtable.last_us) == (10, 40)
    assert memtable.find(b"key4", MAX_SEQ) == (4, b"value")
    empty = replay_sealed(files, "wal", [4], at_full_speed)
    assert (empty.newest, empty.last_seq, empty.first_us, empty.last_us) == ({}, 0, 0, 0)


def test_a_segment_that_is_not_sealed_or_damaged_is_no_memtable() -> None:
    whole = segment(frame(put(1)), frame(seal(1, 1)))
    files = disk_with(s3=segment(frame(put(1)), padding=99))
    with pytest.raises(TruncatedError):
        replay_sealed(files, "wal", [3], at_full_speed)
    with pytest.raises(CorruptionError):
        replay_sealed(disk_with(s3=flipped(whole, 4096 + 60)), "wal", [3], at_full_speed)
