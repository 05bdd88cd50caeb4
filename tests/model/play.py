"""A script on a database, beside the model; and of a script that shows a fault the least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple, cast

from seerdb import DB, ChecksumError, Snapshot
from seerdb.storage.object_store.location import StoreLocation
from seerdb.testing.objects import MemoryObjectStore
from tests.crash.trace import Write, commit
from tests.fixtures.database import World
from tests.model.configurations import Configuration
from tests.model.script import ByModel, Reader, Script, Step, ask, time_of

MOST_ATTEMPTS = 150
"""At making a script shorter: a fault is shown in seconds, though not always by the least."""


class ByDatabase:
    """Carries a script out on a database of a configuration, in several lives.

    Without a ``location`` the bucket is in memory, and only then a life may end other than by
    closing.
    """

    def __init__(
        self,
        configuration: Configuration,
        keys: Sequence[bytes],
        location: StoreLocation | None = None,
    ) -> None:
        self._configuration = configuration
        self._keys = keys
        self._location = location
        self._snapshots: list[Snapshot] = []
        self._world = self._connected(World())
        self._started = self._world.clock.now()
        self._db = self._world.open()

    def _connected(self, world: World) -> World:
        """The same machine with the settings of the configuration and a connection of its own."""
        bucket = (
            cast("MemoryObjectStore", self._location.open()) if self._location else world.bucket
        )
        settings = self._configuration.settings
        return World(
            files=world.files, clock=world.clock, bucket=bucket, merge_operator="append", **settings
        )

    def do(self, number: int, step: Step) -> list[object]:
        """The answers to one step."""
        self._world.clock.set_now(self._started + time_of(number))
        if step.operations:
            self._write(step)
        elif step.verb in ("flush", "compact"):
            self._maintain(step.verb)
        elif step.verb == "reopen":
            self._reopen()
        elif step.verb == "snapshot":
            self._snapshots.append(self._db.snapshot())
        elif step.verb == "release" and self._snapshots:
            with self._snapshots.pop(0) as snapshot:
                return [snapshot.seq, *self._ask(snapshot, number, step)]
        return [self._db.visible_seq, *self._ask(self._db, number, step)]

    def close(self) -> None:
        """Check all of it, and end the last life."""
        problems = self._db.verify().problems
        self._end()
        assert problems == []

    def _ask(self, source: DB | Snapshot, number: int, step: Step) -> list[object]:
        reader = Reader(source.get, source.multi_get, source.scan)
        return ask(reader, self._keys, number, step)

    def _write(self, step: Step) -> None:
        if step.verb == "ingest" and self._world.takes_tables:
            self._db.ingest([(key, value) for _, key, value in step.operations])
        else:
            commit(self._db, Write(step.operations, self._db.options.durability))

    def _maintain(self, verb: str) -> None:
        try:
            getattr(self._db, verb)()
        except ChecksumError:
            assert not self._world.takes_tables

    def _reopen(self) -> None:
        """What ends the life spares all that was written, or it is flushed before."""
        life, durability = self._configuration.life, self._db.options.durability
        if life == "lose_machine" and durability != "object":
            self._db.flush()
        if life == "lose_power" and durability in ("memory", "interval"):
            self._db.flush()
        if life == "close":
            self._end()
            self._world = self._connected(self._world)
        else:
            world = getattr(self._world, life)()
            self._end()  # the old one goes on for itself, with a disk and a bucket of its own
            world.clock.set_now(self._world.clock.now())
            self._world = world
        self._db = self._world.open()

    def _end(self) -> None:
        self._snapshots.clear()
        self._db.close()
        self._db._engine.runtime.close()


@cache
def expected(script: Script) -> list[list[object]]:
    """The model's answers to each step."""
    model = ByModel(script.keys)
    return [model.do(number, step) for number, step in enumerate(script.steps)]


class Difference(NamedTuple):
    """The first step to which the database answered otherwise, or what it raised."""

    number: int
    found: object
    expected: object


def difference(script: Script, opening: Callable[[], ByDatabase]) -> Difference | None:
    """Carry out a script on a new database and compare."""
    number, answer = -1, None
    try:
        database = opening()
        for number, step in enumerate(script.steps):
            answer = expected(script)[number]
            found = database.do(number, step)
            if found != answer:
                return Difference(number, found, answer)
        database.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not the answer
        return Difference(number, error, answer)
    return None


def shortest(script: Script, fails: Callable[[Script], bool]) -> Script:
    """Leave out what is not needed to fail: halves first, then less and less."""
    size = len(script.steps) // 2
    attempts = 0
    while size:
        at = 0
        while at < len(script.steps) and attempts < MOST_ATTEMPTS:
            fewer = replace(script, steps=script.steps[:at] + script.steps[at + size :])
            attempts += 1
            if fails(fewer):
                script = fewer
            else:
                at += size
        size //= 2
    return script


def check(script: Script, opening: Callable[[], ByDatabase]) -> None:
    """Fail with the seed and a short script where database and model differ."""
    found = difference(script, opening)
    if found is None:
        return
    cut = replace(script, steps=script.steps[: found.number + 1])
    if difference(cut, opening) is None:
        cut = script
    short = shortest(cut, lambda fewer: difference(fewer, opening) is not None)
    number, answer, right = difference(short, opening) or found
    steps = "\n".join(f"{at:3} {_told(step)}" for at, step in enumerate(short.steps))
    raise AssertionError(
        f"seed {script.seed}, at step {number} of\n{steps}\nfound    {answer!r}\nexpected {right!r}"
    ) from (answer if isinstance(answer, Exception) else None)


def _told(step: Step) -> str:
    """A step in one line; of values their beginning."""
    operations = (f"{kind} {key!r} {value[:8]!r}" for kind, key, value in step.operations)
    return f"{step.verb} {', '.join(operations)}"
