"""Walks the frames of one segment. What it finds is judged in ``reader.py``.

Three walkers take turns: many plain frames at once where nothing is wrong (``sound.py``), a tight
loop over fewer of them, and a careful one for the frame at which the loop stopped (compressed,
SEAL, damaged, or simply the end).

A length is used only after it was compared with the bytes that are there; decompression is
bounded by ``MAX_COMPRESSED_BODY``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import zstandard
from crc32c import crc32c

from seerdb.errors import InternalError
from seerdb.ids import STORED_END
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import (
    BATCH,
    CRC_SIZE,
    FRAME_CRC_OFFSET,
    FRAME_FIELDS,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAX_COMPRESSED_BODY,
    RECORD_FIELDS,
    RECORD_HEADER_SIZE,
    SEAL,
    FrameHeader,
    SegmentHeader,
    aligned,
    decode_frame_header,
)
from seerdb.storage.wal.sound import is_worth_it, sound_records
from seerdb.storage.wal.window import Window

Stamp = tuple[int, int]
"""seq and timestamp of a record."""
Take = Callable[[Sequence[Record]], object]
"""Takes the next records, at least one: ``RecordColumns``, or out of a list that changes
afterwards."""

_ANY_FRAME = FRAME_HEADER_SIZE + RECORD_HEADER_SIZE
_LENGTHS_KEPT = 1024
_MANY = 1 << 20
"""Bytes that are looked at together while all is in order."""


class Damage(NamedTuple):
    """Bytes ``offset`` to ``end`` of a segment are not sound.

    ``expected`` and ``found`` are the checksums, lengths or numbers that differ. ``proven``:
    these bytes had been durable, or they are sound bytes that no writer would write; damage that
    is not proven may be the tail of an interrupted write. Inside a compressed frame the range is
    the frame's.
    """

    offset: int
    end: int
    reason: str
    expected: int
    found: int
    proven: bool


class _Flaw(NamedTuple):
    """Why a record cannot be used. ``next`` is where another may follow in the body, if the
    length can be believed. ``absurd``: the bytes are what was written, but make no sense."""

    reason: str
    expected: int
    found: int
    next: int | None = None
    absurd: bool = False


class FrameReader:
    """One walk over ``window``; call :meth:`run` once, then read the attributes.

    ``take`` is given the records as they are found, in order; ``records`` are those that it has
    not got yet, ``count``, ``first`` and ``last`` are of those that it has. ``salvage``: go on
    after damage. ``end`` is the offset after the last sound frame before the
    first damage, ``partial`` the number of records taken from the damaged frame that stands
    there, ``trace_end`` where the last bytes that belong to this segment end.
    """

    def __init__(self, window: Window, header: SegmentHeader, take: Take, *, salvage: bool) -> None:
        self.records: list[Record] = []
        self.count = 0
        self.first: Stamp | None = None
        self.last: Stamp | None = None
        self.damages: list[Damage] = []
        self.end = HEADER_SIZE
        self.partial = 0
        self.sealed = False
        self.trace_end = HEADER_SIZE
        self._window = window
        self._size = window.size
        self._header = header
        self._take = take
        self._salvage = salvage
        self._salt = header.salt.to_bytes(4, "little")
        self._decompressor = zstandard.ZstdDecompressor()
        self._last_seq = header.first_seq - 1
        self._synced: int | None = None
        self._columns_from = HEADER_SIZE  # what is before is not worth another look
        # Of the bodies behind headers that were found sound: between two syncs they repeat.
        self._lengths: dict[bytes, int] = {}

    def run(self) -> None:
        """Read all there is."""
        offset: int | None = HEADER_SIZE
        while offset is not None:
            offset = self._read_plain_frames(offset)
            if not self.damages:
                self.end = min(offset, self._size)
            self.trace_end = max(self.trace_end, self.end)
            offset = self._read_any_frame(offset)
        self._hand_over()

    def _hand_over(self) -> None:
        if self.records:
            self._give(self.records)
            self.records.clear()

    def _give(self, records: Sequence[Record]) -> None:
        first, last = records[0][:2], records[-1][:2]
        if self.last is not None and first[0] <= self.last[0]:
            raise InternalError(f"seq {first[0]} of a log is handed over after {self.last[0]}")
        self.first, self.last = self.first or first, last
        self.count += len(records)
        self._last_seq = last[0]
        self._take(records)

    def _read_plain_frames(self, offset: int) -> int:
        """Take sound, uncompressed frames of BATCH records; the offset of the first other."""
        needed = _ANY_FRAME
        while needed:
            offset = self._read_columns(offset)
            data, position = self._window.at(offset, needed)
            if len(data) - position < needed:
                break
            reached, needed = self._find_plain_records(data, position)
            offset += reached - position
            self._hand_over()
        return offset

    def _read_columns(self, offset: int) -> int:
        """Take sound, uncompressed frames of BATCH records, as long as there are many; the offset
        of the first other."""
        while offset >= self._columns_from:
            data, position = self._window.at(offset, _ANY_FRAME)
            size = min(_MANY, self._size - offset)
            if len(data) - position < _ANY_FRAME or not is_worth_it(
                data, position, self._header, size
            ):
                break
            data, position = self._window.at(offset, size)
            found = sound_records(data[position:], self._header, self._last_seq)
            if found is None:
                self._columns_from = offset + len(data) - position
                break
            records, end = found
            offset += end
            self._hand_over()
            self._give(records)
        return offset

    def _find_plain_records(self, data: bytes, start: int) -> tuple[int, int]:
        """Find the records of sound, uncompressed frames of BATCH records in ``data``.

        Returns the position of the first other frame and 0, or that of the first frame which
        ``data`` does not have whole and how many bytes are needed to go on with it.
        """
        view = memoryview(data)
        records, last_seq = self.records, self._last_seq
        salt, alignment = self._header.salt, self._header.alignment
        frame_fields, record_fields, crc = FRAME_FIELDS.unpack, RECORD_FIELDS.unpack_from, crc32c
        lengths = self._lengths
        if len(lengths) > _LENGTHS_KEPT:
            lengths.clear()
        # Leaves room to unpack a record header at the end of any frame it enters.
        limit = len(data) - RECORD_HEADER_SIZE
        while start + FRAME_HEADER_SIZE <= limit:
            at = start + FRAME_HEADER_SIZE
            frame = data[start:at]
            length = lengths.get(frame)
            if length is None:
                frame_salt, length, raw, _, stated = frame_fields(frame)
                if frame_salt != salt or raw or stated != crc(frame[:FRAME_CRC_OFFSET]):
                    return start, 0
                lengths[frame] = length
            end = at + length
            if end > limit:
                return start, _ANY_FRAME + length
            count = len(records)
            while at < end:
                stated, length, kind, seq, timestamp_us = record_fields(data, at)
                after = at + RECORD_HEADER_SIZE + length
                if (
                    after > end
                    or kind != BATCH
                    or not last_seq < seq < STORED_END
                    or timestamp_us >= STORED_END
                    or stated != crc(view[at + CRC_SIZE : after], salt)
                ):
                    del records[count:]
                    return start, 0
                records.append((seq, timestamp_us, data[at + RECORD_HEADER_SIZE : after]))
                last_seq = seq
                at = after
            start = end if alignment == 1 else aligned(end, alignment)
        return start, _ANY_FRAME

    def _read_any_frame(self, offset: int) -> int | None:
        """Take what is sound in the frame at ``offset``; where to go on, if anywhere."""
        frame = self._decode_header(offset)
        if frame is None:
            return self._pass_gap(offset)
        self.trace_end = max(self.trace_end, min(frame.end, self._size))
        sound = self._read_body(frame)
        if self.sealed:
            if not self.damages:
                self.end = min(frame.next, self._size)
            return None
        return frame.next if sound or self._salvage else None

    def _pass_gap(self, offset: int) -> int | None:
        """No sound frame header is at ``offset``: the end of the log, or damage."""
        following = self._find_frame(offset + 1)
        rest = self._window.read(offset, FRAME_HEADER_SIZE)
        if following is None and not self._is_trace(rest):
            return None
        end = following.offset if following else offset + len(rest)
        self.trace_end = max(self.trace_end, end)
        self._report(offset, end, _header_flaw(rest), search_from=offset + 1)
        return following.offset if following and self._salvage else None

    def _is_trace(self, rest: bytes) -> bool:
        """Whether ``rest`` looks like a frame header of this segment that was damaged."""
        start = rest[: len(self._salt)]
        if start and self._salt.startswith(start):
            return True
        if len(rest) < FRAME_HEADER_SIZE:
            return False
        mended = self._salt + rest[len(self._salt) : FRAME_CRC_OFFSET]
        return crc32c(mended).to_bytes(CRC_SIZE, "little") == rest[FRAME_CRC_OFFSET:]

    def _read_body(self, frame: FrameHeader) -> bool:
        """Take the records of a frame; whether all of them were sound."""
        body = self._body(frame)
        if isinstance(body, _Flaw):
            self._report_in(frame, 0, body)
            return False
        before = self.count + len(self.records)
        sound = True
        at: int | None = 0
        while at is not None and at < (frame.raw or frame.stored) and not self.sealed:
            outcome = self._take_record(body, at)
            if isinstance(outcome, _Flaw):
                sound = False
                if not self.damages:
                    self.partial = self.count + len(self.records) - before
                self._report_in(frame, at, outcome)
                at = outcome.next if self._salvage else None
            else:
                at = outcome
        return sound

    def _body(self, frame: FrameHeader) -> bytes | _Flaw:
        """The records of a frame as they were before compression; a plain body may be cut."""
        stored = self._window.read(frame.offset + FRAME_HEADER_SIZE, frame.stored)
        if not frame.raw:
            return stored
        if len(stored) < frame.stored:
            return _Flaw("a compressed frame is cut short", frame.stored, len(stored))
        if frame.raw > MAX_COMPRESSED_BODY:
            return _Flaw("a compressed frame is too large", MAX_COMPRESSED_BODY, frame.raw)
        try:
            size = zstandard.frame_content_size(stored)
            if size != frame.raw:
                return _Flaw("a compressed frame has another length", frame.raw, size)
            return self._decompressor.decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            return _Flaw(f"a frame cannot be decompressed ({error})", frame.raw, 0)

    def _take_record(self, body: bytes, at: int) -> int | _Flaw:
        """Take the record at ``at``; where the next one starts, or what is wrong."""
        left = len(body) - at - RECORD_HEADER_SIZE
        if left < 0:
            return _Flaw("a record header is cut short", RECORD_HEADER_SIZE, len(body) - at)
        stated, length, kind, seq, timestamp_us = RECORD_FIELDS.unpack_from(body, at)
        if length > left:
            return _Flaw("a record is longer than what is left of its frame", length, left)
        start = at + RECORD_HEADER_SIZE
        after: int = start + length
        found = crc32c(memoryview(body)[at + CRC_SIZE : after], self._header.salt)
        if stated != found:
            return _Flaw("the checksum of a record does not match", stated, found, after)
        flaw = self._take_sound(kind, (seq, timestamp_us, body[start:after]))
        return after if flaw is None else flaw._replace(next=after)

    def _take_sound(self, kind: int, record: Record) -> _Flaw | None:
        seq, timestamp_us, payload = record
        if kind == SEAL:
            return self._take_seal(seq, int.from_bytes(payload, "little"))
        if kind != BATCH:
            return _Flaw("a record of unknown type", BATCH, kind, absurd=True)
        if seq <= self._last_seq:
            return _Flaw("a seq does not rise", self._last_seq + 1, seq, absurd=True)
        for name, number in ("seq", seq), ("time", timestamp_us):
            if number >= STORED_END:
                reason = f"a {name} is later than any writer gets"
                return _Flaw(reason, STORED_END - 1, number, absurd=True)
        self.records.append(record)
        self._last_seq = seq
        return None

    def _take_seal(self, last_seq: int, count: int) -> _Flaw | None:
        self._hand_over()
        if not self.damages:
            # A stretch of a segment that was copied elsewhere starts later than its header says.
            first_seq = self.first[0] if self.first else last_seq + 1
            if first_seq == self._header.first_seq and count != self.count:
                reason = "SEAL counts another number of records"
                return _Flaw(reason, count, self.count, absurd=True)
            if self.count and last_seq != self._last_seq:
                return _Flaw("SEAL names another seq", last_seq, self._last_seq, absurd=True)
        self.sealed = True
        return None

    def _report_in(self, frame: FrameHeader, at: int, flaw: _Flaw) -> None:
        start, end = frame.offset, min(frame.end, self._size)
        if not frame.raw:
            body = start + FRAME_HEADER_SIZE
            start = body + at
            end = end if flaw.next is None else body + flaw.next
        self._report(start, end, flaw, search_from=frame.next)

    def _report(self, offset: int, end: int, flaw: _Flaw, *, search_from: int) -> None:
        if self._synced is None:
            self._synced = self._survey(search_from)
        proven = flaw.absurd or self._synced > offset
        self.damages.append(Damage(offset, end, flaw.reason, flaw.expected, flaw.found, proven))

    def _survey(self, start: int) -> int:
        """The highest ``synced`` of all frames from ``start``, behind the first damage, on.

        No frame claims more than its own offset, so one number serves every later damage too:
        a frame that claims more than X stands behind X.
        """
        synced = 0
        frame = self._find_frame(start)
        while frame is not None:
            synced = max(synced, frame.synced)
            self.trace_end = max(self.trace_end, min(frame.end, self._size))
            frame = self._find_frame(frame.next)
        return synced

    def _find_frame(self, start: int) -> FrameHeader | None:
        """The first sound frame header at ``start`` or later."""
        at = self._window.find(self._salt, start)
        while at >= 0:
            frame = self._decode_header(at)
            if frame is not None:
                return frame
            at = self._window.find(self._salt, at + 1)
        return None

    def _decode_header(self, offset: int) -> FrameHeader | None:
        fields = self._window.read(offset, FRAME_HEADER_SIZE)
        return decode_frame_header(fields, offset, self._header)


def _header_flaw(rest: bytes) -> _Flaw:
    if len(rest) < FRAME_HEADER_SIZE:
        return _Flaw("a frame header is cut short", FRAME_HEADER_SIZE, len(rest))
    stated = int.from_bytes(rest[FRAME_CRC_OFFSET:], "little")
    return _Flaw("a frame header is damaged", stated, crc32c(rest[:FRAME_CRC_OFFSET]))
