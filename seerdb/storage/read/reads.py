"""Reading the current state: point reads that never block, ones that may, and scans.

Layers below find versions as they were written; here they become what people see: what is merged
is folded, what has expired is gone, and what lies in blobs is fetched. A :class:`View` expires
things by the time it was taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from seerdb.clock import ForwardClock
from seerdb.ids import MAX_SEQ
from seerdb.storage.blob.reader import BlobReader, Values
from seerdb.storage.blob.resolve import FIRST_BYTES, Resolver
from seerdb.storage.merge import Chunk
from seerdb.storage.operators import MergeOperator, show
from seerdb.storage.pointer import BlobPointer
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.lookup import (
    NO_BLOCK,
    Loaded,
    Need,
    Trace,
    find,
    find_in_tables,
    find_many,
    load,
)
from seerdb.storage.read.scan import Wanted, scan
from seerdb.storage.read.state import LiveState, State
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.value import (
    SECOND_US,
    Expiring,
    Merge,
    Shown,
    Value,
    Version,
    pointer_in,
    with_bytes,
)


class View(NamedTuple):
    """The database at one moment: a state, the newest seq seen of it, the second of expiry."""

    state: State
    at: int
    second: int


class Reads:
    """The read side of an open database. Thread-safe.

    Whatever returns a version raises ``MergeError`` where its operands do not fold.
    """

    def __init__(
        self,
        live: LiveState,
        tables: TableStore,
        blobs: BlobReader,
        clock: ForwardClock,
        operator: MergeOperator | None = None,
    ) -> None:
        self._live = live
        self._tables = tables
        self._blobs = blobs
        self._clock = clock
        self.operator = operator
        """Folds what was merged; may be set once, before anything was."""
        # Hints of how the database is used: racing readers may lose a count.
        self.gets_in_memory = 0
        """Keys of tables that were told without loading a block; what a memtable or the row cache
        told is not counted."""
        self.gets_loading = 0
        """Keys of tables for which blocks were loaded."""
        self.scans = 0

    @property
    def table_gets(self) -> int:
        """Keys that were looked for in tables, each once, when it was told."""
        return self.gets_in_memory + self.gets_loading

    @property
    def values_fetched(self) -> int:
        """Values that came from blobs."""
        return self._blobs.fetched

    def view(self) -> View:
        """The present moment, to be read later."""
        return View(*self._live.snapshot(), self._second())

    def _second(self) -> int:
        return self._clock.now_us() // SECOND_US

    def try_get(self, key: bytes) -> Shown | Need | None:
        """The newest version of a key, or what would have to be loaded to know. Never blocks."""
        state = self._live.current
        active = state.active
        place = active.newest.get(key)
        if place is not None:
            version = active.seqs[place], active.values[place]
            if active.plain:
                return version  # type: ignore[return-value]  # plain: as people see it
        if state.sealed or not active.plain:
            return self._show_newest(key)
        layout = state.layout
        rows = layout.rows
        row = rows.get(key)
        if row is not None:
            return row  # type: ignore[return-value]  # only such are kept
        found = find_in_tables(layout, key)
        if isinstance(found, Need):
            return found
        if found is not None:
            if not layout.plain and not _is_plain(found):
                return self._counted(self._show_if_at_hand(key, found))
            rows.offer(key, found, layout.generation)
        self.gets_in_memory += 1
        return found  # type: ignore[return-value]  # plain

    def _show_newest(self, key: bytes) -> Shown | Need | None:
        state = self._live.current
        trace = Trace()
        found = None if state.active.ranged else find(state, key, trace=trace)
        if state.active.ranged:
            # A batch with range deletes may be half applied; the lock waits it out.
            with self._live.lock:
                found = find(self._live.current, key, trace=trace)
        shown: Shown | Need | None
        if found is None or isinstance(found, Need):
            shown = found
        else:
            shown = self._show_if_at_hand(key, found)
        return self._counted(shown) if trace.reached_tables else shown

    def _counted(self, shown: Shown | Need | None) -> Shown | Need | None:
        """What the tables told, or what has to be loaded: then it is counted when that is done."""
        if not isinstance(shown, Need):
            self.gets_in_memory += 1
        return shown

    def _show_if_at_hand(self, key: bytes, version: Version) -> Shown | Need:
        if _is_plain(version):
            return version  # type: ignore[return-value]
        second = self._second()
        if _missing(version[1], second) is not None:
            return Need(None, NO_BLOCK, version[0])
        return show(key, version, self.operator, second)

    def _show(self, key: bytes, version: Version, second: int | None = None) -> Shown:
        """As people see it; may fetch a value."""
        if _is_plain(version):
            return version  # type: ignore[return-value]
        second = self._second() if second is None else second
        pointer = _missing(version[1], second)
        if pointer is not None:
            version = version[0], with_bytes(version[1], self._blobs.get(pointer))
        return show(key, version, self.operator, second)

    def get(self, key: bytes, *, fill: bool = True) -> Shown | None:
        """The newest version of a key; may load from disk or bucket. What any read loads is
        kept in the caches if ``fill``."""
        found = self.try_get(key)
        return self.finish(key, found, fill=fill) if isinstance(found, Need) else found

    def finish(self, key: bytes, need: Need, *, fill: bool = True) -> Shown | None:
        """Go on with a read that :meth:`try_get` could not finish; may load."""
        found, layout = self._newest(key, need, fill=fill)
        if found is None:
            return None
        shown = self._show(key, found)
        if fill and isinstance(found[1], BlobPointer):
            layout.rows.offer(key, shown, layout.generation)
        return shown

    def seq_of(self, key: bytes) -> int:
        """The seq of the newest version of a key, 0 if it is absent; may load, but no values."""
        shown = self.try_get(key)
        if isinstance(shown, Need) and not shown.seq:
            found, _ = self._newest(key, shown, fill=True)
            shown = None if found is None else self._show_if_at_hand(key, found)
        if isinstance(shown, Need):
            return shown.seq
        return 0 if shown is None or shown[1] is None else shown[0]

    def _newest(self, key: bytes, need: Need, *, fill: bool) -> tuple[Version | None, Layout]:
        """The newest version of a key, and the layout it may come from. Hold on to that: it keeps
        the blobs it points into."""
        state = self._live.current
        loaded: Loaded = {}
        if not need.seq:
            load(need, state.layout, self._tables, loaded, fill=fill)
        found = None
        if not state.active.ranged:
            found = self._find_loading(state, key, MAX_SEQ, loaded, fill=fill)
        if state.active.ranged:
            # A batch with range deletes may be half applied; a snapshot shows all of it or none.
            state, at = self._live.snapshot()
            found = self._find_loading(state, key, at, loaded, fill=fill)
        self._account(state.layout, 1, loaded)
        return found, state.layout

    def get_at(self, view: View, key: bytes, *, fill: bool = True) -> Shown | None:
        """The version of a key that a view shows; may load."""
        loaded: Loaded = {}
        found = self._find_loading(view.state, key, view.at, loaded, fill=fill)
        self._account(view.state.layout, 1, loaded)
        if found is None or type(found[1]) is bytes:
            return found  # type: ignore[return-value]  # plain
        return self._show(key, found, view.second)

    def _account(self, layout: Layout, keys: int, loaded: Loaded) -> None:
        """Count gets that are told, for which so much was loaded; a block is for one key. Rows give
        way to it."""
        if loaded:
            layout.rows.fit()
        loading = min(keys, len(loaded))
        self.gets_loading += loading
        self.gets_in_memory += keys - loading

    def _find_loading(
        self, state: State, key: bytes, at: int, loaded: Loaded, *, fill: bool
    ) -> Version | None:
        while isinstance(found := find(state, key, at, loaded), Need):
            load(found, state.layout, self._tables, loaded, fill=fill)
        return found

    def get_many_at(
        self, view: View, keys: list[bytes], *, fill: bool = True
    ) -> list[Shown | None]:
        """Versions of several keys of a view, fetching what it needs in parallel."""
        loaded: Loaded = {}
        found = find_many(view.state, keys, view.at, self._tables, loaded, fill=fill)
        self._account(view.state.layout, len(keys), loaded)
        if view.state.plain:
            return found  # type: ignore[return-value]  # all plain
        pointers = (version and _missing(version[1], view.second) for version in found)
        values = self._blobs.get_many(filter(None, pointers))
        return [
            None if version is None else self._show(key, _with(version, values), view.second)
            for key, version in zip(keys, found, strict=True)
        ]

    def scan(self, view: View, wanted: Wanted) -> Iterator[Chunk]:
        """What is ``wanted`` of a view, in chunks; see :func:`seerdb.storage.read.scan.scan`.
        Values are bytes, or ``None`` where a key is deleted or has expired; if only keys are
        wanted, any bytes may stand for those that would have to be fetched."""
        self.scans += 1
        chunks = scan(view.state, view.at, wanted, self._tables)
        if view.state.plain:
            return chunks
        second = view.second
        if wanted.keys_only:
            chunks = (_without_missing(chunk, second) for chunk in chunks)
        elif view.state.layout.pointed:
            resolver = Resolver(
                self._blobs, lambda value: _missing(value, second), at_first=FIRST_BYTES
            )
            chunks = chain.from_iterable(
                resolver.pieces(chunk, reverse=wanted.reverse) for chunk in chunks
            )
        return (self._show_all(chunk, second) for chunk in chunks)

    def _show_all(self, chunk: Chunk, second: int) -> Chunk:
        rows = zip(*chunk, strict=True)
        return chunk._replace(values=[self._show(k, (s, v), second)[1] for k, s, v in rows])


def _missing(value: Value, second: int) -> BlobPointer | None:
    """What has to be fetched to show ``value``, if anything; then it is not gone in ``second``."""
    whole = value.base if isinstance(value, Merge) else value
    if isinstance(whole, Expiring) and whole.expires <= second:
        return None
    return pointer_in(value)


def _with(version: Version, values: Values) -> Version:
    """``version`` with its bytes, if they are among ``values``."""
    pointer = pointer_in(version[1])
    data = values.get(pointer) if pointer is not None else None
    return version if data is None else (version[0], with_bytes(version[1], data))


def _without_missing(chunk: Chunk, second: int) -> Chunk:
    values = [value if _missing(value, second) is None else b"" for value in chunk.values]
    return chunk._replace(values=values)


def _is_plain(version: Version) -> bool:
    value = version[1]
    return value is None or type(value) is bytes
