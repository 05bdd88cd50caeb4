"""Publishing a new version: the manifest edit, then the state that reads look at (I5).

Both under one lock, in this order: were they two steps, a flush and a compaction that commit
one after the other could swap their layouts in the other order, and one change would be lost.
Before that, what reads will look for in the new tables is brought into memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from seerdb.ids import SegmentId, SeqNo, TableId
from seerdb.storage.layout import Layout
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.memtable import Memtable
from seerdb.storage.state import LiveState
from seerdb.storage.table_store import TableStore
from seerdb.storage.warming import warm_flushed, warm_merged


class Publisher:
    """The only one who commits edits of tables. Thread-safe.

    Retry what failed with the same arguments: an edit already in effect is not made twice.
    """

    def __init__(self, live: LiveState, manifest: ManifestWriter, tables: TableStore) -> None:
        self._live = live
        self._manifest = manifest
        self._tables = tables
        self._lock = threading.Lock()
        self.warms = True
        """Whether new tables are brought into memory: not by a database that is closing."""

    @property
    def version(self) -> Version:
        """The newest version."""
        return self._manifest.state.version

    def flushed(self, memtable: Memtable, table: TableMeta | None, log_start: int) -> None:
        """``table`` holds what ``memtable`` held; the log is needed from ``log_start`` on."""
        warmed = warm_flushed(self._tables, table) if table and self.warms else None
        with self._lock:
            state = self._manifest.commit(
                add=[table] if table else [],
                last_seq=SeqNo(memtable.last_seq),
                log_start=SegmentId(log_start),
                reason="flush",
            )
            rows = self._live.current.layout.rows
            rows.advance(memtable)
            self._live.release(memtable, Layout(state.version, self._tables, rows))
        del warmed

    def compacted(self, inputs: Sequence[TableId], outputs: Sequence[TableMeta]) -> None:
        """``outputs`` hold what ``inputs`` held."""
        warmed = warm_merged(self._tables, inputs, outputs) if self.warms else None
        with self._lock:
            state = self._manifest.commit(add=outputs, remove=inputs, reason="compaction")
            rows = self._live.current.layout.rows
            self._live.replace_layout(Layout(state.version, self._tables, rows))
        del warmed
