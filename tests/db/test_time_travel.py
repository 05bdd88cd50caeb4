"""Reads as of an instant that is over: every one of them is what the database was then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerdb import DB, KeyVersion
from seerdb.errors import HistoryError, InvalidRequestError, NotFoundError
from seerdb.storage.past.history import at_seq, at_time, past_of
from seerdb.storage.past.log import Log
from seerdb.storage.past.time_travel import VIEW_SECONDS, VIEWS_KEPT
from seerdb.storage.retention.timeline import state_of
from seerdb.storage.workers.threads import Timer
from seerdb.testing.model import Model, Operation
from tests.crash.trace import add_to
from tests.fixtures.database import ROOMY, World, fill

KEYS = [b"a", b"b", b"c", b"d"]
PAST: dict[str, Any] = {
    "history_retention": 10_000.0,
    "wal_retention": "count:1000",
    "merge_operator": "append",
}
"""All of the log stays on this disk."""

WAITS = {"moment": 0.4, "wait": 7.0, "age": 400.0}
"""Less than a second; most of a lifetime; more than a grace period."""

Step = tuple[Operation, ...] | str

keys = st.sampled_from(KEYS)
values = st.integers(0, 99).map(lambda number: b"%02d" % number * 40)
operations = st.one_of(
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("put_ttl"), keys, values),
    st.tuples(st.just("merge"), keys, values),
    st.tuples(st.just("delete"), keys, st.just(b"")),
    st.just(("delete_range", b"b", b"d")),
)
steps = st.one_of(
    st.lists(operations, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["flush", "compact", "wait", "moment", "age", "reopen", "collect", "ingest"]),
)


class Story:
    """A database, its model, and when each commit was made."""

    def __init__(self, **more: Any) -> None:
        self.world = World(**(PAST | more))
        self.model = Model(self.world.clock.now)
        self.db: DB = self.world.open()
        self.times = [self.world.clock.now()]
        self.commits: list[tuple[int, float, set[bytes]]] = []
        """Seq and time of each, and the keys that it concerns."""

    def do(self, step: Step) -> None:
        clock = self.world.clock
        clock.advance(0.001)
        if isinstance(step, tuple):
            self.commit(step)
        elif step == "ingest":
            pairs = [(b"b", b"ingested"), (b"e", b"ingested")]
            self.model.attempt([("put", *pair) for pair in pairs])
            self.model.acknowledge(self.db.ingest(pairs).seq, "object")
            self.made({b"b", b"e"})
        elif step in WAITS:
            clock.advance(WAITS[step])
        elif step == "collect":
            self.db._engine.background.garbage.wake()
        elif step == "reopen":
            self.db.close()
            self.db = self.world.open()
        else:
            getattr(self.db, step)()
        clock.advance(0.001)

    def commit(self, operations: tuple[Operation, ...], level: str = "local") -> None:
        self.model.attempt(operations)
        with self.db.batch(durability=level) as batch:
            add_to(batch, operations)
        self.model.acknowledge(batch.seq, "local")
        concerned = {key for kind, key, _ in operations if kind != "delete_range"}
        if any(kind == "delete_range" for kind, _, _ in operations):
            concerned |= {b"b", b"c"}
        self.made(concerned)

    def made(self, concerned: set[bytes]) -> None:
        self.times.append(self.world.clock.now())
        self.commits.append((self.model.seq, self.times[-1], concerned))

    def check_versions(self) -> None:
        for key in KEYS:
            expected = [
                KeyVersion(seq, round(made, 3), self.model.get(key, seq, made))
                for seq, made, concerned in self.commits
                if key in concerned
            ]
            found = self.db.history(key)
            assert [e._replace(time=e.time and round(e.time, 3)) for e in found] == expected

    def check(self, as_of: int | datetime, seq: int, now: float) -> None:
        expected = {key: value for key, (value, _) in self.model.contents(seq, now).items()}
        assert dict(self.db.scan(as_of=as_of)) == expected
        assert self.db.multi_get(KEYS, as_of=as_of) == [expected.get(key) for key in KEYS]

    def instants(self) -> Iterator[tuple[int | datetime, int, float]]:
        """What to ask for, the newest commit that counts then, and the time."""
        for seq, made in enumerate(self.times):
            if seq:
                yield seq, seq, made
            for later in (made + 0.0005, made + 0.0015):
                if later <= self.world.clock.now():
                    newest = max(n for n, each in enumerate(self.times) if each <= later)
                    yield datetime.fromtimestamp(later, UTC), newest, later


@settings(max_examples=100)
@given(st.lists(steps, max_size=25))
def test_every_instant_is_what_the_model_was_then(script: list[Step]) -> None:
    story = Story()
    for step in script:
        story.do(step)
    for instant in story.instants():
        story.check(*instant)
    story.check_versions()
    story.world.end(story.db)


@settings(max_examples=100)
@given(st.lists(st.tuples(steps, st.sampled_from(["local", "object"])), max_size=25))
def test_an_instant_is_told_as_it_was_or_not_at_all(script: list[tuple[Step, str]]) -> None:
    """With a short retention, and a log of which only parts are in the bucket."""
    story = Story(history_retention=20.0, wal_retention="flushed")
    for step, level in script:
        if isinstance(step, tuple):
            story.world.clock.advance(0.002)
            story.commit(step, level)
        else:
            story.do(step)
    expires = any(each[0] == "put_ttl" for step, _ in script for each in step)
    for instant in story.instants():
        if expires and isinstance(instant[0], int):
            continue  # where its record is gone, the time of a commit is only known roughly
        with suppress(HistoryError):
            story.check(*instant)
    story.world.end(story.db)


def test_before_the_first_commit_there_was_nothing() -> None:
    assert Log([]).time_of(0) is None  # and it ends: nothing is before the beginning
    world = World(**ROOMY)
    with world.open() as db:
        assert list(db.scan(as_of=0)) == []
        db.put(b"a", b"1")
        assert list(db.scan(as_of=0)) == []
        db.flush()
        assert db.get(b"a", as_of=0) is None
        assert db.restore_in_place(0).restored_seq == 0
        assert list(db.scan()) == []


def test_what_is_newest_needs_nothing_but_the_local_log() -> None:
    world = World(**ROOMY, history_retention=600.0)
    with world.open() as db:
        first = db.put(b"a", b"1")
        world.clock.advance(1.0)
        then = world.clock.now()
        world.clock.advance(1.0)
        db.put(b"a", b"2")
        assert db.get(b"a", as_of=first) == b"1"
        assert db.get(b"a", as_of=then) == b"1"
        assert db.get(b"a") == b"2"
        assert [e.seq for e in db.scan_entries(as_of=first)] == [first]
        assert db.multi_get_entries([b"a"], as_of=first)[0] == (b"a", b"1", first)


def test_what_was_flushed_and_let_go_of_comes_from_the_shipped_log() -> None:
    world = World(**ROOMY, history_retention=600.0)
    with world.open() as db:
        seqs = [db.put(b"a", b"%d" % number, durability="object") for number in range(5)]
        db.flush()
        db.put(b"a", b"9")
        db.compact()
        for number, seq in enumerate(seqs):
            assert db.get(b"a", as_of=seq) == b"%d" % number


def test_a_gap_in_the_log_is_named_with_what_can_be_told() -> None:
    world = World(**ROOMY, history_retention=600.0)
    with world.open() as db:
        seqs = []
        for number in range(3):
            world.clock.advance(1.0)
            seqs.append(db.put(b"a", b"%d" % number))
        made = world.clock.now()
        world.clock.advance(1.0)
        db.flush()
        assert db.get(b"a", as_of=seqs[2]) == b"2"
        with pytest.raises(HistoryError, match=r"log from seq 1 on is not there.* seq 3 of"):
            db.get(b"a", as_of=seqs[1])
        with pytest.raises(HistoryError, match="log from seq 1 on"):
            db.get(b"a", as_of=made - 0.5)


def test_an_instant_before_the_retention_or_after_the_end_is_refused() -> None:
    world = World(**ROOMY, history_retention=600.0, wal_retention="count:100")
    with world.open() as db:
        began = world.clock.now()
        seqs = [db.put(b"a", b"1"), db.put(b"a", b"2")]
        world.clock.advance(1000.0)
        db.flush()
        world.clock.advance(1000.0)
        db.put(b"a", b"3")
        db.flush()
        world.clock.advance(500.0)
        db._engine.background.garbage.wake()
        assert db.get(b"a", as_of=seqs[1]) == b"2"
        with pytest.raises(HistoryError, match=r"before what is kept, which begins with seq 2"):
            db.get(b"a", as_of=began)
        with pytest.raises(HistoryError, match="before what is kept"):
            db.get(b"a", as_of=seqs[0])
        with pytest.raises(HistoryError, match="after the end"):
            db.get(b"a", as_of=1000)
        tomorrow = datetime.fromtimestamp(world.clock.now(), UTC) + timedelta(days=1)
        with pytest.raises(HistoryError, match="has not come yet"):
            db.get(b"a", as_of=tomorrow)


@pytest.mark.parametrize(
    "as_of",
    [
        *(-1, -0.5, True, "now", float("nan"), float("inf"), 1 << 63, 1e15),
        datetime(2024, 1, 1),  # noqa: DTZ001
        datetime.fromisoformat("0001-01-01T00:00+23:59"),
        datetime.fromisoformat("9999-12-31T23:59-23:59"),
    ],
)
def test_what_is_no_instant(as_of: Any) -> None:
    with World().open() as db, pytest.raises(InvalidRequestError, match="as_of"):
        db.get(b"a", as_of=as_of)


def test_what_a_view_needs_is_kept_while_it_is_used() -> None:
    world = World(history_retention=1.0, wal_retention="count:100")
    with world.open() as db:
        rows = fill(db, 30)
        seq = db.visible_seq
        db.flush()
        found = db.scan(as_of=seq)
        for _ in range(2):
            world.clock.advance(50.0)
            fill(db, 60, start=100)
            db.compact()
        world.clock.advance(2000.0)
        db._engine.background.garbage.wake()
        assert dict(found) == rows


def test_pages_as_of_one_instant_share_a_view() -> None:
    world = World(**ROOMY, history_retention=600.0)
    with world.open() as db:
        seqs = [db.put(b"a", b"%d" % number) for number in range(VIEWS_KEPT + 1)]
        db.get(b"a", as_of=seqs[0])
        asked = len(world.store.trace)
        for _ in range(5):
            assert list(db.scan(as_of=seqs[0], limit=1)) == [(b"a", b"0")]
        assert len(world.store.trace) == asked
        for seq in seqs:
            db.get(b"a", as_of=seq)
        assert len(db._time_travel._views) == VIEWS_KEPT


def test_a_view_that_is_not_used_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(**ROOMY, history_retention=600.0)
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(Timer, "call_later", lambda _, seconds, call: later.append(call))
    with world.open() as db:
        seqs = [db.put(b"a", b"%d" % number) for number in range(3)]
        del later[:]
        for seq in seqs:
            db.get(b"a", as_of=seq)
        world.clock.advance(VIEW_SECONDS / 2)
        db.get(b"a", as_of=seqs[0])
        for left in (1, 0):
            world.clock.advance(VIEW_SECONDS / 2)
            [look] = later
            later.clear()
            look()
            assert len(db._time_travel._views) == left
        assert not later


def test_what_was_collected_since_the_last_look_is_no_error() -> None:
    world = World(history_retention=10.0, wal_retention="count:100")
    with world.open() as db:
        db.get(b"a", as_of=db.put(b"a", b"1"))
        for _ in range(5):
            fill(db, 300)
            world.clock.advance(400.0)
            db._engine.background.garbage.wake()
        assert db.get(b"a", as_of=db.put(b"a", b"2")) == b"2"


def test_a_bucket_alone_tells_its_past() -> None:
    world = World(history_retention=10_000.0)
    with world.open() as db:
        seqs = []
        for number in range(30):
            world.clock.advance(1.0)
            seqs.append(db.put(b"k%d" % (number % 7), b"v" * 300, durability="object"))
        db.compact()
        began = world.clock.now()
    timeline, log = past_of(world.bucket)
    assert at_time(timeline, log, int(began * 1e6)).seq == seqs[-1]
    for seq in seqs:
        instant = at_seq(timeline, log, seq)
        assert instant.base.last_seq + len(instant.records) == seq
        assert at_time(timeline, log, instant.time_us).seq == seq
        state = state_of(world.bucket, instant.base)
        assert state.last_seq == instant.base.last_seq
    with pytest.raises(NotFoundError, match="no database"):
        past_of(World().bucket)
