"""The committer alone: its log on a simulated disk, its surroundings faked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from seerdb.clock import ForwardClock
from seerdb.errors import (
    SeerDBError,
)
from seerdb.ids import MAX_SEQ
from seerdb.storage.batch import Batch
from seerdb.storage.manifest.version import Version
from seerdb.storage.memtable import Memtable
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.state import LiveState, State
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.value import Version as StoredVersion
from seerdb.storage.wal.backlog import Place
from seerdb.storage.wal.writer import LogWriter
from seerdb.storage.write.commit import Committer
from seerdb.storage.write.poison import Poison
from seerdb.storage.write.request import LOCAL, MEMORY, Sink, Ticket
from seerdb.testing.clock import FakeClock
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.memtables import versions
from tests.unit.storage.tables import new_table_store
from tests.unit.storage.test_batch import batch_of


class FakeEnv:
    """Surroundings that note what they are asked."""

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self.admitted = 0
        self.pressure: Callable[[int, Callable[[], None]], int] = lambda *_: 1 << 40
        self.refusal: BaseException | None = None
        self.unreadable: SeerDBError | None = None
        self.memtables: list[Memtable] = []
        self.causes: list[BaseException] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.shipped: list[tuple[int, list[Ticket]]] = []

    def hold_back(self, appended: int, before_waiting: Callable[[], None]) -> int:
        return self.pressure(appended, before_waiting)

    def tend_log(self) -> None:
        """Nobody does it."""

    def check_disk(self) -> None:
        """There is room."""

    def begin(self, begin: Callable[[], None]) -> None:
        begin()

    def admit(self) -> None:
        self.admitted += 1
        if self.refusal is not None:
            raise self.refusal

    def sealed(self, memtable: Memtable, place: Place) -> None:
        self.memtables.append(memtable)

    def poisoned(self, cause: BaseException) -> None:
        self.causes.append(cause)

    def current_seq(self, key: bytes) -> int:
        if self.unreadable is not None:
            raise self.unreadable
        for memtable in self._live.current.memtables:
            if (version := memtable.find(key, MAX_SEQ)) is not None:
                return version[0] if version[1] is not None else 0
        return 0

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.later.append((seconds, call))

    def ship(self, tickets: list[Ticket], place: Place) -> None:
        self.shipped.append((place.seq, tickets))


class Rig:
    """A committer with everything around it."""

    def __init__(self, **settings: Any) -> None:
        self.files: Any = settings.get("files") or CrashableFileSystem()
        self.files.make_directory("wal")
        self.clock = FakeClock()
        self.log = LogWriter(
            self.files,
            "wal",
            database_id=bytes(16),
            epoch=1,
            segment_size=settings.get("segment_size", 64 << 10),
            sync="data",
            compression="none",
            direct=False,
            random=random.Random(1),
            clock=self.clock,
        )
        layout = Layout(Version(), new_table_store(MemoryObjectStore()), RowCache(lambda: 0))
        self.live = LiveState(State(Memtable([1]), (), layout), settings.get("seq", 0))
        self.env = FakeEnv(self.live)
        self.poison = Poison()
        self.committer = Committer(
            self.live,
            self.log,
            self.env,
            clock=ForwardClock(self.clock, settings.get("timestamp", 0)),
            poison=self.poison,
            memtable_capacity=settings.get("capacity", 1 << 20),
            sync_interval=0.5,
            lease=settings.get("lease"),
        )

    def put(
        self, key: bytes, value: bytes = b"v", level: int = LOCAL, expect: int | None = None
    ) -> int:
        expected = None if expect is None else (key, expect)
        return self.committer.commit(batch_of([("put", key, value)]), level, expected)

    def put_alone(self, key: bytes, value: bytes = b"v", level: int = MEMORY) -> int:
        """As ``DB.put`` does it: without a leader where that is possible."""
        seq = self.committer.head.lone_put(key, value) if level == MEMORY else 0
        return seq or self.put(key, value, level)

    def submit(
        self,
        batch: Batch,
        level: int,
        expect: tuple[bytes, int] | None,
        ticket: object,
        sink: Sink,
    ) -> None:
        submission = batch, None, expect, ticket
        for _, error in self.committer.pipeline.submit([submission], level, sink):
            raise error

    @property
    def syncs(self) -> int:
        return self.log.statistics().syncs

    def entries(self) -> dict[bytes, StoredVersion | None]:
        merged: dict[bytes, StoredVersion | None] = {}
        for memtable in reversed(self.live.current.memtables):
            merged |= versions(memtable)
        return merged

    @contextmanager
    def waiting(self, *calls: Callable[[], Any]) -> Iterator[list[Future[Any]]]:
        """Let the calls queue up, in this order, until the block is left."""
        futures = []
        with ThreadPoolExecutor(len(calls)) as pool, self.committer._mutex:
            for number, call in enumerate(calls, 1):
                futures.append(pool.submit(call))
                while len(self.committer._queue) < number:
                    pass
            yield futures
