"""Commits and checkpoints of one writer, and outcomes that it did not hear of."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from seerdb.errors import (
    AlreadyExistsError,
    CorruptionError,
    FencedError,
    InternalError,
    UnavailableError,
)
from seerdb.ids import SegmentId, SeqNo, TableId
from seerdb.storage.manifest.edit import Checkpoint, encode_record
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load, manifest_numbers, read_record
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.manifest.writer import CHECKPOINT_EVERY, ManifestWriter
from seerdb.storage.object_store.names import manifest_name
from seerdb.storage.pieces import Body
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.manifest.samples import edit_record, open_writer, table


def flush(writer: ManifestWriter, counter: int) -> ManifestState:
    """Commit one table."""
    return writer.commit(add=[table(counter)], last_seq=SeqNo(counter), reason="flush")


def tables_of(state: ManifestState | None) -> list[int]:
    """The counters of a state's tables, each once or more."""
    assert state is not None
    return sorted(int(each.id.split("-")[1]) for each in state.version.tables)


def test_a_commit_is_what_a_load_finds() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    state = writer.commit(add=[table(1)], last_seq=SeqNo(5), log_start=SegmentId(3), reason="flush")
    assert state == writer.state == load(store)
    assert (state.last_seq, state.log_start, tables_of(state)) == (5, 3, [1])


def test_a_commit_is_one_request() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    store.calls.clear()
    flush(writer, 1)
    assert dict(store.calls) == {"put_if_absent": 1}


def test_a_change_already_in_effect_costs_nothing() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    flush(writer, 1)
    writer.commit(add=[table(2, level=1)], remove=[table(1).id], last_seq=SeqNo(2), reason="merge")
    store.calls.clear()
    writer.commit(add=[table(2, level=1)], remove=[table(1).id], last_seq=SeqNo(2), reason="merge")
    writer.commit(remove=[table(1).id], reason="merge")
    assert not store.calls


def test_a_move_is_in_effect_only_when_the_table_has_moved() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    flush(writer, 1)
    moved = table(1, level=4)
    state = writer.commit(add=[moved], remove=[moved.id], reason="move")
    assert state.version.tables == [moved]
    assert writer.commit(add=[moved], remove=[moved.id], reason="move") is state


def test_seq_and_log_start_are_raised_to_at_least_the_given() -> None:
    writer = open_writer(MemoryObjectStore())
    writer.commit(last_seq=SeqNo(9), log_start=SegmentId(4), reason="flush")
    state = writer.commit(
        add=[table(1)], last_seq=SeqNo(3), log_start=SegmentId(2), reason="compaction"
    )
    assert (state.last_seq, state.log_start) == (9, 4)
    assert writer.commit(log_start=SegmentId(5), reason="release").log_start == 5
    assert writer.commit(last_seq=SeqNo(10), reason="flush of nothing").last_seq == 10


