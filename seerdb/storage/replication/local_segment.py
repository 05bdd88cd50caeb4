"""A segment of the local log that is read back while it grows, whole frames at a time."""

from __future__ import annotations

from seerdb.storage.local.files import File, FileSystem
from seerdb.storage.replication.running import SentDigest
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
from seerdb.storage.wal.segments import segment_path

READ_BYTES = 1 << 20
"""How much is read at once, unless a single frame is larger."""

_FRAME_AND_RECORD = FRAME_HEADER_SIZE + RECORD_HEADER_SIZE


class LocalSegment:
    """A segment that is read, and a place in it, at the beginning of a frame."""

    def __init__(self, files: FileSystem, directory: str, number: int) -> None:
        """Raises: ``DiskError`` when it is gone, ``CorruptionError``."""
        self._files = files
        self._path = segment_path(directory, number)
        self._file: File = files.open_read(self._path)
        self.number = number
        self.offset = HEADER_SIZE
        try:
            self.encoded = self._file.read_at(0, HEADER_SIZE)
            self._header = decode_header(self.encoded, self._path)
            self.digest = SentDigest(self._header)
            """Of what was passed over, and of what the reader adds as it is sent."""
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
        told without decompressing any. What is passed over is digested."""
        self._find(seq, limit)
        self.digest.begin(self._file.read_at, self.offset)

    def _find(self, seq: int, limit: int | None) -> None:
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
