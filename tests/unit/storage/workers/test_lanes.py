"""What a lane tells who waits for it; how it works is in ``test_threads.py``."""

from __future__ import annotations

from seerdb.clock import SystemClock
from seerdb.errors import BusyError, ClosedError, InternalError, UnavailableError
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.workers.threads import Workers


def test_who_waited_in_vain_is_told_why() -> None:
    workers = Workers("inline", SystemClock())
    lane = Lane("flush", lambda: False, workers, lambda *_: True)
    away = UnavailableError("planned")
    assert lane.why(away) is away
    assert isinstance(lane.why(None), ClosedError)
    lacking, bug = lane.why(MemoryError()), lane.why(ZeroDivisionError("planned"))
    assert isinstance(lacking, BusyError)
    assert "no memory for the flush" in str(lacking)
    assert isinstance(bug, InternalError)
    assert "please report it" in str(bug)
