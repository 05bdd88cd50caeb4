"""The benchmark of backups runs, and its counts are right."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.bulk import build, count_of
from benchmarks.cold import Place, measure_cold, print_cold
from benchmarks.copies import BACKUP, INCREMENTAL, RESTORE, measure_copies, missed, print_copies
from benchmarks.eviction import replay
from benchmarks.eviction.traces import TRACES
from seerdb import DB


def test_the_result_tells_of_the_machine_and_that_it_was_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.5, 0.0, 0.0))
    monkeypatch.setattr(replay, "TRACES", {"loop": TRACES["loop"]})
    copied = measure_copies(tmp_path, 4, 1, "test", {}, progress=lambda _: None)
    read = measure_cold(
        Place(tmp_path / "a", {}), Place(tmp_path / "b", {}), 2_000, "test", lambda _: None
    )
    replayed = replay.replay_all(10_000, 1, "test", lambda _: None)
    shown = ((copied, print_copies), (read, print_cold), (replayed, replay.print_replays))
    for results, print_out in shown:
        console = Console(width=200, record=True, file=StringIO())
        print_out(console, results)
        assert results.machine["cores"] == os.cpu_count()
        assert "load average 3.5" in console.export_text()


def test_copies_are_timed_beside_plain_ones_and_changes_are_counted(tmp_path: Path) -> None:
    for _ in range(2):  # built, and found
        results = measure_copies(tmp_path, 8, 2, "test", {}, progress=lambda _: None)
        found = {measurement.case: measurement for measurement in results.measurements}
        assert set(found) == {BACKUP, RESTORE, INCREMENTAL}
        assert found[BACKUP].value > 0
        assert found[RESTORE].detail["seconds"] > 0
        assert 0.005 < found[INCREMENTAL].value < 0.02
        assert set(missed(results)) <= {BACKUP, RESTORE}, "which is a matter of time"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_copies_elsewhere_are_new_each_time_and_do_not_stay(scheme: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "of others").mkdir(parents=True)
    for _ in range(2):  # of one tag
        place = f"{scheme}{elsewhere}"
        results = measure_copies(
            tmp_path, 4, 1, "test", {}, elsewhere=place, progress=lambda _: None
        )
        assert not results.failed
        assert [path.name for path in elsewhere.rglob("*") if path.is_file()] == []
        assert (elsewhere / "of others").is_dir()


def test_a_database_whose_making_was_cut_short_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "bulk"
    with monkeypatch.context() as patch:
        patch.setattr(DB, "ingest", cut_short)
        with pytest.raises(KeyboardInterrupt):
            build(path, 1, lambda _: None)
    made: list[str] = []
    for _ in range(2):
        build(path, 1, made.append)
        with DB.open(str(path)) as db:
            assert db.statistics().table_entries == count_of(1)
    assert len(made) == 1
