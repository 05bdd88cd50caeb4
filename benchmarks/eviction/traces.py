"""Traces of reads, as numbers of blocks; a block that a scan reads is negative (``~number``).

A get that finds a block counts as a visit; a scan does not, as in the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from random import Random

BLOCKS = 20_000
KEYS_PER_BLOCK = 20
ZIPF = 0.99
SCAN_EVERY, SCAN_BLOCKS = 10_000, 5_000
LOOP_BLOCKS = 3_000
HOT_BLOCKS, HOT_SHARE, HOT_FOR = 1_000, 0.9, 20_000

Trace = list[int]


def zipf_keys(random: Random, count: int) -> Trace:
    """Keys by Zipf's law, scattered: what a block gets is the sum of its keys."""
    keys = list(range(BLOCKS * KEYS_PER_BLOCK))
    random.shuffle(keys)
    return [key // KEYS_PER_BLOCK for key in _by_rank(random, keys, count)]


def zipf(random: Random, count: int) -> Trace:
    """Blocks by Zipf's law: neighbouring keys are hot together."""
    blocks = list(range(BLOCKS))
    random.shuffle(blocks)
    return _by_rank(random, blocks, count)


def uniform(random: Random, count: int) -> Trace:
    """No block is better than another."""
    return random.choices(range(BLOCKS), k=count)


def zipf_and_scans(random: Random, count: int) -> Trace:
    """Gets as :func:`zipf`, and now and then a scan of a quarter of all."""
    gets, trace = zipf(random, count), []
    for start in range(0, count, SCAN_EVERY):
        first = random.randrange(BLOCKS - SCAN_BLOCKS)
        trace += gets[start : start + SCAN_EVERY]
        trace += [~block for block in range(first, first + SCAN_BLOCKS)]
    return trace


def loop(random: Random, count: int) -> Trace:
    """The same blocks again and again, more than fit."""
    del random
    return [number % LOOP_BLOCKS for number in range(count)]


def changing(random: Random, count: int) -> Trace:
    """Most gets go to a hot set, which is another one after a while."""
    trace: Trace = []
    while len(trace) < count:
        hot = random.sample(range(BLOCKS), HOT_BLOCKS)
        for _ in range(HOT_FOR):
            is_hot = random.random() < HOT_SHARE
            place = int(random.random() ** 2 * HOT_BLOCKS)
            trace.append(hot[place] if is_hot else random.randrange(BLOCKS))
    return trace[:count]


TRACES: dict[str, Callable[[Random, int], Trace]] = {
    "zipf of keys": zipf_keys,
    "zipf of blocks": zipf,
    "zipf and scans": zipf_and_scans,
    "uniform": uniform,
    "loop": loop,
    "changing": changing,
}


def _by_rank(random: Random, items: list[int], count: int) -> Trace:
    weights = list(accumulate((rank + 1) ** -ZIPF for rank in range(len(items))))
    return random.choices(items, cum_weights=weights, k=count)
