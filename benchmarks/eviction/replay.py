"""Every policy on every trace: hit ratios, and processor time for a read of each kind.

A replay is warmed up by the first quarter of its trace. Time is that of the process, the median of
interleaved rounds; what it costs to decode a block that was missed, tens of microseconds, is not in
it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from time import process_time

from rich.console import Console
from rich.table import Table

from benchmarks.eviction.policies import POLICIES
from benchmarks.eviction.traces import BLOCKS, TRACES, Trace
from benchmarks.machine import describe_machine
from benchmarks.report import print_circumstances
from benchmarks.results import Results, Sample

EVICTION = "eviction"
SHARES = (0.02, 0.1)
"""Sizes of the cache, as parts of all blocks."""


def replay_all(reads: int, rounds: int, tag: str, progress: Callable[[str], None]) -> Results:
    """Replay all; a policy whose library is not installed is noted as absent."""
    settings = {"reads": reads, "rounds": rounds, "blocks": BLOCKS}
    results = Results(EVICTION, tag, describe_machine(Path()), settings)
    for title, make in TRACES.items():
        trace = make(Random(title), reads)
        samples = []
        for number in range(rounds):
            progress(f"{title}: round {number + 1} of {rounds}")
            for policy in POLICIES:
                for share in SHARES:
                    try:
                        samples.append(_replay(title, trace, policy, share))
                    except ImportError as error:
                        results.absent[policy] = str(error)
        results.add(samples)
    return results


def _replay(title: str, trace: Trace, policy: str, share: float) -> Sample:
    capacity = int(BLOCKS * share)
    cache = POLICIES[policy](capacity)
    warm = len(trace) // 4
    cache.replay(trace[:warm])
    measured = trace[warm:]
    started = process_time()
    hits, gets = cache.replay(measured)
    micros = 1e6 * (process_time() - started) / len(measured)
    detail = {"cpu_us": micros}
    return Sample(EVICTION, title, policy, capacity, "hits", hits / gets, gets, detail)


def print_replays(console: Console, results: Results) -> None:
    """One row a trace and size: hit ratio and microseconds of each policy."""
    table = Table(title="eviction: hit ratio (µs of processor time a read)", title_justify="left")
    table.add_column("trace")
    table.add_column("cache", justify="right")
    policies = [policy for policy in POLICIES if policy not in results.absent]
    for policy in policies:
        table.add_column(policy, justify="right")
    for title in TRACES:
        for share in SHARES:
            row = [title, f"{share:.0%}"]
            for policy in policies:
                found = results.find(title, policy, suite=EVICTION, scale=int(BLOCKS * share))
                cpu = found.detail["cpu_us"] if found else 0.0
                row.append(f"{found.value:.3f} ({cpu:.2f})" if found else "")
            table.add_row(*row)
        table.add_section()
    console.print(table)
    print_circumstances(console, results)
