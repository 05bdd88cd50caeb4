"""The writer's side of the live log: its own segments, read back as they grow.

A :class:`LogCursor` is one follower's place in the local log. It reads what the last sync covered
out of the segment's file, which the page cache has, byte for byte: so nothing is streamed that a
power loss could undo, nothing is kept in memory for anybody, writers know nothing of followers, and
going back to any seq that the disk still has costs nothing special. A segment that was let go of is
passed over: the manifest says so before, so that a follower that misses its seqs finds them there.

Writes that nobody syncs would not be streamed either. So while somebody follows, a cursor syncs the
log once it has waited :data:`SYNC_SECONDS` for that.
"""

from __future__ import annotations

from collections.abc import Callable

from seerdb.clock import Clock
from seerdb.errors import DiskError
from seerdb.storage.files import File, FileSystem
from seerdb.storage.replication.format import (
    Heartbeat,
    Hello,
    MessageType,
    encode_heartbeat,
    encode_hello,
    encode_message,
)
from seerdb.storage.wal.format import (
    BATCH,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    RECORD_FIELDS,
    RECORD_HEADER_SIZE,
    FrameHeader,
    decode_frame_header,
    decode_header,
)
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.storage.wal.writer import LogWriter

READ_BYTES = 1 << 20
"""How much is sent at once, unless a single frame is larger."""

SYNC_SECONDS = 0.1

_FRAME_AND_RECORD = FRAME_HEADER_SIZE + RECORD_HEADER_SIZE


