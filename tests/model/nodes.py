"""A database and all that may befall it: three machines that take over from each other, deaths at
any operation, a bucket that fails, clocks that step, settings that change from life to life."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import pytest

from seerdb import (
    DB,
    Batch,
    BusyError,
    ChecksumError,
    ConflictError,
    CorruptionError,
    FencedError,
    NotFoundError,
    SeerDBError,
    Snapshot,
    TruncatedError,
    UnavailableError,
    promote,
)
from seerdb.storage.retention.outputs import GRACE_SECONDS
from seerdb.testing.clock import FakeClock
from seerdb.testing.crash import CrashError
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.model import Contents, Model, Operation
from seerdb.testing.objects import MemoryObjectStore
from tests.crash.trace import add_to
from tests.fixtures.clones import Site

MAIN = "main"
KEYS = (
    *(
        b"\x00",
        b"\x00\x00",
        b"a",
        b"a\x00",
        b"a\xff",
        b"ab",
        b"abc",
        b"m" * 40,
        b"\xff",
        b"\xff\xff",
    ),
    *(b"k%02d" % number for number in range(12)),
)

SETTINGS: dict[str, tuple[Any, ...]] = {
    "memtable_capacity": (1024, 4096, 1 << 20),
    "wal_segment_size": (16 << 10, 64 << 10),
    "block_size": (256, 16 << 10),
    "block_cache_capacity": (0, 16 << 10, 1 << 20),
    "disk_cache_capacity": (0, 8 << 10, 1 << 20),
    "ship_interval": (0, 1.0),
    "history_retention": (0.0, 20.0, 10_000.0),
    "compaction": ("lazy_leveled", "leveled", "tiered", "adaptive"),
    "blob_threshold": (0, 1, 60),
    "compression": ("none", "zstd"),
    "wal_compression": ("none", "zstd"),
    "filter_bits_per_key": (0, 10),
    "filter_prefix": (0, 2),
    "index": ("bisect", "learned"),
    "pin_levels": (0, 2),
    "wal_retention": ("flushed", "count:3", "duration:60", "count:1000"),
    "recovery": ("strict", "point_in_time", "salvage"),
}

SURVIVORS = {"kill": "memory", "power": "local", "machine": "object"}
"""Ways to die, and the level of durability that outlives each."""


@dataclass(frozen=True)
class Former:
    """A writer that was taken over and does not know it."""

    db: DB
    site: Site
    node: str


class Nodes:
    """The database in the place ``main``, whoever has it open, and its model. Each verb is a
    method that takes what it draws from."""

    VERBS: ClassVar = {"commit": 60, "ingest": 3, "flush": 6, "compact": 3, "collect": 3, "wait": 4}
    VERBS |= {"set_back": 1, "snapshot": 3, "read_snapshot": 3, "iterate": 4, "reopen": 3, "die": 4}
    VERBS |= {"take_over": 3, "hear_a_former": 3, "fault": 3, "doom": 3}

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.clock = FakeClock(1_700_000_000.05)
        self.bucket = MemoryObjectStore(self.clock)
        self.disks = {node: CrashableFileSystem() for node in "abc"}
        self.node = "a"
        self.settings: dict[str, Any] = {"history_retention": 10_000.0, "table_size": 300}
        self.model = Model(self.now)
        self.lives = 0
        self.latest = 0.0
        self.started: DB | None = None
        self.snapshots: list[tuple[Snapshot, int, float]] = []
        self.iterators: list[tuple[Iterator[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]] = []
        self.formers: list[Former] = []
        self.verb = "open"
        self._begin(random.Random(seed))
        self.times = [self.now()]
        """Of each commit."""

    @property
    def db(self) -> DB:
        assert self.started is not None
        return self.started

    def now(self) -> float:
        """The latest time that there was: nobody's clock goes back behind it."""
        told = self.started._engine.opened.clock.now() if self.started else 0.0
        self.latest = max(self.latest, self.clock.now(), told)
        return self.latest

    # Lives.

    def _begin(self, draw: random.Random, *, promoting: bool = False) -> None:
        """Another life, on the present node, with other settings."""
        for name in draw.sample(list(SETTINGS), draw.choice([0, 2, 5])):
            self.settings[name] = draw.choice(SETTINGS[name])
        self.lives += 1
        self.site = Site(
            seed=1000 * self.seed + self.lives,
            files=self.disks[self.node],
            bucket=self.bucket,
            clock=self.clock,
            merge_operator="append",
            **self.settings,
        )
        values = self.site.settings
        components = self.site.components(values | {"place": MAIN})
        opening = promote if promoting else DB.open
        self.started = opening(f"data-{MAIN}", components=components, **values)

    def _recover(self, draw: random.Random, level: str, *, promoting: bool = False) -> None:
        """Open after an end that spares what was acknowledged at ``level``."""
        in_doubt = self.model._attempted and self.verb != "commit"
        self.started = None
        self.clock.set_now(self.latest)  # what only reads knew of the time is lost
        try:
            self._begin(draw, promoting=promoting)
        except ConflictError:  # a log that another node has overtaken
            self._begin(draw, promoting=True)
        low, high = self.model.may_survive(level)
        seq = self.db.visible_seq
        assert low <= seq <= high
        if in_doubt and seq == high:
            self._settle_insert()
        self.model.settle(seq)
        del self.times[seq + 1 :]
        self.times += [self.now()] * (seq + 1 - len(self.times))
        self.check()

    def _settle_insert(self) -> None:
        """An ingest or a restore in place whose end nobody knew has come into effect, or an empty
        commit has taken its seq."""
        if self._db_contents() != self._model_contents():
            self.model._states[-1] = dict(self.model._states[-2])

    def _forget(self) -> None:
        """What a life takes with it."""
        self.now()
        self.snapshots.clear()
        self.iterators.clear()

    def _bury(self, db: DB | None, site: Site) -> None:
        """A dead process reaches neither bucket nor disk any more; it may have died opening."""
        site.store._dead, site.files.crash_at = True, 0
        if db is not None:
            with suppress(CrashError):
                db._engine.runtime.close()

    def _die(self, draw: random.Random) -> None:
        self._forget()
        way = draw.choice(list(SURVIVORS))
        files = self.site.files
        if way == "kill":
            left = files.kill()
        elif way == "power":
            left = files.crash(random.Random(draw.random()))
        else:
            left = CrashableFileSystem()
        self._bury(self.started, self.site)
        self.disks[self.node] = left
        self._recover(draw, SURVIVORS[way])

    def _reopen(self, draw: random.Random) -> None:
        self._forget()
        self.db.close()
        self.model.secure(self.model.seq, "local" if self.is_faulty else "object")
        self._recover(draw, "local")

    def _take_over(self, draw: random.Random) -> None:
        """Another node does; this one was closed, or dies, or goes on as if nothing was."""
        self._forget()
        end = draw.choice(["close", "die", "go on"])
        if end == "close":
            self.db.close()
            self.model.secure(self.model.seq, "local" if self.is_faulty else "object")
        elif end == "die":
            self.disks[self.node] = self.site.files.kill()
            self._bury(self.db, self.site)
        else:
            self.formers.append(Former(self.db, self.site, self.node))
        self.node = draw.choice([node for node in self.disks if node != self.node])
        for former in [each for each in self.formers if each.node == self.node]:
            self.formers.remove(former)
            self.disks[self.node] = former.site.files.kill()
            self._bury(former.db, former.site)
        self.model.lose_disk()
        self._recover(draw, "object", promoting=draw.random() < 0.5)

    def _doom(self, draw: random.Random) -> None:
        """Die at an operation that is still to come."""
        files, store, after = self.site.files, self.site.store, draw.randrange(1, 25)
        if draw.random() < 0.6:
            store.crash_at = len(store.trace) + after
        else:
            files.crash_at, files.crash_halfway = len(files.trace) + after, draw.random() < 0.5

    # The bucket, and time.

    @property
    def is_faulty(self) -> bool:
        return bool(self.site.store._faults)

    def _fault(self, draw: random.Random) -> None:
        if self.is_faulty:
            self.heal()
            return
        store = self.site.store
        plan = draw.choice([store.fail, store.time_out_after, store.short, store.corrupt])
        reads, writes = ["get", "get_range"], ["put", "put_if_absent", "list", "delete"]
        operation = draw.choice(reads + writes * (plan in (store.fail, store.time_out_after)))
        plan(operation, skip=draw.randrange(6), times=draw.choice([1, 2, 5, 30]))

    def heal(self) -> None:
        self.site.store._faults.clear()
        self.clock.advance(120.0)

    def _wait(self, draw: random.Random) -> None:
        self.clock.advance(draw.choice([1.0, 6.0, 70.0, 400.0]))

    def _set_back(self, draw: random.Random) -> None:
        self.now()
        self.clock.set_now(self.clock.now() - draw.choice([1.0, 30.0, 1000.0]))

    # One step.

    def step(self, verb: str, draw: random.Random) -> None:
        """Do it, and whatever follows from what happens on the way."""
        self.verb = verb
        self.clock.advance(0.01)
        if not 0.02 < self.clock.now() % 1 < 0.9:
            self.clock.advance(0.15)  # what expires does so between steps
        try:
            getattr(self, f"_{verb}")(draw)
            if not self.is_faulty and draw.random() < 0.3:
                self.check()
        except CrashError:
            self._die(draw)
        except (UnavailableError, BusyError, NotFoundError, TruncatedError, ChecksumError) as error:
            if not (self.is_faulty or "in this repository" in str(error)):
                raise  # a lock that a backup left which could not let go of it
            if self.model._attempted:
                self._find_out(draw)

    def _find_out(self, draw: random.Random) -> None:
        """Whether what failed happened all the same."""
        self.site.store.crash_at = self.site.files.crash_at = None
        self.heal()
        if draw.random() < 0.5:
            self._die(draw)
            return
        self.db.flush()
        seq = self.db.visible_seq
        if seq < self.model.seq:
            self.model.refuse()
        else:
            self._settle_insert()
            self._made(seq, "object")
        self.check()

    def _made(self, seq: int, level: str) -> None:
        self.model.acknowledge(seq, level)
        self.times[seq:] = [self.now()]

    # Writes.

    def _operation(self, draw: random.Random) -> Operation:
        kinds = {"put": 8, "delete": 3, "delete_range": 1, "put_ttl": 3, "merge": 4}
        [kind] = draw.choices(list(kinds), list(kinds.values()))
        if kind == "delete_range":
            ordered, start = sorted(KEYS), draw.randrange(len(KEYS) - 1)
            return kind, ordered[start], ordered[draw.randrange(start + 1, len(KEYS))]
        if kind == "delete":
            return kind, draw.choice(KEYS), b""
        size = draw.choice([0, 1, 20] if kind == "merge" else [0, 1, 5, 60, 150])
        return kind, draw.choice(KEYS), draw.randbytes(3) * size

    def _commit(self, draw: random.Random) -> None:
        operations = [self._operation(draw) for _ in range(draw.choice([1, 1, 1, 2, 6]))]
        level = draw.choice(["memory", "interval", "local", "object"])
        batch = Batch()
        add_to(batch, operations)
        self.model.attempt(operations)
        try:
            self._made(self.db.write(batch, durability=level), level)
        except BusyError:
            self.model.refuse()
            raise
        except UnavailableError:
            self._made(self.model.seq, "local")  # here it is durable, in the bucket unknown
            raise

    def _ingest(self, draw: random.Random) -> None:
        count = draw.choice([1, 4, 20])
        pairs = [(draw.choice(KEYS), draw.randbytes(20)) for _ in range(count)]
        self.model.attempt([("put", *pair) for pair in pairs])
        self._made(self.db.ingest(pairs).seq, "object")

    def _flush(self, draw: random.Random) -> None:
        assert self.db.flush().last_seq == self.model.seq
        self.model.secure(self.model.seq, "object")

    def _compact(self, draw: random.Random) -> None:
        low, high = sorted(draw.sample(KEYS, 2))
        self.db.compact(draw.choice([None, low]), draw.choice([None, high]))
        self.model.secure(self.model.seq, "object")

    def _collect(self, draw: random.Random) -> None:
        self.clock.advance(2 * GRACE_SECONDS)
        self.db._engine.background.garbage.wake()

    def _hear_a_former(self, draw: random.Random) -> None:
        """It changes nothing that anybody else sees; at most it reads what is no more."""
        if not self.formers:
            return
        former = draw.choice(self.formers)
        db, is_faulty = former.db, bool(former.site.store._faults)
        refusal = SeerDBError if is_faulty else FencedError
        verb = draw.choice(["put", "object", "ingest", "flush", "compact", "scan", "close"])
        with suppress(FencedError, UnavailableError, BusyError, CorruptionError):
            if verb == "put":
                db.put(b"void", b"")
            elif verb == "object":
                with pytest.raises(refusal):
                    db.put(b"void", b"", durability="object")
            elif verb == "ingest":
                with pytest.raises(refusal):
                    db.ingest([(b"void", b"")])
            elif verb == "scan":
                list(db.scan())
            elif verb == "close":
                self.formers.remove(former)
                db.close()
            else:
                getattr(db, verb)()

    # Reads.

    def _db_contents(self) -> dict[bytes, tuple[bytes, int]]:
        return {entry.key: (entry.value, entry.seq) for entry in self.db.scan_entries()}

    def _model_contents(self) -> Contents:
        return self.model.contents(now=self.now())

    def check(self) -> None:
        """All of it, by every way to read."""
        now = self.now()
        assert self.db.visible_seq == self.model.seq
        assert self._db_contents() == self._model_contents()
        assert self.db.multi_get(list(KEYS)) == [self.model.get(key, now=now) for key in KEYS]
        assert list(self.db.scan(reverse=True)) == self.model.scan(reverse=True, now=now)

    def _snapshot(self, draw: random.Random) -> None:
        self.snapshots.append((self.db.snapshot(), self.model.seq, self.now()))

    def _read_snapshot(self, draw: random.Random) -> None:
        """And close it, one time in two."""
        if not self.snapshots:
            return
        kept = draw.choice(self.snapshots)
        snapshot, at, now = kept
        assert snapshot.seq == at
        assert list(snapshot.scan()) == self.model.scan(at=at, now=now)
        if draw.random() < 0.5:
            self.snapshots.remove(kept)
            snapshot.close()

    def _iterate(self, draw: random.Random) -> None:
        """Begin a scan, or go on with one, over whatever came between."""
        if not self.iterators or draw.random() < 0.3:
            reverse = draw.random() < 0.5
            expected = self.model.scan(reverse=reverse, now=self.now())
            self.iterators.append((self.db.scan(reverse=reverse), expected))
        rows, expected = self.iterators.pop(draw.randrange(len(self.iterators)))
        count = draw.choice([1, 3, 100])
        assert list(islice(rows, count)) == expected[:count]
        if count < 100:
            self.iterators.append((rows, expected[count:]))
