"""What is measured of a whole tree, at small sizes: the cases count what they say they count."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import costs, measure, merging, processes
from benchmarks.cases import COMPACT, COMPACT_PROCESS, COST_IDLE, INGEST_CASES, TREE_CASES, Task
from benchmarks.embedded import Plan
from benchmarks.engines import OURS
from benchmarks.engines.seerdb import SeerDBEngine
from benchmarks.fill_runs import RUNS, main, parts
from benchmarks.goals import SUSTAINED, judge
from benchmarks.report import print_report
from benchmarks.results import EMBEDDED, Results, Sample
from benchmarks.sustained import TENTHS
from benchmarks.workload import KEY_SIZE, VALUE_SIZE, overwriting
from seerdb import DB

ENTRIES = 2_000
MACHINE = {"cpu": "a", "cores": 2, "python": "b", "load_average": 0.0}


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """To which processors a case pinned its process, which is that of the test."""
    asked: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, processors: asked.append(processors))
    return asked


def test_overwriting_pairs_are_the_same_again_and_of_no_more_keys_than_promised() -> None:
    batches = list(overwriting(1_050, 100, 100))
    assert batches == list(overwriting(1_050, 100, 100))
    assert [len(batch) for batch in batches] == [100] * 10 + [50]
    pairs = [pair for batch in batches for pair in batch]
    assert len({key for key, _ in pairs}) == 100
    assert len({value for _, value in pairs}) == 1_050
    assert {(len(key), len(value)) for key, value in pairs} == {(KEY_SIZE, VALUE_SIZE)}


def test_runs_are_left_alone_until_they_are_merged(tmp_path: Path) -> None:
    main(OURS, str(tmp_path / "runs"), str(ENTRIES), "3")
    with SeerDBEngine.quiet(tmp_path / "runs") as engine:
        assert engine._db.statistics().runs == RUNS
        before = engine.table_bytes()
        engine.merge()
        assert engine._db.statistics().runs == 1
        assert engine.table_bytes() == pytest.approx(before, rel=0.01)
        assert engine._db.statistics().table_entries == ENTRIES


def test_a_merge_is_timed_on_one_processor(tmp_path: Path, pinned: list[set[int]]) -> None:
    (timing,) = measure.run_task(Task(OURS, ENTRIES, (COMPACT,), str(tmp_path)))
    assert [len(processors) for processors in pinned] == [1]
    assert timing.operations == ENTRIES
    assert timing.detail["output_mib"] == pytest.approx(timing.detail["input_mib"], rel=0.01)
    assert timing.detail["cpu_seconds"] > 0
    assert timing.detail["peak_rss_mib"] > 10


def test_a_merge_that_loses_a_pair_is_not_timed(
    tmp_path: Path, pinned: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "parts", lambda entries, seed: parts(entries, seed + 1))
    with pytest.raises(ValueError, match="seerdb lost"):
        measure.run_task(Task(OURS, ENTRIES, (COMPACT,), str(tmp_path)))


def test_the_memory_of_a_worker_that_merges_is_seen(tmp_path: Path) -> None:
    (timing,) = measure.run_task(Task(OURS, ENTRIES, (COMPACT_PROCESS,), str(tmp_path)))
    assert timing.detail["worker_rss_mib"] > 10


def test_a_sustained_load_is_told_by_the_tenth(tmp_path: Path) -> None:
    case = next(iter(INGEST_CASES))
    (timing,) = measure.run_task(Task(OURS, 10_000, (case,), str(tmp_path)))
    detail = timing.detail
    assert timing.operations == 10_000
    for number in range(1, TENTHS + 1):
        assert detail[f"rate_{number:02}"] > 0
        assert detail[f"rss_mib_{number:02}"] > 10
    assert (detail["flushes"], detail["write"], detail["space"]) == (1, 1, 1)
    assert detail["overwritten"] == pytest.approx(0.568, abs=0.02)
    assert detail["flush_put_per_gb"] == pytest.approx(1e9 / (10_000 * (KEY_SIZE + VALUE_SIZE)))
    assert detail["dollars_per_gb"] > 0


def test_requests_since_a_moment_are_those_on_top_of_it(tmp_path: Path) -> None:
    with DB.open(str(tmp_path / "db"), background="inline") as db:
        before = costs.requests(db)
        db.put(b"a", b"1")
        db.flush()
        seen = costs.since(before, costs.requests(db))
    assert seen["flush_put"][0] == 1
    assert seen["flush_put"][1] == pytest.approx(0.005 / 1000)
    assert not [kind for kind in seen if kind.startswith("probe")]
    assert costs.total(seen)[0] == sum(count for count, _ in seen.values())


def test_an_idle_database_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "IDLE_ENTRIES", ENTRIES)
    (timing,) = measure.run_task(Task(OURS, 1, (COST_IDLE,), str(tmp_path), idle_seconds=0.1))
    assert timing.operations == 0
    assert timing.detail["dollars_per_month"] == 0


def test_processes_are_seen_with_their_descendants() -> None:
    command = ["sh", "-c", "(echo ready; cat); true"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen = list(processes.descendants(os.getpid()))
        assert seen.index(child.pid) < len(seen) - 1  # what it started comes after it
        alone = processes.memory(os.getpid(), "VmRSS")
        assert processes.family_memory(os.getpid()) > alone > 10 * processes.MIB
    assert child.pid not in set(processes.descendants(os.getpid()))
    assert processes.memory(child.pid, "VmRSS") == 0
    seconds = processes._processor_seconds_of(os.getpid())
    assert seconds == pytest.approx(time.process_time(), abs=0.2)


def test_only_who_can_be_asked_to_merge_takes_part_in_a_case_of_the_tree(tmp_path: Path) -> None:
    for case in TREE_CASES:
        assert measure._takes_part(OURS, case)
        assert measure.run_task(Task("sqlite3", 1, (case,), str(tmp_path))) == []
    assert not set(TREE_CASES) & set(Plan().cases)


def results() -> Results:
    found = Results("ingest", "tag", MACHINE, {}, date="2026-01-02")
    detail = {"last_over_first": 0.6, "write_off_percent": 3.0, "space": 1.2, "rss_growth": 1.1}
    for number in range(1, TENTHS + 1):
        detail |= {f"rate_{number:02}": 1e5 - number, f"rss_mib_{number:02}": 400.0 + number}
    found.add(
        [
            Sample(EMBEDDED, "ingest_thread", OURS, SUSTAINED, "ops/s", 1e5, SUSTAINED, detail),
            Sample(EMBEDDED, COMPACT, OURS, 2_000_000, "ops/s", 1e6, 2_000_000),
            Sample(EMBEDDED, COMPACT, "rocksdict", 2_000_000, "ops/s", 2e6, 2_000_000),
            Sample(EMBEDDED, COST_IDLE, OURS, None, "ops/s", 0.0, 0, {"dollars_per_month": 0.2}),
        ]
    )
    return found


def test_trees_are_judged() -> None:
    assert [(v.case, v.stat, v.word) for v in judge(results())] == [
        (COMPACT, "value", "MISS"),
        ("ingest_thread", "last_over_first", "MISS"),
        ("ingest_thread", "write_off_percent", "PASS"),
        ("ingest_thread", "space", "PASS"),
        ("ingest_thread", "rss_growth", "PASS"),
        (COST_IDLE, "dollars_per_month", "PASS"),
    ]


def test_all_that_was_seen_of_a_tree_is_printed_and_drawn(tmp_path: Path) -> None:
    console = Console(record=True, width=140)
    print_report(console, results())
    text = console.export_text()
    assert "rss_mib_10" in text
    assert "0.50x MISS" in text
    pytest.importorskip("matplotlib")
    from benchmarks.plot import plot_results

    pictures = plot_results(results(), tmp_path / "2026-01-02-tag-ingest.json")
    assert [path.name.removeprefix("2026-01-02-tag-ingest-") for path in pictures] == [
        "2M.png",
        "sustained-10M.png",
    ]
    assert all(path.stat().st_size > 10_000 for path in pictures)
