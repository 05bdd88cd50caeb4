"""A write that is interrupted while it is appended: the next ones say what has happened."""

from __future__ import annotations

import pytest

from seerdb import DB, PoisonedError
from tests.fixtures.database import World


def test_what_interrupted_the_log_has_a_name_though_it_says_nothing(db: DB) -> None:
    """Where the interrupt came again before the database had heard of the first, the message
    ended in a colon and nothing behind it."""
    db.put(b"a", b"1")
    db._engine.log._poison(KeyboardInterrupt())
    with pytest.raises(PoisonedError, match="no more writes: KeyboardInterrupt; reopen"):
        db.put(b"c", b"3")
    assert db.get(b"a") == b"1"


def test_a_log_that_is_ahead_of_its_memtable_is_not_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its SEAL would count a record less than there are."""
    world = World()
    db = world.open()
    db.put(b"a", b"1")

    def interrupted(upto: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(db._engine.committer._flight, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            db.put(b"b", b"2")
    with pytest.raises(PoisonedError):
        db.flush()
    assert dict(world.kill().open().scan()) == {b"a": b"1", b"b": b"2"}
