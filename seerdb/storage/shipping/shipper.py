"""Puts the log into the bucket: all of it as time goes by, and up to a seq when a write waits.

The backlog says what is next (``wal/backlog.py``), the objects are those of ``shipped.py``. A
stretch is copied, not parsed: its places are those between two commits, and of its records only
those of the first frame are looked at, as a proof that the bytes are where they should be. Every
record carries its own checksum, which every reader checks.

What is shipped was durable locally before: were it lost here and found in the bucket, its seqs
could be given out twice (I3). So shipping syncs a log that its writers do not sync, once for each
object and beside them.

An attempt of which nobody knows whether it succeeded is repeated as it was, before anything else,
so objects follow each other without overlaps. Bytes of ours under that name are that attempt. Any
others are an alarm: two writers share an epoch. Then nothing is shipped any more, nothing is
overwritten, and the local log is kept. The next opening voids, by a branch, what is not ours, and
ships from there on anew.

Who reads the log in the bucket reads from where the tables end, and up to the first gap. So while
the log lacks commits that were lost, nothing in it is safe before the tables hold what is around
them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from seerdb.clock import Clock
from seerdb.errors import (
    AlreadyExistsError,
    ChecksumError,
    ClosedError,
    ConflictError,
    CorruptionError,
    DiskError,
    FencedError,
    InternalError,
    SeerDBError,
    TruncatedError,
    UnavailableError,
)
from seerdb.ids import MAX_SEQ, SeqNo
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.fencing import check_newest
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import wal_name
from seerdb.storage.outward import call_out
from seerdb.storage.pieces import Pieces
from seerdb.storage.wal.backlog import Backlog, Place, Stretch
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.storage.wal.home import load_home, save_home
from seerdb.storage.wal.reader import first_seq_of, scan_segment
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.write.request import Ticket

LOOK_SECONDS = 0.1
"""How long the lane waits for the writer that leads before it looks at the backlog again."""

LATECOMERS_SECONDS = 0.01
"""How long a ship waits to learn who else can be taken along."""


class ShipStatistics(msgspec.Struct, frozen=True):
    """The log in the bucket, since the database was opened; times in seconds.

    ``unshipped_seq`` is the oldest write that is in the bucket neither as log nor in tables, 0
    when there is none, and ``unshipped_seconds`` its age: what the loss of this machine costs.
    """

    continuous: bool
    shipped_seq: int
    unshipped_seq: int
    unshipped_seconds: float
    objects: int
    bytes: int
    seconds: float
    stopped: str
    """Why nothing is shipped any more; "" when it is."""


class LocalLog(NamedTuple):
    """Where the shipper finds the log. ``position`` makes durable what is committed, and tells up
    to where that is; ``None`` when a writer leads for longer than so many seconds (-1: ever).
    ``hole_seq``: the log lacks commits before this one."""

    files: FileSystem
    directory: str
    position: Callable[[float], Place | None]
    hole_seq: int = 0


class Shipper:
    """Ships one database's log. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: ManifestWriter,
        log: LocalLog,
        backlog: Backlog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._log = log
        self._backlog = backlog
        self._clock = clock
        self.conflict: ConflictError | None = None
        """Why nothing is shipped any more."""
        self.telling: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around the look for who took over: no write is told of that before the database is."""
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._attempt: tuple[Stretch, str] | None = None
        self._confirmed = 0  # shipped up to here, and nobody had taken over afterwards
        self._objects = self._bytes = 0
        self._seconds = 0.0
        # Guarded by the tickets' lock.
        self._tickets_lock = threading.Lock()
        self._tickets: list[Ticket] = []
        self._is_due = False

    def ship(self, seq: int) -> None:
        """Return once everything up to ``seq`` is in the bucket, in tables or shipped.

        Raises: ``UnavailableError`` (the write is durable locally, in the bucket unknown),
        ``FencedError``, ``ConflictError`` (see the module docstring).
        """
        if self._is_safe(seq):
            return
        self._look(-1)
        with self._lock:
            if not self._is_safe(seq):
                self._look(LATECOMERS_SECONDS)  # who came while others shipped is taken along
                self._ship_up_to(seq)

    def finish(self, seq: int = MAX_SEQ) -> None:
        """Ship what is sealed, up to ``seq`` at least, in tables or not, if everything is to be
        shipped. Raises as :meth:`ship`."""
        backlog = self._backlog
        while backlog.keeps_all and backlog.shipped_seq < seq and backlog.next() is not None:
            with self._lock:
                self._ship_next()

    def sealed(self, end: Place) -> None:
        """The active segment has ended here, durably."""
        self._backlog.sealed(end)
        state = self._manifest.state
        self._backlog.pass_over(state.log_start, state.last_seq)

    def ask(self) -> None:
        """Have :meth:`serve` ship what is committed by then."""
        self._is_due = True

    def enqueue(self, tickets: list[Ticket], place: Place) -> None:
        """Have :meth:`serve` ship for these and tell their sinks. The log is durable up to
        ``place``, and their writes are before it."""
        self._backlog.reached(place)
        with self._tickets_lock:
            self._tickets += tickets

    def serve(self) -> bool:
        """Ship for all tickets that wait, and the next stretch of what is due; the work of a lane.

        Returns whether there is more to do. Raises what the tickets were told where the log is to
        be shipped all the same: that they were told does not mean that it is. (Not the fence, which
        whoever looks tells, and which ends the lane: others that wait are told of it first.)
        """
        if not self._serve_tickets() and self._backlog.keeps_all and self.conflict is None:
            if self._is_due and self._backlog.next() is None:
                self._is_due = False
                if not self._look(LOOK_SECONDS):
                    self._is_due = True
            with self._lock:
                if self._ship_next():
                    self._confirm()
        return bool(self._tickets) or self._owes

    def close(self) -> None:
        """Tell the tickets that nobody serves any more."""
        for sink, ticket, seq in self._take_tickets():
            closed = ClosedError("the database was closed before the write was in the bucket")
            call_out(sink, [(ticket, seq if self._is_safe(seq) else closed)])

    def statistics(self, visible_seq: int) -> ShipStatistics:
        """A copy of the counters. Never waits for disk or bucket."""
        shipped = self._backlog.shipped_seq
        flushed = self._manifest.state.last_seq
        safe = flushed if self._has_hole else max(shipped, flushed)
        since = self._backlog.oldest_mark(safe) if visible_seq > safe else None
        return ShipStatistics(
            continuous=self._backlog.keeps_all,
            shipped_seq=shipped,
            unshipped_seq=safe + 1 if visible_seq > safe else 0,
            unshipped_seconds=0.0 if since is None else max(self._clock.monotonic() - since, 0.0),
            objects=self._objects,
            bytes=self._bytes,
            seconds=self._seconds,
            stopped=str(self.conflict) if self.conflict else "",
        )

    @property
    def _has_hole(self) -> bool:
        """Whether commits are missing in the log between where the tables end and its end."""
        return self._log.hole_seq > self._manifest.state.last_seq

    @property
    def _owes(self) -> bool:
        if self.conflict is not None or not self._backlog.keeps_all:
            return False
        return self._is_due or self._backlog.next() is not None

    def _serve_tickets(self) -> bool:
        tickets = self._take_tickets()
        if not tickets:
            return False
        error: SeerDBError | None = None
        try:
            with self._lock:
                self._ship_up_to(max(seq for _, _, seq in tickets))
        except SeerDBError as failure:
            error = failure
        for sink, ticket, seq in tickets:
            call_out(sink, [(ticket, error or seq)])
        if error is not None and self._owes and not isinstance(error, FencedError):
            raise error
        return True

    def _take_tickets(self) -> list[Ticket]:
        with self._tickets_lock:
            tickets, self._tickets = self._tickets, []
        return tickets

    def _is_safe(self, seq: int) -> bool:
        return seq <= max(self._confirmed, self._manifest.state.last_seq)

    def _look(self, wait: float) -> bool:
        """Find out up to where there is something to ship. A writer that leads may wait for a
        segment to be shipped, so who has one, or holds the lock, must not wait for the writer."""
        place = self._log.position(wait)
        if place is not None:
            self._backlog.reached(place)
        return place is not None

    def _ship_up_to(self, seq: int) -> None:
        if self._is_safe(seq):
            return
        while seq > max(self._backlog.shipped_seq, self._manifest.state.last_seq):
            if not self._ship_next():
                raise InternalError(f"seq {seq} is in no segment of {self._log.directory}")
        self._confirm()
        if not self._is_safe(seq):
            raise UnavailableError(
                "the write is on this disk and in the bucket, but the log there has a gap before "
                f"it until the tables hold what was salvaged, up to seq {self._log.hole_seq}; "
                "see why that is not flushed, or wait for it"
            )

    def _confirm(self) -> None:
        shipped = self._backlog.shipped_seq
        self._check_epoch()
        if not self._has_hole:
            self._confirmed = shipped

    def _ship_next(self) -> bool:
        """Ship the next stretch; returns whether there was one."""
        if self.conflict is not None:
            raise ConflictError(str(self.conflict)) from self.conflict
        state = self._manifest.state
        self._backlog.pass_over(state.log_start, state.last_seq)
        stretch = self._backlog.next()
        if stretch is None:
            return False
        try:
            self._ship_stretch(stretch)
        except (DiskError, CorruptionError):
            if self._backlog.keeps_all or stretch.begin.segment >= self._manifest.state.log_start:
                raise
            # It was flushed, and let go of, while it was read.
        return True

    def _ship_stretch(self, stretch: Stretch) -> None:
        if self._attempt and self._attempt[0].begin == stretch.begin:
            stretch, name = self._attempt
            self._put(name, stretch, self._read(stretch))
            return
        if not stretch.is_measured:
            stretch = Stretch(stretch.begin, self._measure(stretch.begin))
        if stretch.end.seq > stretch.begin.seq:
            data = self._read(stretch)
            first = max(stretch.begin.seq + 1, self._first_seq(stretch, data))
            name = wal_name(self._manifest.epoch, SeqNo(first), SeqNo(stretch.end.seq))
            self._put(name, stretch, data)
        else:
            self._backlog.shipped(stretch.end)

    def _put(self, name: str, stretch: Stretch, data: Pieces) -> None:
        started = self._clock.monotonic()
        self._attempt = stretch, name
        try:
            self._store.put_if_absent(name, data)
        except AlreadyExistsError as error:
            self._contest(stretch.begin.seq)
            self.conflict = ConflictError(
                f"{name} is in the bucket already, with other bytes than this log has there: "
                "another process writes as this database in the same epoch (a copy of this "
                "machine?); nothing is shipped any more and the local log is kept. Stop the other "
                "one, then open this database again: it takes over, and ships from there on anew"
            )
            raise self.conflict from error
        self._attempt = None
        self._objects += 1
        self._bytes += len(data)
        self._seconds += self._clock.monotonic() - started
        self._backlog.shipped(stretch.end)  # last: who sees that it is has to see it counted

    def _contest(self, seq: int) -> None:
        """Have the next opening void what lies in the bucket after ``seq``, which is not ours."""
        files, directory = self._log.files, self._log.directory
        home = load_home(files, directory)
        if home is not None and home.contested_seq is None:
            save_home(files, directory, replace(home, contested_seq=seq))

    def _read(self, stretch: Stretch) -> Pieces:
        """The header of a segment, and its bytes in the stretch: two pieces."""
        begin, end = stretch.begin.offset, stretch.end.offset
        path = segment_path(self._log.directory, stretch.begin.segment)
        file = self._log.files.open_read(path)
        try:
            parts = file.read_at(0, HEADER_SIZE), file.read_at(begin, end - begin)
        finally:
            file.close()
        data = Pieces(parts, cold=True)
        expected = HEADER_SIZE + end - begin
        if len(data) != expected:
            raise TruncatedError(
                "the log is shorter than it was", name=path, expected=expected, found=len(data)
            )
        return data

    def _measure(self, begin: Place) -> Place:
        """The end of a segment that an earlier life has sealed."""
        scan = scan_segment(
            self._log.files, self._log.directory, begin.segment, take=lambda records: None
        )
        if scan.damages:
            raise scan.error()
        return Place(begin.segment, scan.end, scan.last[0] if scan.last else begin.seq)

    def _first_seq(self, stretch: Stretch, data: Pieces) -> int:
        """The seq of the first record, which proves that a sound frame of it is there."""
        path = segment_path(self._log.directory, stretch.begin.segment)
        header, frames = map(bytes, data.pieces)
        seq = first_seq_of(header, frames, path, stretch.begin.segment)
        if seq is not None:
            return seq
        raise ChecksumError(
            "no record is where the log goes on", name=path, offset=stretch.begin.offset
        )

    def _check_epoch(self) -> None:
        """Raise ``FencedError`` if somebody with a higher epoch continues the manifest."""
        state = self._manifest.state
        with self.telling():
            try:
                check_newest(self._store, state)
            except CorruptionError as error:
                raise UnavailableError(
                    "the write is on this disk and in the bucket, but whether another writer took "
                    f"over from epoch {state.epoch} is unknown: {error}"
                ) from error
