"""Replays of eviction policies: what is counted, and that ours is worth its lines."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.eviction.policies import POLICIES, Block, Ours, S3Fifo, Sieve
from benchmarks.eviction.traces import BLOCKS, SCAN_BLOCKS, TRACES, Trace, zipf_and_scans

READS = 60_000
IN_THE_TREE = ("seerdb", "SIEVE", "S3-FIFO", "LRU")


def hit_ratio(policy: str, trace: Trace, capacity: int = BLOCKS // 10) -> float:
    cache = POLICIES[policy](capacity)
    cache.replay(trace[: READS // 4])
    hits, gets = cache.replay(trace[READS // 4 :])
    return hits / gets


@pytest.mark.parametrize("title", TRACES)
def test_a_trace_names_blocks_and_is_as_long_as_asked(title: str) -> None:
    trace = TRACES[title](Random(1), READS)
    gets = [number for number in trace if number >= 0]
    assert len(gets) == READS
    assert all(0 <= (number if number >= 0 else ~number) < BLOCKS for number in trace)
    assert trace == TRACES[title](Random(1), READS)


@pytest.mark.parametrize("policy", IN_THE_TREE)
def test_what_fits_is_never_evicted(policy: str) -> None:
    trace = [number % 500 for number in range(READS)]
    assert hit_ratio(policy, trace, capacity=500) == 1


@pytest.mark.parametrize("cache", [Ours, Sieve, S3Fifo])
def test_no_policy_holds_more_than_its_capacity(cache: type[Ours | Sieve | S3Fifo]) -> None:
    filled = cache(100)
    filled.replay(zipf_and_scans(Random(1), 2_000))
    assert sum(block is not None for block in filled.slots) == 100
    filled.admit(Block(next(n for n in range(BLOCKS) if filled.slots[n] is None)))
    assert sum(block is not None for block in filled.slots) == 100


def test_a_scan_counts_as_no_get() -> None:
    cache = Ours(10)
    assert cache.replay([~1, ~2, 1, 3, 1, ~3]) == (2, 3)


def test_ours_is_not_behind_sieve_anywhere_and_ahead_on_loops() -> None:
    for title, make in TRACES.items():
        trace = make(Random(title), READS)
        assert hit_ratio("seerdb", trace) >= hit_ratio("SIEVE", trace) - 0.005, title
    trace = TRACES["loop"](Random(1), READS)
    assert hit_ratio("seerdb", trace) > 0.5
    assert hit_ratio("SIEVE", trace) == hit_ratio("LRU", trace) == 0


def test_a_scan_drives_out_little() -> None:
    gets = TRACES["zipf of blocks"](Random(1), READS)
    lost = {}
    for policy in ("seerdb", "LRU"):
        cache = POLICIES[policy](BLOCKS // 10)
        cache.replay(gets)
        before = cache.replay(gets[-2_000:])[0]
        cache.replay([~number for number in range(SCAN_BLOCKS)])
        lost[policy] = (before - cache.replay(gets[-2_000:])[0]) / before
    assert lost["seerdb"] < 0.1
    assert lost["LRU"] > 0.3
