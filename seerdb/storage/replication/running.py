"""The digest of the log so far, which a writer and its followers keep, each for itself, of each
segment of the log; equal at a seq, they have the same operations up to there.

A :class:`Mark` is such a digest and the seq up to which it goes. It begins where its segment does:
that is where a memtable begins, it is the same place for everybody, and no takeover, promotion or
new connection changes it. The writer digests the bytes that it streams, not what it had in memory
when it wrote them; a follower digests what its memtable has. Both do so for many operations at
once, when a mark is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from operator import eq
from typing import TypeAlias

import msgspec

from seerdb.errors import CorruptionError
from seerdb.storage.digest import NONE, Digest, digest, summed
from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT
from seerdb.storage.flush.run import packed
from seerdb.storage.memtable import Memtable
from seerdb.storage.merge import Chunk
from seerdb.storage.wal.entries import Columns, ReadAt, operations_from
from seerdb.storage.wal.format import HEADER_SIZE, SegmentHeader

BYTES_AT_ONCE = 1 << 20
"""Of frames that wait to be digested."""
OPERATIONS_AT_ONCE = 8192
MEMORY_AT_ONCE = 8 << 20
"""Of a follower, that waits to be digested: operations, and about so many bytes of them."""

_NAME = "the local log"

Single: TypeAlias = tuple[int, bytes, bytes | None, int]
"""A commit of one put or delete: seq, key, value, size in memory."""
Commit: TypeAlias = Single | tuple[int, bytes, list[bytes], list[bytes], int]
"""Or any: seq, kinds, keys, values as logged, time in microseconds."""
Operation: TypeAlias = tuple[int, int, bytes, bytes]
"""Seq, kind, key and value as logged."""


class Mark(msgspec.Struct, frozen=True):
    """The digest of all operations that one segment of the log has up to commit ``seq``.

    ``epoch``: of the segment's writer. ``digest``: both sums, as 32 hex digits; see ``digest.py``.
    """

    epoch: int
    segment: int
    seq: int
    entries: int
    digest: str

    @property
    def sums(self) -> Digest:
        """As numbers. Raises: ``CorruptionError``."""
        return Digest.read(self.entries, self.digest)


def difference(name: str, expected: Digest, found: Digest) -> CorruptionError:
    """The error that a follower ends with, where the writer has what is expected."""
    return CorruptionError(
        "the replica differs from its primary",
        name=name,
        expected=f"{expected.entries} entries, {expected}",
        found=f"{found.entries} entries, {found}",
        hint="start the replica again: it then reads the primary's tables; and verify the database",
    )


class SentDigest:
    """Of what a writer has sent of one segment, and what that has before it. One thread at a
    time."""

    def __init__(self, header: SegmentHeader) -> None:
        self._header = header
        self._sums = NONE
        self._seq = 0
        self._frames: list[bytes] = []
        self._bytes = 0

    def begin(self, read_at: ReadAt, end: int) -> None:
        """The segment is sent from the offset ``end`` on. Raises: ``CorruptionError``."""

        def read_before(offset: int, length: int) -> bytes:
            return read_at(offset, max(0, min(length, end - offset)))

        self._take(read_before, HEADER_SIZE)

    def add(self, frames: bytes) -> None:
        """Whole frames, the next that are sent. Raises: ``CorruptionError``."""
        self._frames.append(frames)
        self._bytes += len(frames)
        if self._bytes >= BYTES_AT_ONCE:
            self._settle()

    def mark(self) -> Mark | None:
        """The digest of what was sent; ``None``: nothing was. Raises: ``CorruptionError``."""
        self._settle()
        if not self._seq:
            return None
        sums = self._sums
        header = self._header
        return Mark(header.epoch, header.segment, self._seq, sums.entries, str(sums))

    def _settle(self) -> None:
        if self._frames:
            frames = b"".join(self._frames)
            self._frames, self._bytes = [], 0
            self._take(lambda offset, length: frames[offset : offset + length], 0)

    def _take(self, read_at: ReadAt, start: int) -> None:
        for operations in operations_from(read_at, start, self._header, _NAME):
            self._sums += summed(operations.hashes(), operations.seqs)
            self._seq = max(self._seq, int(operations.seqs.max()))


class AppliedDigest:
    """Of what a follower has put into its memtables from one segment. One thread at a time."""

    def __init__(self) -> None:
        self.mark: Mark | None = None
        """The newest digest."""
        self._source = (0, 0)
        """Epoch and segment."""
        self._sums: Digest | None = None
        """``None``: it is not known what the segment has before what was taken."""
        self._seq = 0
        self._agreed = 0
        """The newest commit up to which it is what the writer has."""
        # Not digested yet, and where in which memtable that begins:
        self._commits: list[Commit] = []
        self._memtable: Memtable | None = None
        self._start = 0
        self._size = 0

    def expect(self, header: SegmentHeader, shown: int) -> None:
        """More of a segment follows, to be applied after commit ``shown``."""
        source = header.epoch, header.segment
        if source != self._source:
            self.settle()
            self._source = source
            self._sums = NONE if shown < header.first_seq else None
            self._agreed = shown
        elif shown != self._seq:
            # Tables have brought what came between, or an ingest did, of which there is no log.
            self.settle()
            self._sums = None
        self._seq = shown

    def add(self, commits: Sequence[Commit], memtable: Memtable, start: int) -> None:
        """These were applied to a memtable that had ``start`` versions before."""
        self._seq = commits[-1][0]
        if self._sums is None:
            return
        if memtable is not self._memtable:
            self.settle()
            self._memtable, self._start, self._size = memtable, start, memtable.size
        self._commits += commits
        waiting = max(len(self._commits), len(memtable.values) - self._start)
        if waiting >= OPERATIONS_AT_ONCE or memtable.size - self._size >= MEMORY_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Digest what was applied, and let go of it."""
        commits, self._commits = self._commits, []
        memtable, self._memtable = self._memtable, None
        if self._sums is None or memtable is None:
            return
        keys = _keys(commits)
        if keys is None:
            self._sums += _found(memtable, commits)
        else:
            self._sums += _held(memtable, self._start, keys)
        sums = self._sums
        self.mark = Mark(*self._source, self._seq, sums.entries, str(sums))

    def compare(self, mark: Mark) -> bool:
        """Whether it could be compared with the writer's.

        Raises: ``CorruptionError`` when they differ, which names the commits.
        """
        self.settle()
        if (mark.epoch, mark.segment) != self._source or mark.seq != self._seq:
            return False
        if self._sums is None:
            # From here on it can be told.
            self._sums, self._agreed, self.mark = mark.sums, mark.seq, mark
            return False
        if self._sums != mark.sums:
            raise self.difference(mark)
        self._agreed = mark.seq
        return True

    def difference(self, mark: Mark) -> CorruptionError:
        """Of what is here and what ``mark`` says."""
        self.settle()
        where = f"segment {mark.segment} of the log of epoch {mark.epoch}"
        name = f"seq {self._agreed + 1} to {mark.seq} ({where})"
        return difference(name, mark.sums, self._sums or NONE)


