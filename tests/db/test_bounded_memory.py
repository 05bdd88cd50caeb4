"""A database that goes on for ever remembers no more than one that has just begun.

Everything that is there to be used, over and over, with failures in between; then all that can be
reached from the handles is counted, container by container. None may have grown by something in
each round, whatever it is there for.
"""

from __future__ import annotations

import gc
import sys
import types
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest

from seerdb import DB, Replica
from seerdb.storage.retention.outputs import TableOutputs
from seerdb.storage.retention.timeline import Timeline
from seerdb.storage.wal.backlog import Backlog
from tests.fixtures.database import World, collect_garbage, fill
from tests.fixtures.follower import follow, stream

ROUNDS = 8
CONTAINERS = (dict, list, set, frozenset, deque)
_NO_STATE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)


class Life:
    """A database and a replica of it, used for ever."""

    def __init__(self) -> None:
        self.world = World(
            ship_interval=1.0,
            history_retention=600.0,
            merge_operator="append",
            blob_threshold=150,
            block_cache_capacity=0,
        )
        self.db: DB = self.world.open()
        self.replica: Replica = follow(self.world)

    def go_on(self) -> None:
        world, db, replica = self.world, self.db, self.replica
        fill(db, 40)
        with db.batch() as batch:
            batch.delete_range(b"k0003", b"k0009")
            batch.merge(b"m", b"x")
        db.delete(b"m")
        db.put(b"expires", b"1", ttl=5)
        seq = db.put(b"o", b"1", durability="object")
        world.store.fail("put", match="tables/")
        world.store.time_out_after("put_if_absent")
        db.flush()
        with db.snapshot() as snapshot:
            assert dict(snapshot.scan()) == dict(db.scan())
        assert db.get(b"o", as_of=seq) == b"1"
        assert db.multi_get([b"k0000", b"missing"]) == [b"v" * 200, None]
        replica.refresh()
        stream(db, replica)
        assert dict(replica.scan()) == dict(db.scan())
        db.ingest([(b"i%d" % number, b"1") for number in range(5)])
        db.drop_checkpoint(db.checkpoint().name)
        fill(db, 30)
        db.compact()
        for handle in (db, replica):
            assert handle.stats()
            assert handle.health()
        collect_garbage(world, db)
        world.events.clear()
        world.store.trace.clear()
        world.files.trace.clear()

    def remembers(self) -> Counter[str]:
        """How much is in the containers that can be reached, by their kind and whose they are."""
        gc.collect()
        world = self.world
        doubles = (world, world.store, world.bucket, world.files, world.clock, world.events)
        seen = {id(each) for each in (*doubles, world.random, sys.modules)}
        found: Counter[str] = Counter()
        ahead: list[tuple[Any, str]] = [(self.db, ""), (self.replica, "")]
        while ahead:
            thing, owner = ahead.pop()
            if id(thing) in seen or isinstance(thing, _NO_STATE):
                continue
            seen.add(id(thing))
            if isinstance(thing, CONTAINERS):
                found[f"{type(thing).__name__} of {owner}"] += len(thing)
            elif not isinstance(thing, tuple):
                owner = type(thing).__name__
            ahead += [(each, owner) for each in gc.get_referents(thing)]
        return found


def grown() -> dict[str, int]:
    """By how much what is remembered grows in so many rounds, if it does in each."""
    life = Life()
    for _ in range(12):  # fills what is bounded
        life.go_on()
    before = life.remembers()
    for _ in range(ROUNDS):
        life.go_on()
    after = life.remembers()
    more = {name: after[name] - before[name] for name in after}
    return {name: count for name, count in more.items() if count >= ROUNDS}


def test_nothing_is_remembered_of_each_round() -> None:
    """PB-11."""
    assert not grown()


def _never_forget_removed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TableOutputs, "in_use", lambda outputs: {*outputs._removed_at})


def _never_finish(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TableOutputs, "finish", lambda outputs, tables: None)


def _never_forget_the_past(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Timeline, "forget", lambda timeline, before_us: None)


def _never_forget_marks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "_forget_marks", lambda backlog, seq: None)


@pytest.mark.parametrize(
    "leak", [_never_forget_removed, _never_finish, _never_forget_the_past, _never_forget_marks]
)
def test_a_leak_is_found(
    leak: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    leak(monkeypatch)
    assert grown()
