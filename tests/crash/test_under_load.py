"""Crashes in the middle of real concurrency: writers, flushes, merges and ships on threads.

Not repeatable, so it complements the traces: those visit every operation of one order, this
visits many orders.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from seerdb import DB, BusyError, UnavailableError
from tests.fixtures.database import World

WRITERS = {b"memory": "memory", b"local": "local", b"object": "object"}
ROWS = 8
EXPECTED = (UnavailableError, BusyError)
"""With a flaky bucket: the write may be there or not."""


@dataclass(frozen=True)
class Moment:
    """What was acknowledged before it, and the world right then; then what was attempted."""

    acknowledged: dict[bytes, int]
    world: World
    level: str
    attempted: dict[bytes, int]


class Load:
    """Writers that count upwards: each round is one batch of the same number in all rows."""

    def __init__(self, db: DB) -> None:
        self._db = db
        self._stop = threading.Event()
        self._progress = threading.Semaphore(0)
        self.acknowledged = dict.fromkeys(WRITERS, 0)
        self.attempted = dict.fromkeys(WRITERS, 0)
        self.threads = [threading.Thread(target=self._write, args=(name,)) for name in WRITERS]
        self.threads.append(threading.Thread(target=self._merge))

    def _write(self, name: bytes) -> None:
        for number in itertools.count(1):
            if self._stop.is_set():
                return
            self.attempted[name] = number
            with suppress(*EXPECTED), self._db.batch(durability=WRITERS[name]) as batch:
                batch.delete_range(name, name + b"\xff")
                for row in range(ROWS):
                    batch.put(b"%b/%d" % (name, row), b"%d" % number)
            if batch.seq:
                self.acknowledged[name] = number
            self._progress.release()

    def _merge(self) -> None:
        while not self._stop.is_set():
            with suppress(*EXPECTED):
                self._db.compact()

    def run(self, moments: int, world: World) -> list[Moment]:
        for thread in self.threads:
            thread.start()
        try:
            return [self._moment(number, world) for number in range(moments)]
        finally:
            self._stop.set()
            for thread in self.threads:
                thread.join()

    def _moment(self, number: int, world: World) -> Moment:
        for _ in range(10):
            assert self._progress.acquire(timeout=60)
        acknowledged = dict(self.acknowledged)
        level = ["memory", "local", "object"][number % 3]
        if level == "memory":
            after = world.kill(number)
        elif level == "local":
            after = world.lose_power(number)
        else:
            after = world.lose_machine(number)
        return Moment(acknowledged, after, level, dict(self.attempted))


def make_flaky(world: World, seed: int) -> None:
    """Have requests of all kinds fail, some after they happened, some several times."""
    draw = random.Random(seed)
    for _ in range(40):
        operation = draw.choice(["put", "put_if_absent", "put_if_absent", "get", "list"])
        plan = draw.choice([world.store.fail, world.store.time_out_after])
        plan(operation, skip=draw.randrange(30), times=draw.choice([1, 1, 3, 5, 7]))


@contextmanager
def passing_time(world: World) -> Iterator[None]:
    """Let the clock run, or waits between attempts would never end."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.001):
            world.clock.advance(1.0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


SURVIVORS = {"memory": {b"memory", b"local", b"object"}, "local": {b"local", b"object"}}


def check(moment: Moment) -> None:
    db = moment.world.open(background="inline")
    rows = dict(db.scan())
    for name in WRITERS:
        numbers = {int(value) for key, value in rows.items() if key.startswith(name)}
        count = sum(key.startswith(name) for key in rows)
        assert (len(numbers), count) in {(0, 0), (1, ROWS)}, "a batch is there in part"
        number = max(numbers, default=0)
        assert number <= moment.attempted[name]
        if name in SURVIVORS.get(moment.level, {b"object"}):
            assert number >= moment.acknowledged[name], f"{name!r} after {moment.level}"
    assert db.verify().problems == []
    db.put(b"after", b"1")
    db.close()


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_under_load_loses_nothing_acknowledged(seed: int) -> None:
    run_and_check(World(seed=seed, background="thread", memtable_capacity=8 << 10), flaky=False)


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_under_load_on_a_flaky_bucket_loses_nothing_acknowledged(seed: int) -> None:
    run_and_check(World(seed=seed, background="thread", memtable_capacity=8 << 10), flaky=True)


def run_and_check(world: World, *, flaky: bool) -> None:
    db = world.open()
    if flaky:
        make_flaky(world, world.seed)
    with passing_time(world):
        moments = Load(db).run(12, world)
        world.store._faults.clear()
        while True:
            with suppress(*EXPECTED):
                db.flush()
                break
        expected = dict(db.scan())
        db.close()
    db._engine.runtime.close()
    for moment in moments:
        check(moment)
    assert dict(world.lose_machine().open(background="inline").scan()) == expected