def _keys(commits: list[Commit]) -> list[bytes] | None:
    """Of puts and lone deletes, which a memtable has as they were logged; ``None``: there is
    something else among them."""
    if set(map(len, commits)) == {4}:
        return [each[1] for each in commits]
    if not all(len(each) == 4 or each[1].count(PUT) == len(each[1]) for each in commits):
        return None
    return list(chain.from_iterable((each[1],) if len(each) == 4 else each[2] for each in commits))


def _held(memtable: Memtable, start: int, keys: list[bytes]) -> Digest:
    """What a memtable has of ``keys`` from the place ``start`` on; what no read would find there
    does not count."""
    seqs, values, newest = memtable.seqs[start:], memtable.values[start:], memtable.newest
    places = dict(zip(keys, range(start, start + len(keys)), strict=True))
    chunk = Chunk(keys, seqs, values)
    if len(keys) != len(values) or not all(map(eq, map(newest.get, places), places.values())):
        rows = zip(*chunk, range(start, start + len(keys)), strict=False)
        found = [row[:3] for row in rows if newest.get(row[0], -1) >= row[3]]
        if not found:
            return NONE
        chunk = Chunk(*map(list, zip(*found, strict=True)))
    return digest(packed(chunk))


def _found(memtable: Memtable, commits: list[Commit]) -> Digest:
    """What is known to be applied: the last operation of each key as the memtable has it, if that
    was a put or a delete, and the others as they were logged."""
    seqs, newest = memtable.seqs, memtable.newest
    operations = list(chain.from_iterable(map(_operations, commits)))
    last = {each[2]: at for at, each in enumerate(operations) if each[1] != DELETE_RANGE}
    lost = []
    for key, at in last.items():
        seq, kind, _, _ = operations[at]
        place = newest.get(key, len(seqs))
        if place >= len(seqs) or seqs[place] != seq:
            lost.append(at)
        elif kind <= DELETE:
            value = memtable.values[place]
            kind = DELETE if value is None else PUT
            operations[at] = seq, kind, key, value if isinstance(value, bytes) else b""
    for at in sorted(lost, reverse=True):
        del operations[at]
    if not operations:
        return NONE
    numbers, kinds, keys, values = map(list, zip(*operations, strict=True))
    found = Columns([bytes(kinds)], numbers, keys, values).packed()
    return summed(found.hashes(), found.seqs)


def _operations(commit: Commit) -> Iterable[Operation]:
    if len(commit) == 4:
        seq, key, value, _ = commit
        return ((seq, DELETE if value is None else PUT, key, value or b""),)
    seq, kinds, keys, values, _ = commit
    return zip(repeat(seq), kinds, keys, values, strict=False)
