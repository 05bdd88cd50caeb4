"""Records in columns are those that were written, and nothing that is damaged is among them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.ids import STORED_END
from seerdb.storage.entry import MERGE, PUT
from seerdb.storage.wal import sound
from seerdb.storage.wal.columns import Record, RecordColumns
from seerdb.storage.wal.format import (
    RECORD_HEADER_SIZE,
    encode_frame_header,
    encode_operations,
    encode_record,
)
from seerdb.storage.wal.sound import is_worth_it, sound_records
from tests.unit.storage.wal.samples import HEADER, SALT, flipped, frame, put, seal

PAYLOADS = st.one_of(st.binary(max_size=60), st.just(b"same size"))
GROUPS = st.lists(st.lists(PAYLOADS, min_size=1, max_size=5), min_size=1, max_size=8)


@pytest.fixture(scope="module", autouse=True)
def fewest() -> Iterator[int]:
    """Frames that are worth being looked at together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sound, "FEWEST", 1)
        yield 1


def numbered(groups: list[list[bytes]], gap: int = 1) -> list[list[Record]]:
    seqs = count(gap, gap)
    return [[(seq := next(seqs), 1_000 + seq, payload) for payload in group] for group in groups]


def frames_of(groups: list[list[Record]]) -> bytes:
    return b"".join(frame(*(encode_record(*record, SALT) for record in group)) for group in groups)


def found_in(data: bytes, after: int = 0) -> tuple[list[Record], int]:
    found = sound_records(data, HEADER, after)
    return (list(found[0]), found[1]) if found else ([], 0)


@given(GROUPS, st.integers(1, 3), st.binary(max_size=40))
def test_they_are_what_was_written(groups: list[list[bytes]], gap: int, behind: bytes) -> None:
    written = numbered(groups, gap)
    data = frames_of(written)
    found = sound_records(data + bytes(30) + behind, HEADER, 0)
    assert found is not None
    records, end = found
    assert end == len(data)
    expected = [record for group in written for record in group]
    assert len(records) == len(expected)
    assert list(records) == expected
    assert [records[at] for at in range(len(expected))] == expected
    assert records[-1] == expected[-1]
    middle = len(expected) // 2
    assert list(records[middle:]) == expected[middle:]
    assert list(records[:middle]) == expected[:middle]


@pytest.mark.parametrize("stamp", [(STORED_END, 7), (3, STORED_END)])
def test_numbers_that_no_writer_reaches_are_for_the_walk_to_tell(stamp: tuple[int, int]) -> None:
    assert found_in(frames_of([[(1, 10, b"payload")], [(*stamp, b"payload")]])) == ([], 0)


@given(st.integers(1, 40), st.integers(0, 50), st.integers(0, 40))
def test_those_of_one_size_are_what_was_written(number: int, size: int, start: int) -> None:
    random = Random(number)
    written = numbered([[random.randbytes(size)] for _ in range(number)])
    found = sound_records(frames_of(written) + bytes(100), HEADER, 0)
    assert found is not None
    records, end = found
    assert end == len(frames_of(written))
    assert list(records[start:]) == [record for [record] in written[start:]]


GROUPED = numbered([[b"one"], [b"two", b"three"], [b"four" * 9, b"", b"five"], [b"six"]])
ALIKE = numbered([[b"value %d" % number] for number in range(5)])


@pytest.mark.parametrize("groups", [GROUPED, ALIKE])
def test_every_bit_counts(groups: list[list[Record]]) -> None:
    whole = frames_of(groups)
    ends = [len(frames_of(groups[:number])) for number in range(len(groups) + 1)]
    for offset in range(len(whole)):
        for bit in range(8):
            records, end = found_in(flipped(whole, offset, bit))
            assert end <= offset
            sound = groups[: ends.index(end)]
            assert records == [record for group in sound for record in group]


