"""What the project wants to reach, each goal one ratio or one number with its bound.

Ratios are SeerDB's value over the peer's, taken from the same run.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.cases import (
    BARE,
    COMPACT,
    COMPACT_PROCESS,
    COST_IDLE,
    INGEST_CASES,
    LOAD_CASES,
    READ_CASES,
)
from benchmarks.engines import OURS, OURS_PLAIN, SLATEDB_ZSTD
from benchmarks.results import EMBEDDED, HTTP, REPLICATION, Results

LARGE = 2_000_000
"""The number of entries at which opening is judged."""
GIGABYTE = 9_000_000
"""Entries of 16 + 100 bytes in a gigabyte."""
SUSTAINED = 10_000_000
"""The number of entries at which a load is judged: enough for a tree with all of its levels."""


@dataclass(frozen=True)
class Point:
    """One number of a run: a case of an engine, and which of its numbers."""

    case: str
    engine: str = OURS
    stat: str = "value"
    """``value``, or a name in the measurement's ``detail``."""


@dataclass(frozen=True)
class Goal:
    """``ours``, or ``ours`` over ``theirs``, is to be ``sign`` ``bound``."""

    suite: str
    ours: Point
    sign: str
    bound: float
    theirs: Point | None = None
    unit: str = "x"
    scaled: bool = False
    """Judged at every number of entries that was run."""
    only_scale: int | None = None

    def scales(self, results: Results) -> list[int | None]:
        """Where to judge it in ``results``."""
        if self.only_scale is not None:
            return [self.only_scale]
        return list(results.scales()) if self.scaled else [None]


@dataclass(frozen=True)
class Verdict:
    """A goal held against a run."""

    suite: str
    case: str
    against: str | None
    """The peer, or ``None`` for a goal on SeerDB's number alone."""
    stat: str
    scale: int | None
    measured: float
    sign: str
    bound: float
    unit: str
    passed: bool

    @property
    def word(self) -> str:
        """``PASS`` or ``MISS``."""
        return "PASS" if self.passed else "MISS"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "verdict": self.word}


def _faster(case: str, peer: str, bound: float, suite: str = EMBEDDED, ours: str = OURS) -> Goal:
    return Goal(suite, Point(case, ours), ">=", bound, Point(case, peer), scaled=suite == EMBEDDED)


