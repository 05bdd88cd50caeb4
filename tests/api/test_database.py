"""Opening the database that a server serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from seerdb import DB
from seerdb.storage.workers.processes import Pool, WorkerProcesses
from seerdb_api.database import open_database
from seerdb_api.settings import ServiceSettings

VALUES = {"wal_segment_size": 1 << 20, "min_free_disk": 0}


def test_a_server_begins_with_all_that_its_first_writes_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Pool] = []
    prepare = WorkerProcesses.prepare

    def noting(processes: WorkerProcesses, pool: Pool) -> None:
        started.append(pool)
        prepare(processes, pool)

    monkeypatch.setattr(WorkerProcesses, "prepare", noting)
    values = {**VALUES, "data_dir": str(tmp_path)}
    for background, processes in (("process", [Pool.PROMPT]), ("thread", []), ("inline", [])):
        db = open_database(ServiceSettings.build({**values, "background": background}))
        assert isinstance(db, DB)
        assert db._engine.log.pool.spares == 1
        db.close()
        assert started == processes
        started.clear()


def test_a_database_that_cannot_be_prepared_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(processes: WorkerProcesses, pool: Pool) -> None:
        raise OSError("no more processes")

    settings = ServiceSettings.build({**VALUES, "data_dir": str(tmp_path), "background": "process"})
    with monkeypatch.context() as patch:
        patch.setattr(WorkerProcesses, "prepare", failing)
        with pytest.raises(OSError, match="no more processes"):
            open_database(settings)
    DB.open(settings.data_dir, settings.options).close()  # nobody holds the lock
