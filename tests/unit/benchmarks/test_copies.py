"""The benchmark of backups runs, and its counts are right."""

from __future__ import annotations

from pathlib import Path

from benchmarks.copies import BACKUP, INCREMENTAL, RESTORE, measure_copies, missed


def test_copies_are_timed_beside_plain_ones_and_changes_are_counted(tmp_path: Path) -> None:
    for _ in range(2):  # built, and found
        results = measure_copies(tmp_path, 8, 2, "test", {}, progress=lambda _: None)
        found = {measurement.case: measurement for measurement in results.measurements}
        assert set(found) == {BACKUP, RESTORE, INCREMENTAL}
        assert found[BACKUP].value > 0
        assert found[RESTORE].detail["seconds"] > 0
        assert 0.005 < found[INCREMENTAL].value < 0.02
        assert set(missed(results)) <= {BACKUP, RESTORE}, "which is a matter of time"
