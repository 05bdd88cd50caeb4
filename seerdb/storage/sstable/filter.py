"""The filter of a table: which user keys it certainly does not hold.

A Bloom filter cut into 64-bit words: one hash picks a word and a mask of bits to set in it,
so a probe is one modulo, one load and one comparison. With 10 bits a key about 1.9 % of
absent keys pass, with 16 bits 0.5 %.

Payload, little-endian; empty when the table has no filter::

    mask bits   u64             1 to 7: bits set in each mask
    words       u64 x n         n is odd, to have no factor in common with the 4096 masks

A key's hash is ``h = xxh3_64(key)``. It picks word ``h % n`` and mask ``h % 4096``; its top
8 bits are the key's fingerprint in a block. ``_masks`` defines the masks. All of this is
part of the format: do not change.
"""

from __future__ import annotations

from array import array
from functools import cache

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest as key_hash

from seerdb.errors import CorruptionError

__all__ = ["LOW_BITS", "PASS_ALL", "Filter", "build_filter", "key_hash"]

_WORD_BITS = 64
_MASKS = 4096
LOW_BITS = _MASKS - 1
"""``h & LOW_BITS`` is the number of a hash's mask."""
_MOST_MASK_BITS = 7


def build_filter(hashes: npt.NDArray[np.uint64], bits_per_key: int) -> bytes:
    """The payload of a filter over keys with these hashes; empty for ``bits_per_key`` 0."""
    if not bits_per_key:
        return b""
    mask_bits = min(_MOST_MASK_BITS, 1 + 2 * bits_per_key // 5)
    count = (hashes.size * bits_per_key // _WORD_BITS) | 1
    payload = np.zeros(1 + count, np.uint64)
    payload[0] = mask_bits
    # The division is much faster than the modulo: numpy knows how to divide by one number.
    chosen = hashes - hashes // np.uint64(count) * np.uint64(count)
    np.bitwise_or.at(payload[1:], chosen, _mask_column(mask_bits)[hashes & np.uint64(LOW_BITS)])
    return payload.tobytes()


class Filter:
    """A filter ready to be asked. Immutable, so thread-safe.

    ``words``, ``count`` and ``masks`` are for whoever does what :meth:`may_contain` does without
    the call.
    """

    __slots__ = ("count", "masks", "words")

    def __init__(self, payload: bytes, *, name: str, offset: int) -> None:
        """Raises ``CorruptionError`` when ``payload`` of table ``name`` is no filter."""
        size, rest = divmod(len(payload), 8)
        mask_bits = int.from_bytes(payload[:8], "little")
        if rest or size < 2 or not 1 <= mask_bits <= _MOST_MASK_BITS:
            raise CorruptionError("the filter is malformed", name=name, offset=offset)
        self.words = array("Q", payload[8:])
        self.count = size - 1
        self.masks = _masks(mask_bits)

    def may_contain(self, h: int) -> bool:
        """Whether a key of hash ``h`` may be in the table; ``False`` is certain."""
        mask = self.masks[h & LOW_BITS]
        return self.words[h % self.count] & mask == mask

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


PASS_ALL = Filter(array("Q", (1, (1 << _WORD_BITS) - 1)).tobytes(), name="", offset=0)
"""For a table that has none."""
