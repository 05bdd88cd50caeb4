"""A crash at every operation on disk and bucket, and at every operation of the recovery.

After each: everything acknowledged at a level that survives this kind of crash is there,
nothing is invented, batches are whole, the log is sound and writing goes on.
"""

from __future__ import annotations

import pytest

from seerdb.testing.model import Model
from tests.crash.trace import (
    Run,
    Step,
    Verb,
    Write,
    check_recovery,
    delete,
    delete_range,
    outcomes,
    put,
)
from tests.fixtures.database import CrashPoint, World

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
    Verb("wait"),
    put(b"a", b"6"),
    put(b"g3", FAT, "memory"),
    Verb("compact"),
    delete(b"a", "memory"),
    put(b"j", FAT, "memory"),
    delete_range(b"g", b"i", "memory"),
    put(b"k", FAT),
    Verb("flush"),
    put(b"a", b"7", "memory"),
    put(b"h", FAT, "object"),
    put(b"l", FAT),
)

SETTINGS = {
    "plain": {},
    "zstd": {"wal_compression": "zstd", "compression": "none", "filter_bits_per_key": 0},
    "direct": {"wal_direct_io": True, "wal_segment_size": 64 << 10},
    "kept": {"wal_retention": "count:3", "sync": "full", "disk_cache_capacity": 4096},
}


def run(point: CrashPoint | None, setting: str = "plain") -> Run:
    world = World(**SETTINGS[setting])
    world.crash_at(point)
    return Run(world).execute(TRACE)


def test_x() -> None:
    done = run(None)
    check_recovery(done.world.kill(), done.model, "memory")
    points = done.world.crash_points()
    print(len(points))
    for point in points:
        r = run(point)
        assert r.died
        for level, world in outcomes(r.world, range(1, 3)):
            check_recovery(world, r.model, level)


def test_y() -> None:
    import collections
    bad = collections.Counter(); n = 0
    done = run(None)
    for point in done.world.crash_points():
        r = run(point)
        for level, world in outcomes(r.world, range(1, 3)):
            probe = world.kill()
            probe.open()
            for inner in probe.crash_points():
                for outcome in (0, 1):
                    again = world.kill()
                    again.crash_at(inner)
                    try:
                        again.open()
                        assert False
                    except BaseException as e:
                        if type(e).__name__ != "CrashError":
                            raise
                    l, w = outcomes(again, range(1, 2))[outcome]
                    if level == "local": l = "local"
                    if level == "object": l = "object"
                    n += 1
                    try:
                        check_recovery(w, r.model, l)
                    except AssertionError as e:
                        bad[(level, l, str(e)[:60])] += 1
                    except Exception as e:
                        bad[(level, l, type(e).__name__ + str(e)[:100])] += 1
    print(n)
    for k, v in bad.most_common(40): print(v, k)
