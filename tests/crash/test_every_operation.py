"""A crash at every operation on disk and bucket, and at every operation of the recovery.

After each: everything acknowledged at a level that survives this kind of crash is there,
nothing is invented, batches are whole, the log is sound and writing goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from seerdb.events import CompactionCompleted, FlushCompleted, GarbageCollected, Recovered
from seerdb.storage.object_store.names import BLOB_PREFIX
from seerdb.testing.crash import CrashError
from seerdb.testing.model import Model
from tests.crash.trace import (
    Ingest,
    Run,
    Step,
    Verb,
    Write,
    check_recovery,
    delete,
    delete_range,
    merge,
    outcomes,
    put,
    put_ttl,
)
from tests.fixtures.database import CrashPoint, World

pytestmark = pytest.mark.crash

FAT = b"v" * 300

TRACE: tuple[Step, ...] = (
    put(b"a", b"1", "memory"),
    put(b"b", FAT, "memory"),
    put(b"c", FAT),
    Write((("put", b"d", b"1"), ("delete_range", b"a", b"e"), ("put", b"b", b"2"))),
    put(b"e", FAT, "object"),
    put(b"f", FAT, "memory"),
    Verb("flush"),
    delete(b"b"),
    *(put(b"g%d" % number, FAT, "memory") for number in range(6)),
    Write((("put", b"a", b"3"), ("delete", b"c", b""), ("put", b"h", FAT), ("put", b"i", b""))),
    put(b"i", b"4", "object"),
    delete_range(b"g1", b"g4"),
    put(b"g2", b"5", "memory"),
    Verb("reopen"),
    put(b"a", b"6"),
    put(b"g3", FAT, "memory"),
    Verb("compact"),
    Verb("wait"),
    delete(b"a", "memory"),
    put(b"j", FAT, "memory"),
    delete_range(b"g", b"i", "memory"),
    put(b"k", FAT),
    Verb("compact"),
    put(b"a", b"7", "memory"),
    put(b"h", FAT, "object"),
    put(b"l", FAT),
)

SPECIAL: tuple[Step, ...] = (
    put(b"a", b"1", "memory"),
    put_ttl(b"b", FAT),
    merge(b"a", b"2", "memory"),
    merge(b"b", b"3"),
    Verb("flush"),
    merge(b"a", b"4"),
    Write((("merge", b"b", b"5"), ("put_ttl", b"c", b"6"), ("merge", b"c", b"7"))),
    merge(b"d", FAT, "object"),
    Verb("flush"),
    delete_range(b"b", b"c"),
    merge(b"b", b"8", "memory"),
    Verb("reopen"),
    merge(b"d", b"9"),
    Verb("wait"),
    merge(b"c", b"10"),
    put_ttl(b"a", b"11", "object"),
    Verb("compact"),
    merge(b"a", b"12", "memory"),
    merge(b"b", b"13"),
    Verb("wait"),
    Verb("compact"),
    merge(b"a", b"14"),
)
"""Values that expire and operands, over flushes, compactions and the end of lifetimes."""

BLOBS: tuple[Step, ...] = (
    *(put(b"a%d" % number, FAT, "memory") for number in range(4)),
    put_ttl(b"b", FAT),
    put(b"c", b"small"),
    Verb("flush"),
    merge(b"a0", b"1"),
    put(b"a1", b"2", "object"),
    Write((("put", b"a2", FAT + FAT), ("delete", b"a3", b""), ("put", b"d", FAT))),
    Verb("flush"),
    Ingest(((b"a1", FAT), (b"e", FAT + b"e"), (b"f", b"small"))),
    Verb("compact"),
    Verb("wait"),
    put(b"g", FAT, "memory"),
    Verb("reopen"),
    delete_range(b"d", b"f"),
    merge(b"a2", b"3"),
    Verb("compact"),
    Verb("wait"),
    put(b"a0", FAT),
    delete(b"a1", "memory"),
    Verb("compact"),
    Verb("wait"),
    put(b"h", FAT, "memory"),
    Verb("flush"),
    put(b"h", FAT, "object"),
)
"""Large values: separated, pointed at, folded onto, rewritten, and their blobs collected."""

UNFLUSHED = tuple(
    step
    for step in TRACE
    if step == Verb("reopen") or (isinstance(step, Write) and step.level != "object")
)
"""All in the log, through every recovery: for a bucket that takes no tables."""

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "special": {"merge_operator": "append"},
    "blobs": {"merge_operator": "append", "blob_threshold": 200},
    "zstd": {"wal_compression": "zstd", "compression": "none", "filter_bits_per_key": 0},
    "direct": {"wal_direct_io": True, "wal_segment_size": 64 << 10},
    "kept": {"wal_retention": "count:3", "sync": "full", "disk_cache_capacity": 4096},
    "salvage": {"recovery": "salvage"},
    "shipped": {"ship_interval": 1.0, "wal_compression": "zstd"},
    "shipped unflushed": {"ship_interval": 1.0, "takes_tables": False},
    "unflushed": {"takes_tables": False},
    "unflushed direct zstd": {
        "takes_tables": False,
        "wal_compression": "zstd",
        "wal_direct_io": True,
        "wal_segment_size": 64 << 10,
    },
}
POWER_LOSSES = range(1, 3)
SHARDS = 8
"""Tests that one trace is spread over, to be run side by side."""


def run(setting: str, point: CrashPoint | None) -> Run:
    world = World(**SETTINGS[setting])
    world.crash_at(point)
    trace = TRACE if world.takes_tables else UNFLUSHED
    traces = {"special": SPECIAL, "blobs": BLOBS}
    return Run(world).execute(traces.get(setting, trace))


def crashes(setting: str, shard: int) -> Iterator[tuple[Model, str, World]]:
    """What may be left of the trace after a crash, for each point of the shard: the model, the
    level that must have survived, and the world."""
    for point in run(setting, None).world.crash_points()[shard::SHARDS]:
        crashed = run(setting, point)
        assert crashed.died
        for level, world in outcomes(crashed.world, POWER_LOSSES):
            yield crashed.model, level, world


def check_crash_in_recovery(world: World, model: Model, level: str, *, every: int) -> None:
    """Die at every ``every``-th point of an opening; the next one makes all good."""
    undisturbed = world.kill()
    undisturbed.open()
    for point in undisturbed.crash_points()[::every]:
        crashed = world.kill()
        crashed.crash_at(point)
        with pytest.raises(CrashError):
            crashed.open()
        check_recovery(crashed.kill(), model, level)
        weaker = "local" if level == "memory" else level
        check_recovery(crashed.lose_power(point.number), model, weaker)


def test_the_trace_does_everything_there_is_to_do() -> None:
    done = run("plain", None)
    assert not done.died
    kinds = [type(event) for event in done.world.events]
    assert kinds.count(FlushCompleted) >= 4
    assert kinds.count(CompactionCompleted) >= 2
    assert kinds.count(GarbageCollected) >= 1
    assert kinds.count(Recovered) == 2
    assert done.model.seq == 26
    check_recovery(done.world.kill(), done.model, "memory")


def test_the_trace_of_large_values_does_everything_to_them() -> None:
    done = run("blobs", None)
    assert not done.died
    gone = {
        name for e in done.world.events if isinstance(e, GarbageCollected) for name in e.deleted
    }
    blobs = {name for name in gone if name.startswith(BLOB_PREFIX)}
    assert len(blobs) >= 3
    rewritten = [e for e in done.world.events if isinstance(e, CompactionCompleted)]
    assert len(rewritten) >= 3
    check_recovery(done.world.kill(), done.model, "memory")


@pytest.mark.parametrize("setting", ["plain", "special", "blobs", "kept", "unflushed direct zstd"])
def test_a_crash_at_every_operation(setting: str) -> None:
    for shard in range(SHARDS):
        for model, level, world in crashes(setting, shard):
            check_recovery(world, model, level)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_crash_in_the_recovery_from_a_crash(shard: int) -> None:
    """A sample: every fourth crash, and in its recovery every other operation."""
    for setting in ("plain", "unflushed"):
        sample = itertools.islice(crashes(setting, shard), shard % 4, None, 4)
        for model, level, world in sample:
            check_crash_in_recovery(world, model, level, every=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_crash_at_every_operation_of_every_recovery(setting: str, shard: int) -> None:
    for model, level, world in crashes(setting, shard):
        check_crash_in_recovery(world, model, level, every=1)
        check_recovery(world, model, level)
