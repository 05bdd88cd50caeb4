"""Backups between stores of other kinds: S3 on either side, and whatever else fsspec knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seerdb
from seerdb import DB, HistoryError, Transfer
from tests.fixtures.database import fill

pytestmark = pytest.mark.integration

PLAIN: dict[str, Any] = {"background": "inline", "min_free_disk": 0, "ship_interval": 0}


def test_from_s3_to_a_directory_and_back_into_s3(
    moto_store_url: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    url, options = moto_store_url
    with DB.open(str(tmp_path / "a"), store=url, store_options=options, **PLAIN) as db:
        rows = fill(db, 200)
        db.flush()
        rows |= {b"shipped": b"1"}
        db.put(b"shipped", b"1", durability="object")
        source, target = Transfer(source_options=options), Transfer(target_options=options)
        report = seerdb.backup(url, str(tmp_path / "copies"), transfer=source)
    assert report.seq == 201
    restored = f"{url}-restored"
    made = seerdb.restore(str(tmp_path / "copies"), restored, transfer=target)
    assert made.seq == 201
    with DB.open(str(tmp_path / "b"), store=restored, store_options=options, **PLAIN) as db:
        assert dict(db.scan()) == rows


def test_a_repository_in_s3_is_filled_listed_verified_pruned_and_restored(
    moto_store_url: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    url, options = moto_store_url
    with DB.open(str(tmp_path / "db"), **PLAIN) as db:
        rows: dict[bytes, bytes] = {}
        for start in (0, 50, 100):
            rows |= fill(db, 50, start=start)
            db.backup(url, transfer=Transfer(target_options=options))
    of = Transfer(source_options=options)
    assert [each.seq for each in seerdb.recovery_points(url, transfer=of).backups] == [50, 100, 150]
    pruned = seerdb.prune_backups(url, count=2, dry_run=False, transfer=of)
    assert len(pruned.pruned) == 1
    assert seerdb.verify_backups(url, transfer=of).ok
    seerdb.restore(url, str(tmp_path / "new"), transfer=of)
    with DB.open(str(tmp_path / "new"), **PLAIN) as db:
        assert dict(db.scan()) == rows


def test_a_store_without_creation_if_absent_will_do_for_a_repository(tmp_path: Path) -> None:
    url, options = f"local://{tmp_path}/copies", {"auto_mkdir": True}
    of = Transfer(source_options=options, target_options=options)
    with DB.open(str(tmp_path / "db"), **PLAIN) as db:
        rows = fill(db, 50)
        db.backup(url, transfer=of)
        db.backup(url, transfer=of)
    assert len(seerdb.recovery_points(url, transfer=of).backups) == 2
    seerdb.restore(url, str(tmp_path / "new"), transfer=Transfer(source_options=options))
    with DB.open(str(tmp_path / "new"), **PLAIN) as db:
        assert dict(db.scan()) == rows


def test_what_is_only_in_the_log_of_a_data_directory_is_told_of(tmp_path: Path) -> None:
    database, copies = str(tmp_path / "db"), str(tmp_path / "copies")
    with DB.open(database, **PLAIN) as db:
        fill(db, 50)
        db.flush()
        assert not seerdb.backup(database, copies).notes
        fill(db, 7)
        report = seerdb.backup(database, copies)
        assert report.seq == 50
        assert "seq 57" in report.notes[0]
    assert not seerdb.backup(database, copies).notes


def test_a_database_is_restored_straight_from_its_bucket_while_it_is_in_use(
    tmp_path: Path,
) -> None:
    with DB.open(str(tmp_path / "db"), **PLAIN) as db:
        rows = fill(db, 50)
        db.flush()
        seerdb.restore(str(tmp_path / "db"), str(tmp_path / "new"))
        db.put(b"later", b"1")
    with DB.open(str(tmp_path / "new"), **PLAIN) as db:
        assert dict(db.scan()) == rows
    newest = max((tmp_path / "db" / "bucket" / "tables").iterdir())
    newest.write_bytes(b"x")
    older = seerdb.restore(str(tmp_path / "db"), str(tmp_path / "other"))
    assert older.seq == 50
    assert any(newest.name in note for note in older.notes)
    with pytest.raises(HistoryError):
        seerdb.restore(str(tmp_path / "db"), str(tmp_path / "third"), seq=51)
