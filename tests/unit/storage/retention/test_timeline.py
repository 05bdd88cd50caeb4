"""What the past needs: marks, what left when, and reading both out of a bucket."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from seerdb.ids import SeqNo
from seerdb.storage.manifest.store import load
from seerdb.storage.object_store.names import (
    MANIFEST_PREFIX,
    TABLE_PREFIX,
    manifest_name,
    table_name,
)
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.storage.retention.timeline import Timeline, follow, read_timeline, state_of
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.manifest.samples import open_writer, table

GRACE, RETENTION = 300.0, 600.0


class Past:
    """A database in which one table replaces another, every so often."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryObjectStore(self.clock)
        self.writer = open_writer(self.store, clock=self.clock)
        self.counter = 0
        self.states = {self.writer.state.number: self.writer.state}

    def change(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        before = [each.id for each in self.writer.state.version.tables]
        self.counter += 1
        added = table(self.counter)
        self.store.put(table_name(added.id), bytes(added.size))
        self.writer.commit(add=[added], remove=before, last_seq=SeqNo(self.counter), reason="flush")
        self.states[self.writer.state.number] = self.writer.state

    def collector(self) -> GarbageCollector:
        return GarbageCollector(
            self.store, self.writer, clock=self.clock, grace_seconds=GRACE, retention=RETENTION
        )

    def timeline(self, since: float = 0.0) -> Timeline:
        timeline = read_timeline(self.store, int(since * 1e6))
        assert timeline is not None
        return timeline

    def names(self, prefix: str) -> list[str]:
        return [info.name for info in self.store.list(prefix)]


def check_window(past: Past) -> None:
    """Every state of the retention can be loaded, and all that it names is there."""
    since_us = int((past.clock.now() - RETENTION) * 1e6)
    timeline = past.timeline(past.clock.now() - RETENTION)
    there = set(past.names(""))
    oldest = max((n for n, s in past.states.items() if s.time_us <= since_us), default=1)
    for number in range(oldest, past.writer.state.number + 1):
        assert number >= timeline.marks[0].number
        mark = timeline.marks[number - timeline.marks[0].number]
        if number in past.states:
            state = state_of(past.store, mark)
            assert state.version == past.states[number].version
            assert {n for each in state.version.tables for n in each.objects} <= there


@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.floats(0.0, 400.0),
            st.sampled_from(["collect", "checkpoint", "another collector", "many"]),
        ),
        max_size=30,
    )
)
def test_whatever_is_collected_every_state_within_the_retention_is_whole(
    script: list[float | str],
) -> None:
    past = Past()
    collector = past.collector()
    for step in script:
        if isinstance(step, float):
            past.change(step)
        elif step == "many":
            for _ in range(70):
                past.change(3.0)
        elif step == "checkpoint":
            past.writer.checkpoint()
            past.states[past.writer.state.number] = past.writer.state
        else:
            collector = collector if step == "collect" else past.collector()
            assert not collector.run(set).refused
            check_window(past)


def test_what_is_older_than_the_retention_goes() -> None:
    past = Past()
    for _ in range(200):
        past.change(10.0)
    past.clock.advance(GRACE + RETENTION + 1)
    past.change()
    past.clock.advance(1.0)
    past.collector().run(set)
    assert past.names(TABLE_PREFIX) == [table_name(table(n).id) for n in (200, 201)]
    records = len(past.names(MANIFEST_PREFIX))
    assert records < 2 * 64 + 2
    past.clock.advance(GRACE + RETENTION + 1)
    past.collector().run(set)
    assert past.names(TABLE_PREFIX) == [table_name(table(201).id)]


def test_a_timeline_that_followed_is_the_one_that_is_read() -> None:
    past = Past()
    past.change(1.0)
    followed = past.timeline()
    for _ in range(100):
        past.change(1.0)
    follow(followed, past.store, past.writer.state.number)
    read = past.timeline()
    assert followed.marks == read.marks
    assert followed.state == read.state == load(past.store)
    since = int((past.clock.now() - 50) * 1e6)
    assert followed.needed(since) == read.needed(since)


def test_reading_goes_back_no_further_than_it_must() -> None:
    past = Past()
    for _ in range(300):
        past.change(1.0)
    past.store.calls.clear()
    timeline = past.timeline(past.clock.now() - 10)
    assert past.store.calls["get"] < 64 + 10
    assert timeline.marks[0].time_us <= (past.clock.now() - 10) * 1e6
    assert past.timeline().marks[0].number == 1


def test_reading_begins_behind_a_record_that_is_gone() -> None:
    """As where a deletion ended half way: the checkpoint before it may be there all the same."""
    past = Past()
    for _ in range(200):
        past.change(1.0)
    newest = past.timeline(past.clock.now()).marks[0].number
    before = past.states[newest - 1].checkpoint
    past.store.delete([manifest_name(before + 1)])
    assert manifest_name(before) in past.names(MANIFEST_PREFIX)
    assert past.timeline().marks[0].number == newest


def test_states_of_which_something_is_gone_are_forgotten() -> None:
    past = Past()
    for _ in range(5):
        past.change(1.0)
    past.store.delete([table_name(table(2).id)])
    timeline = past.timeline()
    timeline.keep_whole(set(past.names("")))
    assert [mark.last_seq for mark in timeline.marks] == [3, 4, 5]


def test_the_base_of_a_time_is_the_newest_state_of_then() -> None:
    past = Past()
    past.change(1.0)
    past.change(1.0)
    timeline = past.timeline()
    first, second, third = timeline.marks
    assert timeline.base(first.time_us - 1) is None
    assert timeline.base(second.time_us - 1) == first
    assert timeline.base(second.time_us) == second
    assert timeline.base(third.time_us + 1) == third


def test_an_instant_needs_what_left_after_it_and_nothing_that_was_gone() -> None:
    past = Past()
    for _ in range(3):
        past.change(10.0)
    timeline = past.timeline()
    replaced, newest = past.writer.state.number - 1, past.writer.state
    [before] = past.states[replaced].version.tables
    needed = timeline.needed(newest.time_us - 1)
    assert needed.names == {table_name(before.id)}
    assert needed.seq == past.states[replaced].last_seq
    assert timeline.needed(newest.time_us).names == frozenset()
