"""Appends frames to the active segment and makes them durable.

The order that the format relies on (``reader.py`` draws conclusions from it):

- a frame states in ``synced`` only what a completed sync had covered before it was written;
- SEAL is written only when everything before it is durable, and is durable itself before the
  next segment gets its name.
"""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable
from mmap import MADV_DONTNEED, PAGESIZE, mmap
from typing import NamedTuple, TypeAlias

import zstandard
from crc32c import crc32c

from seerdb.clock import Clock
from seerdb.errors import ClosedError, InternalError, PoisonedError
from seerdb.storage.entry import PUT
from seerdb.storage.local.files import File, FileSystem
from seerdb.storage.wal.format import (
    BATCH,
    DIRECT_ALIGNMENT,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    SEAL_FRAME_SIZE,
    PutFrame,
    SegmentHeader,
    aligned,
    encode_frame,
    encode_put,
    encode_record,
    encode_seal,
    put_frame,
)
from seerdb.storage.wal.segments import SegmentPool

PutAppender: TypeAlias = Callable[[int, int, bytes, bytes, tuple[int, int]], None]
"""Appends a put, given its seq, time in microseconds, key and value, and the lengths of these."""

_COMPRESSION_LEVEL = 1
_FRAMES_KEPT = 1024
_WORTH_UNMAPPING = 16 * PAGESIZE
_SEGMENT_AND_EPOCH = struct.Struct("<QQ")


class LogStatistics(NamedTuple):
    """What a :class:`LogWriter` has done so far; times in seconds."""

    segments: int
    bytes: int
    syncs: int
    sync_seconds: float


