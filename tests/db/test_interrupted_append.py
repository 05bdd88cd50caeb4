"""A write that is interrupted while it is appended: the next ones say what has happened."""

from __future__ import annotations

import pytest

from seerdb import DB, PoisonedError


def test_what_interrupted_the_log_has_a_name_though_it_says_nothing(db: DB) -> None:
    """Where the interrupt came again before the database had heard of the first, the message
    ended in a colon and nothing behind it."""
    db.put(b"a", b"1")
    db._engine.log._poison(KeyboardInterrupt())
    with pytest.raises(PoisonedError, match="no more writes: KeyboardInterrupt; reopen"):
        db.put(b"c", b"3")
    assert db.get(b"a") == b"1"
