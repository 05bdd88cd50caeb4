"""verify and wal-verify on copies of one database, each damaged in its own way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB
from seerdb.storage.wal.format import HEADER_SIZE
from tests.cli.conftest import Commands

SETTINGS: dict[str, Any] = {
    "min_free_disk": 0,
    "wal_segment_size": 64 << 10,
    "background": "inline",
    "ship_interval": 0,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as a crash leaves it: tables, a shipped object, and a log that is not flushed."""
    folder = tmp_path_factory.mktemp("original")
    with DB.open(str(folder / "live"), **SETTINGS) as db:
        for number in range(100):
            db.put(b"key%04d" % number, b"value" * 20, durability="memory")
        db.flush()
        db.put(b"shipped", b"1", durability="object")
        for number in range(10):
            db.put(b"logged%d" % number, b"1")
        shutil.copytree(folder / "live", folder / "data")
    return folder / "data"


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run() -> Commands:
    return Commands()


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def files(data: Path, folder: str) -> Iterator[Path]:
    return iter(sorted(path for path in (data / folder).rglob("*") if path.is_file()))


def test_a_sound_database_is_sound_and_not_changed(run: Commands, data: Path) -> None:
    before = {path: path.read_bytes() for path in files(data, ".")}
    outcome = run("verify", str(data))
    assert (outcome.lines[-1], outcome.err) == ("sound", "")
    report = run("verify", str(data), "--json").json
    assert (report["ok"], report["problems"]) == (True, [])
    assert (report["manifests"], report["tables"], report["shipped"]) == (2, 1, 1)
    assert (report["entries"], report["segments"], report["last_seq"]) == (100, 1, 111)
    assert {path: path.read_bytes() for path in files(data, ".")} == before


