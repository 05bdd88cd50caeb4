"""The writer's side of the live log: its own segments, read back as they grow.

A :class:`LogCursor` is one follower's place in the local log. It reads what the last sync covered
out of the segment's file, which the page cache has, byte for byte: so nothing is streamed that a
power loss could undo, little is kept in memory for anybody, writers know nothing of followers, and
going back to any seq that the disk still has costs nothing special. A segment that was let go of is
passed over: the manifest says so before, so that a follower that misses its seqs finds them there.

With each heartbeat, and at the end of a segment, goes a mark: the digest of what was sent, which
the follower compares (``running.py``). A mebibyte at most waits to be digested.

Writes that nobody syncs would not be streamed either. So while somebody follows, a cursor syncs the
log once it has waited :data:`SYNC_SECONDS` for that.
"""

from __future__ import annotations

from collections.abc import Callable

from seerdb.clock import Clock
from seerdb.errors import DiskError
from seerdb.storage.local.files import FileSystem
from seerdb.storage.replication.format import (
    Heartbeat,
    Hello,
    MessageType,
    encode_heartbeat,
    encode_hello,
    encode_mark,
    encode_message,
)
from seerdb.storage.replication.local_segment import LocalSegment
from seerdb.storage.replication.running import Mark
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.storage.wal.writer import LogWriter

SYNC_SECONDS = 0.1


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
        self.marks: dict[LogCursor, Mark | None] = {}
        """What was last told of the log's digest, by cursor."""
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
        cursor = LogCursor(self, seq)
        self.marks[cursor] = None
        return cursor

    @property
    def mark(self) -> Mark | None:
        """The newest digest of the log that a follower was told; ``None`` where nobody follows."""
        marks = filter(None, list(self.marks.values()))
        return max(marks, key=lambda mark: (mark.epoch, mark.segment, mark.seq), default=None)


class LogCursor:
    """One follower's place in the log. One thread at a time."""

    def __init__(self, feed: LogFeed, seq: int) -> None:
        self._feed = feed
        self._seq = seq
        self._segment: LocalSegment | None = None
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
        """The messages of each second. Raises: what ended the log, ``CorruptionError``."""
        self._feed.check()
        return self._mark() + encode_heartbeat(self._feed.heartbeat())

    def read(self) -> bytes:
        """The next messages, about a mebibyte; empty: there is nothing new yet.

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
        self._feed.marks.pop(self, None)
        self._leave()

    def _leave(self) -> None:
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
        segment.digest.add(frames)
        return encode_message(MessageType.FRAMES, frames)

    def _mark(self) -> bytes:
        """What was sent since the last mark has a new one."""
        mark = None if self._segment is None else self._segment.digest.mark()
        if mark is None or mark == self._feed.marks.get(self):
            return b""
        self._feed.marks[self] = mark
        return encode_mark(mark)

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
        mark = self._mark()
        self._leave()
        self._segment = entered
        return mark + encode_message(MessageType.SEGMENT, entered.encoded)

    def _first(self, numbers: list[int]) -> LocalSegment | None:
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

    def _open(self, number: int) -> LocalSegment | None:
        """The segment; ``None`` when it was let go of meanwhile."""
        feed = self._feed
        try:
            return LocalSegment(feed.files, feed.directory, number)
        except DiskError:
            if feed.files.exists(segment_path(feed.directory, number)):
                raise
            return None
