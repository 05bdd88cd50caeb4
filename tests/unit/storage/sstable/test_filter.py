"""The filter: never a false no, seldom a false yes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import CorruptionError
from seerdb.storage.read.rows import bounds
from seerdb.storage.sstable.filter import Filter, _masks, build_filter, key_hash, shared_prefix


def filter_of(keys: list[bytes], bits_per_key: int) -> Filter:
    """A filter over ``keys``."""
    payload = build_filter([np.array([*map(key_hash, keys)], np.uint64)], bits_per_key)
    return Filter(payload, name="tables/t.sst", offset=0)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=200), st.integers(1, 64))
def test_a_key_that_is_there_always_passes(keys: list[bytes], bits_per_key: int) -> None:
    table_filter = filter_of(keys, bits_per_key)
    assert all(table_filter.may_contain(key_hash(key)) for key in keys)


@pytest.mark.parametrize(
    ("bits_per_key", "bound"), [(4, 0.18), (8, 0.030), (10, 0.013), (16, 0.002), (32, 0.0003)]
)
@pytest.mark.parametrize("pattern", [b"%d", b"user:%016d", b"%08d-shared-suffix"])
def test_few_absent_keys_pass(bits_per_key: int, bound: float, pattern: bytes) -> None:
    table_filter = filter_of([pattern % number for number in range(20_000)], bits_per_key)
    absent = map(key_hash, (pattern % number for number in range(20_000, 60_000)))
    assert sum(map(table_filter.may_contain, absent)) / 40_000 <= bound


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=60), st.integers(1, 64))
def test_its_bytes_are_what_the_format_says(hashes: list[int], bits_per_key: int) -> None:
    """One key after the other, as the docstring of the module describes it."""
    pieces = [np.array(few, np.uint64) for few in (hashes[:20], [], hashes[20:])]
    payload = build_filter(pieces, bits_per_key)
    mask_bits, tests, *zeros = payload[:8]
    assert (tests, zeros) == (2, [0] * 6)
    words = np.frombuffer(payload[8:], np.uint64).tolist()
    count = len(words)
    expected = [0] * count
    for h in hashes:
        for word in (h % count, (h >> 34) % count):
            expected[word] |= _masks(mask_bits)[h % 4096]
    assert words == expected
    assert count % 2 == 1


def test_the_first_form_has_one_word_for_each_key() -> None:
    hashes = [key_hash(b"%d" % number) for number in range(1000)]
    words = [0] * 157
    for h in hashes:
        words[h % 157] |= _masks(5)[h % 4096]
    table_filter = Filter(np.array([5, *words], np.uint64).tobytes(), name="", offset=0)
    assert all(map(table_filter.may_contain, hashes))
    absent = [key_hash(b"absent %d" % number) for number in range(1000)]
    passing = [words[h % 157] & _masks(5)[h % 4096] == _masks(5)[h % 4096] for h in absent]
    assert list(map(table_filter.may_contain, absent)) == passing
    assert 0 < sum(passing) < 50


def test_a_filter_over_no_keys_passes_nothing() -> None:
    table_filter = filter_of([], 10)
    assert not any(table_filter.may_contain(key_hash(b"%d" % n)) for n in range(1000))


def test_no_bits_means_no_filter() -> None:
    assert build_filter([np.arange(3, dtype=np.uint64)], 0) == b""


def test_a_filter_takes_the_bits_it_was_given() -> None:
    payload = build_filter([np.arange(64_000, dtype=np.uint64)], 10)
    assert len(payload) == pytest.approx(64_000 * 10 / 8, rel=0.01)
    table_filter = Filter(payload, name="", offset=0)
    assert len(payload) <= table_filter.memory <= len(payload) + 500


@pytest.mark.parametrize("mask_bits", range(1, 8))
def test_masks_have_their_bits_spread_evenly(mask_bits: int) -> None:
    masks = _masks(mask_bits)
    assert {mask.bit_count() for mask in masks} == {mask_bits}
    uses = [sum(mask >> bit & 1 for mask in masks) for bit in range(64)]
    assert min(uses) > 0.6 * 64 * mask_bits
    assert max(uses) < 1.4 * 64 * mask_bits


def test_masks_are_part_of_the_format() -> None:
    assert _masks(5)[:3] == [0x0408_8002_0200_0000, 0x00C0_4010_0020_0000, 0x0800_4000_0002_0208]


@pytest.mark.parametrize(
    "payload",
    [
        bytes(8),
        bytes(16),
        b"\x08\x02".ljust(16, b"\0"),
        b"\x05\x01".ljust(16, b"\0"),
        b"\x05\x02\x01".ljust(16, b"\0"),
        b"\x05\x02".ljust(17, b"\0"),
    ],
)
def test_a_malformed_filter_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptionError) as raised:
        Filter(payload, name="tables/t.sst", offset=99)
    assert (raised.value.name, raised.value.offset) == ("tables/t.sst", 99)


BOUNDS = st.lists(st.sampled_from([b"\x00", b"\xff", b"a", b"b"]), max_size=4).map(b"".join)


@given(st.none() | BOUNDS, st.none() | BOUNDS, st.lists(BOUNDS), st.integers(1, 4))
def test_all_keys_of_a_narrow_range_begin_with_its_prefix(
    start: bytes | None, end: bytes | None, keys: list[bytes], size: int
) -> None:
    prefix = shared_prefix(start, end, size)
    inside = [key for key in keys if (start is None or key >= start) and (end is None or key < end)]
    assert prefix is None or len(prefix) == size
    assert prefix is None or all(key.startswith(prefix) for key in inside)


@given(BOUNDS, st.integers(1, 4))
def test_a_scan_of_a_prefix_is_narrow_from_its_length_on(prefix: bytes, size: int) -> None:
    start, end = bounds(None, None, prefix)
    expected = prefix[:size] if len(prefix) >= size else None
    assert shared_prefix(start, end, size) == expected