GOALS = (
    _faster("put", "rocksdict", 1.5),
    _faster("batch_put", "rocksdict", 1.2),
    _faster("get_hot", "rocksdict", 1.8),
    _faster("get_uniform", "rocksdict", 1.0),
    _faster("get_missing", "rocksdict", 1.8),
    _faster("scan", "rocksdict", 0.8),
    *(_faster(case, "slatedb", 5.0) for case in (*LOAD_CASES, *READ_CASES)),
    Goal(
        EMBEDDED,
        Point("durable_put_1", stat="p50_us"),
        "<=",
        2.0,
        Point("durable_put_1", BARE, "p50_us"),
    ),
    Goal(EMBEDDED, Point("recovery"), ">=", 500_000, unit="records/s"),
    Goal(EMBEDDED, Point("reopen"), "<", 100, unit="ms", only_scale=LARGE),
    Goal(
        EMBEDDED,
        Point("reopen", stat="store_requests"),
        "<",
        6,
        unit="store requests",
        only_scale=LARGE,
    ),
    _faster(COMPACT, "rocksdict", 0.8),
    _faster(COMPACT, "slatedb", 5.0),
    _faster(COMPACT, SLATEDB_ZSTD, 5.0),
    _faster(COMPACT, "slatedb", 5.0, ours=OURS_PLAIN),
    Goal(
        EMBEDDED,
        Point(COMPACT_PROCESS, stat="worker_rss_mib"),
        "<",
        400,
        unit="MiB",
        only_scale=GIGABYTE,
    ),
    *(
        Goal(EMBEDDED, Point(case, stat=stat), sign, bound, unit=unit, only_scale=SUSTAINED)
        for case in INGEST_CASES
        for stat, sign, bound, unit in (
            ("last_over_first", ">=", 0.7, "x"),
            ("write_off_percent", "<=", 20, "%"),
            ("space", "<=", 1.3, "x"),
            ("rss_growth", "<=", 1.25, "x"),
        )
    ),
    Goal(EMBEDDED, Point(COST_IDLE, stat="dollars_per_month"), "<", 1.0, unit="$"),
    _faster("http_put_32", "etcd", 1.5, HTTP),
    _faster("http_put_32", "webdis", 0.8, HTTP),
    *(
        _faster(case, peer, bound, HTTP)
        for case in ("http_get_32", "http_get_128")
        for peer, bound in (("etcd", 3.0), ("webdis", 0.9), ("bare", 0.5))
    ),
    Goal(HTTP, Point("http_get_busy"), ">=", 0.6, Point("http_get_idle")),
    Goal(
        HTTP,
        Point("http_get_busy", stat="p99_us"),
        "<=",
        5.0,
        Point("http_get_idle", stat="p99_us"),
    ),
    Goal(HTTP, Point("http_get_compacting"), ">=", 0.6, Point("http_get_rest")),
    Goal(
        HTTP,
        Point("http_get_compacting", stat="p99_us"),
        "<=",
        3.0,
        Point("http_get_rest", stat="p99_us"),
    ),
    Goal(HTTP, Point("ingest", stat="server_rss_mib"), "<", 600, unit="MiB"),
    Goal(REPLICATION, Point("lag_live"), "<=", 100, unit="ms"),
    Goal(REPLICATION, Point("lag_bucket"), "<=", 1.0, Point("lag_bucket", stat="allowed_ms")),
    *(
        Goal(REPLICATION, Point(case, stat="writes_per_second"), ">=", 4_900, unit="/s")
        for case in ("lag_live", "lag_bucket")
    ),
    Goal(REPLICATION, Point("shipping"), ">=", 0.9, unit="of the rate"),
    Goal(REPLICATION, Point("idle_primary"), "<=", 0, unit="requests/min"),
    Goal(REPLICATION, Point("failover"), "<=", 10, unit="s"),
    Goal(REPLICATION, Point("failover", stat="object_lost"), "<=", 0, unit="writes"),
    Goal(REPLICATION, Point("failover", stat="untold"), "<=", 0, unit="writes"),
    Goal(REPLICATION, Point("failover", stat="reads_failed"), "<=", 0, unit="reads"),
    Goal(REPLICATION, Point("failover", stat="reads_went_back"), "<=", 0, unit="reads"),
    Goal(REPLICATION, Point("first_read"), "<=", 2_000, unit="ms"),
    Goal(REPLICATION, Point("first_read", stat="fetched_mb"), "<", 2, unit="MB"),
)

_SIGNS = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


def judge(results: Results) -> Iterator[Verdict]:
    """A verdict for every goal whose numbers the run has; none for a ``--quick`` run, which proves
    nothing about speed."""
    if results.settings.get("quick"):
        return
    for goal in GOALS:
        for scale in goal.scales(results):
            measured = _measured(goal, results, scale)
            if measured is not None:
                yield Verdict(
                    goal.suite,
                    goal.ours.case,
                    _against(goal),
                    goal.ours.stat,
                    scale,
                    measured,
                    goal.sign,
                    goal.bound,
                    goal.unit,
                    bool(_SIGNS[goal.sign](measured, goal.bound)),
                )


def _measured(goal: Goal, results: Results, scale: int | None) -> float | None:
    ours = number(results, goal.ours, suite=goal.suite, scale=scale)
    if goal.theirs is None or ours is None:
        return ours
    theirs = number(results, goal.theirs, suite=goal.suite, scale=scale)
    return ours / theirs if theirs else None


def _against(goal: Goal) -> str | None:
    if goal.theirs is None:
        return None
    if goal.theirs.engine == OURS:
        return goal.theirs.case
    by = "" if goal.ours.engine == OURS else f", by {goal.ours.engine}"
    return f"{goal.theirs.engine}{by}"


def number(results: Results, point: Point, *, suite: str, scale: int | None) -> float | None:
    """What the run has at ``point``, if anything."""
    found = results.find(point.case, point.engine, suite=suite, scale=scale)
    if found is None:
        return None
    return found.value if point.stat == "value" else found.detail.get(point.stat)
