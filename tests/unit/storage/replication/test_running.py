"""The digest of the log that a writer has sent, and of what a follower has applied: they agree
wherever marks are, and nowhere once something differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from seerdb import CorruptionError
from seerdb.storage.digest import digest
from seerdb.storage.entry import DELETE, DELETE_RANGE, MERGE, PUT, PUT_WITH_EXPIRY
from seerdb.storage.memtable import Memtable
from seerdb.storage.replication import running
from seerdb.storage.replication.contents import _decoded
from seerdb.storage.replication.running import AppliedDigest, Mark, SentDigest
from seerdb.storage.sstable.packed import pack
from seerdb.storage.value import pack_expiring
from seerdb.storage.wal.format import (
    SegmentHeader,
    encode_frame,
    encode_operations,
    encode_record,
)

SALT = 0x5EEDB0A7
HEADER = SegmentHeader(bytes(16), 12, 3, 8, 0, SALT, 1)
BEFORE = HEADER.first_seq - 1

Operation = tuple[int, bytes, bytes]
Group = list[list[Operation]]
"""The commits of one frame."""


def _stored(operation: Operation) -> Operation:
    kind, key, value = operation
    if kind == DELETE:
        return kind, key, b""
    if kind == DELETE_RANGE:
        return kind, key, key + b"\xff"
    return kind, key, pack_expiring(9, value) if kind == PUT_WITH_EXPIRY else value


KEYS = st.binary(min_size=1, max_size=9)
VALUES = st.one_of(st.binary(max_size=40), st.binary(min_size=1100, max_size=1200))
PLAIN = st.tuples(st.just(PUT), KEYS, VALUES)
ANY = st.tuples(
    st.sampled_from([PUT, PUT, PUT, DELETE, DELETE_RANGE, MERGE, PUT_WITH_EXPIRY]), KEYS, VALUES
).map(_stored)


def groups(operations: st.SearchStrategy[Operation]) -> st.SearchStrategy[list[Group]]:
    commits = st.lists(operations, min_size=1, max_size=4)
    return st.lists(st.lists(commits, min_size=1, max_size=3), min_size=1, max_size=8)


HISTORIES = st.one_of(groups(PLAIN), groups(ANY))


class Log(NamedTuple):
    """A segment: its frames, and the records of each."""

    frames: list[bytes]
    records: list[list[tuple[int, int, bytes]]]

    @property
    def last_seq(self) -> int:
        return self.records[-1][-1][0]


def written(history: list[Group], *, compressed: bool = False) -> Log:
    log, seq = Log([], []), BEFORE
    compress = zstandard.ZstdCompressor().compress if compressed else None
    for group in history:
        records = []
        for commit in group:
            seq += 1
            kinds, keys, values = zip(*commit, strict=True)
            records.append((seq, 1, encode_operations(bytes(kinds), keys, values)))
        body = b"".join(encode_record(*record, SALT) for record in records)
        log.records.append(records)
        log.frames.append(encode_frame(body, salt=SALT, synced=0, alignment=1, compress=compress))
    return log


class Follower:
    """A memtable and its digest."""

    def __init__(self) -> None:
        self.memtable = Memtable([12])
        self.digest = AppliedDigest()
        self.seq = BEFORE

    def apply(self, records: list[tuple[int, int, bytes]]) -> None:
        self.digest.expect(HEADER, self.seq)
        start, commits = len(self.memtable.values), [_decoded(*each) for each in records]
        for commit in commits:
            if len(commit) == 4:
                self.memtable.put(*commit)
            else:
                self.memtable.apply(*commit)
        self.digest.add(commits, self.memtable, start)
        self.seq = records[-1][0]


def mark_of(sent: SentDigest) -> Mark:
    mark = sent.mark()
    assert mark is not None
    return mark


@given(HISTORIES, st.lists(st.booleans(), min_size=8, max_size=8), st.booleans())
def test_whatever_was_written_both_agree_at_every_mark(
    history: list[Group], is_marked: list[bool], compressed: bool
) -> None:
    log = written(history, compressed=compressed)
    sent, follower, rows = SentDigest(HEADER), Follower(), []
    for frame, records, group, here in zip(
        log.frames, log.records, history, is_marked, strict=False
    ):
        sent.add(frame)
        follower.apply(records)
        for (seq, _, _), commit in zip(records, group, strict=True):
            rows += [(key, seq, kind, value) for kind, key, value in commit]
        if here:
            mark = mark_of(sent)
            keys, seqs, kinds, values = zip(*rows, strict=True)
            assert mark.sums == digest(pack(keys, seqs, bytes(kinds), values))
            assert (mark.epoch, mark.segment, mark.seq) == (3, 12, records[-1][0])
            assert follower.digest.compare(mark)
            assert follower.digest.mark == mark


@given(HISTORIES, st.integers(0, 7))
def test_a_writer_that_begins_within_a_segment_knows_what_is_before(
    history: list[Group], at: int
) -> None:
    log = written(history)
    whole, later = SentDigest(HEADER), SentDigest(HEADER)
    whole.add(b"".join(log.frames))
    data = bytes(4096) + b"".join(log.frames[:at])
    later.begin(lambda offset, length: data[offset : offset + length], len(data))
    if log.frames[at:]:
        later.add(b"".join(log.frames[at:]))
    assert later.mark() == whole.mark()


@given(HISTORIES, st.data())
def test_one_commit_that_differs_shows_and_is_named(
    history: list[Group], data: st.DataObject
) -> None:
    log = written(history)
    sent, follower = SentDigest(HEADER), Follower()
    sent.add(b"".join(log.frames))
    records = [record for frame in log.records for record in frame]
    at = data.draw(st.integers(0, len(records) - 1))
    seq, time_us, _ = records[at]
    fault = data.draw(st.sampled_from(["lost", "twice", "changed"]))
    others = encode_operations(bytes([PUT]), [b"another"], [b"epoch"])
    records[at : at + 1] = {
        "lost": [],
        "twice": [records[at], records[at]],
        "changed": [(seq, time_us, others)],
    }[fault]
    if fault == "lost" and at == len(records):
        return  # seen by the seq alone
    follower.apply(records)
    with pytest.raises(CorruptionError, match=f"seq 8 to {log.last_seq} .*segment 12 .*epoch 3"):
        follower.digest.compare(mark_of(sent))


def lose(memtable: Memtable) -> None:
    del memtable.values[3], memtable.seqs[3]


def lose_the_last(memtable: Memtable) -> None:
    del memtable.values[-1], memtable.seqs[-1]


def forget(memtable: Memtable) -> None:
    del memtable.newest[b"3"]


def misplace(memtable: Memtable) -> None:
    memtable.newest[b"3"] = 2


def change(memtable: Memtable) -> None:
    memtable.values[3] = b"w"


def change_seq(memtable: Memtable) -> None:
    memtable.seqs[3] += 1


@pytest.mark.parametrize(
    "others", [[], [[[(MERGE, b"m", b"1"), (MERGE, b"m", b"2")]]]], ids=["puts", "merges"]
)
@pytest.mark.parametrize(
    "fault", [lose, lose_the_last, forget, misplace, change, change_seq], ids=lambda f: f.__name__
)
def test_what_is_not_in_the_memtable_shows_though_it_was_decoded(
    fault: Callable[[Memtable], None], others: list[Group]
) -> None:
    """Also where there are others that a memtable has not as they were logged."""
    log = written([*([[(PUT, b"%d" % number, b"v")]] for number in range(6)), *others])
    sent, follower = SentDigest(HEADER), Follower()
    sent.add(b"".join(log.frames))
    for records in log.records:
        follower.apply(records)
    fault(follower.memtable)
    with pytest.raises(CorruptionError, match="differs from its primary"):
        follower.digest.compare(mark_of(sent))


def test_what_a_memtable_does_not_keep_as_it_was_logged_is_told_by_the_log() -> None:
    """A delete after a put in one batch, operands, ranges, lifetimes."""
    history = [
        [[(PUT, b"a", b"1"), (DELETE, b"a", b"")]],
        [[(MERGE, b"b", b"1"), (MERGE, b"b", b"2")], [(MERGE, b"b", b"3")]],
        [[(DELETE_RANGE, b"a", b"b"), (PUT, b"a", b"2")]],
        [[_stored((PUT_WITH_EXPIRY, b"c", b"1"))], [(PUT, b"c", b"2")], [(DELETE, b"c", b"")]],
    ]
    log = written(history)
    sent, follower = SentDigest(HEADER), Follower()
    for frame, records in zip(log.frames, log.records, strict=True):
        sent.add(frame)
        follower.apply(records)
    assert follower.digest.compare(mark_of(sent))
    assert mark_of(sent).entries == 10


def test_a_follower_that_has_not_seen_the_beginning_takes_the_first_mark_for_it() -> None:
    log = written([[[(PUT, b"%d" % number, b"v")]] for number in range(6)])
    sent, follower = SentDigest(HEADER), Follower()
    marks = []
    for frame in log.frames:
        sent.add(frame)
        marks.append(mark_of(sent))
    follower.seq = BEFORE + 2
    follower.apply(log.records[2])
    assert not follower.digest.compare(marks[1]), "it is ahead"
    assert not follower.digest.compare(marks[2])
    follower.apply(log.records[3])
    assert follower.digest.compare(marks[3])
    assert follower.digest.mark == marks[3]
    seq, time_us, _ = log.records[4][0]
    other = encode_operations(bytes([PUT]), [b"x"], [b"y"])
    follower.apply([(seq, time_us, other)])
    follower.apply(log.records[5])
    with pytest.raises(CorruptionError, match=f"seq {BEFORE + 5} to {BEFORE + 6} "):
        follower.digest.compare(marks[5])


def test_what_tables_brought_meanwhile_is_not_missed() -> None:
    log = written([[[(PUT, b"%d" % number, b"v")]] for number in range(6)])
    sent, follower = SentDigest(HEADER), Follower()
    for frame in log.frames[:4]:
        sent.add(frame)
    follower.apply(log.records[0])
    follower.seq = BEFORE + 3  # by a flushed table
    follower.memtable = Memtable([12])
    follower.apply(log.records[3])
    assert not follower.digest.compare(mark_of(sent))
    sent.add(log.frames[4])
    follower.apply(log.records[4])
    assert follower.digest.compare(mark_of(sent))


@pytest.mark.parametrize(("limit", "few"), [("OPERATIONS_AT_ONCE", 2), ("MEMORY_AT_ONCE", 200)])
def test_few_are_kept_waiting(limit: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BYTES_AT_ONCE", 100)
    monkeypatch.setattr(running, limit, few)
    log = written([[[(PUT, b"%d" % number, b"v")]] for number in range(9)])
    sent, follower = SentDigest(HEADER), Follower()
    for frame, records in zip(log.frames, log.records, strict=True):
        sent.add(frame)
        follower.apply(records)
        assert sent._bytes < 100
        assert len(follower.digest._commits) < 2
    assert follower.digest.compare(mark_of(sent))
    assert follower.digest._memtable is None, "a memtable that is dropped is not held"


def test_nothing_sent_has_no_mark() -> None:
    assert SentDigest(HEADER).mark() is None
    assert AppliedDigest().mark is None


def test_a_mark_of_something_else_is_not_compared() -> None:
    log = written([[[(PUT, b"a", b"v")]]])
    follower = Follower()
    follower.apply(log.records[0])
    for other in (
        Mark(2, 12, 8, 1, "0" * 32),
        Mark(3, 11, 8, 1, "0" * 32),
        Mark(3, 12, 7, 1, "0" * 32),
    ):
        assert not follower.digest.compare(other)
