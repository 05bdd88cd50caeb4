"""Whether an open database works, condition by condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from seerdb.storage.drill.schedule import DrillStatistics

if TYPE_CHECKING:
    from seerdb.storage.engine.engine import Engine

LATE_SECONDS = 60.0
"""How much later than ``ship_interval`` says a write may be in the bucket, before that is told."""


class HealthCheck(msgspec.Struct, frozen=True):
    """One condition that a working database fulfils."""

    name: str
    ok: bool
    detail: str
    is_warning: bool = False
    """Whether the database serves all the same when it does not hold."""


def health(engine: Engine) -> list[HealthCheck]:
    """What a working database fulfils. Never waits for disk or bucket."""
    cause, stalls = engine.poison.cause, engine.admission.statistics()
    checks = [
        HealthCheck("writes", cause is None, str(engine.poison.error()) if cause else "taken"),
        HealthCheck(
            "backpressure", ok=not stalls.reason, detail=stalls.reason or stalls.slowed or "none"
        ),
        _store_health(engine),
        _ship_health(engine),
    ]
    if (keeper := engine.opened.keeper) is not None:
        checks.append(HealthCheck("lease", keeper.failure is None, str(keeper.failure or "held")))
    for lane in engine.background.lanes:
        detail = f"attempt {lane.attempts} failed: {lane.error}" if lane.error else "working"
        checks.append(HealthCheck(lane.name, lane.error is None, detail))
    return checks


def drill_health(drills: DrillStatistics) -> list[HealthCheck]:
    """Whether the last restore drill went well; nothing where there was none yet."""
    last = drills.last
    if last is None:
        return []
    detail, report = last.error, last.report
    if report is not None:
        detail = report.note or "it brings back what was there"
        took = f"{report.rpo_seconds:,.0f} seconds old, restored in {report.seconds:,.1f}"
        detail = f"backup {report.backup}, {took}: {detail}"
    return [HealthCheck("restore drill", last.ok, detail, is_warning=True)]


def _store_health(engine: Engine) -> HealthCheck:
    broken = engine.stores.broken
    if broken is None:
        return HealthCheck("bucket", ok=True, detail="reachable")
    left = engine.options.wal_budget - engine.gauges.wal_bytes
    return HealthCheck(
        "bucket",
        ok=False,
        detail=f"degraded: {broken.last_error}; writes go on for {max(left, 0):,} bytes more",
    )


def _ship_health(engine: Engine) -> HealthCheck:
    """Whether the bucket has the log as ``ship_interval`` promises, or soon will."""
    shipping = engine.shipper.statistics(engine.live.visible_seq)
    if not shipping.continuous:
        return HealthCheck("shipping", ok=True, detail="off (ship_interval is 0)")
    age = shipping.unshipped_seconds
    is_late = age > engine.options.ship_interval + LATE_SECONDS
    detail = shipping.stopped or (
        f"seq {shipping.unshipped_seq:,} and later are on this disk only, for {age:.1f} seconds"
        if shipping.unshipped_seq
        else "everything is in the bucket"
    )
    return HealthCheck("shipping", ok=not (shipping.stopped or is_late), detail=detail)
