"""Reading the current state: point reads that never block, ones that may, and scans."""

from __future__ import annotations

from collections.abc import Iterator

from seerdb.ids import MAX_SEQ
from seerdb.storage.lookup import Loaded, Need, find, find_in_tables, find_many, load
from seerdb.storage.memtable import Version
from seerdb.storage.merge import Chunk
from seerdb.storage.scan import scan
from seerdb.storage.state import LiveState, State
from seerdb.storage.table_store import TableStore


class Reads:
    """The read side of an open database. Thread-safe."""

    def __init__(self, live: LiveState, tables: TableStore) -> None:
        self._live = live
        self._tables = tables
        # Hints of how the database is used: racing readers may lose a count.
        self.table_gets = 0
        """Keys that were looked for in tables; what a memtable or the row cache told is not."""
        self.scans = 0

    def try_get(self, key: bytes) -> Version | Need | None:
        """The newest version of a key, or what would have to be loaded to know. Never blocks."""
        state = self._live.current
        active = state.active
        version = active.entries.get(key)
        if active.ranged:
            return self._find_whole(key)
        if version is not None:
            return version
        if state.sealed:
            return self._find_with_sealed(state, key)
        layout = state.layout
        rows = layout.rows
        version = rows.get(key)
        if version is not None:
            return version
        self.table_gets += 1
        found = find_in_tables(layout, key)
        if found is None or isinstance(found, Need):
            return found
        rows.offer(key, found, layout.generation)
        return found

    def _find_with_sealed(self, state: State, key: bytes) -> Version | Need | None:
        found = find(state, key)  # looks at the active memtable again
        return self._find_whole(key) if state.active.ranged else found

    def _find_whole(self, key: bytes) -> Version | Need | None:
        """A batch with range deletes may be half applied; the lock waits it out."""
        with self._live.lock:
            return find(self._live.current, key)

    def get(self, key: bytes) -> Version | None:
        """The newest version of a key; may load from disk or bucket."""
        found = self.try_get(key)
        return self.finish(key, found) if isinstance(found, Need) else found

    def finish(self, key: bytes, need: Need) -> Version | None:
        """Go on with a read that :meth:`try_get` could not finish; may load."""
        state = self._live.current
        loaded: Loaded = {}
        load(need, state.layout, self._tables, loaded)
        state.layout.rows.fit()
        if not state.active.ranged:
            found = self._find_loading(state, key, MAX_SEQ, loaded)
            if not state.active.ranged:
                return found
        # A batch with range deletes may be half applied; a snapshot shows all of it or none.
        state, at = self._live.snapshot()
        return self._find_loading(state, key, at, loaded)

    def get_at(self, state: State, key: bytes, at: int) -> Version | None:
        """The version of a key visible at ``at`` in a state; may load."""
        self.table_gets += 1
        return self._find_loading(state, key, at, {})

    def _find_loading(self, state: State, key: bytes, at: int, loaded: Loaded) -> Version | None:
        while isinstance(found := find(state, key, at, loaded), Need):
            load(found, state.layout, self._tables, loaded)
        return found

    def get_many(self, keys: list[bytes]) -> list[Version | None]:
        """Versions of several keys of one moment, fetching what it needs in parallel."""
        return self.get_many_at(*self._live.snapshot(), keys)

    def get_many_at(self, state: State, at: int, keys: list[bytes]) -> list[Version | None]:
        """As :meth:`get_many`, in a given state."""
        self.table_gets += len(keys)
        return find_many(state, keys, at, self._tables)

    def scan(self, start: bytes | None, end: bytes | None, *, reverse: bool) -> Iterator[Chunk]:
        """Chunks of ``[start, end)`` as of now; see :func:`seerdb.storage.scan.scan`."""
        return self.scan_at(*self._live.snapshot(), start, end, reverse=reverse)

    def scan_at(
        self, state: State, at: int, start: bytes | None, end: bytes | None, *, reverse: bool
    ) -> Iterator[Chunk]:
        """As :meth:`scan`, in a given state."""
        self.scans += 1
        return scan(state, start, end, at, self._tables, reverse=reverse)
