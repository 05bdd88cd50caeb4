"""Several processes on one bucket, in random order, over a network that loses and delays.

Each process opens the database, commits, writes checkpoints and collects garbage without any
grace, so that no waiting hides a race. A process may be held up between any two requests for
as long as the others like; a creation may fail, happen unheard, or happen much later.

What must hold: a commit that returned is in every later state, no named table is deleted,
and no process mistakes the doings of another for damage.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable

import pytest

from seerdb.errors import (
    AlreadyExistsError,
    FencedError,
    UnavailableError,
)
from seerdb.ids import SeqNo
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import Checksum, ObjectInfo
from seerdb.storage.object_store.names import MANIFEST_PREFIX, manifest_name, table_name
from seerdb.storage.pieces import Body
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.manifest.samples import claimant, table


class Schedule:
    """Lets one thread at a time go on, chosen by a seeded random generator.

    Some schedules are bursty, so that one process does a lot while the others sleep.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._burst = rng.choice((0.0, 0.9, 0.97, 0.99))
        self._changed = threading.Condition()
        # Guarded by the condition:
        self._running = 0
        self._waiting: list[int] = []
        self._chosen = -1
        self._favourite = -1

    def step(self, actor: int) -> None:
        """Wait until it is the turn of ``actor``."""
        with self._changed:
            self._waiting.append(actor)
            self._running -= 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._chosen == actor)
            self._chosen = -1

    def run(self, actors: list[Callable[[], None]], between: Callable[[], None]) -> None:
        """Run all ``actors`` to their ends, and ``between`` before every turn."""
        self._running = len(actors)
        threads = [
            threading.Thread(target=self._live, args=(each,), daemon=True) for each in actors
        ]
        for thread in threads:
            thread.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._running == 0)
                if not self._waiting:
                    break
                between()
                if self._favourite not in self._waiting or self._rng.random() > self._burst:
                    self._favourite = self._rng.choice(sorted(self._waiting))
                self._chosen = self._favourite
                self._waiting.remove(self._chosen)
                self._running += 1
                self._changed.notify_all()
        for thread in threads:
            thread.join()

    def _live(self, actor: Callable[[], None]) -> None:
        try:
            actor()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


class World:
    """The bucket, and creations that are still on their way to it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = FakeClock()
        self.bucket = MemoryObjectStore(self.clock)
        self.schedule = Schedule(self.rng)
        self.late: list[tuple[str, Body]] = []
        self.acknowledged: set[TableMeta] = set()
        self.surprises: list[BaseException] = []

    def between(self) -> None:
        self.clock.advance(1)
        if self.late and self.rng.random() < 0.1:
            name, data = self.late.pop(self.rng.randrange(len(self.late)))
            try:
                self.bucket.put_if_absent(name, data)
            except AlreadyExistsError:
                return


class Network:
    """The bucket as one process sees it."""

    def __init__(self, world: World, actor: int) -> None:
        self._world = world
        self._actor = actor

    def _travel(self) -> float:
        self._world.schedule.step(self._actor)
        return self._world.rng.random()

    def put_if_absent(self, name: str, data: Body) -> None:
        luck = self._travel()
        if luck < 0.1:
            raise UnavailableError("lost")
        if luck < 0.2:
            self._world.late.append((name, data))
            raise UnavailableError("delayed")
        self._world.bucket.put_if_absent(name, data)
        if luck < 0.35:
            raise UnavailableError("answer lost")

    def get(self, name: str) -> bytes:
        if self._travel() < 0.03:
            raise UnavailableError("lost")
        return self._world.bucket.get(name)

    def list(self, prefix: str) -> list[ObjectInfo]:
        if self._travel() < 0.03:
            raise UnavailableError("lost")
        return self._world.bucket.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        wanted = list(names)
        self._travel()
        self._world.bucket.delete(wanted)

    def put(self, name: str, data: Body) -> None:
        self._travel()
        self._world.bucket.put(name, data)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def checksum(self, name: str) -> Checksum:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to release."""


class Process:
    """Opens a few times, and works each time until it is fenced or has done enough."""

    def __init__(self, world: World, actor: int) -> None:
        self.world = world
        self.store = Network(world, actor)
        self.rng = random.Random(world.rng.random())
        self.unfinished: TableMeta | None = None
        self.made = 0

    def live(self) -> None:
        try:
            for _ in range(4):
                try:
                    self.work(self.open())
                except (FencedError, UnavailableError):
                    continue
        except BaseException as surprise:  # noqa: BLE001 - shown by the test
            self.world.surprises.append(surprise)

    def open(self) -> ManifestWriter:
        self.unfinished = None
        return ManifestWriter.claim(
            self.store,
            load(self.store),
            claimant=claimant(),
            clock=self.world.clock,
            random_bytes=self.rng.randbytes,
        )

    def work(self, writer: ManifestWriter) -> None:
        collector = GarbageCollector(self.store, writer, clock=self.world.clock, grace_seconds=0)
        for _ in range(20):
            what = self.rng.choice((self.flush, self.flush, self.checkpoint, self.collect))
            try:
                what(writer, collector)
            except UnavailableError:
                continue

    def flush(self, writer: ManifestWriter, _: GarbageCollector) -> None:
        """Make and commit a table, or try again the one whose commit failed."""
        if self.unfinished is None:
            self.made += 1
            seq = writer.state.last_seq + 1
            self.unfinished = table(self.made, epoch=writer.epoch, run=seq, max_seq=seq)
            self.store.put(table_name(self.unfinished.id), bytes(self.unfinished.size))
        meta = self.unfinished
        writer.commit(add=[meta], last_seq=SeqNo(meta.max_seq), reason="flush")
        self.world.acknowledged.add(meta)
        self.unfinished = None

    def checkpoint(self, writer: ManifestWriter, _: GarbageCollector) -> None:
        writer.checkpoint()

    def collect(self, _: ManifestWriter, collector: GarbageCollector) -> None:
        keep = {table_name(self.unfinished.id)} if self.unfinished else set()
        refused = collector.run(lambda: keep).refused
        assert not refused or "took over" in refused, refused


@pytest.mark.parametrize("block", range(4))
def test_what_was_acknowledged_stays_in_every_order_of_things(block: int) -> None:
    for seed in range(block * 30, block * 30 + 30):
        world = World(seed)
        processes = [Process(world, actor) for actor in range(3)]
        world.schedule.run([process.live for process in processes], world.between)
        assert not world.surprises, f"seed {seed}: {world.surprises!r}"
        state = load(world.bucket)
        assert state is not None
        lost = world.acknowledged - set(state.version.tables)
        assert not lost, f"seed {seed} lost {[each.id for each in lost]}"
        there = {info.name for info in world.bucket.list("tables/")}
        assert {table_name(each.id) for each in state.version.tables} <= there, f"seed {seed}"
        records = {info.name for info in world.bucket.list(MANIFEST_PREFIX)}
        assert {manifest_name(claim) for claim in state.claims} <= records, f"seed {seed}"
