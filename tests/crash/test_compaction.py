"""A crash at every operation of merges, moves and collections, under every policy.

A compaction shows itself by one record of the manifest: before it there are the old tables,
after it the new ones, and nothing that was acknowledged is ever missing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest

from seerdb import DB
from seerdb.events import GarbageCollected
from seerdb.storage.compaction.plan import Plan, position
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import Version
from seerdb.storage.object_store.names import TABLE_PREFIX, table_name
from tests.crash.trace import (
    Ingest,
    Run,
    Step,
    Verb,
    Write,
    check_recovery,
    delete,
    delete_range,
    merge,
    outcomes,
    put_ttl,
)
from tests.fixtures.database import World, collect_garbage

pytestmark = pytest.mark.crash


def rows(numbers: range, seed: int = 0) -> Write:
    """One commit that fills a memtable with rows that do not compress."""
    draw = random.Random(numbers.start + 1000 * seed)
    return Write(tuple(("put", b"%03d" % n, draw.randbytes(60)) for n in numbers), "memory")


def trace() -> Iterator[Step]:
    """Keys that rise, keys that come again, deletes, and what expires and merges, on a large old
    run; garbage is collected in between and at the end."""
    yield Ingest(tuple((b"%03d" % n, b"%d" % n * 20) for n in range(0, 400, 2)))
    for start in range(400, 440, 10):
        yield rows(range(start, start + 10))
    yield Verb("flush")
    for seed in range(1, 8):
        start = 7 * seed
        yield rows(range(start, start + 20, 3), seed)
        yield delete(b"%03d" % (start + 1), "memory")
        yield merge(b"%03d" % start, b"+%d" % seed, "memory")
        yield put_ttl(b"%03d" % seed, b"v" * 60, "memory")
        yield Verb("flush")
    yield delete_range(b"015", b"134", "memory")
    yield Verb("wait")
    yield Verb("compact")
    for start in range(500, 540, 10):
        yield rows(range(start, start + 10))
    yield delete_range(b"000", b"300", "memory")
    yield Verb("wait")
    yield Verb("compact")
    yield Verb("wait")
    yield rows(range(3, 13))
    yield Verb("flush")


TRACE = tuple(trace())
SETTINGS: dict[str, Any] = {
    "memtable_capacity": 1024,
    "compression": "none",
    "table_size": 1000,
    "merge_operator": "append",
}


def kinds(plan: Plan) -> set[str]:
    """What is special about a plan."""
    found = {"move" if plan.move else "merge", "bottom" if plan.bottom else "above older data"}
    if len(plan.parts) > 1:
        found.add("split")
    if plan.position in map(position, plan.inputs):
        found.add("joins a run")
    if len(plan.inputs) > 1:
        found.add("several runs")
    return found


@dataclass(frozen=True)
class Window:
    """One compaction: its requests are those after ``first``, up to ``last``."""

    plan: Plan
    first: int
    last: int
    before: Version
    after: Version


class Watched(World):
    """Notes every compaction."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.windows: list[Window] = []

    def open(self, *where: str, **settings: Any) -> DB:
        db = super().open(*where, **settings)
        compactor, manifest = db._engine.compactor, db._engine.manifest
        compact_one, begin = compactor.compact_one, compactor._begin
        plans: list[Plan] = []

        def noting(slot: int) -> Any:
            work = begin(slot)
            plans.extend([work.plan] if work else [])
            return work

        def watching(slot: int = 0) -> bool:
            first, before = len(self.store.trace), manifest.state.version
            if not compact_one(slot):
                return False
            last, after = len(self.store.trace), manifest.state.version
            self.windows.append(Window(plans[-1], first, last, before, after))
            return True

        compactor.compact_one = watching  # type: ignore[method-assign]
        compactor._begin = noting  # type: ignore[method-assign]
        return db


@cache
def undisturbed(policy: str) -> Watched:
    """The trace, run to its end."""
    world = Watched(compaction=policy, **SETTINGS)
    assert not Run(world).execute(TRACE).died
    return world


def requests(world: Watched, first: int, last: int) -> list[int]:
    """The numbers of the requests that change something, among those after ``first``."""
    changing = {"put", "put_if_absent", "delete"}
    return [op.number for op in world.store.trace[first:last] if op.operation in changing]


@cache
def crash(policy: str, number: int, *, happened: bool) -> Run:
    """The trace until the process dies before a request, or right after it has happened."""
    world = World(compaction=policy, **SETTINGS)
    if happened:
        world.store.crash_after = number
    else:
        world.store.crash_at = number
    run = Run(world).execute(TRACE)
    assert run.died
    return run


@pytest.mark.parametrize("policy", POLICIES)
def test_the_trace_has_every_kind_of_plan(policy: str) -> None:
    world = undisturbed(policy)
    found = set().union(*(kinds(window.plan) for window in world.windows))
    assert found == {
        "move",
        "merge",
        "split",
        "several runs",
        "joins a run",
        "bottom",
        "above older data",
    }
    collected = [event for event in world.events if isinstance(event, GarbageCollected)]
    assert sum(name.startswith(TABLE_PREFIX) for e in collected for name in e.deleted) > 10


def deaths(world: Watched, window: Window) -> list[tuple[int, bool]]:
    """Before each request of a compaction, and right after the last; between two requests it does
    nothing that lasts."""
    numbers = requests(world, window.first, window.last)
    return [*((number, False) for number in numbers), (numbers[-1], True)]


@pytest.mark.parametrize("policy", POLICIES)
def test_compaction_crash_no_data_loss(policy: str) -> None:
    """PB-05. A death at any request of a merge, a move or a collection of garbage."""
    world = undisturbed(policy)
    points = [point for window in world.windows for point in deaths(world, window)]
    deletions = [op.number for op in world.store.trace if op.operation == "delete"]
    points += product(deletions, (False, True))
    for number, happened in sorted(points):
        run = crash(policy, number, happened=happened)
        check_recovery(run.world.kill(), run.model, "memory")
        check_recovery(run.world.lose_machine(), run.model, "object")


@pytest.mark.parametrize("policy", POLICIES)
def test_compaction_output_atomic(policy: str) -> None:
    """Whenever it dies the manifest names the old tables or the new ones, all of them there, and
    what it does not name is collected later."""
    world = undisturbed(policy)
    for window in world.windows:
        for number, happened in deaths(world, window):
            left = crash(policy, number, happened=happened).world.kill()
            state = load(left.bucket)
            assert state is not None
            assert state.version == (window.after if happened else window.before)
            assert tables_of(state.version) <= tables_in(left)
            check_collected(left)


def tables_of(version: Version) -> set[str]:
    return {table_name(table.id) for table in version.tables}


def tables_in(world: World) -> set[str]:
    return {info.name for info in world.bucket.list(TABLE_PREFIX)}


def check_collected(world: World) -> None:
    """Some time after the next opening there is nothing but what the manifest names."""
    db = world.open()
    assert db.verify().problems == []
    for _ in range(2):
        collect_garbage(world, db)
    assert tables_in(world) == tables_of(db._engine.manifest.state.version)
    db.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(8))
@pytest.mark.parametrize("policy", POLICIES)
def test_a_crash_at_every_operation_of_every_policy(policy: str, shard: int) -> None:
    """Those of flushes and of the disk too."""
    for point in undisturbed(policy).crash_points()[shard::8]:
        world = World(compaction=policy, **SETTINGS)
        world.crash_at(point)
        run = Run(world).execute(TRACE)
        assert run.died
        for level, left in outcomes(run.world, range(1, 3)):
            check_recovery(left, run.model, level)
