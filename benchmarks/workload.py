"""What is stored and asked for: the same bytes for every engine, made from a seed.

A key is 16 bytes, the hexadecimal digits of a random even 64-bit number, so keys arrive in
random order. A missing key is a stored one plus one (odd, so never stored): it lies between
two stored keys, and only a filter or a look into the right block can tell that it is absent.
A value is 100 bytes: 50 random ones, then 50 of English text taken at a random place, so that
compression has something to do and something it cannot do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

KEY_SIZE = 16
VALUE_SIZE = 100
HOT_SHARE = 0.01
"""The part of all keys that makes up the hot set."""

_RANDOM_PART = 50
_TEXT = (
    b"A write is kept on the local disk before it is acknowledged, and moves to the bucket as "
    b"part of an immutable table; memory and disk are only caches of what the bucket holds. "
    b"Whoever holds the bucket can follow the database, back it up, or restore it to a second. "
)
_TEXTS = [
    _TEXT[at : at + VALUE_SIZE - _RANDOM_PART]
    for at in range(len(_TEXT) - VALUE_SIZE + _RANDOM_PART)
]
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Workload:
    """``entries`` distinct pairs in random order, and samples of their keys.

    Two equal workloads hold the same bytes, in any process.
    """

    entries: int
    seed: int = 1

    @cached_property
    def keys(self) -> list[bytes]:
        """Every key, in the order of writing."""
        digits = self._random("keys").randbytes(8 * self.entries).hex().encode()
        even = digits.translate(bytes.maketrans(b"13579bdf", b"02468ace"))
        # Only the last digit has to be even; the others keep all of their bits.
        return [
            digits[start : start + KEY_SIZE - 1] + even[start + KEY_SIZE - 1 : start + KEY_SIZE]
            for start in range(0, len(digits), KEY_SIZE)
        ]

    @cached_property
    def values(self) -> list[bytes]:
        """The value of each key, in the order of ``keys``."""
        return _values(self._random("values"), self.entries)

    def batches(self, size: int) -> list[list[tuple[bytes, bytes]]]:
        """All pairs in writing order, ``size`` to a batch."""
        pairs = list(zip(_fresh(self.keys), self.values, strict=True))
        return [pairs[start : start + size] for start in range(0, len(pairs), size)]

    def hot(self, count: int, draw: int = 0) -> list[bytes]:
        """``count`` keys out of the hot set; another ``draw`` is another sample of that set."""
        size = max(1, int(self.entries * HOT_SHARE))
        hot_set = self._random("hot set").sample(self.keys, size)
        return _fresh(self._random("hot", draw).choices(hot_set, k=count))

    def uniform(self, count: int, draw: int = 0) -> list[bytes]:
        """``count`` stored keys, each as likely as any other."""
        return _fresh(self._random("uniform", draw).choices(self.keys, k=count))

    def missing(self, count: int, draw: int = 0) -> list[bytes]:
        """``count`` keys that were never stored, each right behind a stored one."""
        odd = dict(zip(b"02468ace", b"13579bdf", strict=True))
        neighbours = self._random("missing", draw).choices(self.keys, k=count)
        return [key[:-1] + bytes((odd[key[-1]],)) for key in neighbours]

    def _random(self, purpose: str, draw: int = 0) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}/{draw}")


def overwriting(
    entries: int, distinct: int, size: int, seed: int = 1
) -> Iterator[list[tuple[bytes, bytes]]]:
    """``entries`` pairs, ``size`` to a batch, each of ``distinct`` keys as likely as any other.

    Made as they are asked for: memory does not grow with ``entries``. Pairs look as those of
    ``Workload`` do.
    """
    source = random.Random(f"{seed}/overwriting")
    for start in range(0, entries, size):
        count = min(size, entries - start)
        drawn = np.frombuffer(source.randbytes(8 * count), np.uint64) % np.uint64(distinct)
        # An odd factor makes distinct numbers distinct again, far apart.
        digits = (drawn * _SPREAD).astype(">u8").tobytes().hex().encode()
        yield list(zip(_keys(digits), _values(source, count), strict=True))


def _values(source: random.Random, count: int) -> list[bytes]:
    noise = source.randbytes(_RANDOM_PART * count)
    starts = range(0, len(noise), _RANDOM_PART)
    return [
        noise[start : start + _RANDOM_PART] + text
        for start, text in zip(starts, source.choices(_TEXTS, k=count), strict=True)
    ]


def _fresh(keys: list[bytes]) -> list[bytes]:
    """Equal keys in new objects, as a caller's are: a used one remembers its hash."""
    return _keys(b"".join(keys))


def _keys(joined: bytes) -> list[bytes]:
    return [joined[start : start + KEY_SIZE] for start in range(0, len(joined), KEY_SIZE)]
