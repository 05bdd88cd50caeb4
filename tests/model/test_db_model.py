"""A database beside a dict with history, driven by Hypothesis: whatever is done in whatever
order, through flushes, compactions, reopens and crashes, both say the same."""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from seerdb import DB, ConflictError, Snapshot
from seerdb.testing.model import Model, Operation
from tests.crash.trace import Write, add_to, commit
from tests.fixtures.database import World

KEYS = [
    b"\x00",
    b"\x00\x00",
    b"a",
    b"a\x00",
    b"a\x00b",
    b"a\xff",
    b"ab",
    b"abc",
    b"b",
    b"m" * 40,
    b"\xfe",
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
]
"""Few, so that they meet; with the bytes at the ends, and some the prefix of others."""

keys = st.sampled_from(KEYS)
values = st.sampled_from([b"", b"1", b"\x00", b"two", b"v" * 300, b"w" * 900])
operands = st.sampled_from([b"", b"+1", b"+2", b"o" * 200])
levels = st.sampled_from(["memory", "local", "local", "object"])
ranges = st.tuples(keys, keys).filter(lambda pair: pair[0] < pair[1])
operations: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("delete"), keys, st.just(b"")),
    ranges.map(lambda pair: ("delete_range", *pair)),
    st.tuples(st.just("put_ttl"), keys, values),
    st.tuples(st.just("merge"), keys, operands),
    st.tuples(st.just("merge"), keys, operands),
)
bounds = st.one_of(st.none(), keys)

CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"block_cache_capacity": 0, "disk_cache_capacity": 2048, "table_size": 300},
    {"filter_bits_per_key": 0, "compression": "none", "table_size": 300},
    {"wal_compression": "zstd", "memtable_capacity": 1 << 20, "wal_segment_size": 1 << 20},
    {"wal_retention": "count:2", "memtable_capacity": 1024, "table_size": 300},
    {"compaction": "leveled", "memtable_capacity": 1024, "table_size": 300},
    {"blob_threshold": 200, "memtable_capacity": 2048},
    {"blob_threshold": 1, "table_size": 300},
]


class Kept(NamedTuple):
    """A snapshot, and the life of the process and the time that it was taken in."""

    snapshot: Snapshot
    life: int
    taken: float


