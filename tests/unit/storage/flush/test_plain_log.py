"""A log of puts and deletes, taken from its records, is the memtable that a replay makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import CorruptionError, DiskError, TruncatedError
from seerdb.ids import Epoch, table_id
from seerdb.storage.entry import DELETE, DELETE_RANGE, MERGE, PUT, PUT_WITH_EXPIRY
from seerdb.storage.flush import plain_log
from seerdb.storage.flush import run as flush
from seerdb.storage.flush.plain_log import PlainLog, read_plain
from seerdb.storage.flush.run import FlushJob, FlushResult, TableFormat, run_flush
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.names import table_name
from seerdb.storage.value import pack_expiring
from seerdb.storage.wal.format import encode_operations, encode_record
from seerdb.storage.wal.replay import replay_sealed
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.workers.pace import at_full_speed
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.memtables import versions
from tests.unit.storage.wal.samples import HEADER, SALT, flipped, frame, put, seal, segment
from tests.unit.storage.wal.test_replay import disk_with

Row = tuple[int, bytes, bytes]

KEYS = st.sampled_from([b"a", b"b", b"bb", b"c\0", b"c"]) | st.binary(min_size=1, max_size=20)
ROWS = st.one_of(
    st.builds(lambda key, value: (PUT, key, value), KEYS, st.binary(max_size=30)),
    st.builds(lambda key: (DELETE, key, b""), KEYS),
)
EVEN = st.tuples(st.integers(0, 99), st.sampled_from([b"", b"same"]), st.integers(38, 40)).map(
    lambda drawn: [(PUT, b"%08d" % (drawn[0] + n), drawn[1]) for n in range(drawn[2])]
)
BATCHES = st.one_of(
    st.lists(ROWS, max_size=5),
    EVEN,
    st.integers(0, 9).map(lambda n: [(PUT, b"key%d" % n, b"same")]),
)


EVEN_BATCH: list[Row] = [(PUT, b"%08d" % n, b"12345") for n in range(40)]
UNEVEN_BATCH: list[Row] = [(PUT, b"%d" % n, b"12345") for n in range(40)]


def logged(*batches: list[Row], group: int = 1) -> CrashableFileSystem:
    """A sealed segment 3 that holds ``batches``, so many in each frame."""
    records = [
        encode_record(seq, seq * 10, encode_operations(*columns(batch)), SALT)
        for seq, batch in enumerate(batches, 1)
    ]
    frames = [frame(*records[at : at + group]) for at in range(0, len(records), group)]
    return disk_with(s3=segment(*frames, frame(seal(len(records), len(records)))))


def columns(batch: list[Row]) -> tuple[bytes, list[bytes], list[bytes]]:
    return bytes(row[0] for row in batch), [row[1] for row in batch], [row[2] for row in batch]


def plain(files: CrashableFileSystem, *, below: int = 0, in_bulk: bool = False) -> PlainLog | None:
    return read_plain(files, "wal", [3], at_full_speed, below=below, in_bulk=in_bulk)


def counted(log: PlainLog) -> dict[bytes, tuple[int, bytes | None]]:
    """What counts of each key, in order of the keys."""
    kept = log.entries.take(log.entries.latest())
    kinds = kept.kinds.tolist()
    stored = zip(kinds, kept.values(), strict=True)
    values = [value if kind == PUT else None for kind, value in stored]
    return dict(zip(kept.keys(), zip(kept.seqs.tolist(), values, strict=True), strict=True))


@given(st.lists(BATCHES, max_size=12), st.integers(1, 5))
def test_what_counts_is_what_a_memtable_has(batches: list[list[Row]], group: int) -> None:
    files = logged(*batches, group=group)
    memtable = replay_sealed(files, "wal", [3], at_full_speed)
    log = plain(files)
    if log is None:
        assert not memtable.values
        return
    found = counted(log)
    assert found == versions(memtable)
    assert list(found) == sorted(found)
    assert len(log.entries) == len(memtable.values)
    times = log.first_us, log.last_us, log.last_seq
    assert times == (memtable.first_us, memtable.last_us, memtable.last_seq)


@given(st.lists(BATCHES, min_size=1, max_size=12))
def test_the_table_is_the_same_to_the_byte(batches: list[list[Row]]) -> None:
    files, tables = logged(*batches), []
    for reader in (read_plain, lambda *_, **__: None):
        store = MemoryObjectStore()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flush, "read_plain", reader)
            result = run_flush(JOB, files, store, at_full_speed)
        stored = store.get(table_name(JOB.table)) if result.table else b""
        tables.append((result, stored))
    assert tables[0] == tables[1]


JOB = FlushJob(
    "wal", (3,), table_id(Epoch(1), 1), 1, TableFormat(1024, "zstd", filter_bits_per_key=10)
)


@pytest.mark.parametrize(
    "other",
    [
        (DELETE_RANGE, b"a", b"b"),
        (MERGE, b"a", b"operand"),
        (PUT_WITH_EXPIRY, b"a", pack_expiring(9, b"value")),
    ],
)
def test_anything_else_takes_a_memtable(other: Row) -> None:
    put = (PUT, b"k", b"v")
    assert plain(logged([put], [other])) is None
    assert plain(logged([put, other], [put])) is None
    even = [(PUT, b"%05d" % n, b"") for n in range(40)]
    kind, key, value = other
    assert plain(logged([*even, (kind, key.rjust(5), value)])) is None


@pytest.mark.parametrize("batches", [[[(PUT, b"k", b"12345")]] * 9, [EVEN_BATCH], [UNEVEN_BATCH]])
def test_a_large_value_takes_a_memtable(batches: list[list[Row]]) -> None:
    files = logged(*batches)
    assert plain(files, below=5) is None
    assert plain(files, below=6) is not None


def test_what_has_to_be_looked_at_one_by_one_is_not_taken_in_bulk() -> None:
    few = [UNEVEN_BATCH] * 9
    assert plain(logged(*few), in_bulk=True) is not None
    many = [UNEVEN_BATCH] * 900
    assert plain(logged(*many), in_bulk=True) is None
    assert plain(logged(*many)) is not None
    even = [EVEN_BATCH] * 900
    assert plain(logged(*even), in_bulk=True) is not None


def flushed(files: CrashableFileSystem, memtable: Memtable) -> tuple[FlushResult, bytes]:
    store = MemoryObjectStore()
    result = run_flush(replace(JOB, memtable=memtable), files, store, at_full_speed)
    return result, store.get(table_name(JOB.table))


@pytest.mark.parametrize(("batch", "reads"), [(EVEN_BATCH, 0), (UNEVEN_BATCH, 1)])
def test_a_memtable_is_looked_at_where_the_log_cannot_be_taken_in_bulk(
    batch: list[Row], reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = logged(*[batch] * 900)
    memtable = replay_sealed(files, "wal", [3], at_full_speed)
    expected = flushed(files, memtable)
    chunks: list[int] = []
    monkeypatch.setattr(Memtable, "chunks", counting(Memtable.chunks, chunks))
    assert flushed(files, memtable) == expected
    assert len(chunks) == reads


def counting(chunks: Callable[[Memtable, int], Any], calls: list[int]) -> Callable[..., Any]:
    def counted(memtable: Memtable, size: int) -> Any:
        calls.append(size)
        return chunks(memtable, size)

    return counted


def test_a_damaged_log_does_not_keep_what_is_in_memory() -> None:
    files = logged(EVEN_BATCH)
    memtable = replay_sealed(files, "wal", [3], at_full_speed)
    result, table = flushed(files, memtable)
    file = files.open(segment_path("wal", 3))
    [byte] = file.read_at(4096 + 700, 1)
    file.write_at(4096 + 700, bytes([byte ^ 1]))
    told, kept = flushed(files, memtable)
    assert "checksum" in told.unproved
    assert (replace(told, unproved=""), kept) == (result, table)


def test_a_log_that_cannot_be_read_does_not_keep_what_is_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = logged(EVEN_BATCH)
    memtable = replay_sealed(files, "wal", [3], at_full_speed)
    expected = flushed(files, memtable)

    def unreadable(*_: Any) -> None:
        raise DiskError("no such sector")

    monkeypatch.setattr(plain_log, "scan_sealed", unreadable)
    assert flushed(files, memtable) == expected
    with pytest.raises(DiskError):
        run_flush(JOB, files, MemoryObjectStore(), at_full_speed)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_memtable_and_a_log_that_differ_are_told(missing: int) -> None:
    """Neither is taken for the other, whichever has more."""
    batches = [EVEN_BATCH, [(PUT, b"%08d" % n, b"more") for n in range(100, 140)]]
    files = logged(*batches[: 2 - missing])
    memtable = replay_sealed(logged(*batches[: 1 + missing]), "wal", [3], at_full_speed)
    with pytest.raises(CorruptionError, match="lose, double or change"):
        flushed(files, memtable)


def test_nothing_is_nothing() -> None:
    assert plain(logged()) is None
    assert plain(logged([])) is None


def test_segments_follow_each_other() -> None:
    four = HEADER._replace(segment=4, first_seq=3)
    files = disk_with(
        s3=segment(frame(put(1)), frame(put(2)), frame(seal(2, 2))),
        s4=segment(frame(put(3)), frame(seal(3, 1)), header=four),
    )
    log = read_plain(files, "wal", (3, 4), at_full_speed)
    assert log is not None
    assert (log.first_us, log.last_us, log.last_seq) == (10, 30, 3)
    assert log.entries.keys() == [b"key1", b"key2", b"key3"]


def test_what_is_not_sealed_or_damaged_is_refused() -> None:
    whole = segment(frame(put(1)), frame(seal(1, 1)))
    with pytest.raises(TruncatedError):
        plain(disk_with(s3=segment(frame(put(1)), padding=99)))
    with pytest.raises(CorruptionError):
        plain(disk_with(s3=flipped(whole, 4096 + 60)))


@pytest.mark.parametrize(
    "payload",
    [
        b"\1\0\0\0\1\1\0\1\0\0\0k",
        b"\1\0\0\0",
        b"",
        b"\2\0\0\0\1",
        b"\1\0\0\0\1\0\0\1\0\0\0v",
    ],
)
def test_a_record_whose_lengths_lie_or_whose_key_is_empty_is_damage(payload: bytes) -> None:
    record = encode_record(1, 10, payload, SALT)
    with pytest.raises(CorruptionError):
        plain(disk_with(s3=segment(frame(record), frame(seal(1, 1)))))
