"""Which objects nobody needs any more, and the only place that deletes objects.

:func:`collectable` decides and is pure. :class:`GarbageCollector` reads the manifest afresh,
decides and deletes; whenever the manifest is not beyond doubt it deletes nothing and says why.

Never deleted: what the version names, shipped log that reaches past the tables, what instants
within the retention need of tables, records and log (see ``timeline.py``), objects of a later
epoch, claims (they are the fences, see ``manifest/edit.py``), the last two checkpoints and all that
follows, anything younger than the grace period, tables and blobs that were begun while it runs,
anything the caller keeps with the blobs that were made with it, what a checkpoint or a hold names,
and any name that is not ours. Those are read after the manifest and before anything is deleted,
which is what whoever makes them relies on (see ``checkpoints.py``). One that has expired goes
first, and what only it has kept goes with a later run, so that none is ever there without all that
it names.

Ages and the retention go by the wall clock, but since the opening no more time passes than the
monotonic clock has counted: a clock that is set forward makes nothing old.

The branches of the shipped log (see ``shipping/shipped.py``) stay: each voids what every lower
epoch has shipped, or ships yet, however late, and tells which commits were lost (see
``opening/lineage.py``). They are empty, and there is one for each takeover.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from msgspec.structs import replace

from seerdb.clock import Clock
from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import Epoch, SeqNo, TableId, maker_of, table_id
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import Version
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
from seerdb.storage.object_store.borrowing import lender_of
from seerdb.storage.object_store.lender import NO_LOANS, Loans
from seerdb.storage.object_store.names import (
    BLOB_PREFIX,
    MANIFEST_PREFIX,
    PROBE_PREFIX,
    TABLE_PREFIX,
    WAL_PREFIX,
    blob_name,
    is_probe_name,
    manifest_name,
    parse_blob_name,
    parse_manifest_name,
    parse_table_name,
    parse_wal_name,
    table_name,
)
from seerdb.storage.retention.kept import has_expired, list_kept
from seerdb.storage.retention.timeline import Needed, Timeline, follow, read_timeline

COLLECT_EVERY = 8
"""One epoch in so many collects at its first flush: processes that never live for a grace period
would collect nothing at all otherwise, and listing the bucket each time would double what such
a short life asks of it."""


def collectable(
    objects: list[ObjectInfo],
    state: ManifestState,
    *,
    now: float,
    grace_seconds: float,
    keep: set[str],
    past: Needed | None = None,
    first_new: TableId | None = None,
) -> list[str]:
    """The names among ``objects`` that may be deleted, in their order.

    Requires: all of the shipped log that the store lists is among ``objects``. ``now`` and the
    age of an object are wall-clock seconds. ``past``: what earlier instants need. ``first_new``:
    tables of this id and later ones, and blobs made with them, are in use or may yet be.
    """
    first_new = first_new or table_id(Epoch(state.epoch + 1), 0)
    past = past or Needed(state.number, state.last_seq, frozenset())
    keep = keep | past.names
    over = replace(
        state,
        checkpoint_before=min(state.checkpoint_before, past.number),
        last_seq=min(state.last_seq, SeqNo(past.seq)),
    )
    in_use = keep | {name for table in state.version.tables for name in table.objects}
    in_use |= {manifest_name(number) for number in state.claims}
    return [
        info.name
        for info in objects
        if info.modified < now - grace_seconds
        and info.name not in in_use
        and _table_with(info.name) not in keep
        and _is_past(info.name, over, first_new)
    ]


def _table_with(name: str) -> str | None:
    """The table that a blob was made with: while that one is kept because no manifest names it yet,
    none tells what it points into."""
    blob = parse_blob_name(name)
    return table_name(maker_of(blob)) if blob else None


def _is_past(name: str, state: ManifestState, first_new: TableId) -> bool:
    """Whether an object of this name, if nothing uses it, belongs to what is over."""
    blob = parse_blob_name(name)
    if (table := maker_of(blob) if blob else parse_table_name(name)) is not None:
        return table < first_new
    if (number := parse_manifest_name(name)) is not None:
        return number < state.checkpoint_before
    if (shipped := parse_wal_name(name)) is not None:
        epoch, first, last = shipped
        return first <= last <= state.last_seq and epoch <= state.epoch
    return is_probe_name(name)


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What one run did."""

    deleted: tuple[str, ...] = ()
    bytes: int = 0
    """Sizes of the deleted, as listed."""
    refused: str = ""
    """Why nothing was deleted although there was work to do; "" when nothing stood against."""


def release(store: ObjectStore, name: str) -> None:
    """Delete the object of a checkpoint or a hold, by its owner. Raises: ``UnavailableError``."""
    store.delete([name])


def discard(store: ObjectStore, names: list[str]) -> None:
    """Delete objects of a database that is given up as a whole. Raises: ``UnavailableError``."""
    if names:
        store.delete(names)


