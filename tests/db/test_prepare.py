"""What is at hand before the first write."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seerdb import DB, DBOptions
from seerdb.storage import os_files

PATIENCE = 60
OPTIONS = DBOptions(background="thread", wal_segment_size=1 << 20, min_free_disk=0)


def test_the_first_segment_is_written_before_prepare_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syncs into one that is only reserved take longer."""
    gate, begun, reserved = threading.Event(), threading.Event(), []
    allocate = os_files._OsFile.allocate

    def slowly(file: os_files._OsFile, size: int) -> None:
        begun.set()
        assert gate.wait(PATIENCE)
        allocate(file, size)

    monkeypatch.setattr(os_files._OsFile, "allocate", slowly)
    monkeypatch.setattr(os_files._OsFile, "reserve", lambda file, size: reserved.append(size))
    with DB.open(str(tmp_path), OPTIONS) as db, ThreadPoolExecutor(1) as thread:
        prepared = thread.submit(db.prepare)
        assert begun.wait(PATIENCE)
        with pytest.raises(TimeoutError):
            prepared.result(0.2)
        gate.set()
        prepared.result(PATIENCE)
        db.put(b"a", b"1")
        assert reserved == []
