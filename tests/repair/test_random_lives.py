"""Random lives of a database whose manifest is then lost: a repair gives back what a model says."""

from __future__ import annotations

import random

import pytest

from seerdb import DB
from seerdb.testing.model import Model, Operation
from tests.crash.trace import Write, commit
from tests.fixtures.database import World, collect_garbage
from tests.fixtures.repairs import (
    MANIFEST_PREFIX,
    TABLE_PREFIX,
    damage,
    lose,
    names,
    reopened,
    repaired,
)

KEYS = [b"k%02d" % number for number in range(24)]
LIVES = range(25)


class Life:
    """A database and its model, after so many random steps. ``merges``: with operands."""

    def __init__(self, seed: int, *, merges: bool = False) -> None:
        self.random = random.Random(seed)
        self.model = Model()
        self.world = World(
            seed=seed, table_size=2048, merge_operator="append", compaction=self._policy(seed)
        )
        self.kinds = ["put"] * 6 + ["delete"] * 3 + ["delete_range"] + ["merge"] * merges
        self.db = self.world.open()
        for _ in range(120):
            self._step()
        self.db.flush()

    @staticmethod
    def _policy(seed: int) -> str:
        return ("lazy_leveled", "leveled", "tiered")[seed % 3]

    def _step(self) -> None:
        draw = self.random.random()
        if draw < 0.07:
            self.db.flush()
        elif draw < 0.1:
            low, high = sorted(self.random.sample(KEYS, 2))
            self.db.compact(low, high)
        elif draw < 0.12:
            self.db.close()
            self.db = self.world.open()
        else:
            write = Write((self._operation(),))
            self.model.attempt(write.operations)
            self.model.acknowledge(commit(self.db, write), "local")

    def _operation(self) -> Operation:
        kind, key = self.random.choice(self.kinds), self.random.choice(KEYS)
        if kind == "delete_range":
            low, high = sorted(self.random.sample(KEYS, 2))
            return kind, low, high
        return kind, key, b"" if kind == "delete" else self.random.randbytes(150)

    def live(self) -> set[str]:
        return {name for table in tables(self.db) for name in table.objects}


def tables(db: DB) -> list:  # type: ignore[type-arg]
    return db._engine.manifest.state.version.tables


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize("seed", LIVES)
def test_after_the_collector_everything_is_as_it_was(seed: int, merges: bool) -> None:
    life = Life(seed, merges=merges)
    collect_garbage(life.world, life.db)
    assert set(names(life.world, TABLE_PREFIX)) == life.live()
    life.db.close()
    lose(life.world, MANIFEST_PREFIX)
    report, bucket = repaired(life.world)
    assert report.lost == []
    assert list(reopened(life.world, bucket).scan()) == life.model.scan()


@pytest.mark.parametrize("seed", LIVES)
def test_whatever_the_collector_left_no_value_is_lost_and_what_comes_back_is_in_doubt(
    seed: int,
) -> None:
    life = Life(seed)
    live = life.live()
    life.db.close()
    lose(life.world, MANIFEST_PREFIX)
    dead = [name for name in names(life.world, TABLE_PREFIX) if name not in live]
    collected = life.random.sample(dead, life.random.randint(0, len(dead)))
    life.world.bucket.delete(collected)
    report, bucket = repaired(life.world)
    shown, expected = dict(reopened(life.world, bucket).scan()), dict(life.model.scan())
    assert {key: shown.get(key) for key in expected} == expected
    for key in set(shown) - set(expected):
        assert any(doubt.smallest <= key <= doubt.largest for doubt in report.doubts)


@pytest.mark.parametrize("seed", LIVES)
def test_while_the_collector_has_taken_nothing_nothing_comes_back(seed: int) -> None:
    life = Life(seed)
    life.db.close()
    lose(life.world, MANIFEST_PREFIX)
    _, bucket = repaired(life.world)
    assert list(reopened(life.world, bucket).scan()) == life.model.scan()


@pytest.mark.parametrize("seed", LIVES)
def test_whatever_records_are_damaged_no_value_is_lost_and_nothing_comes_back(seed: int) -> None:
    life = Life(seed)
    if seed % 2:
        life.db.close()
    after = life.world.kill()
    records = names(after, MANIFEST_PREFIX)
    damaged = set(life.random.sample(records, min(len(records), 1 + seed % 4)))
    if seed % 3 == 0:
        damaged.add(records[-1])
    for name in damaged:
        damage(after, name)
    _, bucket = repaired(after)
    assert list(reopened(after, bucket).scan()) == life.model.scan()


@pytest.mark.parametrize("seed", [60, 71, 94, 109, 118, 139, 162, 171, 183])
def test_whichever_table_is_damaged_nothing_is_lost_or_back_untold(seed: int) -> None:
    """What stands in for a table was split into others too, which were merged since: keys of it
    that no output of those has were left out as dropped, and deleted ones were back."""
    life = Life(seed)
    expected = dict(life.model.scan())
    damaged = sorted(life.live())
    life.db.close()
    for name in damaged:
        after = life.world.kill()
        damage(after, name)
        report, bucket = repaired(after)
        shown = dict(reopened(after, bucket).scan())
        ranges = [(each.smallest or b"", each.largest or b"~") for each in report.lost]
        ranges += [(each.smallest, each.largest) for each in report.doubts]
        differing = {key for key, _ in set(expected.items()) ^ set(shown.items())}
        assert all(any(low <= key <= high for low, high in ranges) for key in differing)
