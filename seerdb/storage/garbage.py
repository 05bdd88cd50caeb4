"""Which objects nobody needs any more, and the only place that deletes objects.

:func:`collectable` decides and is pure. :class:`GarbageCollector` reads the manifest afresh,
decides and deletes; whenever the manifest is not beyond doubt it deletes nothing and says why.

Never deleted: what the version names, shipped log that reaches past the tables, objects of a
later epoch, claims (they are the fences, see ``manifest/edit.py``), the last two checkpoints and
all that follows, anything younger than the grace period, anything the caller keeps with the blobs
that were made with it, and any name that is not ours.

The branches of the shipped log (see ``ship.py``) stay: each voids what every lower epoch has
shipped, or ships yet, however late, and tells which commits were lost (see ``lineage.py``). They
are empty, and there is one for each takeover.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from seerdb.clock import Clock
from seerdb.errors import CorruptionError
from seerdb.ids import Epoch, maker_of, table_id
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import FetchMany, load
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
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
) -> list[str]:
    """The names among ``objects`` that may be deleted, in their order.

    Requires: all of the shipped log that the store lists is among ``objects``. ``now`` and the
    age of an object are wall-clock seconds.
    """
    in_use = keep | {name for table in state.version.tables for name in table.objects}
    in_use |= {manifest_name(number) for number in state.claims}
    return [
        info.name
        for info in objects
        if info.modified < now - grace_seconds
        and info.name not in in_use
        and _table_with(info.name) not in keep
        and _is_past(info.name, state)
    ]


def _table_with(name: str) -> str | None:
    """The table that a blob was made with: while that one is kept because no manifest names it yet,
    none tells what it points into."""
    blob = parse_blob_name(name)
    return table_name(maker_of(blob)) if blob else None


def _is_past(name: str, state: ManifestState) -> bool:
    """Whether an object of this name, if nothing uses it, belongs to what is over."""
    blob = parse_blob_name(name)
    if (table := maker_of(blob) if blob else parse_table_name(name)) is not None:
        return table < table_id(Epoch(state.epoch + 1), 0)
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
        fetch_many: FetchMany | None = None,
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._fetch_many = fetch_many

    def run(self, keep: Callable[[], set[str]]) -> GarbageReport:
        """Delete what is collectable now. Raises: ``UnavailableError``.

        ``keep`` gives the names of objects in use that the newest version does not tell:
        uploaded tables whose commit has not *succeeded* yet; tables pinned by readers, and tables
        that left the version less than the grace period ago, with the blobs they point into. It
        is called before the manifest is read and again after, so that neither a table committed
        nor one removed in between can fall through.
        """
        kept = keep()
        state = self._trusted_state()
        if isinstance(state, str):
            return GarbageReport(refused=state)
        kept = kept | keep()
        data = self._store.list(TABLE_PREFIX) + self._store.list(BLOB_PREFIX)
        if damage := _missing(data, state):
            return GarbageReport(refused=damage)
        objects = self._store.list(MANIFEST_PREFIX) + data
        objects += self._store.list(WAL_PREFIX) + self._store.list(PROBE_PREFIX)
        names = collectable(
            objects,
            state,
            now=self._clock.now(),
            grace_seconds=self._grace_seconds,
            keep=kept,
        )
        if names:
            self._store.delete(names)
        sizes = {info.name: info.size for info in objects}
        return GarbageReport(tuple(names), sum(sizes[name] for name in names))

    def _trusted_state(self) -> ManifestState | str:
        """The state that the store itself gives, or why it cannot be trusted."""
        ours = self._writer.state
        if self._writer.fenced:
            return "another writer took over"
        try:
            state = load(self._store, fetch_many=self._fetch_many)
        except CorruptionError as damage:
            return f"the manifest is damaged: {damage}"
        if state is None or state.number < ours.number:
            return f"the manifest has lost what follows number {state.number if state else 0}"
        if (state.database_id, state.epoch) != (ours.database_id, ours.epoch):
            return f"epoch {state.epoch} of database {state.database_id} took over"
        return state


def _missing(listed: list[ObjectInfo], state: ManifestState) -> str:
    sizes = {info.name: info.size for info in listed}
    needed = [(table_name(table.id), table.size) for table in state.version.tables]
    needed += [(blob_name(blob.id), blob.size) for blob in state.version.blobs]
    for name, size in needed:
        if (found := sizes.get(name)) != size:
            return f"{name} of {size} bytes is damaged or missing: {found} bytes"
    return ""
