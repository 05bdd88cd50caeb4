"""The hashes of many keys at once: XXH3 with 64 bits, a column of numbers for each step of it.

Keys of one length, in rows, need no object each, and a column costs a third of what a call a key
does. Written from the specification of xxHash (https://github.com/Cyan4973/xxHash, ``doc/``), and
held against the library by the tests. Lengths that it does not cover go to the library, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

Rows: TypeAlias = NDArray[np.uint8]
Numbers: TypeAlias = NDArray[np.uint64]

_AT_ONCE = 1 << 16
"""Rows whose columns stay in the processor's cache."""
_WORD = 8
_MASK = (1 << 64) - 1
_LOW = np.uint64((1 << 32) - 1)
_HALF = np.uint64(32)
_PRIME = 0x9E3779B185EBCA87
_AVALANCHE = np.uint64(0x165667919E3779F9)
_MIX = np.uint64(0x9FB21C651E98DF25)
_SECRET: Numbers = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    ),
    np.uint64,
)
"""As much of the algorithm's as keys up to ``_LONGEST`` need."""
_SHORTEST, _LONGEST = 4, 64


def hash_rows(rows: Rows) -> Numbers:
    """The XXH3 of each row of bytes. Requires: they are contiguous."""
    count, size = rows.shape
    if not _SHORTEST <= size <= _LONGEST:
        keys = rows.view(f"V{size}")[:, 0].tolist()
        return np.fromiter(map(xxh3_64_intdigest, keys), np.uint64, count)
    hashes = np.empty(count, np.uint64)
    step = _hash_for(size)
    for start in range(0, count, _AT_ONCE):
        hashes[start : start + _AT_ONCE] = step(rows[start : start + _AT_ONCE])
    return hashes


@lru_cache
def _hash_for(size: int) -> Callable[[Rows], Numbers]:
    steps = _hash_up_to_8 if size <= 8 else _hash_up_to_16 if size <= 16 else _hash_up_to_64
    return partial(steps, size)


def _hash_up_to_8(size: int, rows: Rows) -> Numbers:
    h = _words(rows, 0, np.uint32).astype(np.uint64)
    h <<= _HALF
    h += _words(rows, size - 4, np.uint32)
    h ^= _SECRET[1] ^ _SECRET[2]
    h ^= _rotated(h, 49) ^ _rotated(h, 24)
    h *= _MIX
    h ^= (h >> np.uint64(35)) + np.uint64(size)
    h *= _MIX
    h ^= h >> np.uint64(28)
    return h


def _hash_up_to_16(size: int, rows: Rows) -> Numbers:
    low = _words(rows, 0) ^ (_SECRET[3] ^ _SECRET[4])
    high = _words(rows, size - _WORD) ^ (_SECRET[5] ^ _SECRET[6])
    h = _folded_product(low, high)
    h += low.byteswap()
    h += high
    h += np.uint64(size)
    return _avalanche(h)


def _hash_up_to_64(size: int, rows: Rows) -> Numbers:
    h = np.full(len(rows), size * _PRIME & _MASK, np.uint64)
    for number in range((size - 1) // 32 + 1):
        front, back = 16 * number, size - 16 * (number + 1)
        for at, secret in ((front, 4 * number), (back, 4 * number + 2)):
            h += _folded_product(
                _words(rows, at) ^ _SECRET[secret], _words(rows, at + _WORD) ^ _SECRET[secret + 1]
            )
    return _avalanche(h)


def _words(
    rows: Rows, at: int, kind: type[np.unsignedinteger] = np.uint64
) -> NDArray[np.unsignedinteger]:
    """The number that begins at byte ``at`` of each row, where it lies."""
    return rows[:, at : at + np.dtype(kind).itemsize].view(kind)[:, 0]


def _rotated(numbers: Numbers, left: int) -> Numbers:
    return (numbers << np.uint64(left)) | (numbers >> np.uint64(64 - left))


def _folded_product(a: Numbers, b: Numbers) -> Numbers:
    """Both halves of the 128-bit products, one XORed into the other, from products of halves."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    h = a_low * b_low
    h >>= _HALF
    a_low *= b_high
    h += a_low & _LOW
    b_low *= a_high
    h += b_low  # at most 2^64 - 1
    h >>= _HALF
    a_low >>= _HALF
    h += a_low
    b_high *= a_high
    h += b_high
    h ^= a * b
    return h


def _avalanche(h: Numbers) -> Numbers:
    h ^= h >> np.uint64(37)
    h *= _AVALANCHE
    h ^= h >> _HALF
    return h
