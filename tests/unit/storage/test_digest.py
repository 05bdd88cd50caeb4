"""Digests against their definition, and that sums of them tell what sets of entries differ in."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

import pytest
import xxhash

from seerdb.errors import CorruptionError
from seerdb.storage.digest import LONG, NONE, Digest, digest
from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.sstable.packed import Packed, join, pack

Row = tuple[bytes, int, int, bytes]
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def packed(rows: Sequence[Row]) -> Packed:
    keys, seqs, kinds, values = zip(*rows, strict=True)
    return pack(keys, seqs, bytes(kinds), values)


def mix(number: int) -> int:
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


def folded(word: int) -> int:
    return word ^ word >> 32


MULTIPLIERS = [mix((number + 1) * GOLDEN & MASK) | 1 for number in range(LONG // 8 + 1)]


def by_definition(rows: Sequence[Row]) -> Digest:
    contents = versions = 0
    for key, seq, kind, value in rows:
        data = key + value
        z = MULTIPLIERS[0] * folded(kind + (len(key) << 8) + (len(data) << 24))
        if len(data) > LONG:
            z += xxhash.xxh3_64_intdigest(data)
        else:
            words = struct.iter_unpack("<Q", data + bytes(-len(data) % 8))
            z += sum(m * folded(word) for m, (word,) in zip(MULTIPLIERS[1:], words, strict=False))
        a = mix(z & MASK)
        contents += a
        versions += folded(a * GOLDEN & MASK) * (2 * seq + 1)
    return Digest(len(rows), contents & MASK, versions & MASK)


def uniform(random: Random, size: int) -> list[Row]:
    return [
        (b"%08d" % number, random.randrange(1 << 50), PUT, random.randbytes(size))
        for number in range(300)
    ]


def ragged(random: Random) -> list[Row]:
    return [
        (
            random.randbytes(random.randrange(1, 30)),
            random.randrange(1 << 50),
            random.choice((PUT, DELETE)),
            random.randbytes(random.choice((0, 1, 7, 8, 31, 32, 33, 100, 999, 1024, 3000))),
        )
        for _ in range(700)
    ]


SETS: dict[str, Callable[[Random], list[Row]]] = {
    "of one shape": lambda random: uniform(random, 100),
    "of whole words": lambda random: uniform(random, 56),
    "without values": lambda random: uniform(random, 0),
    "of the longest words": lambda random: uniform(random, LONG - 8),
    "long": lambda random: uniform(random, LONG),
    "of all sizes": ragged,
    "alone": lambda random: uniform(random, 5)[:1],
}


@pytest.mark.parametrize("name", SETS)
def test_it_is_what_its_definition_says(name: str) -> None:
    rows = SETS[name](Random(7))
    assert digest(packed(rows)) == by_definition(rows)


def test_a_known_set_has_a_known_digest_for_ever() -> None:
    rows = [(b"apple", 1, PUT, b"red"), (b"pear", 2, DELETE, b""), (b"plum", 3, PUT, b"x" * 2000)]
    assert str(digest(packed(rows))) == KNOWN


KNOWN = "7c48bcd553839c4d3b7430d243f98e10"


def test_entries_hash_the_same_among_others_of_their_shape_and_of_any() -> None:
    rows = uniform(Random(1), 40)
    others = ragged(Random(2))
    mixed = packed(rows + others)
    assert mixed.shape is None
    assert digest(mixed) == digest(packed(rows)) + digest(packed(others))


@pytest.mark.parametrize("name", SETS)
def test_order_and_cuts_do_not_matter(name: str) -> None:
    rows = SETS[name](Random(3))
    whole = packed(rows)
    cut = len(rows) // 3
    assert digest(whole.between(0, cut)) + digest(whole.between(cut, len(rows))) == digest(whole)
    assert digest(packed(rows[::-1])) == digest(whole)
    assert digest(join([packed(rows), packed(rows)])) - digest(whole) == digest(whole)


@pytest.mark.parametrize("name", SETS)
def test_any_single_flipped_bit_is_seen(name: str) -> None:
    random = Random(4)
    rows = SETS[name](random)
    whole = packed(rows)
    sound = digest(whole)
    for _ in range(50):
        parts = whole.parts.copy()
        parts[random.randrange(parts.size)] ^= 1 << random.randrange(8)
        lengths = None if whole.shape else whole.lengths
        found = digest(Packed(parts, whole.seqs, whole.kinds, lengths=lengths, shape=whole.shape))
        assert found.contents != sound.contents
        assert found.versions != sound.versions


def test_the_highest_bits_of_two_words_do_not_cancel_out() -> None:
    value = bytes(64)
    flipped = bytes(7) + b"\x80" + bytes(7) + b"\x80" + bytes(48)
    assert digest(packed([(b"8 bytes.", 1, PUT, value)])) != digest(
        packed([(b"8 bytes.", 1, PUT, flipped)])
    )


def test_values_that_changed_places_are_seen() -> None:
    one, other = b"1" * 32, b"2" * 32
    right = packed([(b"a", 1, PUT, one), (b"b", 2, PUT, other)])
    wrong = packed([(b"a", 1, PUT, other), (b"b", 2, PUT, one)])
    assert digest(right).contents != digest(wrong).contents


def test_seqs_that_changed_places_are_seen_by_the_second_half_alone() -> None:
    right = digest(packed([(b"a", 1, PUT, b"v"), (b"b", 2, PUT, b"w")]))
    wrong = digest(packed([(b"a", 2, PUT, b"v"), (b"b", 1, PUT, b"w")]))
    assert right.contents == wrong.contents
    assert right.versions != wrong.versions


def test_where_a_key_ends_and_what_kind_it_is_counts() -> None:
    found = {
        digest(packed([row])).contents
        for row in (
            (b"ab", 1, PUT, b"c"),
            (b"a", 1, PUT, b"bc"),
            (b"abc", 1, PUT, b""),
            (b"abc", 1, DELETE, b""),
            (b"abc\0", 1, PUT, b""),
        )
    }
    assert len(found) == 5


def test_a_seq_can_be_given_later() -> None:
    rows = uniform(Random(5), 20)
    unassigned = digest(packed([(key, 0, kind, value) for key, _, kind, value in rows]))
    assert unassigned.with_seq(77) == digest(
        packed([(key, 77, kind, value) for key, _, kind, value in rows])
    )


def test_nothing_is_the_digest_of_no_entries() -> None:
    some = digest(packed(uniform(Random(6), 9)))
    assert digest(pack((), (), b"", ())) == NONE
    assert some - some == NONE
    assert some + NONE == some


def test_a_digest_is_read_back() -> None:
    some = digest(packed(uniform(Random(8), 9)))
    assert Digest.read(some.entries, str(some)) == some
    for wrong in ("", "12", "g" * 32, "0" * 33):
        with pytest.raises(CorruptionError):
            Digest.read(1, wrong)
