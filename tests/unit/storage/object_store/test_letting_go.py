"""What is held is let go of however the work ends, and whoever interrupts it does not wait long."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from seerdb.errors import ConflictError, NotFoundError, UnavailableError
from seerdb.storage.object_store.letting_go import letting_go

SOON_SECONDS = 30.0


class Slow:
    """Lets go when it is told to."""

    def __init__(self) -> None:
        self.may_end, self.ended = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.may_end.wait(SOON_SECONDS)
        self.ended.set()


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_end.set()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_does_not_wait_for_a_store_that_does_not_answer(
    kind: type[BaseException], slow: Slow
) -> None:
    """It took up to five attempts, which is a minute and a half."""
    with pytest.raises(kind) as raised, letting_go(slow, 0.01):
        raise kind
    assert not slow.ended.is_set()
    assert raised.value.__notes__ == ["what was held is left to expire: no answer within 0 s"]


def test_an_error_waits_until_it_is_let_go_of(slow: Slow) -> None:
    threading.Timer(0.05, slow.may_end.set).start()
    with pytest.raises(ConflictError), letting_go(slow, 0.01):
        raise ConflictError("other")
    assert slow.ended.is_set()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ConflictError])
def test_what_fails_otherwise_than_by_an_absent_store_is_raised(kind: type[BaseException]) -> None:
    def let_go() -> None:
        raise NotFoundError("gone")

    with pytest.raises(NotFoundError, match="gone") as raised, letting_go(let_go):
        raise kind
    assert isinstance(raised.value.__context__, kind)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ConflictError])
def test_a_store_that_is_away_is_a_note(kind: type[BaseException]) -> None:
    def let_go() -> None:
        raise UnavailableError("away")

    with pytest.raises(kind) as raised, letting_go(let_go):
        raise kind
    assert raised.value.__notes__ == ["what was held is left to expire: away"]


def test_an_interrupt_where_there_is_no_other_thread_stays_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt) as raised, letting_go(lambda: None):
        raise KeyboardInterrupt
    [note] = raised.value.__notes__
    assert note.startswith(
        "what was held is left to expire: the system gives this process no other"
    )
