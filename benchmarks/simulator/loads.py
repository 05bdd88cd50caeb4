"""What is written to a simulated tree, and read from it, a flush at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

FLUSH_ENTRIES = 200
KEYS = 40_000
"""How many keys there are, where they are overwritten: 200 flushes' worth."""

_SKEW = 4
"""With it four fifths of the writes go to two fifths of the keys, the first most often."""
_DELETED = 0.4
_PHASES = 5
"""Of the load that changes."""


@dataclass(frozen=True)
class Step:
    """Entries of one flush (key, and whether it is put or deleted), and the reads meanwhile."""

    writes: list[tuple[int, bool]]
    gets: int = 0
    scans: int = 0


@dataclass(frozen=True)
class Load:
    """``step`` makes step ``number`` of ``count``."""

    name: str
    title: str
    step: Callable[[Random, int, int], Step]


def _grow(random: Random, number: int, count: int) -> Step:
    return Step([(random.getrandbits(60), True) for _ in range(FLUSH_ENTRIES)])


def _overwrite(random: Random, number: int, count: int) -> Step:
    return Step([(random.randrange(KEYS), True) for _ in range(FLUSH_ENTRIES)])


def _skewed(random: Random, number: int, count: int) -> Step:
    # Scattered, as hashed keys are: else the hot ones would all lie in a few tables.
    hot = [int(KEYS * random.random() ** _SKEW) for _ in range(FLUSH_ENTRIES)]
    return Step([(key * 7919 % KEYS, True) for key in hot])


def _delete(random: Random, number: int, count: int) -> Step:
    keys = [random.randrange(KEYS) for _ in range(FLUSH_ENTRIES)]
    return Step([(key, random.random() > _DELETED) for key in keys])


def _rise(random: Random, number: int, count: int) -> Step:
    first = number * FLUSH_ENTRIES
    return Step([(key, True) for key in range(first, first + FLUSH_ENTRIES)])


def _change(random: Random, number: int, count: int) -> Step:
    """Writes alone; lookups; writes with some lookups; scans; writes alone."""
    writes = _overwrite(random, number, count).writes
    few = writes[: FLUSH_ENTRIES // 10]
    return [
        Step(writes),
        Step(few, gets=20 * FLUSH_ENTRIES),
        Step(writes, gets=FLUSH_ENTRIES),
        Step(few, gets=FLUSH_ENTRIES, scans=FLUSH_ENTRIES // 10),
        Step(writes),
    ][number * _PHASES // count]


LOADS = (
    Load("grow", "new keys, uniform", _grow),
    Load("overwrite", "overwritten, uniform", _overwrite),
    Load("skewed", "overwritten, skewed", _skewed),
    Load("delete", "40 % deletes", _delete),
    Load("rise", "rising keys", _rise),
)
CHANGING = Load("change", "a load that changes", _change)
