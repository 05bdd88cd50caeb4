"""Publishing a new version: the manifest edit, then the state that reads look at (I5).

Both under one lock, in this order: were they two steps, a flush and a compaction that commit
one after the other could swap their layouts in the other order, and one change would be lost.
Before that, what reads will look for in the new tables is brought into memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from seerdb.ids import SegmentId, SeqNo, TableId
from seerdb.storage.manifest.edit import INGEST, RESTORE
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.state import LiveState
from seerdb.storage.tiers.pinning import Pins
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.tiers.warming import warm_flushed, warm_merged
from seerdb.storage.workers.pace import Pace


class _Insert(NamedTuple):
    """An ingest or a restore."""

    seq: SeqNo
    settled: Callable[[], None]


class Publisher:
    """The only one who commits edits of tables. Thread-safe.

    Retry what failed with the same arguments: an edit already in effect is not made twice.
    """

    def __init__(
        self,
        live: LiveState,
        manifest: ManifestWriter,
        tables: TableStore,
        pins: Pins,
        pace_for: Callable[[Purpose], Pace],
    ) -> None:
        """``pace_for``: the pace at which tables are brought into memory, for ``READ``."""
        self._live = live
        self._manifest = manifest
        self._tables = tables
        self._pace_for = pace_for
        self.pins = pins
        """Of the newest version that is shown."""
        self._lock = threading.Lock()
        # Guarded by the lock: finishes that of which it is not known whether its edit is in effect.
        self._in_doubt: Callable[[], None] | None = None
        self.warms = True
        """Whether new tables are brought into memory: not by a database that is closing."""

    def settled_version(self) -> Version:
        """The newest version. Does I/O, and raises, only to find out about one in doubt."""
        with self._lock:
            self._settle()
            return self._manifest.state.version

    @property
    def flushed_seq(self) -> int:
        """Everything up to here is in tables."""
        return self._manifest.state.last_seq

    def merged_elsewhere(self, inputs: Collection[TableMeta]) -> int:
        """A second before which nothing was merged that is not in ``inputs``, of keys in them."""
        # In this order: what a flush brings from the one to the other meanwhile is in both.
        memtables = self._live.current.memtables
        tables = self._manifest.state.version.tables
        ids = {table.id for table in inputs}
        start, end = min(each.smallest for each in inputs), max(each.largest for each in inputs)
        others = (table for table in tables if table.merges and table.id not in ids)
        if any(start <= table.largest and table.smallest <= end for table in others):
            return 0
        return min(memtable.oldest_operand for memtable in memtables)

    @property
    def expires(self) -> bool:
        """Whether something in the tables may expire."""
        return any(table.expiring for table in self._manifest.state.version.tables)

    def flushed(
        self, memtable: Memtable, table: TableMeta | None, log_start: int, *, warm: bool = True
    ) -> None:
        """``table`` holds what ``memtable`` held; the log is needed from ``log_start`` on.
        ``warm``: reads may look for all of it, not for its description only.

        When this raises, the edit may yet be in effect. Whatever is published or planned next
        finishes it first: else tables would be merged of which the memtable is still read, and
        which the next attempt would bring back.
        """
        warmed = None
        if table is not None and self.warms:
            warmed = warm_flushed(self._tables, table, self._pace_for(Purpose.READ), whole=warm)
        with self._lock:
            self._settle()
            if any(memtable is each for each in self._live.current.sealed):
                release = self._in_doubt = partial(self._release, memtable, table, log_start)
                release()
                self._in_doubt = None
        del warmed  # held until the layout holds what it warmed

    def _release(self, memtable: Memtable, table: TableMeta | None, log_start: int) -> None:
        state = self._manifest.commit(
            add=[table] if table else [],
            last_seq=SeqNo(memtable.last_seq),
            log_start=SegmentId(log_start),
            reason="flush",
        )
        former = self._live.current.layout
        former.rows.advance(memtable)
        layout = Layout(state.version, self._tables, former.rows, former=former)
        self._live.release(memtable, layout)
        self.pins.follow(state.version)

    def compacted(self, inputs: Sequence[TableId], outputs: Sequence[TableMeta]) -> None:
        """``outputs`` hold what ``inputs`` held; those that are no outputs leave the caches."""
        warmed = None
        if self.warms:
            warmed = warm_merged(self._tables, inputs, outputs, self._pace_for(Purpose.READ))
        with self._lock:
            self._settle()
            state = self._manifest.commit(add=outputs, remove=inputs, reason="compaction")
            former = self._live.current.layout
            layout = Layout(state.version, self._tables, former.rows, former=former)
            self._live.replace_layout(layout)
            self.pins.follow(state.version)
        self._tables.drop_cached(set(inputs) - {table.id for table in outputs})
        # Held until the layout holds what it warmed, and what is cached of the inputs is dropped.
        del warmed, former

    def ingested(self, tables: Sequence[TableMeta], seq: int, settled: Callable[[], None]) -> None:
        """``tables`` hold the commit ``seq``, as a new run above all others.

        ``settled`` is called once it is known whether they are shown, here or much later: until
        then they must not be deleted.

        Requires: everything before ``seq`` is in tables, and no write is made meanwhile. When
        this raises, nothing is shown; yet the edit may turn out to be in effect, which is found
        out before anything else is published or planned.
        """
        with self._lock:
            self._settle_before(settled)
            run = 1 + max((run.number for run in self._manifest.state.version.runs), default=0)
            add = [replace(_with_seq(table, seq), run=run) for table in tables]
            self._insert(add, (), _Insert(SeqNo(seq), settled), INGEST)

    def restored(self, version: Version, seq: int, settled: Callable[[], None]) -> None:
        """The commit ``seq`` puts ``version`` in the place of all there is; as :meth:`ingested`.

        Requires also: no merge is under way, and its tables are in the bucket.
        """
        with self._lock:
            self._settle_before(settled)
            there = {table.id: table for table in self._manifest.state.version.tables}
            wanted = {table.id: table for table in version.tables}
            add = [table for table in version.tables if there.get(table.id) != table]
            remove = [each for each, table in there.items() if wanted.get(each) != table]
            self._insert(add, remove, _Insert(SeqNo(seq), settled), RESTORE)

    def _settle_before(self, settled: Callable[[], None]) -> None:
        try:
            self._settle()
        except BaseException:
            settled()
            raise

    def _insert(
        self, add: Sequence[TableMeta], remove: Sequence[TableId], insert: _Insert, reason: str
    ) -> None:
        self._in_doubt = lambda: self._show_inserted(self._manifest.checkpoint(), insert)
        state = self._manifest.commit(add=add, remove=remove, last_seq=insert.seq, reason=reason)
        self._show_inserted(state, insert)
        self._in_doubt = None

    def _settle(self) -> None:
        if self._in_doubt:
            self._in_doubt()
            self._in_doubt = None

    def _show_inserted(self, state: ManifestState, insert: _Insert) -> None:
        former = self._live.current.layout
        layout = Layout(state.version, self._tables, former.rows.anew(), former=former)
        self._live.extend(layout, insert.seq)
        self.pins.follow(state.version)
        insert.settled()


def _with_seq(table: TableMeta, seq: int) -> TableMeta:
    """A table that was built before its seq was known."""
    sums = table.sums
    text = str(sums.with_seq(seq)) if sums else ""
    return replace(table, min_seq=seq, max_seq=seq, digest=text)
