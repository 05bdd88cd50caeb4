"""One list of operations under many configurations: the answers must be the same, seqs included.

No setting of sizes, caches, filters, compression or threads may change what is read, and
neither may a crash, or a bucket that takes no tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from seerdb import DB
from seerdb.testing.model import Model, Operation
from tests.crash.trace import Write, commit
from tests.fixtures.database import World

LENGTH = 500

Interruption = Callable[[World, DB], World]


def nothing(world: World, db: DB) -> World:
    return world


def reopen(world: World, db: DB) -> World:
    db.close()
    return world


def kill(world: World, db: DB) -> World:
    return world.kill()


def lose_power(world: World, db: DB) -> World:
    return world.lose_power(len(world.files.trace))


def lose_machine_after_flush(world: World, db: DB) -> World:
    db.flush()
    return world.lose_machine()


CONFIGURATIONS: dict[str, tuple[dict[str, Any], Interruption]] = {
    "tiny": ({}, nothing),
    "all in memory": ({"memtable_capacity": 1 << 24, "wal_segment_size": 1 << 24}, nothing),
    "smallest memtable": ({"memtable_capacity": 1024}, nothing),
    "large blocks": ({"block_size": 1 << 20, "block_cache_capacity": 1 << 24}, nothing),
    "no compression": ({"compression": "none"}, nothing),
    "no filter": ({"filter_bits_per_key": 0, "table_size": 300}, nothing),
    "no cache": ({"block_cache_capacity": 0, "filter_bits_per_key": 1}, nothing),
    "disk tier": ({"block_cache_capacity": 0, "disk_cache_capacity": 4096}, reopen),
    "small tables": ({"table_size": 300, "block_cache_capacity": 1 << 14}, nothing),
    "compressed log": ({"wal_compression": "zstd"}, kill),
    "direct log": ({"wal_direct_io": True, "wal_segment_size": 64 << 10}, lose_power),
    "thread": ({"background": "thread"}, nothing),
    "killed": ({"table_size": 300}, kill),
    "power lost": ({"wal_retention": "count:2"}, lose_power),
    "power lost, unflushed": ({"memtable_capacity": 1 << 20}, lose_power),
    "other machine": ({}, lose_machine_after_flush),
    "leveled": ({"compaction": "leveled", "table_size": 300, "memtable_capacity": 1024}, nothing),
    "tiered": ({"compaction": "tiered", "memtable_capacity": 1024}, kill),
    "adaptive": ({"compaction": "adaptive", "table_size": 300, "memtable_capacity": 2048}, nothing),
    "no tables": ({"takes_tables": False, "wal_retention": "duration:60"}, lose_power),
}


class Script:
    """Operations and questions drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        alphabet = [b"\x00", b"a", b"b", b"\xff"]
        drawn = [self._random.choices(alphabet, k=number % 4 + 1) for number in range(60)]
        self.keys = sorted(set(map(b"".join, drawn)))
        self.steps = [self._ballast(number) for number in range(20)]
        self.steps += [self._step() for _ in range(LENGTH)]

    def _ballast(self, number: int) -> list[Operation]:
        """An old run too large to be merged with the small ones above it."""
        rows = [b"ballast %03d" % (8 * number + row) for row in range(8)]
        return [("put", key, self._random.randbytes(200)) for key in rows]

    def _step(self) -> list[Operation]:
        count = self._random.choice([1, 1, 1, 1, 2, 8])
        return [self._operation() for _ in range(count)]

    def _operation(self) -> Operation:
        draw = self._random
        kinds = ["put", "delete", "delete_range", "put_ttl", "merge"]
        kind = draw.choices(kinds, [8, 3, 1, 2, 4])[0]
        if kind == "delete_range":
            start = draw.randrange(len(self.keys) - 1)
            end = min(len(self.keys) - 1, start + draw.choice([1, 1, 2, 3, 20]))
            return (kind, self.keys[start], self.keys[end])
        if kind == "delete":
            return (kind, draw.choice(self.keys), b"")
        size = draw.choice([0, 1, 5, 60, 400] if kind != "merge" else [0, 1, 2])
        return (kind, draw.choice(self.keys), draw.randbytes(3) * size)


Answers = list[object]


def time_of(step: int) -> float:
    """Seconds after the start; some lifetimes end between flushes, some between crashes."""
    return 0.4 * step


def play(script: Script, settings: dict[str, Any], interrupt: Interruption) -> Answers:
    """What the database says, asked after every few operations."""
    world = World(merge_operator="append", **settings)
    started = world.clock.now()
    db = world.open()
    answers: Answers = []
    for number, step in enumerate(script.steps):
        world.clock.set_now(started + time_of(number))
        answers.append(commit(db, Write(tuple(step), "local")))
        if number % 7 == 0:
            answers.append(db.multi_get(script.keys))
        if number % 3 == 0:
            answers.append(db.get(script.keys[number % len(script.keys)]))
        if number % 50 == 25:
            answers.append(list(db.scan_entries()))
            answers.append(list(db.scan(reverse=True, limit=9)))
        if number % 90 == 60 and interrupt is not nothing:
            world = interrupt(world, db)
            db = world.open()
    answers.append(list(db.scan_entries()))
    answers.append([db.get(key) for key in script.keys])
    assert db.verify().problems == []
    db.close()
    db._engine.runtime.close()
    return answers


@cache
def expected(seed: int) -> tuple[Script, Answers]:
    """By the plainest configuration, itself checked against the model."""
    script = Script(seed)
    world = World()
    model = Model(world.clock.now)
    started = world.clock.now()
    for number, step in enumerate(script.steps):
        world.clock.set_now(started + time_of(number))
        model.attempt(step)
        model.acknowledge(model.seq, "local")
    settings, interrupt = CONFIGURATIONS["all in memory"]
    answers = play(script, settings, interrupt)
    rows = [(key, value, seq) for key, (value, seq) in sorted(model.contents().items())]
    assert [tuple(entry) for entry in answers[-2]] == rows  # type: ignore[attr-defined]
    assert answers[-1] == [model.get(key) for key in script.keys]
    return script, answers


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_changes_no_answer(name: str) -> None:
    for seed in range(2):
        script, answers = expected(seed)
        assert play(script, *CONFIGURATIONS[name]) == answers


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_changes_no_answer_for_many_scripts(name: str) -> None:
    for seed in range(2, 40):
        script, answers = expected(seed)
        assert play(script, *CONFIGURATIONS[name]) == answers
