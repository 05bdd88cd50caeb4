"""The repair command on buckets and data directories."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.names import MANIFEST_PREFIX
from tests.cli.conftest import Commands

SETTINGS: dict[str, Any] = {"min_free_disk": 0, "background": "inline"}


@pytest.fixture
def run() -> Commands:
    return Commands()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory as a crash leaves it: two tables, a shipped object and a local log."""
    live = tmp_path / "live"
    with DB.open(str(live), **SETTINGS) as db:
        for key in (b"a", b"b"):
            db.put(key, b"1")
            db.flush()
        db.put(b"c", b"1", durability="object")
        db.put(b"d", b"1")
        shutil.copytree(live, tmp_path / "data")
    return tmp_path / "data"


def test_a_sound_database_is_repaired_with_nothing_lost(run: Commands, data: Path) -> None:
    target = data.with_name("new")
    outcome = run("repair", "--from", str(data), "--to", str(target))
    assert (outcome.lines[-1], outcome.err) == ("repaired", "")
    with DB.open(str(target), **SETTINGS) as db:
        assert list(db.scan()) == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]
    assert run("verify", str(target)).lines[-1] == "sound"
    run("repair", "--from", str(data), "--to", str(target), expect=4)


@pytest.mark.parametrize("as_url", [True, False])
def test_a_bucket_without_a_manifest_is_repaired_with_doubts(
    run: Commands, data: Path, as_url: bool
) -> None:
    bucket, target = data / "bucket", data.with_name("new")
    shutil.rmtree(bucket / "manifest")
    source = f"file://{bucket}" if as_url else str(bucket)
    arguments = ("repair", "--from", source, "--to", f"file://{target}")
    dry = run(*arguments, "--dry-run", "--json", expect=8).json
    assert (dry["dry_run"], dry["ok"], len(dry["tables"])) == (True, False, 2)
    assert not [path for path in target.rglob("*") if path.is_file()]
    report = run(*arguments, "--json", expect=8).json
    assert [doubt["smallest"] for doubt in report["doubts"]] == ["a", "b"]
    assert (report["manifest"], report["lost"], report["log_last_seq"]) == ("none", [], 3)
    assert run("verify", f"file://{target}").lines[-1] == "sound"


def test_the_data_directory_goes_on_with_the_new_bucket(run: Commands, data: Path) -> None:
    target = data.with_name("new")
    shutil.rmtree(data / "bucket" / "manifest")
    lines = run("repair", "--from", str(data), "--to", f"file://{target}", expect=8).lines
    assert lines[0].startswith("in doubt: tables/00000001-000000000001.sst, keys a to a: ")
    with DB.open(str(data), store=f"file://{target}", **SETTINGS) as db:
        assert [key for key, _ in db.scan()] == [b"a", b"b", b"c", b"d"]


def test_what_is_lost_is_told_with_keys_and_seqs(run: Commands, data: Path) -> None:
    first = min((data / "bucket" / "tables").iterdir())
    first.write_bytes(b"?" + first.read_bytes()[1:])
    arguments = ("repair", "--from", str(data), "--to", str(data.with_name("new")))
    outcome = run(*arguments, "--dry-run", expect=8)
    assert outcome.lines[0].startswith(f"lost: tables/{first.name}, keys a to a, seq 1 to 1: ")
    assert outcome.lines[-1] == "would be repaired; lost: 1, in doubt: 0"
    [loss] = run(*arguments, "--json", expect=8).json["lost"]
    assert (loss["smallest"], loss["min_seq"]) == ("a", 1)


def test_where_nothing_is_there_is_nothing_to_repair(run: Commands, tmp_path: Path) -> None:
    nowhere = f"file://{tmp_path}/nowhere"
    run("repair", "--from", nowhere, "--to", str(tmp_path / "new"), expect=3)
    run("repair", "--from", nowhere, expect=2)


@pytest.mark.integration
def test_a_bucket_in_s3_is_repaired_into_another_prefix(
    run: Commands,
    moto_store_url: tuple[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, options = moto_store_url
    monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
    with DB.open(str(tmp_path / "data"), store=url, **SETTINGS) as db:
        for key in (b"a", b"b"):
            db.put(key, b"1")
            db.flush()
    store = StoreLocation(url).open()
    store.delete([info.name for info in store.list(MANIFEST_PREFIX)])
    store.close()
    target = f"{url}-repaired"
    report = run("repair", "--from", url, "--to", target, "--json", expect=8).json
    assert (len(report["tables"]), report["lost"]) == (2, [])
    assert run("verify", target).lines[-1] == "sound"
    run("repair", "--from", url, "--to", target, expect=4)
    with DB.open(str(tmp_path / "new"), store=target, **SETTINGS) as db:
        assert list(db.scan()) == [(b"a", b"1"), (b"b", b"1")]
