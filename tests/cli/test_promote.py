"""seerdb promote: of a server, and of a data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seerdb import DB
from seerdb.clock import SystemClock
from tests.cli.conftest import Commands

LEASE = 60.0
"""Seconds; so many that no machine is too slow to renew it."""


def test_a_server_that_is_the_writer_says_so(seerdb: Commands) -> None:
    report = seerdb("promote", "--json").json
    assert (report["epoch"], report["lost"]) == (1, None)
    assert seerdb("promote").lines == [
        f"writer of epoch 1 from seq {report['seq']:,} on",
        "nothing is known to be lost",
    ]


def test_a_directory_takes_over_what_was_shipped_and_says_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(SystemClock, "sleep", lambda _, seconds: waits.append(seconds))
    bucket = str(tmp_path / "bucket")
    settings: dict[str, Any] = {
        "store": bucket,
        "lease": LEASE,
        "min_free_disk": 0,
        "ship_interval": 0,
    }
    primary = DB.open(str(tmp_path / "old"), **settings)
    primary.put(b"safe", b"1", durability="object")
    primary.put(b"lost", b"2")
    primary._engine.opened.keeper.renew()  # type: ignore[union-attr]
    lines = Commands()("promote", "--data-dir", str(tmp_path / "new"), "--store", bucket).lines
    assert LEASE in waits
    assert lines == [
        "writer of epoch 2 from seq 1 on",
        "the writer before, of epoch 1, had reached seq 2 when it last renewed its lease",
        "lost: seq 2 to 2, and what came after that",
    ]
    primary.close()
    with DB.open(str(tmp_path / "new"), store=bucket, min_free_disk=0) as db:
        assert dict(db.scan()) == {b"safe": b"1"}


def test_a_directory_that_comes_back_says_exactly_what_is_lost_of_its_log(tmp_path: Path) -> None:
    bucket, old = str(tmp_path / "bucket"), tmp_path / "old"
    settings: dict[str, Any] = {"store": bucket, "min_free_disk": 0, "ship_interval": 0}
    primary = DB.open(str(old), **settings)
    primary.put(b"safe", b"1", durability="object")
    primary.put(b"lost", b"2")
    DB.open(str(tmp_path / "new"), **settings).close()
    primary.close()
    found = Commands()("verify", str(old), "--store", bucket)
    lost = "1 is lost: seq 2 of epoch 1"
    assert f"of the writes up to seq 2 in {old}/wal, {lost}" in found.text
    told = Commands()("promote", "--data-dir", str(old), "--store", bucket)
    put_apart = f"of the writes up to seq 2 in {old}/quarantine, {lost}"
    assert told.lines[-1] == f"the log that was here is put apart: {put_apart}"


def test_a_closed_database_loses_nothing(tmp_path: Path) -> None:
    bucket = str(tmp_path / "bucket")
    with DB.open(str(tmp_path / "old"), store=bucket, lease=LEASE, min_free_disk=0) as db:
        db.put(b"k", b"v")
    told = Commands()("promote", "--data-dir", str(tmp_path / "new"), "--store", bucket)
    assert told.lines[-1] == "nothing is lost: it was closed"


def test_a_bucket_alone_cannot_be_promoted() -> None:
    refused = Commands()("promote", "--store", "memory://x", expect=2)
    assert "--store goes with --data-dir" in refused.err
