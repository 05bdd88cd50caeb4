"""What no write makes due: it is looked at from time to time."""

from __future__ import annotations

import pytest

from seerdb import BusyError, Components
from seerdb.storage.engine.engine import LOOK_SECONDS
from seerdb.testing.clock import FakeClock
from tests.db.conftest import OpenDB
from tests.fixtures.events import PATIENCE


def test_values_that_expire_are_looked_at_from_time_to_time(open_db: OpenDB) -> None:
    clock = FakeClock()
    db = open_db(components=Components(clock=clock))
    engine = db._engine
    db.put(b"a", b"1", ttl=10)
    db.flush()
    clock.advance(LOOK_SECONDS)
    engine._look_again()
    assert engine.background.compaction.wake_and_wait(lambda: db.statistics().tables == 0, PATIENCE)


def test_a_look_for_which_there_is_no_thread_is_not_the_last(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_db(compaction="adaptive")._engine
    waits = list[float]()

    def refuse(_: object) -> None:
        raise BusyError("no other thread", retry_after_seconds=1.0)

    with monkeypatch.context() as patched:
        timer = engine.runtime.workers.timer
        patched.setattr(timer, "call_later", lambda seconds, _: waits.append(seconds))
        patched.setattr(engine.background.compaction, "_submit", refuse)
        with pytest.raises(BusyError):
            engine._look_again()
    assert LOOK_SECONDS in waits