@pytest.mark.parametrize(
    ("add", "remove"),
    [
        pytest.param([table(9)], [table(2).id], id="removes what is not there"),
        pytest.param([table(1, level=3)], [], id="adds what is there"),
        pytest.param([table(50)], [], id="reaches past the last seq"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_before_anything_is_written(
    add: list[TableMeta], remove: list[TableId]
) -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    before = flush(writer, 1)
    store.calls.clear()
    with pytest.raises(InternalError):
        writer.commit(add=add, remove=remove, reason="wrong")
    assert not store.calls
    assert writer.state is before
    assert tables_of(flush(writer, 2)) == [1, 2]


def test_time_grows_although_the_clock_steps_back() -> None:
    clock = FakeClock(now=1000.0)
    store = MemoryObjectStore()
    writer = open_writer(store, clock=clock)
    clock.set_now(10.0)
    assert flush(writer, 1).time_us == 1_000_000_001
    clock.set_now(2000.0)
    assert flush(writer, 2).time_us == 2_000_000_000


def test_a_checkpoint_comes_every_so_many_objects() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    for counter in range(1, 3 * CHECKPOINT_EVERY):
        flush(writer, counter)
    numbers = manifest_numbers(store)
    checkpoints = [n for n in numbers if isinstance(read_record(store, n), Checkpoint)]
    assert checkpoints == [65, 130]
    assert (writer.state.checkpoint, writer.state.checkpoint_before) == (130, 65)
    store.calls.clear()
    assert load(store) == writer.state
    assert store.calls["get"] <= CHECKPOINT_EVERY + 1


def test_a_checkpoint_on_top_of_a_checkpoint_is_not_written() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    flush(writer, 1)
    state = writer.checkpoint()
    store.calls.clear()
    assert writer.checkpoint() is state
    assert not store.calls


def test_a_commit_whose_checkpoint_fails_is_not_lost() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    writer = open_writer(store)
    for counter in range(1, CHECKPOINT_EVERY):
        flush(writer, counter)
    store.fail("put_if_absent")
    with pytest.raises(UnavailableError):
        flush(writer, CHECKPOINT_EVERY)
    assert CHECKPOINT_EVERY in tables_of(flush(writer, CHECKPOINT_EVERY))
    assert load(store) == writer.state


def test_a_commit_that_failed_is_simply_tried_again() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    writer = open_writer(store)
    before = writer.state
    store.fail("put_if_absent")
    with pytest.raises(UnavailableError):
        flush(writer, 1)
    assert writer.state is before
    assert tables_of(flush(writer, 1)) == [1]
    assert load(store) == writer.state


def test_a_commit_that_happened_unheard_is_not_applied_twice() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    writer = open_writer(store)
    before = writer.state
    store.time_out_after("put_if_absent")
    with pytest.raises(UnavailableError):
        flush(writer, 1)
    assert writer.state is before
    state = flush(writer, 1)
    assert (state.number, tables_of(state)) == (2, [1])
    assert manifest_numbers(store) == [1, 2]
    assert load(store) == state


def test_a_commit_that_happened_unheard_is_kept_by_the_next_one() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    writer = open_writer(store)
    flush(writer, 1)
    store.time_out_after("put_if_absent")
    with pytest.raises(UnavailableError):
        flush(writer, 2)
    state = writer.commit(
        add=[table(3, level=1)], remove=[table(1).id], last_seq=SeqNo(3), reason="compaction"
    )
    assert (state.number, tables_of(state)) == (4, [2, 3])
    assert load(store) == state


def test_a_checkpoint_that_happened_unheard_settles_at_close() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    writer = open_writer(store)
    flush(writer, 1)
    store.time_out_after("put_if_absent")
    with pytest.raises(UnavailableError):
        writer.checkpoint()
    state = writer.checkpoint()
    assert state.checkpoint == state.number == 3
    assert load(store) == state


def test_closing_settles_a_commit_that_happened_unheard() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    writer = open_writer(store)
    writer.checkpoint()
    store.time_out_after("put_if_absent")
    with pytest.raises(UnavailableError):
        flush(writer, 1)
    state = writer.checkpoint()
    assert (state.checkpoint, tables_of(state)) == (state.number, [1])
    assert load(store) == state


class LatePuts(MemoryObjectStore):
    """A network that may hold a creation back and deliver it later."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = False
        self.land_first = False
        self.held: list[tuple[str, Body]] = []

    def put_if_absent(self, name: str, data: Body) -> None:
        if self.hold:
            self.held.append((name, data))
            raise UnavailableError("no answer")
        if self.land_first:
            self.land()
        super().put_if_absent(name, data)

    def land(self) -> None:
        """Deliver what was held back; nobody hears what comes of it."""
        for name, data in self.held:
            try:
                super().put_if_absent(name, data)
            except AlreadyExistsError:
                continue
        self.held.clear()


@pytest.mark.parametrize("held", [1, 3])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_attempts_that_land_late_change_nothing(held: int, *, first: bool) -> None:
    store = LatePuts()
    writer = open_writer(store)
    store.hold = True
    for _ in range(held):
        with pytest.raises(UnavailableError):
            flush(writer, 1)
    store.hold = False
    store.land_first = first
    flush(writer, 1)
    store.land()
    assert tables_of(flush(writer, 2)) == [1, 2]
    assert manifest_numbers(store) == [1, 2, 3]
    assert load(store) == writer.state


def test_commits_of_many_threads_all_count() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)

    def work(first: int) -> None:
        for counter in range(first, first + 25):
            writer.commit(add=[table(counter)], last_seq=SeqNo(counter), reason="flush")

    threads = [threading.Thread(target=work, args=(1 + 25 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tables_of(writer.state) == list(range(1, 201))
    assert load(store) == writer.state


class Entered(MemoryObjectStore):
    """Does something of the test's while a creation is under way."""

    meanwhile: Callable[[], None] | None = None

    def put_if_absent(self, name: str, data: Body) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        super().put_if_absent(name, data)


def test_a_commit_waits_for_the_one_before_it() -> None:
    store = Entered()
    writer = open_writer(store)
    second = threading.Thread(target=flush, args=(writer, 2))

    def meanwhile() -> None:
        second.start()
        second.join(timeout=0.05)
        assert second.is_alive()

    store.meanwhile = meanwhile
    flush(writer, 1)
    second.join()
    assert [read_record(store, number).last_seq for number in (2, 3)] == [1, 2]


def test_a_copy_of_the_writer_with_the_same_epoch_is_a_stranger() -> None:
    """As after a fork, or when a machine is cloned while it runs."""
    store = MemoryObjectStore()
    writer = open_writer(store)
    copy = ManifestWriter(
        store, writer.state, clock=FakeClock(), random_bytes=lambda size: b"c" * size
    )
    flush(copy, 1)
    with pytest.raises(FencedError):
        flush(writer, 2)
    assert tables_of(load(store)) == [1]


def test_a_damaged_object_in_the_way_is_damage_and_not_a_fence() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    store.put(manifest_name(2), encode_record(edit_record())[:-1])
    for _ in range(2):
        with pytest.raises(CorruptionError):
            flush(writer, 1)
    assert not writer.fenced


class Forgetful(MemoryObjectStore):
    """Says that a name is taken, and then has nothing there."""

    forgets = False

    def put_if_absent(self, name: str, data: Body) -> None:
        if self.forgets:
            raise AlreadyExistsError(name)
        super().put_if_absent(name, data)


def test_a_store_that_contradicts_itself_is_asked_again() -> None:
    store = Forgetful()
    writer = open_writer(store)
    store.forgets = True
    with pytest.raises(UnavailableError, match="exists"):
        flush(writer, 1)
    store.forgets = False
    assert tables_of(flush(writer, 1)) == [1]
