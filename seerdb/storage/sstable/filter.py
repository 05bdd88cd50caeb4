"""The filter of a table: which user keys it certainly does not hold.

A Bloom filter cut into 64-bit words. One hash of a key picks two words and a mask, the bits to
set in both; so a probe is a modulo, a load and a comparison, and again where the first word
says maybe. With 10 bits a key about 1.1 % of absent keys pass, with 16 bits 0.12 %.

Payload, little-endian; empty when the table has no filter::

    mask bits   u8              1 to 7: bits set in each mask
    tests       u8              2; 0 in the first form, where a key sets one word only
    zero        u48
    words       u64 x n         n is odd, to have no factor in common with the 4096 masks

A key's hash is ``h = xxh3_64(key)``. It picks words ``h % n`` and ``(h >> 34) % n``, and mask
``h % 4096``; its top 8 bits are the key's fingerprint in a block. ``_masks`` defines the masks.
A table may have prefixes of its keys in its filter, too, all of one length: those of keys that are
at least as long. The hash of a prefix is ``xxh3_64(prefix, seed=1)``, so that it is no key's.
All of this is part of the format: do not change.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest as key_hash

from seerdb.errors import CorruptionError
from seerdb.storage.batch import prefix_end

__all__ = [
    "LOW_BITS",
    "PASS_ALL",
    "SECOND_SHIFT",
    "Filter",
    "build_filter",
    "key_hash",
    "prefix_hash",
    "shared_prefix",
]

_WORD_BITS = 64
_MASKS = 4096
LOW_BITS = _MASKS - 1
"""``h & LOW_BITS`` is the number of a hash's mask."""
SECOND_SHIFT = 34
"""``h >> SECOND_SHIFT`` picks the second word of a hash: what is left is quick to divide."""
_MOST_MASK_BITS = 7
_BEST_MASK_BITS = 6
"""More would not lower the rate of false positives, however large the filter."""
_TESTS = 2
_HEADER = struct.Struct("<BB6x")
_PREFIX_SEED = 1


def build_filter(hashes: Sequence[npt.NDArray[np.uint64]], bits_per_key: int) -> bytes:
    """The payload of a filter over keys with these hashes; empty for ``bits_per_key`` 0.

    They come in pieces, and nothing as large as all of them is made: to touch fresh memory takes
    longer than to compute what goes there.
    """
    if not bits_per_key:
        return b""
    mask_bits = min(_BEST_MASK_BITS, 1 + (bits_per_key + 1) // 5)
    count = sum(piece.size for piece in hashes)
    words = np.zeros((count * bits_per_key // _WORD_BITS) | 1, np.uint64)
    column = _mask_column(mask_bits)
    for piece in hashes:
        masks = column.take((piece & np.uint64(LOW_BITS)).view(np.int64))
        for picking in (piece, piece >> np.uint64(SECOND_SHIFT)):
            np.bitwise_or.at(words, _modulo(picking, words.size).view(np.int64), masks)
    return _HEADER.pack(mask_bits, _TESTS) + words.tobytes()


def prefix_hash(prefix: bytes) -> int:
    """The hash of a prefix of keys."""
    return key_hash(prefix, _PREFIX_SEED)


def shared_prefix(start: bytes | None, end: bytes | None, size: int) -> bytes | None:
    """The first ``size`` bytes of all keys in ``[start, end)``; ``None`` if they may differ."""
    if not size or start is None or len(start) < size:
        return None
    prefix = start[:size]
    last = prefix_end(prefix)
    return prefix if last is None or (end is not None and end <= last) else None


def _modulo(numbers: npt.NDArray[np.uint64], divisor: int) -> npt.NDArray[np.uint64]:
    """As ``numbers % divisor``, in a fraction of the time: by way of numpy's quick division."""
    remainders = numbers // np.uint64(divisor)
    remainders *= np.uint64(divisor)
    np.subtract(numbers, remainders, out=remainders)
    return remainders


class Filter:
    """A filter ready to be asked. Immutable, so thread-safe.

    The fields are for whoever does what :meth:`may_contain` does without the call.
    """

    __slots__ = ("count", "masks", "second_count", "second_words", "words")

    def __init__(self, payload: bytes, *, name: str, offset: int) -> None:
        """Raises ``CorruptionError`` when ``payload`` of table ``name`` is no filter."""
        size, rest = divmod(len(payload), 8)
        mask_bits, tests = _HEADER.unpack_from(payload.ljust(_HEADER.size, b"\0"))
        malformed = rest or size < 2 or any(payload[2:8])
        if malformed or not 1 <= mask_bits <= _MOST_MASK_BITS or tests not in {0, _TESTS}:
            raise CorruptionError("the filter is malformed", name=name, offset=offset)
        self.words = array("Q", payload[8:])
        self.count = size - 1
        self.second_words = self.words if tests else _PASSING
        self.second_count = self.count if tests else 1
        self.masks = _masks(mask_bits)

    def may_contain(self, h: int) -> bool:
        """Whether a key of hash ``h`` may be in the table; ``False`` is certain."""
        mask = self.masks[h & LOW_BITS]
        return (
            self.words[h % self.count] & mask == mask
            and self.second_words[(h >> SECOND_SHIFT) % self.second_count] & mask == mask
        )

    @property
    def memory(self) -> int:
        """Bytes it costs; the masks are shared by all filters."""
        return 8 * self.count + 160


@cache
def _masks(mask_bits: int) -> list[int]:
    """4096 masks of ``mask_bits`` set bits each.

    Mask ``i`` sets the bits named by successive 6-bit digits, lowest first, of the hash of
    ``i`` as 8 bytes; after ten digits the hash is hashed again.
    """
    masks = []
    for i in range(_MASKS):
        mask, digits = 0, i
        while mask.bit_count() < mask_bits:
            digits = key_hash(digits.to_bytes(8, "little"))
            for shift in range(0, 60, 6):
                if mask.bit_count() < mask_bits:
                    mask |= 1 << (digits >> shift & 63)
        masks.append(mask)
    return masks


@cache
def _mask_column(mask_bits: int) -> npt.NDArray[np.uint64]:
    return np.array(_masks(mask_bits), np.uint64)


_PASSING = array("Q", [(1 << _WORD_BITS) - 1])
PASS_ALL = Filter(_HEADER.pack(1, 0) + _PASSING.tobytes(), name="", offset=0)
"""For a table that has none."""
