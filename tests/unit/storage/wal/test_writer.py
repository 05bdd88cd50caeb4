from __future__ import annotations

import errno
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from seerdb.errors import (
    ClosedError,
    DiskError,
    DiskFullError,
    InternalError,
    InvalidRequestError,
    PoisonedError,
)
from seerdb.storage.local.files import FileSystem
from seerdb.storage.local.os_files import OsFileSystem, _OsFile
from seerdb.storage.wal.format import (
    FRAME_FIELDS,
    HEADER_SIZE,
    SEAL_FRAME_SIZE,
    encode_put,
    encode_record,
)
from seerdb.storage.wal.reader import Condition, classify, scan_segment
from seerdb.storage.wal.writer import LogStatistics, LogWriter
from seerdb.testing.clock import FakeClock
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.machine import disk_error
from tests.unit.storage.wal.samples import disk, seqs

SIZE = 32_768


def writer(files: FileSystem, directory: str = "wal", **changes: Any) -> LogWriter:
    settings: dict[str, Any] = {
        "database_id": b"d" * 16,
        "epoch": 4,
        "segment_size": SIZE,
        "sync": "data",
        "compression": "none",
        "direct": False,
        "random": random.Random(1),
        "clock": FakeClock(),
    }
    return LogWriter(files, directory, **{**settings, **changes})


def started(files: FileSystem, **changes: Any) -> LogWriter:
    log = writer(files, **changes)
    log.start(1, 1)
    return log


def record(log: LogWriter, seq: int, value: bytes = b"value") -> bytes:
    return encode_record(seq, seq, encode_put(b"key", value), log.salt)


def append_put(log: LogWriter, seq: int, timestamp_us: int, key: bytes, value: bytes) -> None:
    log.put_appender()(seq, timestamp_us, key, value, (len(key), len(value)))


def synced_claims(files: FileSystem, segment: int = 1) -> list[tuple[int, int]]:
    """Offset and ``synced`` of each frame of plain single puts."""
    data = files.open_read(f"wal/{segment:020d}.wal").read_at(0, SIZE)
    claims, offset = [], HEADER_SIZE
    while offset + FRAME_FIELDS.size <= len(data):
        salt, stored, _, synced, _ = FRAME_FIELDS.unpack_from(data, offset)
        if not salt:
            break
        claims.append((offset, synced))
        offset += FRAME_FIELDS.size + stored
    return claims


def test_what_is_appended_is_read_back() -> None:
    files = disk()
    log = started(files)
    log.append(record(log, 1) + record(log, 2))
    append_put(log, 3, 30, b"key3", b"value3")
    scan = scan_segment(files, "wal", 1)
    assert seqs(scan) == [1, 2, 3]
    assert scan.records[2] == (3, 30, encode_put(b"key3", b"value3"))
    assert scan.end == log.position
    assert (scan.header.database_id, scan.header.epoch, scan.header.first_seq) == (b"d" * 16, 4, 1)
    assert scan.header.created_us == 1_700_000_000_000_000
    assert (log.segment, log.salt) == (1, scan.header.salt)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_mode_works_on_the_real_disk(tmp_path: Path, compression: str, direct: bool) -> None:
    files = OsFileSystem()
    log = writer(files, str(tmp_path), compression=compression, direct=direct)
    for segment in (1, 2):
        log.start(segment, segment * 10)
        append_put(log, segment * 10, 5, b"key", b"v" * 1000)
        log.append(record(log, segment * 10 + 1, b"v" * 5000))
        log.sync()
        assert log.position % (4096 if direct else 1) == 0
        log.seal(segment * 10 + 1, 2)
        scan = scan_segment(files, str(tmp_path), segment)
        assert seqs(scan) == [segment * 10, segment * 10 + 1]
        assert classify(scan, is_last=False) is Condition.SOUND
        assert (scan.end < HEADER_SIZE + 1000) == (compression == "zstd" and not direct)


