"""Each planted bug of ``mutants.py`` is noticed, and nothing is noticed without one."""

from __future__ import annotations

import pytest

from tests.crash.blob_mutants import BLOB_MUTANTS
from tests.crash.mutants import MUTANTS, Mutant
from tests.crash.past_mutants import PAST_MUTANTS
from tests.crash.peer_mutants import PEER_BUGS, PeerBug
from tests.crash.test_compaction import crash, undisturbed
from tests.crash.test_short_bodies import written
from tests.crash.test_truncation import flushed, logged, shipped

pytestmark = pytest.mark.crash

INVARIANTS = {f"I{number}" for number in range(1, 12)}


def forget() -> None:
    """Nothing that was made with a mutant may be used without it, or the other way round."""
    for made in (flushed, logged, shipped, undisturbed, crash, written):
        made.cache_clear()


def check_noticed(mutant: Mutant | PeerBug, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    try:
        with monkeypatch.context() as patch:
            mutant.plant(patch)
            with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever its test raises
                mutant.test()
    finally:
        forget()


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


def test_every_invariant_has_a_mutant() -> None:
    assert {mutant.invariant for mutant in MUTANTS} == INVARIANTS
