"""One database through many lives: random work, a crash at a random operation, recovery, again.

The traces of ``test_every_operation.py`` crash once or twice; here what one recovery leaves
behind meets the next crash, with a bucket that fails now and then. A failure prints its seed.
"""

from __future__ import annotations

import contextlib
import random

import pytest

from seerdb import DB, BusyError, ChecksumError, UnavailableError
from seerdb.testing.crash import CrashError
from seerdb.testing.model import Model, Operation
from tests.crash.test_every_operation import SETTINGS
from tests.crash.trace import Write, check_contents, commit
from tests.fixtures.database import CrashPoint, World

pytestmark = pytest.mark.crash

KEYS = [b"%c%c" % (first, second) for first in b"\x00ab\xff" for second in b"\x00m\xff"]
LIVES = 12
STEPS = 25


class Lives:
    """See the module docstring. ``model`` is what must be there."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        setting = self.draw.choice(list(SETTINGS))
        self.world = World(seed=seed, **(SETTINGS[setting] | {"table_size": 300}))
        self.model = Model()

    def run(self) -> None:
        for _ in range(LIVES):
            try:
                self.live()
            except CrashError:
                level = self.die()
            else:
                level = "memory"
                self.world = self.world.kill(self.draw.randrange(99))
            self.recover(level)

    def live(self) -> None:
        """Work until the planned death, if it comes that far."""
        draw, world = self.draw, self.world
        device = draw.choice(["disk", "disk", "bucket"])
        world.crash_at(CrashPoint(device, draw.randrange(1, 120), draw.random() < 0.5))
        for _ in range(draw.choice([0, 0, 4])):
            plan = draw.choice([world.store.fail, world.store.time_out_after])
            operation = draw.choice(["put", "put_if_absent", "get", "list", "get_range"])
            plan(operation, skip=draw.randrange(20), times=draw.choice([1, 2, 5, 6]))
        try:
            db = world.open()
        except UnavailableError:
            return
        for _ in range(STEPS):
            world.clock.advance(draw.choice([0.01, 1.0, 400.0]))
            self.step(db)

    def step(self, db: DB) -> None:
        draw, model = self.draw, self.model
        verb = draw.choices(["write", "flush", "compact", "read"], [12, 1, 1, 3])[0]
        try:
            if verb == "write":
                self.write(db)
            elif verb == "read":
                check_contents(db, model)
            else:
                getattr(db, verb)()
                model.secure(model.seq, "object")
        except (UnavailableError, BusyError):
            pass
        except ChecksumError:
            assert not self.world.takes_tables

    def write(self, db: DB) -> None:
        draw, model = self.draw, self.model
        level = draw.choice(["memory", "memory", "local", "object"])
        operations = tuple(self.operation() for _ in range(draw.choice([1, 1, 1, 3])))
        model.attempt(operations)
        try:
            seq = commit(db, Write(operations, level))
        except BusyError:
            model.refuse()
            raise
        except UnavailableError:
            model.acknowledge(model.seq, "local")  # here it is durable, in the bucket unknown
            raise
        model.acknowledge(seq, level)

    def operation(self) -> Operation:
        draw = self.draw
        kind = draw.choices(["put", "delete", "delete_range"], [6, 2, 1])[0]
        start, end = sorted(draw.sample(KEYS, 2))
        if kind == "put":
            return (kind, start, draw.randbytes(2) * draw.choice([0, 1, 150, 400]))
        return (kind, start, end if kind == "delete_range" else b"")

    def die(self) -> str:
        """What is left, and the level that survives."""
        seed = self.draw.randrange(99)
        level = self.draw.choices(["memory", "local", "object"], [4, 4, 1])[0]
        losses = {
            "memory": self.world.kill,
            "local": self.world.lose_power,
            "object": self.world.lose_machine,
        }
        self.world = losses[level](seed)
        return level

    def recover(self, level: str) -> None:
        """One in three recoveries is interrupted first."""
        if self.draw.random() < 0.33:
            self.world.crash_at(CrashPoint("disk", self.draw.randrange(1, 25), halfway=False))
            with contextlib.suppress(CrashError):
                self.world.open()
            self.world = self.world.kill(1) if level == "memory" else self.world.lose_power(1)
        db = self.world.open()
        low, high = self.model.may_survive(level)
        assert low <= db.visible_seq <= high
        self.model.settle(db.visible_seq)
        check_contents(db, self.model)
        assert db.verify().problems == []
        self.world = self.world.kill(2)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_through_many_lives(seed: int) -> None:
    Lives(seed).run()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(8))
def test_nothing_is_lost_through_very_many_lives(block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        Lives(seed).run()