class DatabaseMachine(RuleBasedStateMachine):
    """See the module docstring."""

    snapshots: Bundle[Kept] = Bundle("snapshots")

    @initialize(configuration=st.sampled_from(CONFIGURATIONS))
    def start(self, configuration: dict[str, Any]) -> None:
        self.world = World(merge_operator="append", **configuration)
        self.latest = 0.0
        self.model = Model(self._now)
        self.life = 0
        self.db: DB = self.world.open()

    def _now(self) -> float:
        """The latest time there was: nobody's clock goes back behind it. That of the database is
        ahead by the microseconds that set records of the manifest apart."""
        told = self.db._engine.opened.clock.now() if hasattr(self, "db") else 0.0
        self.latest = max(self.latest, self.world.clock.now(), told)
        return self.latest

    @rule(operation=operations, level=levels)
    def write(self, operation: Operation, level: str) -> None:
        self.commit([operation], level)

    @rule(batch=st.lists(operations, min_size=2, max_size=6), level=levels)
    def write_batch(self, batch: list[Operation], level: str) -> None:
        self.commit(batch, level)

    @rule(pairs=st.lists(st.tuples(keys, values), min_size=1, max_size=6))
    def ingest(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.model.attempt([("put", *pair) for pair in pairs])
        self.model.acknowledge(self.db.ingest(pairs).seq, "object")

    @rule(batch=st.lists(operations, max_size=4))
    def drop_batch(self, batch: list[Operation]) -> None:
        with pytest.raises(ZeroDivisionError):
            self._begin_batch(batch)

    def _begin_batch(self, batch: list[Operation]) -> None:
        with self.db.batch() as dropped:
            add_to(dropped, batch)
            raise ZeroDivisionError

    def commit(self, batch: list[Operation], level: str) -> None:
        self.model.attempt(batch)
        self.model.acknowledge(commit(self.db, Write(tuple(batch), level)), level)

    @rule(key=keys, value=values, off=st.integers(0, 1))
    def write_if(self, key: bytes, value: bytes, off: int) -> None:
        found = self.model.contents().get(key)
        expect = (found.seq if found else 0) + off
        if off:
            with pytest.raises(ConflictError):
                self.db.put(key, value, expect=expect)
        else:
            self.model.attempt([("put", key, value)])
            self.model.acknowledge(self.db.put(key, value, expect=expect), "local")

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.db.get(key) == self.model.get(key)
        entry, found = self.db.get_entry(key), self.model.contents().get(key)
        assert (entry and (entry.value, entry.seq)) == found

    @rule(wanted=st.lists(keys, max_size=8))
    def multi_get(self, wanted: list[bytes]) -> None:
        assert self.db.multi_get(wanted) == [self.model.get(key) for key in wanted]

    @rule(
        start=bounds,
        end=bounds,
        prefix=st.one_of(st.none(), st.sampled_from([b"", b"\x00", b"a", b"a\x00", b"\xff"])),
        reverse=st.booleans(),
        limit=st.one_of(st.none(), st.integers(0, 5)),
    )
    def scan(self, **arguments: Any) -> None:
        if None not in (arguments["start"], arguments["end"]):
            arguments["start"], arguments["end"] = sorted((arguments["start"], arguments["end"]))
            if arguments["start"] == arguments["end"]:
                arguments["end"] = None
        expected = self.model.scan(**arguments)
        assert list(self.db.scan(**arguments)) == expected
        assert list(self.db.scan(keys_only=True, **arguments)) == [key for key, _ in expected]

    @rule(target=snapshots)
    def take_snapshot(self) -> Kept:
        snapshot = self.db.snapshot()
        assert snapshot.seq == self.model.seq
        return Kept(snapshot, self.life, self._now())

    @rule(kept=snapshots, key=keys, reverse=st.booleans())
    def read_snapshot(self, kept: Kept, key: bytes, reverse: bool) -> None:
        snapshot, life, now = kept
        if life != self.life:
            return
        model, at = self.model, snapshot.seq
        assert snapshot.get(key) == model.get(key, at, now)
        assert snapshot.multi_get(KEYS) == [model.get(each, at, now) for each in KEYS]
        assert list(snapshot.scan(reverse=reverse)) == model.scan(reverse=reverse, at=at, now=now)
        assert list(snapshot.scan(key, limit=2)) == model.scan(key, limit=2, at=at, now=now)

    @rule(kept=consumes(snapshots))
    def close_snapshot(self, kept: Kept) -> None:
        kept.snapshot.close()

    @rule(reverse=st.booleans(), operation=operations, level=levels, flush=st.booleans())
    def write_during_a_scan(
        self, reverse: bool, operation: Operation, level: str, flush: bool
    ) -> None:
        expected = self.model.scan(reverse=reverse)
        rows = self.db.scan(reverse=reverse)
        first = list(islice(rows, 2))
        self.world.clock.advance(3.0)
        self.commit([operation], level)
        if flush:
            self.flush()
        assert first + list(rows) == expected

    @rule()
    def flush(self) -> None:
        assert self.db.flush().last_seq == self.model.seq
        self.model.secure(self.model.seq, "object")

    @rule(
        bounds=st.sampled_from(
            [(None, None), (None, b"b"), (b"a", None), (b"a", b"b"), (b"\x00", b"a\xff")]
        )
    )
    def compact(self, bounds: tuple[bytes | None, bytes | None]) -> None:
        self.db.compact(*bounds)
        self.model.secure(self.model.seq, "object")
        if bounds == (None, None):
            assert self.db.statistics().runs <= 1

    @rule(seconds=st.sampled_from([0.25, 1.0, 6.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from([0.5, 5.0, 1000.0]))
    def set_the_clock_back(self, seconds: float) -> None:
        self.world.clock.set_now(self.world.clock.now() - seconds)

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.life += 1
        self.db = self.world.open()
        assert self.db.visible_seq == self.model.seq

    @rule(seed=st.integers(0, 3))
    def kill(self, seed: int) -> None:
        self.crash(self.world.kill(seed), "memory")

    @rule(seed=st.integers(0, 9))
    def lose_power(self, seed: int) -> None:
        self.crash(self.world.lose_power(seed), "local")

    @rule(seed=st.integers(0, 3))
    def lose_machine(self, seed: int) -> None:
        self.crash(self.world.lose_machine(seed), "object")

    def crash(self, world: World, level: str) -> None:
        # What only reads knew of the time is lost; commits and the manifest knew less.
        world.clock.set_now(self._now())
        self.world = world
        self.life += 1
        self.db = world.open()
        low, high = self.model.may_survive(level)
        assert low <= self.db.visible_seq <= high
        self.model.settle(self.db.visible_seq)

    @invariant()
    def everything_is_there(self) -> None:
        found = [(entry.key, (entry.value, entry.seq)) for entry in self.db.scan_entries()]
        assert found == sorted(self.model.contents().items())

    def teardown(self) -> None:
        if hasattr(self, "db"):
            report = self.db.verify()
            assert report.ok, report.problems


TestDatabase = DatabaseMachine.TestCase
TestDatabase.settings = settings(
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