class LogFeed:
    """What followers of an open database may read of its log. Thread-safe.

    ``newest`` tells the newest seq. ``check`` raises when the log may not be followed any more.
    """

    def __init__(
        self,
        log: LogWriter,
        files: FileSystem,
        directory: str,
        *,
        identity: tuple[str, int],
        newest: Callable[[], int],
        check: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.log = log
        self.files = files
        self.directory = directory
        self.check = check
        self.clock = clock
        self._identity = identity
        self._newest = newest

    def hello(self) -> Hello:
        """Who the writer is, and how far."""
        return Hello(*self._identity, *self.heartbeat())

    def heartbeat(self) -> Heartbeat:
        """How far the writer is."""
        return Heartbeat(self._newest(), self.clock.now_ns() // 1000)

    def synced(self) -> tuple[int, int]:
        """The newest segment, and up to where it is durable, or up to less."""
        while True:
            segment, synced = self.log.segment, self.log.synced
            if segment == self.log.segment:
                return segment, synced

    def cursor(self, seq: int) -> LogCursor:
        """A place in the log from which everything from ``seq`` on comes."""
        return LogCursor(self, seq)


class _Segment:
    """A segment that is read, and a place in it, at the beginning of a frame."""

    def __init__(self, feed: LogFeed, number: int) -> None:
        """Raises: ``DiskError`` when it is gone, ``CorruptionError``."""
        self._files = feed.files
        self._path = segment_path(feed.directory, number)
        self._file: File = feed.files.open_read(self._path)
        self.number = number
        self.offset = HEADER_SIZE
        try:
            self.encoded = self._file.read_at(0, HEADER_SIZE)
            self._header = decode_header(self.encoded, self._path)
        except BaseException:
            self._file.close()
            raise

    @property
    def first_seq(self) -> int:
        """The first record has this seq, or a higher one."""
        return self._header.first_seq

    def is_there(self) -> bool:
        """Whether what was read before was the segment's: a file that is used again loses its name
        first."""
        return self._files.exists(self._path)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def read(self, limit: int | None) -> bytes:
        """The next whole frames, and go on behind them; ``limit`` is where what may be read ends,
        which is where a frame ends (``None``: where the frames do)."""
        data = self._read(READ_BYTES, limit)
        if limit is None or self.offset + len(data) < limit:
            length = self._whole(data)
            data = data[:length] if length <= len(data) else self._read(length, limit)
        self.offset += len(data)
        return data

    def _read(self, length: int, limit: int | None) -> bytes:
        left = (self._file.size() if limit is None else limit) - self.offset
        return self._file.read_at(self.offset, max(0, min(length, left)))

    def _whole(self, data: bytes) -> int:
        """How many bytes the whole frames at the beginning of ``data`` have; or, when the first is
        not whole, how many that has."""
        at = 0
        while frame := self._frame(data, at):
            end = frame.next - self.offset
            if end > len(data):
                return at or end
            at = end
        return at

    def _frame(self, data: bytes, at: int) -> FrameHeader | None:
        fields = data[at : at + FRAME_HEADER_SIZE]
        return decode_frame_header(fields, self.offset + at, self._header)

    def skip_before(self, seq: int, limit: int | None) -> None:
        """Go on to the last frame that begins with ``seq`` or a lower one, as far as that can be
        told without decompressing any."""
        found = self.offset
        while data := self._read(READ_BYTES, limit):
            at = 0
            while at + _FRAME_AND_RECORD <= len(data):
                frame = self._frame(data, at)
                if frame is None or frame.raw:
                    self.offset = found
                    return
                _, _, kind, first, _ = RECORD_FIELDS.unpack_from(data, at + FRAME_HEADER_SIZE)
                if kind != BATCH or first > seq:
                    self.offset = found
                    return
                found = self.offset + at
                at = frame.next - self.offset
            if not at:
                break
            self.offset += at
        self.offset = found


class LogCursor:
    """One follower's place in the log. One thread at a time."""

    def __init__(self, feed: LogFeed, seq: int) -> None:
        self._feed = feed
        self._seq = seq
        self._segment: _Segment | None = None
        self._seen = (-1, 0)
        self._unsynced_since: float | None = None

    @property
    def has_news(self) -> bool:
        """Whether it is worth while to call :meth:`read`. Never blocks."""
        log = self._feed.log
        return self._feed.synced() != self._seen or log.position > log.synced

    def greeting(self) -> bytes:
        """The first message."""
        return encode_hello(self._feed.hello())

    def heartbeat(self) -> bytes:
        """The message of each second. Raises: what ended the log."""
        self._feed.check()
        return encode_heartbeat(self._feed.heartbeat())

    def read(self) -> bytes:
        """The next message, about :data:`READ_BYTES`; empty: there is nothing new yet.

        Raises: what ended the log, ``DiskError``, ``CorruptionError``.
        """
        self._feed.check()
        self._sync_if_due()
        newest, synced = self._feed.synced()
        sent = self._frames(newest, synced) or self._enter_next(newest, synced)
        if not sent:
            self._seen = newest, synced
        return sent

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._segment is not None:
            self._segment.close()

    def _sync_if_due(self) -> None:
        log, now = self._feed.log, self._feed.clock.monotonic()
        if log.position <= log.synced:
            self._unsynced_since = None
        elif self._unsynced_since is None:
            self._unsynced_since = now
        elif now - self._unsynced_since >= SYNC_SECONDS:
            self._unsynced_since = None
            log.sync()

    def _frames(self, newest: int, synced: int) -> bytes:
        segment = self._segment
        if segment is None:
            return b""
        frames = segment.read(synced if segment.number == newest else None)
        if not frames or not segment.is_there():
            return b""
        return encode_message(MessageType.FRAMES, frames)

    def _enter_next(self, newest: int, synced: int) -> bytes:
        """Go on with the next segment that is there, or begin where ``seq`` is."""
        before = 0 if self._segment is None else self._segment.number
        # One that has just been made is not the newest yet, and none is before the first write.
        listed = list_segments(self._feed.files, self._feed.directory)
        following = [n for n in listed if n > before and (n <= newest or not newest)]
        if self._segment is not None:
            entered = next(filter(None, map(self._open, following)), None)
        else:
            entered = self._first(following)
            if entered is not None:
                limit = synced if entered.number == newest else None
                entered.skip_before(self._seq, limit)
        if entered is None:
            return b""
        self.close()
        self._segment = entered
        return encode_message(MessageType.SEGMENT, entered.encoded)

    def _first(self, numbers: list[int]) -> _Segment | None:
        """The last segment that begins with ``seq`` or a lower one, or else the first."""
        found = None
        for number in reversed(numbers):
            segment = self._open(number)
            if segment is None:
                break
            if found is not None:
                found.close()
            found = segment
            if segment.first_seq <= self._seq:
                break
        return found

    def _open(self, number: int) -> _Segment | None:
        """The segment; ``None`` when it was let go of meanwhile."""
        try:
            return _Segment(self._feed, number)
        except DiskError:
            if self._feed.files.exists(segment_path(self._feed.directory, number)):
                raise
            return None
