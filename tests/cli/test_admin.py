"""stats, flush and compact."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from seerdb.cli.output import decimal
from seerdb.cli.summary import summary
from tests.cli.conftest import Commands, Process, start_server, stop_server


def test_flush_and_compact_say_what_they_did(seerdb: Commands) -> None:
    seerdb("compact")  # nothing that other tests left is merged meanwhile
    seerdb("put", "a", "1")
    flushed = seerdb("flush")
    seq, table = re.fullmatch(
        r"flushed up to seq ([\d,]+)\nnew table (\d{8}-\d{12})\n", flushed.text
    ).groups()  # type: ignore[union-attr]
    assert seerdb("flush", "--json").json == {"last_seq": int(seq.replace(",", "")), "tables": []}
    seerdb("put", "b", "1")
    report = seerdb("compact", "--json").json
    assert table in report["removed"]
    assert len(report["added"]) == 1
    seerdb("put", "c", "1")
    assert seerdb("compact").lines[0] == "tables merged: 1, made: 1"
    assert seerdb("compact", "--start", "a", "--end", "c").lines == ["tables merged: 0, made: 0"]
    refused = seerdb("compact", "--hex", "--start", "62", "--end", "61", expect=2)
    assert "the start of a range must be before its end: b'b', b'a'" in refused.err


def test_compact_shows_a_terminal_how_far_it_is(tmp_path: Path) -> None:
    config = tmp_path / "seerdb.toml"
    config.write_text("compaction_rate = 600_000")
    server, url = start_server(tmp_path / "data", "--config", str(config))
    seerdb = Commands(url)
    try:
        for _ in range(2):
            for key in range(8):
                seerdb("put", f"{key}", "-", stdin=random.Random(key).randbytes(60_000))
            seerdb("flush")
        terminal = {"FORCE_COLOR": "1", "TERM": "xterm"}
        outcome = Process("compact", "--url", url, environment=terminal).end()
        assert outcome.lines[0] == "tables merged: 2, made: 1"
        assert re.search(r"merging .*\d/[\d.]+ [kM]B", outcome.err), "of how many bytes"
        assert seerdb("compact").err == "", "no terminal, no bar"
    finally:
        stop_server(server)


def test_stats_are_a_table_for_people_and_json_for_programs(seerdb: Commands) -> None:
    seerdb("put", "a", "1")
    seerdb("flush")
    report = seerdb("stats", "--json").json
    assert report["tables"] >= 1
    shown = seerdb("stats").text
    assert re.search(rf"^visible_seq +{report['visible_seq']:,} *$", shown, re.MULTILINE)
    assert re.search(r"^wal\.bytes +[\d,]+ *$", shown, re.MULTILINE)
    assert re.search(r"^flush +\d+ +\d+", shown, re.MULTILINE), "the lanes are a table of their own"


def test_stats_begin_with_a_summary(seerdb: Commands) -> None:
    seerdb("compact")  # nothing that other tests left is merged meanwhile
    seerdb("put", "a", "1")
    seerdb("flush")
    report = seerdb("stats", "--json").json
    shown = dict(re.split(r" {2,}", line, maxsplit=1) for line in seerdb("stats").lines[2:13])
    assert shown["data"].startswith(f"{report['table_bytes']:,} bytes, ")
    assert f"{report['amplifications']['user_bytes']:,} of users" in shown["writes"]
    assert shown["shipping"].startswith("as it is written; ")
    assert shown["stalls"].strip() == "none"
    assert shown["merges"].strip() == "lazy leveled; none runs"
    assert re.match(r"\S+ per month \(\S+ requests of late, \S+ storage\)", shown["dollars"])


STATUS: dict[str, Any] = {
    "table_bytes": 12_000_000,
    "table_entries": 100_000,
    "tables": 7,
    "runs": 3,
    "blobs": {"blobs": 2, "values": 30, "bytes": 4_000_000, "live_bytes": 3_000_000},
    "amplifications": {
        "user_bytes": 10_000_000,
        "written_bytes": 25_000_000,
        "write": 2.5,
        "live_bytes": 10_000_000,
        "space": 1.2,
        "runs": 3,
        "blocks_per_get": 0.0625,
    },
    "reads": {
        "block_cache_hits": 90,
        "blocks_from_disk": 6,
        "blocks_from_bucket": 4,
        "sample": {"memtable": 300, "row_cache": 600, "tables": 100},
    },
    "shipping": {
        "continuous": True,
        "unshipped_seq": 1_234,
        "unshipped_seconds": 0.75,
        "stopped": "",
    },
    "stalls": {
        "stalls": 2,
        "stalled_seconds": 31.5,
        "refused": 1,
        "reason": "",
        "slowdowns": 3,
        "slowed_seconds": 0.25,
        "slowed": "it is late",
        "reasons": [
            {"reason": "memtables", "last": ""},
            {"reason": "log", "last": "it was full"},
            {"reason": "runs", "last": "too many"},
        ],
    },
    "compaction_shape": "lazy_leveled",
    "jobs": [
        {"input_bytes": 800, "level": 7, "bytes_read": 200},
        {"input_bytes": 100, "level": 0, "bytes_read": 0},
    ],
    "costs": {
        "requests": 0.5,
        "requests_per_month": 12.25,
        "storage_per_month": 0.75,
        "total_per_month": 13.0,
    },
}


STALLS = (
    "2 stops (31.5 s), 3 slowdowns (0.25 s), 1 refused; now: it is late; "
    "last by log: it was full; last by runs: too many"
)


def test_the_summary_says_what_an_operator_looks_for() -> None:
    assert summary(STATUS) == [
        ("data", "12,000,000 bytes, 100,000 entries, 7 tables, 3 runs"),
        ("large values", "30, 3,000,000 bytes live of 4,000,000 in 2 blobs"),
        ("writes", "25,000,000 bytes for 10,000,000 of users: 2.50 times"),
        ("space", "1.20 times the 10,000,000 bytes that live (estimated)"),
        ("reads", "3 runs to ask at most, 0.0625 blocks fetched for a get of tables"),
        ("gets, sampled", "memtable 30.0%, row cache 60.0%, tables 10.0% of 1,000"),
        (
            "gets of tables",
            "block cache hits 90.0%, blocks from disk 6.0%, blocks from bucket 4.0% of 100",
        ),
        ("shipping", "as it is written; seq 1,234 and later on the local disk only, for 0.75 s"),
        ("stalls", STALLS),
        ("merges", "lazy leveled; 800 bytes to level 7, 25% read; 100 bytes to level 0, 0% read"),
        ("dollars", "13 per month (12.25 requests of late, 0.75 storage); 0.5 for requests so far"),
    ]


def test_the_summary_has_no_powers_of_ten() -> None:
    """Large dollars were told as ``9.417e+05 per month``, and half an hour as ``1.8e+03 s``."""
    costs = {
        "requests": 0.0000461,
        "requests_per_month": 941_700.4,
        "storage_per_month": 0.0,
        "total_per_month": 941_700.4,
    }
    shipping = {**STATUS["shipping"], "unshipped_seconds": 1_834.6}
    stalls = {**STATUS["stalls"], "stalled_seconds": 12_345.6, "slowed_seconds": 0.0000123}
    status = {**STATUS, "costs": costs, "shipping": shipping, "stalls": stalls}
    shown = dict(summary(status))
    assert shown["dollars"] == (
        "941,700 per month (941,700 requests of late, 0 storage); 0.0000461 for requests so far"
    )
    assert shown["shipping"].endswith("for 1,835 s")
    assert shown["stalls"].startswith("2 stops (12,346 s), 3 slowdowns (0.0000123 s)")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.5, "0.5"),
        (-1.25, "-1.25"),
        (100.0, "100"),
        (999.9996, "1,000"),
        (12_345_678.9, "12,345,679"),
        (0.00001234567, "0.0000123457"),
    ],
)
def test_a_number_in_a_table_has_no_power_of_ten(value: float, shown: str) -> None:
    assert decimal(value, 6) == shown


def test_the_summary_of_a_replica_says_what_it_follows_and_how_far_behind_it_is() -> None:
    status = {name: STATUS[name] for name in ("reads", "costs")} | {
        "table_bytes": 12_000_000,
        "table_entries": 100_000,
        "tables": 7,
        "runs": 3,
        "visible_seq": 1_000,
        "epoch": 2,
        "primary": "http://primary",
        "is_live": False,
        "lag": {"seq": 5, "seconds": 1.5},
    }
    shown = dict(summary(status))
    assert shown["data"] == summary(STATUS)[0][1]
    assert shown["follows"] == "the bucket; http://primary is away; at seq 1,000 of epoch 2"
    assert shown["lag"] == "1.5 seconds, 5 commits"
    shown = dict(summary(status | {"is_live": True, "lag": {"seq": 0, "seconds": None}}))
    assert shown["follows"] == "http://primary, live; at seq 1,000 of epoch 2"
    assert shown["lag"] == "not caught up yet, 0 commits"


def test_the_summary_of_a_new_database_divides_nothing_by_nothing() -> None:
    sample = {"memtable": 0, "row_cache": 0, "tables": 0}
    reads = {"block_cache_hits": 0, "blocks_from_disk": 0, "blocks_from_bucket": 0}
    shown = dict(summary(STATUS | {"reads": reads | {"sample": sample}}))
    assert shown["gets, sampled"] == shown["gets of tables"] == "none yet"
