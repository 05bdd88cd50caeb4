"""Metrics in the Prometheus text format; the only place where metric names exist.

Requests are counted in plain lists by the event loop. The numbers of the engine are read when
somebody asks. ``docs/metrics.md`` lists every name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from seerdb_api.port import HealthCheck, Statistics
from seerdb_api.service import Service

PREFIX = "seerdb_"
LATENCY_BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
"""Upper bounds of the latency histogram, in seconds."""
STATUS_CLASSES = 6
JOB_KINDS = ("compaction", "request")

GAUGE, COUNTER = "gauge", "counter"


class EngineMetric(NamedTuple):
    """A single number of the engine: its kind and what it says."""

    kind: str
    help: str


ENGINE: dict[str, EngineMetric] = {
    "visible_seq": EngineMetric(GAUGE, "Newest sequence number that reads see."),
    "memtable_bytes": EngineMetric(GAUGE, "Memory of the active memtable."),
    "sealed_memtables": EngineMetric(GAUGE, "Sealed memtables that wait for their flush."),
    "sealed_memtable_bytes": EngineMetric(GAUGE, "Memory of the sealed memtables."),
    "user_bytes": EngineMetric(COUNTER, "Keys and values of what was written and ingested."),
    "wal_bytes": EngineMetric(
        GAUGE, "Local disk that the log takes of what is not flushed, or not shipped."
    ),
    "wal_appended_bytes": EngineMetric(COUNTER, "Bytes appended to the log."),
    "wal_syncs": EngineMetric(COUNTER, "Syncs of the log."),
    "wal_sync_seconds": EngineMetric(COUNTER, "Time spent waiting for syncs of the log."),
    "shipped_seq": EngineMetric(
        GAUGE, "Sequence number up to which log, or tables in its place, are in the bucket."
    ),
    "shipped_objects": EngineMetric(COUNTER, "Objects that the log was shipped in."),
    "shipped_bytes": EngineMetric(COUNTER, "Bytes of the log that were shipped."),
    "ship_failures": EngineMetric(COUNTER, "Ships that failed and were tried again."),
    "unshipped_seq": EngineMetric(
        GAUGE, "Oldest write that is in the bucket neither as log nor in tables; 0: none."
    ),
    "unshipped_seconds": EngineMetric(GAUGE, "Its age: what the loss of this machine costs."),
    "commits": EngineMetric(COUNTER, "Batches committed; a single write is a batch of one."),
    "operations": EngineMetric(COUNTER, "Puts, merges, deletes and range deletes committed."),
    "commit_groups": EngineMetric(COUNTER, "Groups of batches that were logged together."),
    "written_bytes": EngineMetric(COUNTER, "Bytes of the tables and blobs that were written."),
    "write_amplification": EngineMetric(GAUGE, "Bytes written for a byte of the user."),
    "live_bytes": EngineMetric(GAUGE, "Estimated bytes without what is overwritten."),
    "space_amplification": EngineMetric(GAUGE, "Bytes of tables and blobs over the live bytes."),
    "runs": EngineMetric(GAUGE, "Sorted runs, which a read may have to ask all."),
    "tables": EngineMetric(GAUGE, "Tables of the current version."),
    "table_bytes": EngineMetric(GAUGE, "Bytes of the tables of the current version."),
    "blobs": EngineMetric(GAUGE, "Blobs of large values that tables point into."),
    "blob_bytes": EngineMetric(GAUGE, "Bytes of those blobs."),
    "blob_live_bytes": EngineMetric(GAUGE, "Bytes of the values in them that tables point at."),
    "scans": EngineMetric(COUNTER, "Scans begun."),
    "blocks_per_get": EngineMetric(GAUGE, "Blocks fetched from the bucket for a get of tables."),
    "tail_bytes": EngineMetric(GAUGE, "Memory of open tables: indexes, filters, range deletes."),
    "row_cache_bytes": EngineMetric(GAUGE, "Memory of the row cache."),
    "block_cache_admissions": EngineMetric(COUNTER, "Blocks that came into the block cache."),
    "block_cache_evictions": EngineMetric(COUNTER, "Blocks that made room for others."),
    "block_cache_bytes": EngineMetric(GAUGE, "Memory of the block cache."),
    "disk_cache_hits": EngineMetric(COUNTER, "Reads answered by the disk cache."),
    "disk_cache_misses": EngineMetric(COUNTER, "Reads that had to ask the object store."),
    "disk_cache_rejected": EngineMetric(COUNTER, "Tables dropped from it: damaged bytes."),
    "disk_cache_bytes": EngineMetric(GAUGE, "Bytes of the disk cache."),
    "flushes": EngineMetric(COUNTER, "Memtables flushed into tables."),
    "flush_failures": EngineMetric(COUNTER, "Flushes that failed and were tried again."),
    "unproved_flushes": EngineMetric(
        COUNTER, "Flushes that could not be held against the log, because that is damaged."
    ),
    "compactions": EngineMetric(COUNTER, "Compactions done."),
    "ingests": EngineMetric(COUNTER, "Ingests done."),
    "compaction_failures": EngineMetric(COUNTER, "Compactions that failed."),
    "drills": EngineMetric(COUNTER, "Restore drills done, those that failed among them."),
    "drill_failures": EngineMetric(COUNTER, "Restore drills that failed."),
    "drill_success": EngineMetric(
        GAUGE, "1 if the last restore drill went well, 0 if it failed or there was none."
    ),
    "drill_compared": EngineMetric(
        GAUGE, "1 if what it restored was compared with what the database was, and was the same."
    ),
    "drill_ended_time": EngineMetric(GAUGE, "When it ended, in seconds since 1970; 0: none."),
    "drill_seconds": EngineMetric(GAUGE, "How long restoring the backup and reading it took."),
    "drill_rpo_seconds": EngineMetric(
        GAUGE, "The age of what it restored: what would be lost if only backups were left."
    ),
    "stalls": EngineMetric(COUNTER, "Times that writes were held back."),
    "stall_seconds": EngineMetric(COUNTER, "Time that writes were held back."),
    "slowdowns": EngineMetric(COUNTER, "Times that writes began to be slowed down."),
    "slowed_seconds": EngineMetric(COUNTER, "Time by which writes were slowed down."),
    "refused_writes": EngineMetric(COUNTER, "Times that holding back did not help: busy."),
    "breaker_open": EngineMetric(GAUGE, "1 while requests to the object store are held back."),
    "store_dollars": EngineMetric(COUNTER, "Estimated price of the requests to the bucket."),
    "store_dollars_per_month": EngineMetric(
        GAUGE, "What the requests to the bucket come to in a month if it goes on like this."
    ),
    "storage_dollars_per_month": EngineMetric(
        GAUGE, "Price of keeping the tables and blobs for a month."
    ),
    "recovery_seconds": EngineMetric(GAUGE, "How long the last recovery took."),
    "recovered_batches": EngineMetric(GAUGE, "Batches that the last recovery replayed."),
    "recovery_truncated_bytes": EngineMetric(
        GAUGE, "Bytes of a torn tail that the last recovery cut off."
    ),
}
"""Rows of ``Statistics.values``: exposed as ``seerdb_<name>``, counters with ``_total``."""

REPLICA: dict[str, EngineMetric] = {
    "compared_seq": EngineMetric(
        GAUGE, "The newest commit of those that were found to be what the primary has."
    ),
    "lag_seq": EngineMetric(GAUGE, "Commits that are known of and not shown yet."),
    "lag_seconds": EngineMetric(GAUGE, "Time since it was known that nothing was missing."),
    "live": EngineMetric(GAUGE, "1 while the log comes from the primary itself."),
    "restarts": EngineMetric(COUNTER, "Times that something shown was taken back as void."),
}
"""As ``ENGINE``, what only replicas have; of ``ENGINE`` they have those that are about reads."""

FAMILIES: dict[str, str] = {
    "http_requests_total": "Requests answered, by method, route and class of status.",
    "http_request_seconds": "Time from a request to its reply, by method and route.",
    "healthy": "1 while the named check of readiness holds, else 0.",
    "backpressure_slowdowns_total": "Times that writes began to be slowed down, by reason.",
    "backpressure_slowed_seconds_total": "Time by which writes were slowed down, by reason.",
    "backpressure_stops_total": "Times that writes were stopped, by reason.",
    "backpressure_stopped_seconds_total": "Time that writes were stopped, by reason.",
    "backpressure_refused_total": "Writes or groups of them that were refused, by reason.",
    "jobs": "Merges of tables that run now: of the policy, or of a request.",
    "job_input_bytes": "Bytes of the tables that they merge.",
    "job_read_bytes": "Bytes of these tables that they have read so far.",
    "job_written_bytes": "Bytes that they have written so far.",
    "level_runs": "Sorted runs of a level.",
    "level_tables": "Tables of a level.",
    "level_bytes": "Bytes of the tables of a level.",
    "level_entries": "Versions of keys in a level, tombstones included.",
    "level_tombstones": "Tombstones of single keys in a level.",
    "level_range_tombstones": "Range tombstones in a level.",
    "table_gets_total": "Gets that reached the tables, by the tier that had what they needed.",
    "sampled_gets_total": "Gets of the sample, by the tier that answered.",
    "store_requests_total": "Requests to the object store, by purpose and operation.",
    "store_errors_total": "Requests to the object store that failed.",
    "store_received_bytes_total": "Bytes received from the object store.",
    "store_sent_bytes_total": "Bytes sent to the object store.",
    "store_seconds_total": "Time spent waiting for the object store.",
    "store_request_dollars_total": "Estimated price of the requests to the object store.",
}
"""Metrics with labels: name without the prefix, and what it says."""


class Series:
    """Requests of one method and route. Belongs to the event loop."""

    __slots__ = ("buckets", "classes", "seconds")

    def __init__(self) -> None:
        self.classes = [0] * STATUS_CLASSES
        self.buckets = [0] * (len(LATENCY_BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, status: int, seconds: float) -> None:
        """Count a request that was answered with ``status`` after ``seconds``."""
        self.classes[status // 100] += 1
        self.buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.seconds += seconds


class RequestMetrics:
    """All requests, by method and route. Both are bounded sets, whatever clients send."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], Series] = {}

    def of(self, method: str, route: str) -> Series:
        """The series of ``method`` and ``route``."""
        return self.series.setdefault((method, route), Series())


