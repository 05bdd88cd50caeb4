"""Whether an open database works, condition by condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from seerdb.storage.engine import Engine


class HealthCheck(msgspec.Struct, frozen=True):
    """One condition that a working database fulfils."""

    name: str
    ok: bool
    detail: str


def health(engine: Engine) -> list[HealthCheck]:
    """What a working database fulfils. Never waits for disk or bucket."""
    cause, stalls = engine.poison.cause, engine.admission.statistics()
    checks = [
        HealthCheck("writes", cause is None, str(engine.poison.error()) if cause else "taken"),
        HealthCheck(
            "backpressure", ok=not stalls.reason, detail=stalls.reason or stalls.slowed or "none"
        ),
        _store_health(engine),
    ]
    for lane in engine.background.lanes:
        detail = f"attempt {lane.attempts} failed: {lane.error}" if lane.error else "working"
        checks.append(HealthCheck(lane.name, lane.error is None, detail))
    return checks


def _store_health(engine: Engine) -> HealthCheck:
    breaker = engine.stores.breaker
    if not breaker.is_open:
        return HealthCheck("bucket", ok=True, detail="reachable")
    left = engine.options.wal_budget - engine.gauges.wal_bytes
    return HealthCheck(
        "bucket",
        ok=False,
        detail=f"degraded: {breaker.last_error}; writes go on for {max(left, 0):,} bytes more",
    )
