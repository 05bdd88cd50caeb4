"""Durability ``object``: the log's bytes in the bucket before a write is acknowledged.

A shipped object holds a stretch of one segment: that segment's header, then the frames, byte
for byte, so the reader of segments reads it. Objects continue each other without a gap from
where the tables end, because a write is only safe if everything before it is.

::

    wal/<20 digits epoch>/<20 digits first seq>-<20 digits last seq>.wal

One ship covers all writes that wait when it begins. After its PUT it makes sure that no higher
epoch has claimed the database (I6): a new owner lists ``wal/`` after its claim, so a PUT with no
claim after it is seen by every later owner, and one with a claim after it is never acknowledged.

Yet such a PUT may come after the new owner has listed, and reach beyond what that took over. So
a home that takes over a log, or goes on after damage has cost it a part of its own, first says
from where it goes on, by an empty object whose first seq is one more than its last: from that
first seq on, everything of a lower epoch is void. Otherwise epochs of one home tell the same
log, and their objects complete each other.

What the tables hold is read no more, and the garbage collector takes it; see ``garbage.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from seerdb.errors import (
    AlreadyExistsError,
    ClosedError,
    CorruptionError,
    DiskError,
    FencedError,
    NotFoundError,
    SeerDBError,
)
from seerdb.ids import MAX_SEQ, Epoch, SeqNo
from seerdb.storage.files import FileSystem
from seerdb.storage.manifest.store import read_record
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import WAL_PREFIX, parse_wal_name, wal_name
from seerdb.storage.replay import WalRecord, check_database
from seerdb.storage.request import Sink
from seerdb.storage.state import LiveState
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.storage.wal.reader import read_segment
from seerdb.storage.wal.segments import segment_path

Ticket = tuple[Sink, object, int]
Position = tuple[int, int, int]
"""A segment, an offset in it, and the seq of the last record before it."""


class Shipper:
    """Puts the log into the bucket on demand. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: ManifestWriter,
        live: LiveState,
        files: FileSystem,
        directory: str,
        position: Callable[[], Position],
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._live = live
        self._files = files
        self._directory = directory
        self._position = position
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._shipped: Position = (0, 0, 0)
        self._confirmed = 0  # shipped up to here, and nobody had taken over afterwards
        # Guarded by the tickets' lock.
        self._tickets_lock = threading.Lock()
        self._tickets: list[Ticket] = []

    @property
    def shipped_seq(self) -> int:
        """Everything up to here was shipped in this epoch; 0 when nothing was."""
        return self._shipped[2]

    def ship(self, seq: int) -> None:
        """Return once everything up to ``seq`` is in the bucket, in tables or shipped.

        Raises: ``UnavailableError`` (the write is durable locally, in the bucket unknown),
        ``FencedError``.
        """
        with self._lock:
            if self._is_safe(seq):
                return
            target = self._position()
            while seq > max(self._shipped[2], self._manifest.state.last_seq):
                self._ship_stretch(target)
            self._check_epoch()
            self._confirmed = self._shipped[2]

    def enqueue(self, tickets: list[Ticket]) -> None:
        """Have :meth:`serve` ship for these and tell their sinks."""
        with self._tickets_lock:
            self._tickets += tickets

    def serve(self) -> bool:
        """Ship for all tickets that wait; the work of a lane."""
        with self._tickets_lock:
            tickets, self._tickets = self._tickets, []
        if not tickets:
            return False
        error: SeerDBError | None = None
        try:
            self.ship(max(seq for _, _, seq in tickets))
        except SeerDBError as failure:
            error = failure
        for sink, ticket, seq in tickets:
            sink([(ticket, error or seq)])
        return True

    def close(self) -> None:
        """Tell the tickets that nobody serves any more."""
        with self._tickets_lock:
            tickets, self._tickets = self._tickets, []
        for sink, ticket, seq in tickets:
            closed = ClosedError("the database was closed before the write was in the bucket")
            sink([(ticket, seq if self._is_safe(seq) else closed)])

    def _is_safe(self, seq: int) -> bool:
        return seq <= max(self._confirmed, self._manifest.state.last_seq)

    def _ship_stretch(self, target: Position) -> None:
        """Ship what is unshipped of the oldest segment that is still needed."""
        segment, offset, seq = self._next_position()
        active, synced, last = target
        try:
            header, frames = self._read(segment, offset, synced if segment == active else None)
            scan = read_segment(header + frames, segment_path(self._directory, segment), segment)
        except (DiskError, CorruptionError):
            if segment < self._manifest.state.log_start:
                return  # it was flushed, and let go of, while it was read
            raise
        fresh = [record for record in scan.records if record[0] > seq]
        if segment != active:
            last = fresh[-1][0] if fresh else seq
            frames = frames[: scan.end - HEADER_SIZE]
        if fresh:
            self._put(fresh, last, header + frames)
        following = (segment + 1, HEADER_SIZE, last)
        self._shipped = (segment, offset + len(frames), last) if segment == active else following

    def _put(self, records: list[WalRecord], last: int, data: bytes) -> None:
        first = records[0][0]
        name = wal_name(self._manifest.epoch, SeqNo(first), SeqNo(last))
        try:
            self._store.put_if_absent(name, data)
        except AlreadyExistsError:
            # An attempt before that happened unheard: nobody else has this epoch. Since then
            # the segment may have got its SEAL, which makes other bytes of the same records.
            database = self._manifest.state.database_id
            if _read_object(self._store, database, name, first, last) != records:
                raise

    def _read(self, segment: int, offset: int, end: int | None) -> tuple[bytes, bytes]:
        """The header of a segment, and its bytes from ``offset`` to ``end``."""
        file = self._files.open_read(segment_path(self._directory, segment))
        try:
            end = file.size() if end is None else end
            return file.read_at(0, HEADER_SIZE), file.read_at(offset, end - offset)
        finally:
            file.close()

    def _next_position(self) -> Position:
        """Where to go on: where the last ship ended, unless flushes have overtaken it."""
        memtables = self._live.current.memtables
        oldest = memtables[-1]
        flushed = self._manifest.state.last_seq
        if self._shipped[0] >= oldest.segments[0] and self._shipped[2] >= flushed:
            return self._shipped
        return oldest.segments[0], HEADER_SIZE, max(flushed, self._shipped[2])

    def _check_epoch(self) -> None:
        """Raise ``FencedError`` if somebody with a higher epoch continues the manifest."""
        state = self._manifest.state
        number = state.number + 1
        while True:
            try:
                record = read_record(self._store, number)
            except NotFoundError:
                return
            if record.epoch != state.epoch:
                raise FencedError(
                    f"another writer took over from epoch {state.epoch}; the write is on this "
                    "disk but not part of the database any more"
                )
            number += 1