class GarbageCollector:
    """Deletes what nobody needs. Runs must not overlap.

    Deletions are idempotent: a run that was cut short is completed by the next one.
    """

    def __init__(
        self,
        store: ObjectStore,
        writer: ManifestWriter,
        *,
        clock: Clock,
        grace_seconds: float,
        retention: float = 0.0,
        give_back: Callable[[set[str]], None] | None = None,
        first_new: Callable[[], TableId] | None = None,
    ) -> None:
        """``store`` has nothing in it that is borrowed; ``give_back`` is told what is in use, and
        lets go of what is not, with those who lend it. ``first_new``: the least id of a table that
        this writer has not begun yet."""
        self._store = store
        self._writer = writer
        self._clock = clock
        self._began = clock.now() - clock.monotonic()
        self._grace_seconds = grace_seconds
        self._past_seconds = retention + grace_seconds
        self._give_back = give_back
        self._first_new = first_new
        self._timeline: Timeline | None = None
        self._turn = Lock()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Nothing is deleted while the block runs; what ``keep`` tells after it counts."""
        with self._turn:
            yield

    def run(self, keep: Callable[[], set[str]]) -> GarbageReport:
        """Delete what is collectable now. Raises: ``UnavailableError``.

        ``keep`` gives the names of objects in use that the newest version does not tell:
        uploaded tables whose commit has not *succeeded* yet; tables pinned by readers, and tables
        that left the version less than the grace period ago, with the blobs they point into. It
        is called before the manifest is read and again after, so that neither a table committed
        nor one removed in between can fall through.
        """
        with self._turn:
            return self._run(keep)

    def _run(self, keep: Callable[[], set[str]]) -> GarbageReport:
        # First: what is begun from here on may be listed below and is in nothing that is kept. Only
        # its age would spare it, which goes by two clocks, ours and that of the store.
        first_new = self._first_new() if self._first_new else None
        kept = keep()
        state = self._trusted_state()
        if isinstance(state, str):
            return GarbageReport(refused=state)
        kept = kept | keep()
        data = self._store.list(TABLE_PREFIX) + self._store.list(BLOB_PREFIX)
        if damage := find_missing(data, state.version, state.loans):
            return GarbageReport(refused=damage)
        objects = self._store.list(MANIFEST_PREFIX) + data
        objects += self._store.list(WAL_PREFIX) + self._store.list(PROBE_PREFIX)
        try:
            held = list_kept(self._store)
            past = self._past(state)
        except CorruptionError as damage:
            return GarbageReport(refused=f"a checkpoint, a hold or the past is damaged: {damage}")
        except NotFoundError as error:
            return GarbageReport(refused=f"another writer took over, and collects: {error}")
        kept = kept.union(*(each.objects for _, each in held))
        names = collectable(
            objects,
            state,
            now=self._now(),
            grace_seconds=self._grace_seconds,
            keep=kept,
            past=past,
            first_new=first_new,
        )
        store_now = max((info.modified for info in objects), default=0.0) - self._grace_seconds
        expired = [info for info, each in held if has_expired(info, each, store_now)]
        names += [info.name for info in expired]
        if names:
            self._store.delete(names)
        if self._give_back is not None:
            named = {name for table in state.version.tables for name in table.objects}
            self._give_back(kept | past.names | named)
        sizes = {info.name: info.size for info in objects + expired}
        return GarbageReport(tuple(names), sum(sizes[name] for name in names))

    def _now(self) -> float:
        """Seconds since 1970, no later than the time that really passed since the start allows."""
        return min(self._clock.now(), self._began + self._clock.monotonic())

    def _past(self, state: ManifestState) -> Needed:
        """What the instants within the retention need."""
        since_us = int((self._now() - self._past_seconds) * 1e6)
        timeline, self._timeline = self._timeline, None  # read anew if this fails
        if timeline is None:
            timeline = read_timeline(self._store, since_us)
            assert timeline is not None, "there is a state"
        follow(timeline, self._store, state.number)
        needed = timeline.needed(since_us)
        timeline.forget(since_us)
        self._timeline = timeline
        return needed

    def _trusted_state(self) -> ManifestState | str:
        """The state that the store itself gives, or why it cannot be trusted."""
        ours = self._writer.state
        if self._writer.fenced:
            return "another writer took over"
        try:
            state = load(self._store)
        except CorruptionError as damage:
            return f"the manifest is damaged: {damage}"
        if state is None or state.number < ours.number:
            return f"the manifest has lost what follows number {state.number if state else 0}"
        if (state.database_id, state.epoch) != (ours.database_id, ours.epoch):
            return f"epoch {state.epoch} of database {state.database_id} took over"
        return state


def find_missing(listed: list[ObjectInfo], version: Version, loans: Loans = NO_LOANS) -> str:
    """What is wrong with a table or blob of ``version``, but for what ``loans`` tell to lie
    elsewhere; "" when all are listed as they should."""
    sizes = {info.name: info.size for info in listed}
    needed = [(table_name(table.id), table.size) for table in version.tables]
    needed += [(blob_name(blob.id), blob.size) for blob in version.blobs]
    for name, size in needed:
        if lender_of(loans, name) is None and (found := sizes.get(name)) != size:
            return f"{name} of {size} bytes is damaged or missing: {found} bytes"
    return ""
