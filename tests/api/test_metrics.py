"""The Prometheus exposition, and the page that explains it."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from seerdb_api.metrics import (
    COUNTER,
    ENGINE,
    FAMILIES,
    LATENCY_BOUNDS,
    PREFIX,
    REPLICA,
    Series,
)
from tests.api.client import Client
from tests.api.fake_database import FakeDatabase

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def _names() -> set[str]:
    rows = (ENGINE | REPLICA).items()
    single = {f"{name}_total" if row.kind == COUNTER else name for name, row in rows}
    return {PREFIX + name for name in single | set(FAMILIES)}


def _samples(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_every_metric_is_on_the_page_and_no_other() -> None:
    rows = re.findall(r"^\| `(seerdb_\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == _names()


def test_the_page_says_what_the_exposition_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for text in [row.help for row in (ENGINE | REPLICA).values()] + list(FAMILIES.values()):
        assert f"| {text} |" in page


def test_the_engine_is_asked_when_somebody_scrapes(client: Client, db: FakeDatabase) -> None:
    db.numbers.values = {"visible_seq": 41, "wal_syncs": 7, "stall_seconds": 1.5}
    samples = _samples(client)
    assert samples["seerdb_visible_seq", ()] == 41
    assert samples["seerdb_wal_syncs_total", ()] == 7
    assert samples["seerdb_stall_seconds_total", ()] == 1.5
    db.numbers.values["visible_seq"] = 42
    assert _samples(client)["seerdb_visible_seq", ()] == 42


def test_merges_that_run_are_summed_by_kind(client: Client) -> None:
    samples = _samples(client)
    names = ("jobs", "job_input_bytes", "job_read_bytes", "job_written_bytes")
    for kind, numbers in (("request", (2, 200, 100, 80)), ("compaction", (0, 0, 0, 0))):
        labels = (("kind", kind),)
        assert tuple(samples[f"seerdb_{name}", labels] for name in names) == numbers


def test_levels_and_the_object_store_have_labels(client: Client) -> None:
    samples = _samples(client)
    assert samples["seerdb_level_tables", (("level", "0"),)] == 2
    assert samples["seerdb_level_bytes", (("level", "0"),)] == 4096
    assert samples["seerdb_level_runs", (("level", "0"),)] == 1
    assert samples["seerdb_level_entries", (("level", "0"),)] == 50
    assert samples["seerdb_level_tombstones", (("level", "0"),)] == 6
    assert samples["seerdb_level_range_tombstones", (("level", "0"),)] == 1
    assert samples["seerdb_table_gets_total", (("tier", "bucket"),)] == 2
    assert samples["seerdb_sampled_gets_total", (("tier", "memtable"),)] == 4
    flush_put = (("operation", "put"), ("purpose", "flush"))
    assert samples["seerdb_store_requests_total", flush_put] == 5
    assert samples["seerdb_store_errors_total", flush_put] == 1
    assert samples["seerdb_store_received_bytes_total", flush_put] == 0
    assert samples["seerdb_store_sent_bytes_total", flush_put] == 4096
    assert samples["seerdb_store_seconds_total", flush_put] == 0.25
    assert samples["seerdb_store_request_dollars_total", flush_put] == 0.5


def test_what_held_writes_back_has_its_reason_as_label(client: Client) -> None:
    samples = _samples(client)
    values = [
        samples[f"seerdb_backpressure_{column}_total", (("reason", "log"),)]
        for column in ("slowdowns", "slowed_seconds", "stops", "stopped_seconds", "refused")
    ]
    assert values == [5, 1.5, 2, 20.25, 1]


def test_requests_by_route_and_class_of_status(client: Client) -> None:
    client.get("/v1/kv")
    client.get("/v1/kv?limit=0")
    client.get("/v1/history/a")
    client.get("/nowhere/1")
    client.get("/nowhere/2")
    client.request("BREW", "/v1/kv")
    samples = _samples(client)

    def count(method: str, route: str, status: str) -> float:
        labels = (("method", method), ("route", route), ("status", status))
        return samples["seerdb_http_requests_total", labels]

    assert count("GET", "/v1/kv", "2xx") == 1
    assert count("GET", "/v1/kv", "4xx") == 1
    assert count("GET", "/v1/history/{key}", "2xx") == 1
    assert count("GET", "other", "4xx") == 2
    assert count("other", "/v1/kv", "4xx") == 1


def test_latency_falls_into_cumulative_buckets(client: Client) -> None:
    client.get("/v1/kv")
    samples = _samples(client)
    labels = (("method", "GET"), ("route", "/v1/kv"))
    assert samples["seerdb_http_request_seconds_count", labels] == 1
    assert samples["seerdb_http_request_seconds_bucket", (("le", "+Inf"), *labels)] == 1
    assert samples["seerdb_http_request_seconds_sum", labels] > 0


def test_a_bound_belongs_to_its_bucket() -> None:
    series = Series()
    for seconds in (0.0, LATENCY_BOUNDS[0], LATENCY_BOUNDS[1], LATENCY_BOUNDS[-1], 99.0):
        series.observe(200, seconds)
    assert series.buckets[:2] == [2, 1]
    assert series.buckets[-2:] == [1, 1]
