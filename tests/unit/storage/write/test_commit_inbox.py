"""What is submitted and not waited for: told in order, and bounded."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pytest

from seerdb.errors import (
    BusyError,
    ConflictError,
)
from seerdb.storage.batch import Batch
from seerdb.storage.write import commit, inbox
from seerdb.storage.write.request import LOCAL, MEMORY, OBJECT, Outcome, Sink
from tests.unit.storage.commit_rig import Rig
from tests.unit.storage.test_batch import batch_of

PATIENCE = 60


def forget(outcomes: Iterable[Outcome]) -> None:
    """A sink for what nobody asks about."""
    for _ in outcomes:
        pass


class Served:
    """A rig whose inbox is served by a thread until the block is left."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.told: list[list[Outcome]] = []

    def __enter__(self) -> Self:
        self.rig.committer.pipeline._inbox._ended = False  # served again, as no database is
        self._thread = threading.Thread(target=self.rig.committer.pipeline.serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rig.committer.pipeline.stop()
        self._thread.join(PATIENCE)

    def submit(
        self,
        batch: Batch,
        ticket: object,
        level: int = LOCAL,
        expect: tuple[bytes, int] | None = None,
    ) -> None:
        self.rig.submit(batch, level, expect, ticket, self.hear)

    def hear(self, outcomes: Iterable[Outcome]) -> None:
        self.told.append(list(outcomes))

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for call in self.told for outcome in call]


def test_what_is_submitted_is_told_in_order_when_the_inbox_stops() -> None:
    with Served(Rig()) as served:
        for number in range(50):
            served.submit(batch_of([("put", b"%02d" % number, b"v")]), number)
    assert served.outcomes == [(number, number + 1) for number in range(50)]
    assert len(served.rig.entries()) == 50
    assert served.rig.committer.statistics().queued == 0


def test_level_object_is_handed_on_instead_of_told() -> None:
    with Served(Rig()) as served, served.rig.committer._mutex:
        served.submit(batch_of([("put", b"a", b"v")]), "local")
        served.submit(batch_of([("put", b"b", b"v")]), "object", OBJECT)
    assert served.outcomes == [("local", 1)]
    tickets = [ticket for _, group in served.rig.env.shipped for ticket in group]
    assert [(ticket, seq) for _, ticket, seq in tickets] == [("object", 2)]


def test_errors_are_told_to_the_one_they_concern() -> None:
    with Served(Rig()) as served, served.rig.committer._mutex:
        served.submit(batch_of([("put", b"a", b"v")]), 1)
        served.submit(batch_of([("put", b"a", b"v")]), 2, expect=(b"a", 9))
        served.submit(batch_of([("put", b"b", b"v")]), 3)
    outcomes = dict(served.outcomes)
    assert isinstance(outcomes.pop(2), ConflictError)
    assert outcomes == {1: 1, 3: 2}


def fill_inbox(rig: Rig, sink: Sink, size: int = 100) -> int:
    """Submit rows of ``size`` bytes until it is too much; how many were taken."""
    for taken in itertools.count():
        try:
            rig.submit(batch_of([("put", b"k", bytes(size))]), MEMORY, None, taken, sink)
        except BusyError:
            return taken
    raise AssertionError("unreachable")


def test_the_bounds_of_the_inbox_hold_while_it_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """It once counted from zero at every group, whatever still waited behind that."""
    monkeypatch.setattr(inbox, "MAX_QUEUED_BYTES", 1000)
    monkeypatch.setattr(commit, "MAX_GROUP_REQUESTS", 2)
    rig = Rig()
    waiting, levels = 0, []

    def fill() -> None:
        nonlocal waiting
        waiting += fill_inbox(rig, refill)
        levels.append(waiting)

    def refill(outcomes: Iterable[Outcome]) -> None:
        nonlocal waiting
        waiting -= len(list(outcomes))
        if len(levels) < 5:
            fill()

    with Served(rig), rig.committer._mutex:
        fill()
    assert 5 < levels[0] < 10
    assert levels == levels[:1] * 5
    assert waiting == 0


def test_what_is_submitted_at_once_by_many_is_counted_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox, "MAX_QUEUED_BYTES", 5000)
    monkeypatch.setattr(inbox, "MAX_QUEUED_REQUESTS", 20)
    rig = Rig()
    with Served(rig), rig.committer._mutex:
        full = fill_inbox(rig, forget)
    assert full == 20
    with Served(rig), ThreadPoolExecutor(4) as pool:
        sizes = [1, 50, 200, 3000]
        for _ in range(50):
            list(pool.map(lambda size: fill_inbox(rig, forget, size), sizes))
    with Served(rig), rig.committer._mutex:
        assert fill_inbox(rig, forget) == full


def test_a_request_larger_than_the_inbox_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_QUEUED_BYTES", 1000)
    large = batch_of([("put", b"large", bytes(5000))])
    with Served(Rig()) as served, served.rig.committer._mutex:
        served.submit(batch_of([("put", b"small", b"v")]), 1)
        with pytest.raises(BusyError, match="1 writes of"):
            served.submit(large, 2)
        assert len(large) == 1, "what is refused stays in the batch"
    assert served.outcomes == [(1, 1)]
    with Served(served.rig) as served, served.rig.committer._mutex:
        served.submit(large, 2)
        with pytest.raises(BusyError, match="1 writes of 5,"):
            served.submit(batch_of([("put", b"small", b"v")]), 3)
    assert served.outcomes == [(2, 2)]
