"""Reading an open database as of an instant that is over, without restoring anything.

A view of the past is the tables of then and a memtable with the log after them, read as any view
is (``read/reads.py``). Views are kept for a while: a scan in pages, or many reads as of one
instant, make one. What a view names stays in the bucket as long as the view is there, as for a
snapshot.

The log comes from the segments that are on this disk still, and from the bucket for what was let go
of here. Flushes go on beside: where one takes a segment away that is being read, the reading looks
again and goes on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from seerdb.clock import ForwardClock, when
from seerdb.errors import HistoryError, InvalidRequestError, NotFoundError
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.store import FetchMany
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import BLOB_PREFIX, TABLE_PREFIX
from seerdb.storage.operators import MergeOperator
from seerdb.storage.outward import check_may_wait
from seerdb.storage.past.history import Instant, live_instant
from seerdb.storage.past.log import Log, live_log
from seerdb.storage.past.versions import KeyVersion, versions
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.reads import Reads, View
from seerdb.storage.read.state import State
from seerdb.storage.retention.timeline import (
    Mark,
    Timeline,
    follow,
    instant_us,
    read_timeline,
    state_of,
)
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.value import SECOND_US
from seerdb.storage.wal.replay import Replay

AsOf = int | float | datetime
"""An instant: a seq (whole number), seconds since 1970, or a time with a zone."""

VIEWS_KEPT = 4
VIEW_SECONDS = 60.0
"""How many views are kept, and for how long after their last use."""


class Sources(NamedTuple):
    """What an open database reads its past from."""

    store: ObjectStore
    manifest: ManifestWriter
    tables: TableStore
    files: FileSystem
    wal: str
    """Directory of the local log."""
    position: Callable[[], tuple[int, int, int] | None]
    """Active segment, how much of it is synced, and the last seq in that; syncs first."""
    clock: ForwardClock
    operator: MergeOperator | None
    new_row_cache: Callable[[], RowCache]
    call_later: Callable[[float, Callable[[], None]], None]
    fetch_many: FetchMany


class TimeTravel:
    """Views of the past of an open database. Thread-safe."""

    def __init__(self, sources: Sources, retention: float) -> None:
        self._sources = sources
        self._retention_us = int(retention * SECOND_US)
        # Guarded by the lock, under which views are made, one at a time.
        self._lock = threading.Lock()
        self._timeline: Timeline | None = None
        self._views: OrderedDict[tuple[str, int], tuple[View, float]] = OrderedDict()
        self._looks_later = False

    def view(self, as_of: AsOf) -> View:
        """The database as of an instant. Holds in memory what was committed between the tables of
        then and the instant.

        Raises: ``InvalidRequestError``, ``HistoryError``, ``CorruptionError``, ``DiskError``,
        ``UnavailableError``.
        """
        wanted = instant_of(as_of)
        with self._lock:
            view, _ = self._views.pop(wanted, (None, 0.0))
            if view is None:
                view = self._make(*wanted)
            self._views[wanted] = view, self._sources.clock.monotonic()
            if len(self._views) > VIEWS_KEPT:
                self._views.popitem(last=False)
            self._look_later()
        return view

    def _look_later(self) -> None:
        if self._views and not self._looks_later:
            self._sources.call_later(VIEW_SECONDS, self._let_go)
            self._looks_later = True

    def _let_go(self) -> None:
        """Drop the views that were not used for long."""
        with self._lock:
            old = self._sources.clock.monotonic() - VIEW_SECONDS
            for wanted, (_, used) in list(self._views.items()):
                if used <= old:
                    del self._views[wanted]
            self._looks_later = False
            self._look_later()

    def versions(self, key: bytes, reads: Reads) -> list[KeyVersion]:
        """What the key held since the retention begins; see :func:`versions`. Reads all of the log
        since then."""
        position = self._position()

        def look() -> tuple[list[Mark], Log]:
            with self._lock:
                timeline, log = self._look(position)
                return list(timeline.marks), log

        operator = self._sources.operator
        return versions(key, look, reads=reads, view_of=self.view_of, operator=operator)

    def _make(self, kind: str, wanted: int) -> View:
        sources = self._sources
        if kind == "time" and wanted > (now := sources.clock.now_us()):
            raise HistoryError(f"{when(wanted)} has not come yet; it is {when(now)}")
        position = self._position()
        return self.view_of(live_instant(lambda: self._look(position), kind, wanted))

    def _position(self) -> tuple[int, int, int]:
        """Up to where the log goes that is read: all that is committed by now. Syncs first."""
        check_may_wait("a read of the past")
        position = self._sources.position()
        assert position is not None, "it waits for writers as long as they take"
        return position

    def _look(self, position: tuple[int, int, int]) -> tuple[Timeline, Log]:
        """What there is of the past up to a position. Requires: the lock."""
        sources = self._sources
        database = sources.manifest.state.database_id
        log = live_log(sources.files, sources.wal, sources.store, database, position)
        # Now, as it tells of the tables that hold what the log has let go of.
        return self._up_to_date(), log

    def view_of(self, instant: Instant) -> View:
        """What people see at an instant."""
        sources = self._sources
        state = state_of(sources.store, instant.base, sources.fetch_many)
        layout = Layout(state.version, sources.tables, sources.new_row_cache())
        memtable = Memtable([], sources.operator)
        if instant.records:
            replay = Replay(instant.base.last_seq, sources.operator)
            replay.take(instant.records)
            memtable = replay.memtable([])
        return View(State(memtable, (), layout), instant.seq, instant.time_us // SECOND_US)

    def _up_to_date(self) -> Timeline:
        sources = self._sources
        since_us = sources.clock.now_us() - self._retention_us
        timeline, self._timeline = self._timeline, None  # read anew if this fails
        try:
            timeline = timeline or self._read(since_us)
            follow(timeline, sources.store, sources.manifest.state.number)
        except NotFoundError:  # collected since it was looked at last
            timeline = self._read(since_us)
        timeline.forget(since_us)
        self._timeline = timeline
        return timeline

    def _read(self, since_us: int) -> Timeline:
        store = self._sources.store
        timeline = read_timeline(store, since_us, fetch_many=self._sources.fetch_many)
        assert timeline is not None, "there is a manifest: the database is open"
        objects = store.list(TABLE_PREFIX) + store.list(BLOB_PREFIX)
        timeline.keep_whole({info.name for info in objects})
        return timeline


def instant_of(as_of: object) -> tuple[str, int]:
    """``seq`` or ``time``, and which, in microseconds. Raises: ``InvalidRequestError``."""
    if isinstance(as_of, datetime):
        if as_of.tzinfo is None:
            raise InvalidRequestError(f"as_of must say its time zone, unlike {as_of}")
        since = as_of - datetime.fromtimestamp(0, UTC)
        instant_us(since.total_seconds(), "as_of")
        return "time", (since.days * 86_400 + since.seconds) * SECOND_US + since.microseconds
    if isinstance(as_of, bool) or not isinstance(as_of, int | float):
        raise InvalidRequestError(
            f"as_of must be a seq, seconds since 1970 or a datetime, not {type(as_of).__name__}"
        )
    if not 0 <= as_of < 1 << 62:
        raise InvalidRequestError(f"as_of must be at least 0 and no more than 2^62, not {as_of}")
    if isinstance(as_of, float):
        return "time", instant_us(as_of, "as_of")
    return "seq", as_of
