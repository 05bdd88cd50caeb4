"""A log that rolls, recycles and recovers, with a crash at every operation.

Whatever happens: no segment is corrupt, no acknowledged record is missing, none is invented, and
what is read is a prefix of what was appended. Recovery may crash as well.
"""

from __future__ import annotations

import random

import pytest

from seerdb.storage.wal.reader import Condition, classify, scan_segment
from seerdb.storage.wal.repair import seal_recovered
from seerdb.storage.wal.segments import list_segments
from seerdb.storage.wal.writer import LogWriter
from seerdb.testing.clock import FakeClock
from seerdb.testing.crash import CrashError
from seerdb.testing.files import CrashableFileSystem
from tests.unit.storage.wal.samples import put

SEGMENTS = 4
PER_SEGMENT = 5


class Workload:
    """Appends records 1, 2, 3 …; every third is synced. Keeps two segments."""

    def __init__(self, files: CrashableFileSystem, *, direct: bool) -> None:
        files.make_directory("wal")
        self._log = LogWriter(
            files,
            "wal",
            database_id=b"d" * 16,
            epoch=1,
            segment_size=16_384 if not direct else 64 << 10,
            sync="data",
            compression="none",
            direct=direct,
            random=random.Random(3),
            clock=FakeClock(),
        )
        self.acknowledged = 0
        self.released = 0

    def run(self) -> None:
        seq = 0
        for segment in range(1, SEGMENTS + 1):
            self._log.start(segment, seq + 1)
            for _ in range(PER_SEGMENT):
                seq += 1
                self._log.append(put(seq, b"v" * 700, self._log.salt))
                if seq % 3 == 0:
                    self._log.sync()
                    self.acknowledged = seq
            self._log.seal(seq, PER_SEGMENT)
            self.acknowledged = seq
            if segment > 2:
                self.released = (segment - 2) * PER_SEGMENT
                self._log.pool.recycle(segment - 2)
            self._log.pool.prepare()


def recover(files: CrashableFileSystem) -> list[int]:
    """What a recovery does with the log, and the seqs it finds."""
    found: list[int] = []
    segments = list_segments(files, "wal")
    for segment in segments:
        scan = scan_segment(files, "wal", segment)
        assert classify(scan, is_last=segment == segments[-1]) is not Condition.CORRUPT
        if not scan.sealed:
            seal_recovered(files, "wal", scan)
        found += [seq for seq, _, _ in scan.records]
    return found


def check(workload: Workload, found: list[int]) -> None:
    """``found`` has no gap, and everything acknowledged that was not released."""
    assert found == list(range(found[0], found[-1] + 1)) if found else True
    needed = range(workload.released + 1, workload.acknowledged + 1)
    assert set(needed) <= set(found)


def sealed(files: CrashableFileSystem) -> None:
    """Everything is as the next recovery needs it, whichever segment will be the last."""
    for segment in list_segments(files, "wal"):
        assert classify(scan_segment(files, "wal", segment), is_last=False) is Condition.SOUND


def crashed_at(
    operation: int, *, halfway: bool, direct: bool
) -> tuple[CrashableFileSystem, Workload]:
    files = CrashableFileSystem()
    workload = Workload(files, direct=direct)
    files.crash_at, files.crash_halfway = operation, halfway
    with pytest.raises(CrashError):
        workload.run()
    return files, workload


def operations(*, direct: bool) -> range:
    files = CrashableFileSystem()
    workload = Workload(files, direct=direct)
    first = files.operations + 1
    workload.run()
    return range(first, files.operations + 1)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("halfway", [False, True])
def test_nothing_acknowledged_is_lost_at_any_crash_point(halfway: bool, direct: bool) -> None:
    for operation in operations(direct=direct):
        files, workload = crashed_at(operation, halfway=halfway, direct=direct)
        for seed in range(5):
            after = files.crash(random.Random(seed)) if seed else files.kill()
            found = recover(after)
            check(workload, found)
            sealed(after)
            again = recover(after.crash(random.Random(seed)))
            # A released segment whose removal was not durable yet may come back in front.
            assert again[len(again) - len(found) :] == found


@pytest.mark.parametrize("first", ["power loss", "death"])
def test_recovery_can_crash_at_any_operation_too(first: str) -> None:
    for operation in operations(direct=False):
        files, workload = crashed_at(operation, halfway=True, direct=False)
        before = files.crash(random.Random(operation)) if first == "power loss" else files.kill()
        probe = before.kill()
        found = recover(probe)
        for step in range(1, probe.operations + 1):
            for halfway in (False, True):
                trial = before.kill()
                trial.crash_at, trial.crash_halfway = step, halfway
                with pytest.raises(CrashError):
                    recover(trial)
                for seed in range(4):
                    again = recover(trial.crash(random.Random(seed)))
                    check(workload, again)
                    assert set(found[: len(again)]) <= set(again)
                assert recover(trial.kill()) == found


def test_a_record_that_only_the_page_cache_had_is_durable_after_recovery() -> None:
    files = CrashableFileSystem()
    workload = Workload(files, direct=False)
    files.crash_at = operations(direct=False)[0] + 9
    with pytest.raises(CrashError):
        workload.run()
    after = files.kill()
    found = recover(after)
    assert found
    for seed in range(30):
        assert recover(after.crash(random.Random(seed))) == found
