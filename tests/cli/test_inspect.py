"""inspect: what is printed is what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB, Components
from seerdb.storage.wal.format import (
    SegmentHeader,
    encode_frame,
    encode_header,
    encode_operations,
    encode_record,
)
from seerdb.testing.clock import FakeClock
from tests.cli.conftest import Commands

SETTINGS: dict[str, Any] = {
    "min_free_disk": 0,
    "wal_segment_size": 64 << 10,
    "background": "inline",
}
TABLE = "00000001-000000000001"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A database with one table of several blocks, and a log."""
    live = tmp_path / "live"
    with DB.open(str(live), block_size=1024, **SETTINGS) as db:
        with db.batch() as batch:
            for number in range(100):
                batch.put(b"key%03d" % number, b"%03d" % number * 30)
            batch.delete(b"gone")
            batch.put(b"\xff", b"\x00" * 100)
        db.delete_range(b"m", b"n")
        db.flush()
        with db.batch() as batch:
            batch.put(b"a\tb", b"1")
            batch.delete(b"c")
            batch.delete_range(b"d", b"e\xff")
        db.put(b"f", b"2")
        shutil.copytree(live, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run() -> Commands:
    return Commands()


def segment_of(data: Path) -> str:
    [segment] = (data / "wal").glob("*.wal")
    return str(segment)


def test_the_manifest_is_shown_as_a_whole(run: Commands, data: Path) -> None:
    state = run("inspect", "manifest", str(data), "--json").json
    [[table]] = [run_["tables"] for run_ in state["version"]["runs"]]
    assert (state["number"], state["epoch"], state["last_seq"]) == (2, 1, 2)
    assert (table["id"], table["entries"]) == (TABLE, 102)
    shown = run("inspect", "manifest", str(data / "bucket")).text
    assert state["database_id"] in shown
    assert f"{TABLE}  " in shown
    assert "\\xff" in shown


def test_one_record_of_the_manifest_is_shown(run: Commands, data: Path) -> None:
    assert run("inspect", "manifest", str(data), "1", "--json").json["kind"] == "claim"
    shown = run("inspect", "manifest", str(data), "2").text
    assert json.loads(shown)["reason"] == "flush"
    assert "\n  " in shown
    assert "no object" in run("inspect", "manifest", str(data), "3", expect=3).err
    run("inspect", "manifest", str(data), "0", expect=2)


def test_the_properties_and_blocks_of_a_table_are_shown(run: Commands, data: Path) -> None:
    report = run("inspect", "table", str(data), TABLE, "--json").json
    assert report["properties"]["entries"] == 102
    assert report["properties"]["largest_base64"] == "/w=="
    assert sum(block["entries"] for block in report["blocks"]) == 102
    assert len(report["blocks"]) > 3
    assert report["range_tombstones"] == [{"seq": 2, "start": "m", "end": "n"}]
    shown = run("inspect", "table", str(data), f"tables/{TABLE}.sst").text
    assert "range tombstone 2: m to n" in shown
    assert shown.count(" sound ") == len(report["blocks"])


def test_the_entries_of_a_table_are_shown(run: Commands, data: Path) -> None:
    lines = run("inspect", "table", str(data), TABLE, "--entries").lines
    assert len(lines) == 102
    assert lines[0] == "1\tdelete\tgone"
    assert lines[-1] == "1\tput\t\\xff\t" + "\\x00" * 60 + "…"
    entries = run("inspect", "table", str(data), TABLE, "--entries", "--json").json_lines
    assert entries[1] == {"seq": 1, "op": "put", "key": "key000", "value": "000" * 30}


def test_around_a_damaged_block_the_table_is_shown(run: Commands, data: Path) -> None:
    blocks = run("inspect", "table", str(data), TABLE, "--json").json["blocks"]
    file = data / "bucket" / "tables" / f"{TABLE}.sst"
    content = bytearray(file.read_bytes())
    content[blocks[2]["offset"] + 5] ^= 1
    file.write_bytes(content)
    outcome = run("inspect", "table", str(data), TABLE, "--json", expect=6)
    states = [block["state"] for block in outcome.json["blocks"]]
    assert [state == "sound" for state in states] == [n != 2 for n in range(len(blocks))]
    assert f"{TABLE}.sst at byte {blocks[2]['offset']}: " in outcome.err
    outcome = run("inspect", "table", str(data), TABLE, "--entries", "--json", expect=6)
    assert len(outcome.json_lines) == sum(
        block["entries"] for block in blocks if block["block"] != 2
    )
    assert f"{TABLE}.sst at byte {blocks[2]['offset']}: " in outcome.err


@pytest.mark.parametrize("content", [b"", b"x" * 48, b"x" * 1000])
def test_what_is_no_table_is_told(run: Commands, data: Path, content: bytes) -> None:
    (data / "bucket" / "tables" / f"{TABLE}.sst").write_bytes(content)
    assert f"tables/{TABLE}.sst" in run("inspect", "table", str(data), TABLE, expect=6).err


def test_a_table_that_is_not_there_is_not_found(run: Commands, data: Path) -> None:
    run("inspect", "table", str(data), "00000009-000000000009", expect=3)
    assert "00000001-000000000001" in run("inspect", "table", str(data), "x", expect=2).err


def test_a_segment_that_is_not_there_is_not_found(run: Commands, tmp_path: Path) -> None:
    name = str(tmp_path / "00000000000000000001.wal")
    assert run("inspect", "wal", name, expect=3).err == f"seerdb: {name} is not there\n"


def test_the_commits_of_a_segment_are_shown(run: Commands, data: Path) -> None:
    head, *lines = run("inspect", "wal", segment_of(data)).lines
    assert "segment 2 of epoch 1, database " in head
    assert [line.split("\t", 2)[::2] for line in lines] == [
        ["3", "put\ta\\tb\t1"],
        ["3", "delete\tc"],
        ["3", "delete_range\td\te\\xff"],
        ["4", "put\tf\t2"],
    ]
    header, *commits = run("inspect", "wal", segment_of(data), "--json").json_lines
    assert (header["segment"], header["records"], header["sealed"]) == (2, 2, False)
    assert commits[0]["ops"] == [
        {"op": "put", "key": "a\tb", "value": "1"},
        {"op": "delete", "key": "c"},
        {"op": "delete_range", "start": "d", "end_base64": "Zf8="},
    ]


def test_times_that_no_calendar_has_are_shown_as_numbers(run: Commands, tmp_path: Path) -> None:
    late, never = 10**18 - 1, (1 << 64) - 1
    header = SegmentHeader(bytes(16), 7, 1, 1, 1 << 62, 0x5EED, 1)
    record = encode_record(1, late, encode_operations(b"\5", [b"k"], [bytes([255] * 8)]), 0x5EED)
    frame = encode_frame(record, salt=0x5EED, synced=0, alignment=1, compress=None)
    path = tmp_path / "segment"
    path.write_bytes(encode_header(header) + frame)
    shown = run("inspect", "wal", str(path)).text
    assert f"created {1 << 62:,} µs since 1970, open" in shown
    assert (
        f"1\t{late:,} µs since 1970\tput\tk\t\texpires {never * 1_000_000:,} µs since 1970" in shown
    )


def test_behind_damage_the_commits_are_shown_too(run: Commands, data: Path) -> None:
    path = Path(segment_of(data))
    content = bytearray(path.read_bytes())
    content[content.index(b"a\tb")] ^= 1
    path.write_bytes(content)
    outcome = run("inspect", "wal", str(path), expect=6)
    assert outcome.lines[-1].endswith("put\tf\t2")
    assert f"{path} at byte " in outcome.err
    outcome = run("inspect", "wal", str(path), str(path), expect=6)
    assert [line.endswith("put\tf\t2") for line in outcome.lines].count(True) == 2
    path.write_bytes(b"no segment")
    run("inspect", "wal", str(path), expect=6)
    run("inspect", "wal", str(path) + "x", expect=3)


def test_what_expires_and_what_is_merged_is_shown(run: Commands, tmp_path: Path) -> None:
    live, clock = tmp_path / "live", FakeClock(1_700_000_000.0)
    components = Components(clock=clock)
    with DB.open(str(live), components=components, merge_operator="append", **SETTINGS) as db:
        db.put(b"a", b"1", ttl=10)
        db.merge(b"b", b"x")
        clock.advance(1.0)
        db.merge(b"b", b"y")
        db.flush()
        db.put(b"c", b"2", ttl=10)
        db.merge(b"d", b"z")
        shutil.copytree(live, tmp_path / "data")
    data = tmp_path / "data"
    entries = run("inspect", "table", str(data), TABLE, "--entries", "--json").json_lines
    assert entries == [
        {"seq": 1, "op": "put", "key": "a", "value": "1", "expires": 1_700_000_010},
        {"seq": 3, "op": "merge", "key": "b", "operands": [{"operand": "x"}, {"operand": "y"}]},
    ]
    text = run("inspect", "table", str(data), TABLE, "--entries").text
    assert text.splitlines()[0].startswith("1\tput\ta\t1\texpires 2023-11-14T22:13:30")
    assert text.splitlines()[1] == "3\tmerge\tb\tx\ty"
    _, *commits = run("inspect", "wal", segment_of(data), "--json").json_lines
    assert [commit["ops"] for commit in commits] == [
        [{"op": "put", "key": "c", "value": "2", "expires": 1_700_000_011}],
        [{"op": "merge", "key": "d", "operands": [{"operand": "z"}]}],
    ]
    assert run("inspect", "manifest", str(data), "--json").json["merge_operator"] == "append"


def test_blobs_and_what_points_into_them_are_shown(run: Commands, tmp_path: Path) -> None:
    live, clock = tmp_path / "live", FakeClock(1_700_000_000.0)
    with DB.open(
        str(live), components=Components(clock=clock), blob_threshold=50, **SETTINGS
    ) as db:
        db.put(b"a", b"x" * 100)
        db.put(b"b", b"\x00" * 50, ttl=10)
        db.put(b"c", b"small")
    blob = f"{TABLE}-000000"
    entries = run("inspect", "table", str(live), TABLE, "--entries", "--json").json_lines
    first, second, third = entries
    assert {name: first[name] for name in ("op", "key", "blob", "offset")} == {
        "op": "put",
        "key": "a",
        "blob": blob,
        "offset": 0,
    }
    assert (second["blob"], second["expires"]) == (blob, 1_700_000_010)
    assert third == {"seq": 3, "op": "put", "key": "c", "value": "small"}
    text = run("inspect", "table", str(live), TABLE, "--entries").lines
    assert text[0].endswith(f"bytes at 0 of blob {blob}")
    shown = run("inspect", "manifest", str(live)).text
    assert blob in shown
    for name in (blob, f"blobs/{blob}.blob"):
        report = run("inspect", "blob", str(live), name, "--json").json
        assert [value["bytes"] for value in report["values"]] == [100, 50]
        assert [value["offset"] for value in report["values"]] == [0, second["offset"]]
    assert run("inspect", "blob", str(live), blob).text.count(" sound") == 2
    path = live / "bucket" / "blobs" / f"{blob}.blob"
    damaged = bytearray(path.read_bytes())
    damaged[3] ^= 1
    path.write_bytes(damaged)
    outcome = run("inspect", "blob", str(live), blob, "--json", expect=6)
    assert [value["state"] == "sound" for value in outcome.json["values"]] == [False, True]
    run("inspect", "blob", str(live), TABLE, expect=2)
    run("inspect", "blob", str(live), f"{TABLE}-000009", expect=3)