def test_appended_records_are_durable_after_a_sync_and_not_before() -> None:
    files = disk()
    log = started(files)
    log.append(record(log, 1))
    log.sync()
    log.append(record(log, 2))
    found = {
        tuple(seqs(scan_segment(files.crash(random.Random(seed)), "wal", 1))) for seed in range(50)
    }
    assert found == {(1,), (1, 2)}


def test_a_sync_with_nothing_new_is_free() -> None:
    files = disk()
    log = started(files)
    before = files.operations
    log.sync()
    log.append(record(log, 1))
    log.sync()
    log.sync()
    assert [line.split()[0] for line in files.trace[before:]] == ["write", "sync"]
    assert (log.synced, log.statistics().syncs) == (log.position, 1)


@pytest.mark.parametrize(("sync", "call"), [("data", "sync data"), ("full", "sync wal")])
def test_the_setting_decides_between_fdatasync_and_fsync(sync: str, call: str) -> None:
    files = disk()
    log = started(files, sync=sync)
    log.append(record(log, 1))
    log.sync()
    assert files.trace[-1].startswith(call)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_frames_claim_just_what_was_synced_before_them(
    is_mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = OsFileSystem() if is_mapped else disk()
    files.make_directory("wal")
    log = started(files)
    length = len(record(log, 1)) + FRAME_FIELDS.size
    log.append(record(log, 1))
    append = log.put_appender()
    append(2, 2, b"key", b"value", (3, 5))
    log.sync()
    log.append(record(log, 3))
    log.sync()
    append(4, 4, b"key", b"value", (3, 5))
    starts = [HEADER_SIZE + number * length for number in range(4)]
    claims = [HEADER_SIZE, HEADER_SIZE, starts[2], starts[3]]
    assert synced_claims(files) == list(zip(starts, claims, strict=True))


def test_a_sealed_segment_is_whole_and_durable() -> None:
    files = disk()
    log = started(files)
    log.append(record(log, 1) + record(log, 2))
    log.seal(2, 2)
    for seed in range(20):
        scan = scan_segment(files.crash(random.Random(seed)), "wal", 1)
        assert (seqs(scan), scan.sealed) == ([1, 2], True)
        assert classify(scan, is_last=False) is Condition.SOUND
    assert log.position == scan.end
    assert files.open_read("wal/00000000000000000001.wal").size() == SIZE


def test_the_seal_is_written_after_a_sync_of_all_before_it() -> None:
    files = disk()
    log = started(files)
    log.append(record(log, 1))
    before = files.operations
    log.seal(1, 1)
    kinds = [line.split()[0] for line in files.trace[before:]]
    assert kinds == ["sync", "write", "sync"]
    offset, synced = synced_claims(files)[-1]
    assert offset == synced


def test_an_empty_segment_can_be_sealed() -> None:
    files = disk()
    log = started(files)
    log.seal(0, 0)
    assert scan_segment(files, "wal", 1).sealed


def test_one_segment_at_a_time() -> None:
    files = disk()
    log = writer(files)
    with pytest.raises(ClosedError):
        log.append(b"")
    log.sync()
    log.start(1, 1)
    with pytest.raises(InternalError):
        log.start(2, 1)
    log.seal(0, 0)
    with pytest.raises(ClosedError):
        append_put(log, 1, 1, b"k", b"v")
    log.sync()
    log.start(2, 1)
    assert (log.segment, log.position, log.synced) == (2, HEADER_SIZE, HEADER_SIZE)


def test_fits_leaves_room_for_the_seal() -> None:
    files = disk()
    log = started(files)
    log.append(b"x" * 1000)
    left = SIZE - log.position - FRAME_FIELDS.size - SEAL_FRAME_SIZE
    assert log.fits(left)
    assert not log.fits(left + 1)
    log.append(b"x" * left)
    log.sync()
    log.seal(0, 0)
    assert files.open_read("wal/00000000000000000001.wal").size() == SIZE


def test_fits_counts_whole_blocks_with_direct_io() -> None:
    files = disk()
    log = started(files, direct=True, segment_size=SIZE + 2000)
    log.append(b"x")
    left = SIZE - log.position - 4096 - FRAME_FIELDS.size
    assert log.fits(left)
    assert not log.fits(left + 1)


def test_an_empty_segment_takes_a_batch_of_any_size() -> None:
    files = disk()
    log = started(files)
    assert log.fits(10 * SIZE)
    log.append(record(log, 1, b"v" * 3 * SIZE))
    assert not log.fits(1)
    log.seal(1, 1)
    assert files.open_read("wal/00000000000000000001.wal").size() > 3 * SIZE
    assert seqs(scan_segment(files, "wal", 1)) == [1]
    log.pool.recycle(1)
    assert files.list("wal") == []


def test_every_segment_has_a_salt_of_its_own_even_if_the_random_source_repeats() -> None:
    salts = set()
    for segment in range(1, 50):
        log = writer(disk(), random=random.Random(7))
        log.start(segment, 1)
        assert log.salt
        salts.add(log.salt)
    assert len(salts) == 49


def test_a_failed_append_poisons() -> None:
    files = disk()
    log = started(files)
    log.append(record(log, 1))
    files.no_space = True
    with pytest.raises(DiskFullError) as first:
        log.append(record(log, 2))
    files.no_space = False
    attempts: list[Callable[[], None]] = [
        lambda: log.append(record(log, 2)),
        lambda: append_put(log, 2, 2, b"k", b"v"),
        log.sync,
        lambda: log.seal(1, 1),
        lambda: log.start(2, 2),
    ]
    for attempt in attempts:
        with pytest.raises(PoisonedError) as caught:
            attempt()
        assert caught.value.__cause__ is first.value
    log.close()
    assert seqs(scan_segment(files, "wal", 1)) == [1]


def test_a_failed_sync_poisons_and_is_not_retried() -> None:
    files = disk()
    log = started(files)
    log.append(record(log, 1))
    files.fail_sync()
    with pytest.raises(DiskError) as first:
        log.sync()
    before = files.operations
    for _ in range(2):
        with pytest.raises(PoisonedError) as caught:
            log.sync()
        assert caught.value.__cause__ is first.value
    with pytest.raises(PoisonedError):
        log.append(record(log, 2))
    assert files.operations == before
    assert log.synced == HEADER_SIZE


def test_a_failed_seal_poisons() -> None:
    files = disk()
    log = started(files)
    files.no_space = True
    with pytest.raises(DiskFullError):
        log.seal(0, 0)
    with pytest.raises(PoisonedError):
        log.seal(0, 0)


def test_a_group_that_is_too_large_poisons_nothing() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 5 << 30

    files = disk()
    log = started(files)
    with pytest.raises(InvalidRequestError):
        log.append(Huge())
    log.append(record(log, 1))
    assert seqs(scan_segment(files, "wal", 1)) == [1]


def test_starting_can_be_tried_again_when_there_is_space() -> None:
    files = disk()
    log = writer(files)
    files.no_space = True
    with pytest.raises(DiskFullError):
        log.start(1, 1)
    files.no_space = False
    log.start(1, 1)
    log.append(record(log, 1))


def test_starting_can_be_tried_again_when_the_file_can_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment counted as begun, and each later write as a bug."""
    files, closed = OsFileSystem(), list[_OsFile]()

    def note(file: _OsFile) -> None:
        closed.append(file)

    log = writer(files, str(tmp_path))
    log.pool.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(_OsFile, "size", lambda file: raise_error(disk_error(errno.EIO, "size")))
        patch.setattr(_OsFile, "close", note)
        with pytest.raises(DiskError):
            log.start(1, 1)
    [unused] = closed
    unused.close()
    log.start(1, 1)
    append_put(log, 1, 1, b"k", b"v")
    log.seal(1, 1)
    assert seqs(scan_segment(files, str(tmp_path), 1)) == [1]


def raise_error(error: Exception) -> NoReturn:
    raise error


def test_statistics_count_what_was_done() -> None:
    clock = FakeClock()

    class TimedDisk(CrashableFileSystem):
        def sync_content(self, content: Any, path: str, *, metadata: bool) -> None:
            clock.advance(0.5)

    files = TimedDisk()
    files.make_directory("wal")
    log = started(files, clock=clock)
    log.append(record(log, 1))
    append_put(log, 2, 2, b"k", b"v")
    log.sync()
    log.append(record(log, 3))
    log.sync()
    assert log.statistics() == LogStatistics(
        segments=1, bytes=log.position - HEADER_SIZE, syncs=2, sync_seconds=1.0
    )


class _SlowSync(CrashableFileSystem):
    """Lets something else happen while a sync is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = threading.Event()
        self.go_on = threading.Event()
        self.slow = False
        self.fail_sync_after_waiting = False

    def sync_content(self, content: Any, path: str, *, metadata: bool) -> None:
        super().sync_content(content, path, metadata=metadata)
        if self.slow:
            self.slow = False
            self.mutex.release()
            self.under_way.set()
            assert self.go_on.wait(60)
            self.mutex.acquire()
            if self.fail_sync_after_waiting:
                raise disk_error(errno.EIO, path)


def resident(path: Path) -> int:
    """KiB of a mapped file that this process has in its page table."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(path)):
            found += next(int(each.split()[1]) for each in lines if each.startswith("Rss:"))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("step", [1, 15, 16, 17, 200])
def test_pages_leave_the_mapping_before_many_of_them_are_synced(tmp_path: Path, step: int) -> None:
    """Each that was in it at a sync cost an interrupt of all processors that write."""
    files, size = OsFileSystem(), 4096
    log = writer(files, str(tmp_path), segment_size=1 << 20)
    log.start(1, 1)
    append, path = log.put_appender(), tmp_path / f"{1:020d}.wal"
    append(1, 1, b"key", bytes(size), (3, size))
    log.sync()
    for seq in range(2, 2 + step):
        append(seq, seq, b"key", bytes(size), (3, size))
    before = resident(path)
    log.sync()
    assert before >= 4 * step
    assert (resident(path) < before) == (step >= 16)
    append(2 + step, 2 + step, b"key", bytes(size), (3, size))
    log.seal(2 + step, 2 + step)
    scan = scan_segment(files, str(tmp_path), 1)
    assert seqs(scan) == list(range(1, 3 + step))


def test_what_is_appended_during_a_sync_does_not_count_as_synced() -> None:
    files = _SlowSync()
    files.make_directory("wal")
    log = started(files)
    log.append(record(log, 1))
    covered = log.position
    files.slow = True
    syncing = threading.Thread(target=log.sync)
    syncing.start()
    assert files.under_way.wait(60)
    log.append(record(log, 2))
    assert log.synced == HEADER_SIZE
    files.go_on.set()
    syncing.join()
    assert (log.synced, log.position > covered) == (covered, True)
    assert synced_claims(files)[1][1] == HEADER_SIZE
    log.append(record(log, 3))
    assert synced_claims(files)[2][1] == covered


def test_a_segment_is_not_closed_under_a_running_sync() -> None:
    files = _SlowSync()
    files.make_directory("wal")
    log = started(files)
    log.append(record(log, 1))
    files.slow = True
    syncing = threading.Thread(target=log.sync)
    syncing.start()
    assert files.under_way.wait(60)
    closing = threading.Thread(target=log.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    files.go_on.set()
    syncing.join()
    closing.join()
    assert log.synced == log.position


def test_the_first_of_two_failures_is_the_cause() -> None:
    files = _SlowSync()
    files.make_directory("wal")
    log = started(files)
    log.append(record(log, 1))
    files.slow = files.fail_sync_after_waiting = True

    def sync() -> None:
        with pytest.raises(DiskError):
            log.sync()

    syncing = threading.Thread(target=sync)
    syncing.start()
    assert files.under_way.wait(60)
    files.no_space = True
    with pytest.raises(DiskFullError) as first:
        log.append(record(log, 2))
    files.go_on.set()
    syncing.join()
    with pytest.raises(PoisonedError) as caught:
        log.sync()
    assert caught.value.__cause__ is first.value
