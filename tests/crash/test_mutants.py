"""Each planted bug of ``mutants.py`` is noticed, by what is to notice it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB, testing
from seerdb.errors import ClosedError, InvalidRequestError, SeerDBError
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.read.reads import Reads
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.write.poison import Poison
from seerdb.testing.crash import CrashError
from tests.crash.blob_mutants import BLOB_MUTANTS
from tests.crash.bugs import Patch
from tests.crash.mutants import MUTANTS, Mutant
from tests.crash.past_mutants import PAST_MUTANTS
from tests.crash.peer_mutants import PEER_BUGS, PeerBug
from tests.crash.test_compaction import crash, undisturbed
from tests.crash.test_short_bodies import written
from tests.crash.test_truncation import flushed, logged, shipped
from tests.fixtures.database import World

pytestmark = pytest.mark.crash

TESTS = Path(__file__).parents[1]
DOUBLES = Path(testing.__file__).parent
INVARIANTS = {f"I{number}" for number in range(1, 12)}


def forget() -> None:
    """Nothing that was made with a mutant may be used without it, or the other way round."""
    for made in (flushed, logged, shipped, undisturbed, crash, written):
        made.cache_clear()


def check_noticed(mutant: Mutant | PeerBug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its test fails as it is to fail, and not because the mutant cannot run."""
    forget()
    try:
        with monkeypatch.context() as patch:
            strange = note_strange_errors(patch)
            mutant.plant(patch)
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - looked at below
                mutant.test()
    finally:
        forget()
    assert not strange, f"the mutant itself is broken: {strange}"
    error = caught.value
    if mutant.error is not None:
        kind, words = mutant.error
        assert (type(error), words in str(error)) == (kind, True), f"it came to {error!r}"
    elif not isinstance(error, pytest.fail.Exception):  # a raise that did not come is one
        assert isinstance(error, AssertionError), f"it came to {error!r}"
        where = Path(caught.traceback[-1].path)
        asserted = where.is_relative_to(TESTS) or where.is_relative_to(DOUBLES)
        assert asserted, "not what the test asserts"


def note_strange_errors(patch: Patch) -> list[BaseException]:
    """Those that no database raises, in the places where it would keep them for itself."""
    strange: list[BaseException] = []
    retry, poison = Lane._retry, Poison.set

    def note(error: BaseException) -> None:
        if not isinstance(error, SeerDBError | CrashError):
            strange.append(error)

    def retrying(lane: Lane, slot: Any, error: BaseException) -> None:
        note(error)
        retry(lane, slot, error)

    def poisoning(place: Poison, cause: BaseException) -> bool:
        note(cause)
        return poison(place, cause)

    patch.setattr(Lane, "_retry", retrying)
    patch.setattr(Poison, "set", poisoning)
    return strange


@pytest.mark.parametrize(
    "mutant",
    MUTANTS + BLOB_MUTANTS + PAST_MUTANTS,
    ids=lambda mutant: f"{mutant.invariant} {mutant.name}",
)
def test_a_planted_bug_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    check_noticed(mutant, monkeypatch)


@pytest.mark.parametrize("mutant", PEER_BUGS, ids=lambda mutant: f"{mutant.bug} {mutant.name}")
def test_a_bug_of_the_peers_is_noticed(mutant: PeerBug, monkeypatch: pytest.MonkeyPatch) -> None:
    check_noticed(mutant, monkeypatch)


def break_flushes(patch: Patch) -> None:
    patch.setattr(Publisher, "flushed", lambda: None)  # takes no arguments: a TypeError


def break_reads(patch: Patch) -> None:
    patch.setattr(Reads, "view", lambda: None)


def assert_in_the_database(patch: Patch) -> None:
    def flushing(*_: object, **__: object) -> None:
        exec("assert False, 'not what the test asserts'", {})

    patch.setattr(DB, "flush", flushing)


def a_flush_shows() -> None:
    db = World().open()
    db.put(b"k", b"v")
    with suppress(SeerDBError):
        db.flush()
    assert db._engine.manifest.state.version.tables, "nothing was flushed"
    assert list(db.scan()) == [(b"k", b"v")]


@pytest.mark.parametrize(
    ("plant", "complaint"),
    [
        (lambda patch: None, "DID NOT RAISE"),
        (break_flushes, "the mutant itself is broken"),
        (break_reads, "it came to TypeError"),
        (assert_in_the_database, "not what the test asserts"),
    ],
)
def test_a_mutant_that_breaks_nothing_or_itself_does_not_count(
    plant: Callable[[Patch], None], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = Mutant("none", "I5", plant, a_flush_shows)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=complaint):
        check_noticed(mutant, monkeypatch)


def test_a_mutant_that_is_noticed_by_another_error_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(patch: Patch) -> None:
        patch.setattr(DB, "scan", lambda db: db.get(b""))

    for error in ((ClosedError, "a key"), (InvalidRequestError, "other words")):
        with pytest.raises(AssertionError, match="it came to InvalidRequestError"):
            check_noticed(Mutant("none", "I5", refuse, a_flush_shows, error), monkeypatch)
    noticed = InvalidRequestError, "a key"
    check_noticed(Mutant("none", "I5", refuse, a_flush_shows, noticed), monkeypatch)


def test_every_invariant_has_a_mutant() -> None:
    assert {mutant.invariant for mutant in MUTANTS} == INVARIANTS
