"""stats, flush and compact."""

from __future__ import annotations

import re

from tests.cli.conftest import Commands


def test_flush_and_compact_say_what_they_did(seerdb: Commands) -> None:
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


def test_stats_are_a_table_for_people_and_json_for_programs(seerdb: Commands) -> None:
    seerdb("put", "a", "1")
    seerdb("flush")
    report = seerdb("stats", "--json").json
    assert report["tables"] >= 1
    shown = seerdb("stats").text
    assert re.search(rf"^visible_seq +{report['visible_seq']:,} *$", shown, re.MULTILINE)
    assert re.search(r"^wal\.bytes +[\d,]+ *$", shown, re.MULTILINE)
    assert re.search(r"^flush +\d+ +\d+", shown, re.MULTILINE), "the lanes are a table of their own"