class Metrics(Collector):
    """Everything that ``/metrics`` shows."""

    def __init__(self, service: Service) -> None:
        self.requests = RequestMetrics()
        self._service = service
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        yield from self._http()
        statistics = self._service.db.statistics()
        yield from _single_numbers(statistics)
        yield from _backpressure(statistics)
        yield from _jobs(statistics)
        yield from _levels(statistics)
        yield from _tiers(statistics)
        yield from _health(self._service.db.health())
        yield from _store(statistics)

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry need not ask the engine when it starts."""
        return iter(())

    def _http(self) -> Iterator[Metric]:
        requests = _counter("http_requests_total", ("method", "route", "status"))
        latency = HistogramMetricFamily(
            f"{PREFIX}http_request_seconds",
            FAMILIES["http_request_seconds"],
            labels=("method", "route"),
        )
        bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
        for (method, route), series in self.requests.series.items():
            for status, count in enumerate(series.classes):
                if count:
                    requests.add_metric((method, route, f"{status}xx"), count)
            cumulative = list(zip(bounds, accumulate(series.buckets), strict=True))
            latency.add_metric((method, route), cumulative, series.seconds)
        yield requests
        yield latency


def _counter(name: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}{name}", FAMILIES[name], labels=labels)


def _single_numbers(statistics: Statistics) -> Iterator[Metric]:
    for name, value in statistics.values.items():
        metric = ENGINE.get(name) or REPLICA[name]
        family = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
        yield family(f"{PREFIX}{name}", metric.help, value=value)


def _health(checks: Sequence[HealthCheck]) -> Iterator[Metric]:
    healthy = GaugeMetricFamily(f"{PREFIX}healthy", FAMILIES["healthy"], labels=("check",))
    for check in checks:
        healthy.add_metric((check.name,), check.ok)
    yield healthy


def _backpressure(statistics: Statistics) -> Iterator[Metric]:
    for column in ("slowdowns", "slowed_seconds", "stops", "stopped_seconds", "refused"):
        family = _counter(f"backpressure_{column}_total", ("reason",))
        for row in statistics.stalls.reasons:
            family.add_metric((row.reason,), getattr(row, column))
        yield family


def _jobs(statistics: Statistics) -> Iterator[Metric]:
    columns = {
        "jobs": None,
        "job_input_bytes": "input_bytes",
        "job_read_bytes": "bytes_read",
        "job_written_bytes": "bytes_written",
    }
    for name, column in columns.items():
        family = GaugeMetricFamily(f"{PREFIX}{name}", FAMILIES[name], labels=("kind",))
        for kind in JOB_KINDS:
            rows = [job for job in statistics.jobs if job.kind == kind]
            family.add_metric((kind,), sum(getattr(job, column) if column else 1 for job in rows))
        yield family


def _levels(statistics: Statistics) -> Iterator[Metric]:
    columns = {
        "level_runs": "runs",
        "level_tables": "tables",
        "level_bytes": "bytes",
        "level_entries": "entries",
        "level_tombstones": "deletes",
        "level_range_tombstones": "range_deletes",
    }
    for name, column in columns.items():
        family = GaugeMetricFamily(f"{PREFIX}{name}", FAMILIES[name], labels=("level",))
        for row in statistics.levels:
            family.add_metric((str(row.level),), getattr(row, column))
        yield family


def _tiers(statistics: Statistics) -> Iterator[Metric]:
    counts = {
        "table_gets_total": statistics.get_tiers,
        "sampled_gets_total": statistics.sampled_gets,
    }
    for name, tiers in counts.items():
        family = _counter(name, ("tier",))
        for tier, gets in tiers.items():
            family.add_metric((tier,), gets)
        yield family


def _store(statistics: Statistics) -> Iterator[Metric]:
    columns = {
        "store_requests_total": "requests",
        "store_errors_total": "errors",
        "store_received_bytes_total": "bytes_in",
        "store_sent_bytes_total": "bytes_out",
        "store_seconds_total": "seconds",
        "store_request_dollars_total": "dollars",
    }
    for name, column in columns.items():
        family = _counter(name, ("purpose", "operation"))
        for row in statistics.store_requests:
            family.add_metric((row.purpose, row.operation), getattr(row, column))
        yield family