@given(st.data())
def test_damage_in_several_places_counts(data: st.DataObject) -> None:
    whole = damaged = frames_of(GROUPED)
    offsets = st.integers(0, len(whole) - 1)
    for offset in data.draw(st.sets(offsets, min_size=2, max_size=6)):
        damaged = flipped(damaged, offset, data.draw(st.integers(0, 7)))
    assert len(found_in(damaged)[0]) < sum(map(len, GROUPED))


def test_records_that_change_places_count() -> None:
    first, second = (frame(put(seq)) for seq in (1, 2))
    assert len(found_in(first + second)[0]) == 2
    assert not found_in(second + first)[0]


@pytest.mark.parametrize(
    "body",
    [
        put(3)[:-1],
        put(3) + b"more",
        put(3) + put(3),
        put(3) + put(2),
        put(3, salt=SALT + 1),
        seal(3, 3),
        put(3) + seal(3, 3),
        b"",
        put(3)[: RECORD_HEADER_SIZE - 1],
    ],
    ids=["cut", "more", "again", "back", "salt", "seal", "seal behind", "empty", "header cut"],
)
def test_what_is_no_run_of_records_is_not_found(body: bytes) -> None:
    assert seqs_found(frame(put(1)) + frame(put(2)) + frame(body)) in ([], [1, 2])


def seqs_found(data: bytes, after: int = 0) -> list[int]:
    return [seq for seq, _, _ in found_in(data, after)[0]]


def test_what_comes_before_is_not_found_again() -> None:
    data = frame(put(5)) + frame(put(6))
    assert seqs_found(data, after=4) == [5, 6]
    assert seqs_found(data, after=5) == []


def test_nothing_is_found_behind_a_seal_or_in_compressed_frames() -> None:
    data = frame(put(1)) + frame(put(2))
    assert seqs_found(data + frame(seal(2, 2)) + frame(put(3))) == [1, 2]
    compressed = frame(put(3, b"v" * 500), compressed=True)
    assert seqs_found(data + compressed) == []
    assert seqs_found(compressed) == []
    header = encode_frame_header(len(put(3)), 100, salt=SALT, synced=0)
    assert seqs_found(data + header + put(3)) == []


def test_a_frame_of_very_many_records_is_left_to_others() -> None:
    most = sound._MOST_RECORDS
    assert len(seqs_found(frame(*(put(seq) for seq in range(1, most + 1))))) == most
    assert seqs_found(frame(*(put(seq) for seq in range(1, most + 2)))) == []


def test_a_frame_that_is_not_whole_is_not_found() -> None:
    first, second = (frame(put(seq)) for seq in (1, 2))
    for size in range(len(second)):
        assert seqs_found(first + second[:size]) == [1]


def test_it_is_worth_it_where_frames_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "FEWEST", 10)
    data = b"before" + frame(put(1))
    size = len(data) - 6
    assert is_worth_it(data, 6, HEADER, 10 * size)
    assert not is_worth_it(data, 6, HEADER, 10 * size - 1)
    assert not is_worth_it(data, 5, HEADER, 10 * size)
    assert not is_worth_it(data, 6, HEADER._replace(alignment=4096), 1 << 20)
    few = b"".join(frame(put(seq)) for seq in range(1, 11))
    assert len(seqs_found(few)) == 10
    assert seqs_found(few[len(frame(put(1))) :]) == []


def test_the_operations_in_them_do_not_matter() -> None:
    payloads = [encode_operations(bytes([MERGE, PUT]), [b"k", b"l"], [b"1", b"v"]), b"no batch"]
    records = [(seq, seq, payload) for seq, payload in enumerate(payloads, 1)]
    assert found_in(frames_of([[record] for record in records]))[0] == records


def test_columns_stay_columns_and_may_be_rows() -> None:
    found = sound_records(frames_of(ALIKE), HEADER, 0)
    assert found is not None
    records = found[0]
    assert isinstance(records[1:3], RecordColumns)
    assert len(records) == len(ALIKE)
    rows = records.rows(2)
    assert rows is not None
    assert rows.tolist() == [b"lue %d" % number for number in range(5)]
    assert records.rows(len(b"value 0")) is None