def begin_branch(store: ObjectStore, epoch: Epoch, seq: int) -> None:
    """Say that in ``epoch`` the log goes on after ``seq``, and not as it went on before: what
    lower epochs put there above that is void. Durable when it returns."""
    store.put_if_absent(wal_name(epoch, SeqNo(seq + 1), SeqNo(seq)), b"")


def read_shipped(
    store: ObjectStore, database_id: str, after: int, *, strict: bool
) -> list[WalRecord]:
    """The shipped records after seq ``after``, in order and without a gap.

    Raises: ``CorruptionError`` for a gap or a damaged object if ``strict``; else what comes
    before it is returned.
    """
    parsed = ((parse_wal_name(info.name), info.name) for info in store.list(WAL_PREFIX))
    places = sorted((place, name) for place, name in parsed if place is not None)
    branches = [(epoch, first) for (epoch, first, last), _ in places if last < first]
    records: dict[int, WalRecord] = {}
    try:
        for (epoch, first, last), name in places:
            end = min((start for above, start in branches if above > epoch), default=MAX_SEQ)
            if first <= last and after < last and first < end:
                for record in _read_object(store, database_id, name, first, last):
                    if after < record[0] < end:
                        records[record[0]] = record
        return _contiguous(records, after)
    except CorruptionError:
        if strict:
            raise
        return _contiguous(records, after, stop_at_gap=True)


def _read_object(
    store: ObjectStore, database_id: str, name: str, first: int, last: int
) -> list[WalRecord]:
    scan = read_segment(store.get(name), name, None)
    check_database(scan, database_id)
    records = [record for record in scan.records if first <= record[0] <= last]
    if scan.damages or not records or (records[0][0], records[-1][0]) != (first, last):
        raise CorruptionError(
            "a shipped log does not hold what its name says",
            name=name,
            expected=f"seq {first} to {last}",
            found=f"{len(records)} records",
        )
    return records


def _contiguous(
    records: dict[int, WalRecord], after: int, *, stop_at_gap: bool = False
) -> list[WalRecord]:
    ordered = [records[seq] for seq in sorted(records)]
    for position, record in enumerate(ordered):
        if record[0] != after + 1 + position:
            if stop_at_gap:
                return ordered[:position]
            raise CorruptionError(
                "the shipped log has a gap",
                name=WAL_PREFIX,
                expected=f"seq {after + 1 + position}",
                found=f"seq {record[0]}",
            )
    return ordered