class LogWriter:
    """The one writer of a log directory.

    ``start``, ``append``, what ``put_appender`` gives, ``seal`` and ``close`` belong to one thread
    at a time (the commit mutex); ``sync`` and ``pool`` may be used from any other meanwhile.

    The first failure of a write or sync poisons the writer, because nobody knows what reached
    the disk: it is raised as it is, and every later call raises ``PoisonedError`` with it as
    cause. A sync is never retried. ``close`` still works.
    """

    def __init__(  # noqa: PLR0913 - the settings of one log, each by its name
        self,
        files: FileSystem,
        directory: str,
        *,
        database_id: bytes,
        epoch: int,
        segment_size: int,
        sync: str,
        compression: str,
        direct: bool,
        random: random.Random,
        clock: Clock,
    ) -> None:
        self.pool = SegmentPool(files, directory, segment_size, direct=direct)
        self._directory = directory
        self._database_id = database_id
        self._epoch = epoch
        self._segment_size = segment_size
        self._metadata = sync == "full"
        self._compress: Callable[[bytes], bytes] | None = None
        if compression == "zstd":
            self._compress = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL).compress
        self._alignment = DIRECT_ALIGNMENT if direct else 1
        self._plain = self._compress is None and not direct
        self._random = random
        self._clock = clock
        # Written by the appending thread, read by the syncing one:
        self._header = SegmentHeader(database_id, 0, epoch, 0, 0, 0, self._alignment)
        self._salt = 0
        self._position = 0
        self._frames: dict[tuple[int, int], PutFrame] = {}
        self._mapping: mmap | bytearray = bytearray()
        self._mapped = 0  # bytes that may be written to the mapping
        self._segments = 0
        self._bytes_before = 0
        # Guarded by _sync_lock; the file is changed under it and so stays open during a sync.
        self._sync_lock = threading.Lock()
        self._file: File | None = None
        self._synced = 0
        self._syncs = 0
        self._sync_seconds = 0.0
        self.synced_at = clock.monotonic()
        """When the last sync ended, by the monotonic clock."""
        # Set once, by the first failure:
        self._cause: BaseException | None = None

    @property
    def segment(self) -> int:
        """The id of the active (or, after ``seal``, the last) segment; 0 before ``start``."""
        return self._header.segment

    @property
    def salt(self) -> int:
        """What the records of the active segment must be encoded with."""
        return self._salt

    @property
    def position(self) -> int:
        """Offset in the segment where the next frame will go."""
        return self._position

    @property
    def synced(self) -> int:
        """Offset in the segment up to which everything is durable."""
        return self._synced

    @property
    def unsynced(self) -> int:
        """Bytes of the segment that a :meth:`sync` would make durable."""
        return self._position - self._synced

    @property
    def appended(self) -> int:
        """Bytes of all frames since this writer was made."""
        return self._bytes_before + self._bytes_here

    @property
    def is_buffered(self) -> bool:
        """Whether :meth:`append` leaves what it writes to the system, and so takes no time."""
        return self._alignment == 1

    def statistics(self) -> LogStatistics:
        """Counts since this writer was made."""
        return LogStatistics(
            self._segments,
            self.appended,
            self._syncs,
            self._sync_seconds,
        )

    @property
    def _bytes_here(self) -> int:
        return max(self._position - HEADER_SIZE, 0)

    @property
    def room(self) -> int:
        """Bytes that the frames of the segment may still take, SEAL excluded."""
        seal = aligned(SEAL_FRAME_SIZE, self._alignment)
        return self._segment_size - self._position - seal

    def start(self, segment_id: int, first_seq: int) -> None:
        """Begin segment ``segment_id``, whose records will have ``first_seq`` or higher.

        Durable: the empty segment, when it returns. May be called again after an error.
        Requires: no active segment. Raises: ``DiskError``, ``PoisonedError``.
        """
        self._check_sound()
        if self._file is not None:
            raise InternalError(f"segment {self.segment} is started and not sealed")
        header = SegmentHeader(
            self._database_id,
            segment_id,
            self._epoch,
            first_seq,
            self._now_us(),
            self._new_salt(segment_id),
            self._alignment,
        )
        file = self.pool.take(header)
        try:
            mapping = (file.map() if self._plain else None) or bytearray()
        except BaseException:
            file.close()
            raise
        self._bytes_before += self._bytes_here
        with self._sync_lock:
            # First: who reads the log meanwhile takes no more of a segment for synced than is.
            self._position = self._synced = HEADER_SIZE
            self._header = header
            self._salt = header.salt
            self._file = file
            self._frames = {}
        self._mapping, self._mapped = mapping, len(mapping)
        self._segments += 1

    def fits(self, length: int) -> bool:
        """Whether ``length`` bytes of records still fit into the segment, SEAL included.

        An empty segment takes anything: its file grows.
        """
        frame = aligned(FRAME_HEADER_SIZE + length, self._alignment)
        seal = aligned(SEAL_FRAME_SIZE, self._alignment)
        return self._position == HEADER_SIZE or self._position + frame + seal <= self._segment_size

    def append(self, records: bytes) -> None:
        """Write ``records``, encoded with :attr:`salt`, as one frame.

        Durable: not before a later :meth:`sync` returns. Raises: ``DiskError``,
        ``PoisonedError``; ``InvalidRequestError`` for more than a frame holds (then nothing is
        written and the writer stays sound).
        """
        self._write(
            encode_frame(
                records,
                salt=self._salt,
                synced=self._synced,
                alignment=self._alignment,
                compress=self._compress,
            )
        )

    def put_appender(self) -> PutAppender:
        """What appends to the active segment, and no other, a put that is a group of its own and
        that no sync follows: what :meth:`append` would, in fewer steps where it is mapped."""
        mapping, salt = self._mapping, self._salt

        def append_put(
            seq: int, timestamp_us: int, key: bytes, value: bytes, sizes: tuple[int, int]
        ) -> None:
            pack, pack_into, header, payload, size = self._frames.get(sizes) or self._frame(sizes)
            position = self._position
            end = position + size
            if end > self._mapped:
                self.append(encode_record(seq, timestamp_us, encode_put(key, value), salt))
                return
            key_size, value_size = sizes
            record = pack(
                payload, BATCH, seq, timestamp_us, 1, PUT, key_size, value_size, key, value
            )
            try:
                pack_into(mapping, position, header, crc32c(record, salt), record)
            except BaseException as error:
                self._poison(error)
                raise
            self._position = end

        return append_put

    def _frame(self, sizes: tuple[int, int]) -> PutFrame:
        """The frame of a put of such ``sizes``, kept until the next sync or segment."""
        if len(self._frames) >= _FRAMES_KEPT:
            self._frames = {}
        self._frames[sizes] = frame = put_frame(*sizes, salt=self._salt, synced=self._synced)
        return frame

    def sync(self) -> None:
        """Make everything appended before the call durable. Free when it already is.

        Thread-safe, also beside :meth:`append`. Raises: ``DiskError``, ``PoisonedError``.
        """
        with self._sync_lock:
            self._check_sound()
            position = self._position
            if self._file is None or position <= self._synced:
                return
            started = self._clock.monotonic()
            try:
                self._unmap(position)
                self._file.sync(metadata=self._metadata)
            except BaseException as error:
                self._poison(error)
                raise
            self._synced = position
            self._frames = {}
            self._syncs += 1
            self.synced_at = self._clock.monotonic()
            self._sync_seconds += self.synced_at - started

    def _unmap(self, stop: int) -> None:
        """Take pages that are about to be synced out of the mapping, all at once: they stay in the
        page cache. The sync would write-protect each of them by itself, and interrupt every
        processor that runs a thread of this process for it."""
        start = self._synced - self._synced % PAGESIZE
        size, mapping = min(stop, self._mapped) - start, self._mapping
        if size >= _WORTH_UNMAPPING and isinstance(mapping, mmap):
            mapping.madvise(MADV_DONTNEED, start, size)

    def seal(self, last_seq: int, record_count: int) -> None:
        """Finish the segment: ``record_count`` batches, the last of ``last_seq``
        (``first_seq - 1`` when there are none). The file keeps its preallocated length.

        Durable: all of it. Raises: ``DiskError``, ``PoisonedError``.
        """
        self.sync()
        self.append(encode_seal(last_seq, self._now_us(), record_count, self._salt))
        self.sync()
        self.close()

    def close(self) -> None:
        """Release the file without sealing or syncing. Idempotent."""
        with self._sync_lock:
            file, self._file = self._file, None
            self._mapped = 0
            if file is not None:
                file.close()

    def _write(self, frame: bytes) -> None:
        self._check_sound()
        if self._file is None:
            raise ClosedError(f"the log in {self._directory} has no active segment")
        try:
            self._file.write_at(self._position, frame)
        except BaseException as error:
            self._poison(error)
            raise
        self._position += len(frame)
        if self._position > self._segment_size:
            self.pool.grew(self.segment, self._position)

    def _check_sound(self) -> None:
        if self._cause is not None:
            reason = str(self._cause) or type(self._cause).__name__
            raise PoisonedError(
                f"the log in {self._directory} failed before and takes no more writes: "
                f"{reason}; reopen the database"
            ) from self._cause

    def _poison(self, cause: BaseException) -> None:
        self._mapped = 0
        if self._cause is None:
            self._cause = cause

    def _now_us(self) -> int:
        return self._clock.now_ns() // 1000

    def _new_salt(self, segment_id: int) -> int:
        """Random, not 0, and different for two segments even if the random source repeats."""
        identity = _SEGMENT_AND_EPOCH.pack(segment_id, self._epoch)
        while True:
            salt = crc32c(identity, self._random.getrandbits(32))
            if salt:
                return salt
