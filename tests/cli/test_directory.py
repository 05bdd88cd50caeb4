"""Commands that open the database in a directory: one that is there, and no new one."""

from __future__ import annotations

from pathlib import Path

import pytest

import seerdb
from seerdb import DB
from tests.cli.conftest import Commands

OPENING = (
    ("dump",),
    ("restore", "--in-place", "--seq", "1"),
    ("promote",),
)
"""Each with ``--data-dir``."""


@pytest.mark.parametrize("command", OPENING, ids=" ".join)
@pytest.mark.parametrize("has_store", [False, True])
def test_a_database_that_is_not_there_is_not_made(
    tmp_path: Path, command: tuple[str, ...], has_store: bool
) -> None:
    place = ["--store", str(tmp_path / "tpyo")] if has_store else []
    error = Commands()(*command, "--data-dir", str(tmp_path / "data"), *place, expect=3).err
    where = tmp_path / ("tpyo" if has_store else "data/bucket")
    assert error == f"seerdb: there is no database in {where}: manifest/ is empty\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", OPENING, ids=" ".join)
def test_a_database_that_was_restored_is_opened_for_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SEERDB_MIN_FREE_DISK", "0")
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    with DB.open(source, min_free_disk=0) as db:
        db.put(b"k", b"v")
    seerdb.restore(source, target)
    out = Commands()(*command, "--data-dir", target).text
    assert command != ("dump",) or '"key":"k"' in out
