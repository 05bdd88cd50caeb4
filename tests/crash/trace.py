"""A run of a database as data, its execution beside the model, and what recovery owes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from seerdb import DB
from seerdb.storage.batch import Batch
from seerdb.testing.crash import CrashError
from seerdb.testing.model import LIFETIME, Model, Operation
from tests.fixtures.database import World


@dataclass(frozen=True)
class Write:
    """One commit of one or several operations."""

    operations: tuple[Operation, ...]
    level: str = "local"


@dataclass(frozen=True)
class Ingest:
    """Pairs that become tables at once."""

    pairs: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Restore:
    """In place: what was there after a commit; ``kept``: what the restore before replaced."""

    seq: int
    kept: bool = False


@dataclass(frozen=True)
class Verb:
    """``flush``, ``compact``, ``reopen``, or ``wait`` until garbage may be collected."""

    name: str


Step = Write | Ingest | Restore | Verb


def put(key: bytes, value: bytes, level: str = "local") -> Write:
    return Write((("put", key, value),), level)


def delete(key: bytes, level: str = "local") -> Write:
    return Write((("delete", key, b""),), level)


def delete_range(start: bytes, end: bytes, level: str = "local") -> Write:
    return Write((("delete_range", start, end),), level)


def merge(key: bytes, operand: bytes, level: str = "local") -> Write:
    return Write((("merge", key, operand),), level)


def put_ttl(key: bytes, value: bytes, level: str = "local") -> Write:
    return Write((("put_ttl", key, value),), level)


def commit(db: DB, write: Write) -> int:
    batch = Batch()
    add_to(batch, write.operations)
    if len(write.operations) == 1 and write.operations[0][0] == "put":
        return db.put(batch.keys[0], batch.values[0], durability=write.level)
    return db.write(batch, durability=write.level)


def add_to(batch: Batch, operations: Iterable[Operation]) -> None:
    for kind, key, value in operations:
        if kind == "put_ttl":
            batch.put(key, value, LIFETIME)
        elif kind == "delete":
            batch.delete(key)
        else:
            getattr(batch, kind)(key, value)


@dataclass
class Run:
    """Executes steps in a world until they end or the process dies."""

    world: World
    model: Model = field(default_factory=Model)
    died: bool = False

    def __post_init__(self) -> None:
        self.model.now = self.world.clock.now

    def execute(self, steps: tuple[Step, ...]) -> Run:
        try:
            db = self.world.open()
            for step in steps:
                db = self._do(db, step)
            db.close()
        except CrashError:
            self.died = True
        return self

    def _do(self, db: DB, step: Step) -> DB:
        model = self.model
        if isinstance(step, Write):
            model.attempt(step.operations)
            model.acknowledge(commit(db, step), step.level)
        elif isinstance(step, Ingest):
            model.attempt([("put", *pair) for pair in step.pairs])
            model.acknowledge(db.ingest(step.pairs).seq, "object")
        elif isinstance(step, Restore):
            model.attempt_restore(step.seq)
            checkpoint = f"before-restore-{step.seq + 1}" if step.kept else None
            as_of = None if step.kept else step.seq
            report = db.restore_in_place(as_of, checkpoint=checkpoint)
            model.acknowledge(report.seq, "object")
        elif step.name == "flush":
            db.flush()
            model.secure(model.seq, "object")
        elif step.name == "compact":
            db.compact()
            model.secure(model.seq, "object")
        elif step.name == "wait":
            self.world.clock.advance(1000.0)
        else:
            db.close()
            model.secure(model.seq, "object" if self.world.takes_tables else "local")
            db = self.world.open()
        return db


def check_contents(db: DB, model: Model, at: int | None = None) -> None:
    """The database says exactly what the model says, by scan and by lookup."""
    expected = model.contents(at)
    found = {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}
    assert found == expected
    keys, values = model.keys(), {key: value.value for key, value in expected.items()}
    assert db.multi_get(keys) == [values.get(key) for key in keys]


def check_recovery(world: World, model: Model, level: str) -> Model:
    """Open after a crash that spares what ``level`` promises; everything owed is there.

    Afterwards the log is sound, writing goes on above every seq, and a further crash at once
    loses nothing of it. Returns the model as it is after the recovery; ``model`` is not changed.
    """
    low, high = model.may_survive(level)
    db = world.open()
    seq = db.visible_seq
    assert low <= seq <= high, f"seq {seq} was recovered; {low} to {high} are right"
    check_contents(db, model, seq)
    assert db.verify().problems == []
    after = model.copy()
    after.settle(seq)
    write = put(b"after", b"%d" % seq)
    after.attempt(write.operations)
    after.acknowledge(commit(db, write), "local")
    check_contents(db, after)
    again = world.lose_power(7).open()
    check_contents(again, after)
    again.close()
    return after


def outcomes(world: World, seeds: range) -> list[tuple[str, World]]:
    """What may be left when the process dies now, and the level that must have survived it."""
    after = [("memory", world.kill())]
    after += [("local", world.lose_power(seed)) for seed in seeds]
    return [*after, ("object", world.lose_machine())]