def test_an_open_database_is_not_disturbed(run: Commands, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with DB.open(data, **SETTINGS) as db:
        db.put(b"a", b"1")
        assert run("verify", data).lines[-1] == "sound"
        db.put(b"b", b"1")


@pytest.mark.parametrize("closed", [False, True])
def test_a_bucket_alone_is_checked(run: Commands, data: Path, closed: bool) -> None:
    if closed:
        DB.open(str(data), **SETTINGS).close()
    for target in (str(data / "bucket"), f"file://{data / 'bucket'}"):
        report = run("verify", target, "--json").json
        assert (report["tables"], report["segments"]) == (1 + closed, 0)


def test_a_bucket_of_log_without_tables_is_a_bucket(run: Commands, tmp_path: Path) -> None:
    bucket = str(tmp_path / "bucket")
    with DB.open(str(tmp_path / "data"), store=bucket, **SETTINGS) as db:
        db.put(b"shipped", b"1", durability="object")
        report = run("verify", bucket, "--json").json
    assert (report["ok"], report["shipped"], report["records"]) == (True, 1, 1)
    assert (report["tables"], report["segments"]) == (0, 0)


def test_a_damaged_table_is_named_with_the_offset(run: Commands, data: Path) -> None:
    table = next(files(data, "bucket/tables"))
    flip(table, 100)
    outcome = run("verify", str(data), expect=1)
    assert outcome.lines[0].startswith(f"damaged: tables/{table.name} at byte 0: ")
    assert outcome.lines[-1] == "damaged; problems: 1"
    report = run("verify", str(data), "--json", expect=1).json
    assert (report["ok"], len(report["problems"])) == (False, 1)


def test_a_damaged_manifest_is_named_with_the_offset(run: Commands, data: Path) -> None:
    record = next(files(data, "bucket/manifest"))
    flip(record, 50)
    shown = run("verify", str(data), expect=1).lines[0]
    assert shown.startswith(f"damaged: manifest/{record.name} at byte 0: checksum mismatch")


def test_a_damaged_segment_is_named_with_the_offset(run: Commands, data: Path) -> None:
    [segment] = (data / "wal").glob("*.wal")
    flip(segment, HEADER_SIZE + 30)
    found = f"{segment} at byte {HEADER_SIZE + 24}: "
    assert run("verify", str(data), expect=1).lines[0].startswith(f"damaged: {found}")
    assert run("wal-verify", str(segment), expect=1).lines[0].startswith(f"corrupt: {found}")


def test_a_missing_table_is_damage_and_a_stray_one_is_a_note(run: Commands, data: Path) -> None:
    table = next(files(data, "bucket/tables"))
    table.rename(table.with_name("00000001-000000000009.sst"))
    lines = run("verify", str(data), expect=1).lines
    assert lines[0] == f"damaged: tables/{table.name}: the manifest names it, but it is gone"
    assert lines[1].startswith("note: unreferenced objects in the bucket: 1, the first is tables/")


def test_the_bucket_may_be_elsewhere(
    run: Commands, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = str((data / "bucket").rename(tmp_path / "elsewhere"))
    assert "is the store setting right?" in run("verify", str(data), expect=1).text
    assert run("verify", str(data), "--store", moved).lines[-1] == "sound"
    config = tmp_path / "seerdb.toml"
    config.write_text(f'store = "{moved}"\n')
    assert run("verify", str(data), "--config", str(config)).lines[-1] == "sound"
    monkeypatch.setenv("SEERDB_STORE", moved)
    assert run("verify", str(data)).lines[-1] == "sound"


def test_what_is_no_database_is_not_found(run: Commands, data: Path, tmp_path: Path) -> None:
    run("verify", str(tmp_path / "nowhere"), expect=3)
    run("verify", str(tmp_path), expect=3)
    run("verify", f"file://{tmp_path}/nowhere", expect=3)
    run("verify", f"file://{data}/bucket", "--store", "elsewhere", expect=2)
    run("verify", "nosuchprotocol://bucket", expect=2)


def test_a_bucket_that_is_given_is_looked_at_or_refused(
    run: Commands, data: Path, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    shutil.copytree(data / "bucket", other)
    flip(next(files(data, "bucket/tables")), 100)
    refused = run("verify", str(data / "bucket"), "--store", other, expect=2)
    assert f"{data / 'bucket'} is a bucket" in refused.err
    shutil.rmtree(data / "wal")  # as of a database that was restored
    assert run("verify", str(data), "--store", other).lines[-1] == "sound"
    run("verify", str(data), expect=1)


@pytest.mark.integration
def test_the_bucket_in_s3_is_found_by_the_usual_variables(
    run: Commands,
    moto_store_url: tuple[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, options = moto_store_url
    monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
    monkeypatch.setenv("SEERDB_STORE", url)
    run("verify", url, expect=3)
    with DB.open(str(tmp_path / "data"), store=url, **SETTINGS) as db:
        db.put(b"a", b"1")
        db.flush()
        db.put(b"b", b"1", durability="object")
        assert run("verify", str(tmp_path / "data")).lines[-1] == "sound"
    report = run("verify", url, "--json").json
    assert (report["ok"], report["tables"], report["shipped"]) == (True, 2, 1)
    assert run("inspect", "manifest", url, "--json").json["last_seq"] == 2
    run("verify", "s3://no-such-bucket/x", expect=5)


def test_segments_are_checked_wherever_they_are(run: Commands, data: Path, tmp_path: Path) -> None:
    [segment] = (data / "wal").glob("*.wal")
    copy = shutil.copy(segment, tmp_path / "a copy")
    [shipped] = files(data, "bucket/wal")
    lines = run("wal-verify", str(segment), str(copy), str(shipped)).lines
    assert len(lines) == 3
    assert lines[0].startswith(f"sound: {segment}: segment 2 of epoch 1, open, 11 records, ")
    assert lines[2].endswith("1 records, seq 101 to 101")
    report = run("wal-verify", str(segment), "--json").json
    assert [(each["condition"], each["last_seq"]) for each in report] == [("sound", 111)]
    run("wal-verify", str(segment), str(tmp_path / "nowhere"), expect=3)
    run("wal-verify", expect=2)


def test_a_torn_tail_is_told_and_is_no_damage(run: Commands, data: Path) -> None:
    [segment] = (data / "wal").glob("*.wal")
    end = run("wal-verify", str(segment), "--json").json[0]["length"]
    flip(segment, end - 1)
    assert run("wal-verify", str(segment)).lines[0].startswith("torn: ")
    assert run("verify", str(data)).lines[-1] == "sound"
