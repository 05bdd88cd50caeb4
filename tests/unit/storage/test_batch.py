"""Batches: what they refuse, and that a normalised one says the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import InvalidRequestError
from seerdb.storage.batch import Batch, check_key, check_range, check_value, prefix_end
from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT
from seerdb.testing.model import Model, Operation

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"d\0"])
OPERATIONS = st.one_of(
    st.builds(lambda key, value: ("put", key, value), KEYS, st.sampled_from([b"", b"1", b"2"])),
    st.builds(lambda key: ("delete", key, b""), KEYS),
    st.tuples(KEYS, KEYS).filter(lambda p: p[0] < p[1]).map(lambda p: ("delete_range", p[0], p[1])),
)
SPECIAL_OPERATIONS = OPERATIONS | st.builds(
    lambda kind, key, value: (kind, key, value),
    st.sampled_from(["put_ttl", "merge"]),
    KEYS,
    st.sampled_from([b"x", b"yz", b"uvw"]),
)
NAMES = {PUT: "put", DELETE: "delete", DELETE_RANGE: "delete_range"}


def batch_of(operations: list[Operation]) -> Batch:
    batch = Batch()
    for kind, key, value in operations:
        if kind == "put":
            batch.put(key, value)
        elif kind == "delete":
            batch.delete(key)
        elif kind == "put_ttl":
            batch.put(key, value, ttl=len(value) + 1)
        elif kind == "merge":
            batch.merge(key, value)
        else:
            batch.delete_range(key, value)
    return batch


def operations_of(batch: Batch) -> list[Operation]:
    columns = zip(batch.kinds, batch.keys, batch.values, strict=True)
    return [(NAMES[kind], key, value) for kind, key, value in columns]


def test_it_keeps_what_it_is_told_in_order() -> None:
    operations: list[Operation] = [
        ("put", b"a", b"1"),
        ("delete", b"b", b""),
        ("delete_range", b"c", b"d"),
        ("put", b"a", b""),
    ]
    batch = batch_of(operations)
    assert operations_of(batch) == operations
    assert (len(batch), batch.size, batch.has_ranges) == (4, 6, True)
    assert (len(Batch()), Batch().size, Batch().has_ranges) == (0, 0, False)


def test_a_cleared_batch_is_empty_and_leaves_its_columns_to_who_took_them() -> None:
    batch = batch_of([("put", b"a", b"1"), ("delete_range", b"c", b"d")])
    columns = batch.kinds, batch.keys, batch.values
    batch.clear()
    assert (operations_of(batch), batch.has_ranges) == ([], False)
    batch.put(b"b", b"2")
    assert columns == (bytearray([PUT, DELETE_RANGE]), [b"a", b"c"], [b"1", b"d"])


def test_a_copy_is_a_batch_of_its_own() -> None:
    operations: list[Operation] = [("put", b"a", b"1"), ("delete_range", b"c", b"d")]
    batch = batch_of(operations)
    copy = batch.copy()
    batch.delete(b"b")
    assert (operations_of(copy), copy.has_ranges) == (operations, True)


@given(st.lists(OPERATIONS, max_size=10))
def test_a_normalised_batch_says_the_same(operations: list[Operation]) -> None:
    """And nothing in it is hidden by a range delete of its own, whatever the order is then."""
    normalised = operations_of(batch_of(operations).normalised())
    as_told, ranges_first = Model(), Model()
    for model in (as_told, ranges_first):
        model.attempt([("put", key, b"before") for key in (b"a", b"b", b"c", b"d", b"d\0")])
        model.acknowledge(1, "local")
    as_told.attempt(operations)
    ranges_first.attempt(sorted(normalised, key=lambda each: each[0] != "delete_range"))
    assert as_told.contents() == ranges_first.contents()


@given(st.lists(OPERATIONS, max_size=10))
def test_normalising_changes_neither_the_batch_nor_a_normalised_one(
    operations: list[Operation],
) -> None:
    batch = batch_of(operations)
    normalised = batch.normalised()
    assert operations_of(batch) == operations
    assert operations_of(normalised.normalised()) == operations_of(normalised)
    if not batch.has_ranges:
        assert normalised is batch


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (check_key, [b"\0", b"x" * 65_535], [b"", b"x" * 65_536, "a", None, bytearray(b"a"), 1]),
        (check_value, [b"", b"x" * 100_000], ["", None, bytearray(), memoryview(b""), 0]),
    ],
)
def test_keys_and_values(check: Callable[[object], None], good: list[Any], bad: list[Any]) -> None:
    for each in good:
        check(each)
    for each in bad:
        with pytest.raises(InvalidRequestError):
            check(each)


def test_a_subclass_of_bytes_is_refused() -> None:
    class Fancy(bytes):
        pass

    with pytest.raises(InvalidRequestError, match="not Fancy"):
        check_key(Fancy(b"a"))


def test_ranges() -> None:
    check_range(b"a", b"a\0")
    for start, end in ((b"a", b"a"), (b"b", b"a"), (b"", b"a"), (b"a", b"")):
        with pytest.raises(InvalidRequestError):
            check_range(start, end)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"a", b"b"),
        (b"a\xff", b"b"),
        (b"a\xff\xff", b"b"),
        (b"\xfe\xff", b"\xff"),
        (b"\xff", None),
        (b"\xff\xff", None),
        (b"", None),
        (b"a\0", b"a\1"),
        (b"\0", b"\1"),
    ],
)
def test_where_a_prefix_ends(prefix: bytes, end: bytes | None) -> None:
    assert prefix_end(prefix) == end


@given(st.binary(min_size=1, max_size=4), st.binary(max_size=5))
def test_a_prefix_is_the_range_up_to_its_end(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (prefix <= key and (end is None or key < end))


@pytest.mark.parametrize("step", [1, -1, 7])
def test_a_batch_of_many_range_deletes_takes_few_steps(step: int) -> None:
    """It is normalised where it is submitted, which may be an event loop."""
    count, calls = 1_000, 0
    batch = Batch()
    for position in range(count):
        key = b"%04d" % (position * step % count)
        batch.put(key, b"")
        batch.delete_range(key, b"%b-%04d" % (key, position))

    def called(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        normalised = batch.normalised()
    finally:
        sys.setprofile(before)
    assert len(normalised) == count
    assert calls < 20 * count
