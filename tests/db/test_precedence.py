"""Which write wins, wherever the writes lie: memtable, sealed memtable, table, merged run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.testing.model import Operation
from tests.db.layers import LAYERS, Layered


def put(key: bytes, value: bytes = b"new") -> Operation:
    return "put", key, value


def delete(key: bytes) -> Operation:
    return "delete", key, b""


def delete_range(start: bytes, end: bytes) -> Operation:
    return "delete_range", start, end


CASES: dict[str, tuple[list[Operation], dict[bytes, bytes]]] = {
    "a newer put beats an older put": ([put(b"a", b"old"), put(b"a")], {b"a": b"new"}),
    "a newer put beats an older delete": (
        [put(b"a", b"old"), delete(b"a"), put(b"a")],
        {b"a": b"new"},
    ),
    "a newer delete beats an older put": (
        [put(b"a", b"old"), put(b"b"), delete(b"a")],
        {b"b": b"new"},
    ),
    "a newer range delete beats an older put": (
        [put(b"a", b"old"), put(b"b", b"old"), delete_range(b"a", b"b")],
        {b"b": b"old"},
    ),
    "a newer put beats an older range delete": (
        [put(b"a", b"old"), delete_range(b"a", b"z"), put(b"a"), put(b"b")],
        {b"a": b"new", b"b": b"new"},
    ),
    "a point delete inside a range": (
        [put(b"b", b"old"), put(b"c", b"old"), delete_range(b"b", b"c"), delete(b"c")],
        {},
    ),
    "a point delete inside a range, then a range over it": (
        [put(b"b", b"old"), delete(b"b"), delete_range(b"a", b"c"), put(b"c")],
        {b"c": b"new"},
    ),
    "a put inside a range after a delete": (
        [put(b"b", b"old"), delete(b"b"), delete_range(b"a", b"c"), put(b"b")],
        {b"b": b"new"},
    ),
    "a point delete after a range delete and a put": (
        [put(b"b", b"old"), delete_range(b"a", b"c"), put(b"b"), delete(b"b")],
        {},
    ),
    "interleaved ranges and puts": (
        [
            put(b"a", b"1"),
            delete_range(b"a", b"c"),
            put(b"b", b"2"),
            delete_range(b"b", b"d"),
            put(b"c", b"3"),
            delete_range(b"a", b"b"),
            put(b"a", b"4"),
        ],
        {b"a": b"4", b"c": b"3"},
    ),
    "overlapping ranges": (
        [
            put(b"a", b"1"),
            put(b"c", b"1"),
            put(b"e", b"1"),
            delete_range(b"a", b"d"),
            put(b"b", b"2"),
            delete_range(b"c", b"f"),
            put(b"d", b"2"),
        ],
        {b"b": b"2", b"d": b"2"},
    ),
    "a range delete of nothing": ([put(b"a"), delete_range(b"b", b"c")], {b"a": b"new"}),
    "only deletes": ([delete(b"a"), delete_range(b"a", b"z"), delete(b"b")], {}),
    "a range ends before its end": (
        [put(b"b", b"old"), put(b"b\0", b"old"), delete_range(b"a", b"b\0")],
        {b"b\0": b"old"},
    ),
    "an empty value beats an older value": ([put(b"a", b"old"), put(b"a", b"")], {b"a": b""}),
}


def check(layered: Layered, expected: dict[bytes, bytes]) -> None:
    db = layered.db
    asked = sorted({*expected, b"a", b"b", b"b\0", b"c", b"d", b"e", b"f", b"z"})
    assert {key: db.get(key) for key in asked if db.get(key) is not None} == expected
    assert db.multi_get(asked) == [expected.get(key) for key in asked]
    assert list(db.scan()) == sorted(expected.items())
    assert list(db.scan(reverse=True)) == sorted(expected.items(), reverse=True)
    with db.snapshot() as snapshot:
        assert dict(snapshot.scan()) == expected
        assert snapshot.multi_get(asked) == [expected.get(key) for key in asked]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES)
def test_the_newest_write_wins(case: str, layer: str) -> None:
    operations, expected = CASES[case]
    layered = Layered(layer)
    for operation in operations:
        layered.write(operation)
    check(layered, expected)


@pytest.mark.parametrize("case", CASES)
def test_the_last_operation_of_a_batch_wins(case: str) -> None:
    operations, expected = CASES[case]
    layered = Layered("all layers")
    layered.put(b"a", b"before")
    layered.write(delete_range(b"a", b"b"), *operations)
    check(layered, expected)
    layered.db.compact()
    check(layered, expected)


@pytest.mark.parametrize("case", CASES)
def test_nothing_comes_back_when_all_is_merged_and_opened_again(case: str) -> None:
    operations, expected = CASES[case]
    layered = Layered("tables")
    for operation in operations:
        layered.write(operation)
    layered.db.compact()
    check(layered, expected)
    stats = layered.db.statistics()
    assert (stats.runs, stats.table_entries) == ((1, len(expected)) if expected else (0, 0))
    layered.db.close()
    layered.db = layered.world.open()
    check(layered, expected)


KEYS = st.sampled_from([b"a", b"b", b"b\0", b"c", b"d", b"\xff"])
OPERATIONS = st.one_of(
    st.builds(put, KEYS, st.sampled_from([b"", b"1", b"2" * 40])),
    st.builds(delete, KEYS),
    st.tuples(KEYS, KEYS)
    .filter(lambda pair: pair[0] < pair[1])
    .map(lambda pair: delete_range(*pair)),
)


@given(
    layer=st.sampled_from(sorted(LAYERS)),
    batches=st.lists(st.lists(OPERATIONS, min_size=1, max_size=4), max_size=12),
)
def test_whatever_is_written_it_reads_as_a_dict_would(
    layer: str, batches: list[list[Operation]]
) -> None:
    layered = Layered(layer)
    for batch in batches:
        layered.write(*batch)
    check(layered, {key: value.value for key, value in layered.model.contents().items()})
