"""Random lives of a manifest, beside the state kept in memory."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seerdb.errors import FencedError, UnavailableError
from seerdb.ids import SegmentId, SeqNo
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.names import table_name
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.manifest.samples import open_writer, table


class ManifestLife(RuleBasedStateMachine):
    """Flush, compact, move, checkpoint, collect and reopen, with lost requests in between."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = MemoryObjectStore(self.clock)
        self.store = FaultyObjectStore(self.memory, self.clock)
        self.counter = 0
        self.model: dict[str, TableMeta] = {}
        self.older = [open_writer(self.store, clock=self.clock)]
        self.writer = self.older[0]

    def insist(self, request: Callable[[], ManifestState]) -> ManifestState:
        """Try again with the same arguments until it is done, as the engine does."""
        while True:
            try:
                return request()
            except UnavailableError:
                continue

    def commit(self, add: list[TableMeta], remove: list[TableMeta], log_start: int = 0) -> None:
        for each in add:
            self.memory.put(table_name(each.id), bytes(each.size))
        self.insist(
            lambda: self.writer.commit(
                add=add,
                remove=[each.id for each in remove],
                last_seq=SeqNo(self.counter),
                log_start=SegmentId(log_start),
                reason="test",
            )
        )
        for each in remove:
            del self.model[each.id]
        self.model.update({each.id: each for each in add})

    def new_table(self, level: int) -> TableMeta:
        self.counter += 1
        return table(self.counter, epoch=self.writer.epoch, level=level)

    @rule(log_start=st.integers(0, 50))
    def flush(self, log_start: int) -> None:
        self.commit([self.new_table(0)], [], log_start)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), outputs=st.integers(0, 2))
    def compact(self, data: st.DataObject, outputs: int) -> None:
        inputs = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, min_size=1))
        self.commit([self.new_table(3) for _ in range(outputs)], [self.model[i] for i in inputs])

    @precondition(lambda self: self.model)
    @rule(data=st.data(), level=st.integers(1, 6))
    def move(self, data: st.DataObject, level: int) -> None:
        table_id = data.draw(st.sampled_from(sorted(self.model)))
        old = self.model[table_id]
        moved = table(int(table_id[9:]), epoch=int(table_id[:8]), level=level)
        self.commit([moved], [old])

    @rule()
    def checkpoint(self) -> None:
        state = self.insist(self.writer.checkpoint)
        assert state.checkpoint == state.number

    @rule(home=st.sampled_from(["home-a", "home-b"]))
    def reopen(self, home: str) -> None:
        self.writer = open_writer(self.memory, home=home, clock=self.clock, seed=self.counter)
        self.writer._store = self.store
        self.older.append(self.writer)

    @precondition(lambda self: len(self.older) > 1)
    @rule(data=st.data())
    def wake_an_older_writer(self, data: st.DataObject) -> None:
        older = data.draw(st.sampled_from(self.older[:-1]))
        try:
            older.commit(add=[table(999)], last_seq=SeqNo(10_000), reason="stale")
        except (FencedError, UnavailableError):
            return
        raise AssertionError("a fenced writer committed")

    @rule()
    def collect(self) -> None:
        self.clock.advance(1_000)
        collector = GarbageCollector(self.memory, self.writer, clock=self.clock, grace_seconds=900)
        assert collector.run(set).refused == ""

    @rule(happened=st.booleans(), skip=st.integers(0, 1))
    def lose_a_request(self, happened: bool, skip: int) -> None:
        plan = self.store.time_out_after if happened else self.store.fail
        plan("put_if_absent", skip=skip)

    @invariant()
    def a_load_finds_what_is_in_memory(self) -> None:
        assert load(self.memory) == self.writer.state
        assert {each.id: each for each in self.writer.state.version.tables} == self.model

    @invariant()
    def every_table_of_the_version_exists(self) -> None:
        sizes = {info.name: info.size for info in self.memory.list("tables/")}
        for each in self.writer.state.version.tables:
            assert sizes[table_name(each.id)] == each.size


TestManifestLife = ManifestLife.TestCase
TestManifestLife.settings = settings(max_examples=60, stateful_step_count=40)
