"""Which write wins when they lie in different levels, through every merge on their way down."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from seerdb import DB
from seerdb.storage.compaction.plan import BOTTOM_LEVEL
from seerdb.testing.model import LIFETIME, Model, Operation
from tests.crash.trace import Write, commit
from tests.fixtures.levels import Levels

KEY = b"k"
AROUND = (b"a", b"z")
"""Keys in every run, so that runs overlap and a way down is a merge and no move."""


def expire(levels: Levels) -> None:
    levels.db.put(KEY, b"short-lived", ttl=LIFETIME)
    levels.world.clock.advance(2 * LIFETIME)


TOMBSTONES: dict[str, Callable[[Levels], object]] = {
    "delete": lambda levels: levels.db.delete(KEY),
    "range delete": lambda levels: levels.db.delete_range(b"b", b"y"),
    "expired value": expire,
}


def flush_around(db: DB, value: bytes) -> None:
    for key in AROUND:
        db.put(key, value)
    db.flush()


def check_hidden(db: DB) -> None:
    """Nobody finds ``KEY``, and everybody what lies around it."""
    assert db.get(KEY) is None
    assert db.multi_get([b"a", KEY, b"z"]) == [b"new", None, b"new"]
    found = [(b"a", b"new"), (b"z", b"new")]
    assert list(db.scan()) == found
    assert list(db.scan(reverse=True)) == found[::-1]
    assert list(db.scan(prefix=KEY)) == list(db.scan(KEY, b"l", reverse=True)) == []
    with db.snapshot() as snapshot:
        assert (snapshot.get(KEY), list(snapshot.scan())) == (None, found)


@pytest.mark.parametrize("depth", [2, 4, BOTTOM_LEVEL])
@pytest.mark.parametrize("kind", TOMBSTONES)
def test_tombstone_shadows_across_levels(kind: str, depth: int) -> None:
    """The value lies deep; the tombstone comes down, merged with other data at each level."""
    levels = Levels(compression="none")
    levels.db.put(KEY, b"old")
    flush_around(levels.db, b"old")
    levels.merge(0, to=depth)
    flush_around(levels.db, b"newer")
    TOMBSTONES[kind](levels)
    for level in range(1, depth):
        flush_around(levels.db, b"new")
        plan = levels.merge(*range(level), to=level)
        assert (plan.bottom, plan.move) == (False, False)
        check_hidden(levels.db)
        check_hidden(levels.reopen())
        assert any(table.deletes or table.range_deletes for table in levels.version.tables)
    assert [run.level for run in levels.version.runs] == [depth - 1, depth]
    plan = levels.merge(depth - 1, depth, to=depth)
    assert plan.bottom
    check_hidden(levels.reopen())
    assert levels.db.statistics().table_entries == 2, "neither tombstone nor value is left"
    levels.db.put(KEY, b"again")
    assert levels.db.get(KEY) == b"again"
    assert levels.db.verify().problems == []


WRITES: dict[str, Operation] = {
    "put": ("put", KEY, b"1"),
    "delete": ("delete", KEY, b""),
    "range": ("delete_range", b"j", b"l"),
    "merge": ("merge", KEY, b"2"),
    "expire": ("put_ttl", KEY, b"3"),
}


class History:
    """Three writes to one key, the oldest in the deepest of three levels."""

    def __init__(self, writes: tuple[str, ...], places: tuple[int, ...], *, expire: bool) -> None:
        self.levels = Levels(merge_operator="append")
        self.model = Model(self.levels.world.clock.now)
        for name, place in zip(writes, reversed(places), strict=True):
            self._write(WRITES[name], *(("put", key, name.encode()) for key in AROUND))
            self.levels.db.flush()
            if place:
                self.levels.merge(0, to=place)
        if expire:
            self.levels.world.clock.advance(2 * LIFETIME)

    def _write(self, *operations: Operation) -> None:
        self.model.attempt(operations)
        self.model.acknowledge(commit(self.levels.db, Write(operations)), "local")

    def check(self) -> None:
        """Point reads, scans in both directions and with bounds say what the model says."""
        db, model = self.levels.db, self.model
        assert db.get(KEY) == model.get(KEY)
        assert db.multi_get([b"a", KEY, b"z"]) == [model.get(k) for k in (b"a", KEY, b"z")]
        for bounds in ((None, None), (b"b", b"y"), (KEY, b"k\0"), (b"j", KEY), (b"k\0", None)):
            for reverse in (False, True):
                expected = model.scan(*bounds, reverse=reverse)
                assert list(db.scan(*bounds, reverse=reverse)) == expected


@pytest.mark.parametrize("upper_first", [False, True])
@pytest.mark.parametrize("places", [(0, 1, BOTTOM_LEVEL), (0, 4, 5)], ids=str)
def test_every_history_of_three_levels(places: tuple[int, int, int], *, upper_first: bool) -> None:
    """Every triple of writes, before and after each merge of two neighbours, and of all."""
    upper, middle, lower = places
    merges = (
        [(upper, middle), (middle, lower)] if upper_first else [(middle, lower), (upper, lower)]
    )
    for writes, expire in product(product(WRITES, repeat=3), (False, True)):
        if expire and "expire" not in writes:
            continue
        history = History(writes, places, expire=expire)
        history.check()
        for merge in merges:
            history.levels.merge(*merge, to=merge[1])
            history.check()
        history.levels.reopen()
        history.check()
