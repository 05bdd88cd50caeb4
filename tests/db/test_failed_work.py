"""What is told of background work that fails."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from seerdb import BusyError, Components
from seerdb.storage.jobs.runners import LocalRunner
from seerdb.testing.clock import FakeClock
from tests.db.conftest import OpenDB
from tests.fixtures.events import Heard


def test_a_flush_without_memory_says_so_wherever_it_is_told(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health, statistics and events said that it had failed, and then nothing."""
    heard, clock = Heard(), FakeClock()
    db = open_db(components=Components(listener=heard, clock=clock))
    db.put(b"a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(LocalRunner, "run", Mock(side_effect=MemoryError))
        with pytest.raises(BusyError, match="no memory for the flush"):
            db.flush()
        [bad] = [check for check in db.health() if not check.ok]
        assert bad.detail.endswith(" failed: there was no memory for the flush; it is tried again")
        [flush] = [worker for worker in db.statistics().workers if worker.name == "flush"]
        assert "no memory" in flush.error
        heard.wait_for_error("no memory")
    assert db.flush().last_seq == 1
