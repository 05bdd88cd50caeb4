"""The harness at 500 entries: the same data for everyone, right answers, honest verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from benchmarks import embedded, measure
from benchmarks.cases import CASES, READ_CASES, Task
from benchmarks.engines import engine_class
from benchmarks.engines.base import Sync
from benchmarks.engines.sqlite3 import Sqlite3Engine
from benchmarks.eviction.replay import replay_all
from benchmarks.goals import judge
from benchmarks.results import EMBEDDED, Results, Sample
from benchmarks.workload import KEY_SIZE, VALUE_SIZE, Workload

ENTRIES = 500
SYNCED_ENTRIES = 100
"""Fewer where each put waits for the disk."""
MACHINE = {"cpu": "a", "cores": 2, "python": "b", "load_average": 0.0}

engine_names = pytest.mark.parametrize("name", ["seerdb", "sqlite3"])


def test_workload_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = Workload(ENTRIES), Workload(ENTRIES), Workload(ENTRIES, seed=2)
    assert first.batches(7) == again.batches(7)
    assert first.missing(50, draw=3) == again.missing(50, draw=3)
    assert not set(first.keys) & set(other.keys)


def test_workload_has_distinct_keys_of_the_promised_sizes_in_random_order() -> None:
    workload = Workload(ENTRIES)
    assert len(set(workload.keys)) == len(workload.values) == ENTRIES
    assert {len(key) for key in workload.keys} == {KEY_SIZE}
    assert {len(value) for value in workload.values} == {VALUE_SIZE}
    assert workload.keys != sorted(workload.keys)


def test_samples_are_stored_keys_but_for_the_missing_ones() -> None:
    workload = Workload(ENTRIES)
    stored = set(workload.keys)
    assert set(workload.uniform(200)) <= stored
    assert set(workload.hot(200)) <= stored
    assert len(set(workload.hot(200, 1)) | set(workload.hot(200, 2))) <= ENTRIES // 100
    assert not set(workload.missing(200)) & stored
    assert min(stored) < min(workload.missing(200)) < max(stored)


@engine_names
def test_an_engine_finds_after_reopening_what_was_put(name: str, tmp_path: Path) -> None:
    workload, engine = Workload(ENTRIES), engine_class(name)
    with engine(tmp_path / "db", Sync.MEMORY) as db:
        db.put_each(workload.keys[:100], workload.values[:100])
        db.put_batches([list(zip(workload.keys[100:], workload.values[100:], strict=True))])
        db.flush()
    with engine(tmp_path / "db", Sync.MEMORY) as db:
        assert [db.read(key) for key in workload.keys] == workload.values
        assert db.get_each([*workload.keys[:10], *workload.missing(5)]) == 10
        assert db.multi_get_each([workload.keys[:10], workload.missing(5)]) == 10
        assert db.scan() == db.scan_reverse() == ENTRIES


@engine_names
def test_every_case_is_timed(name: str, tmp_path: Path) -> None:
    timings = measure.run_task(Task(name, SYNCED_ENTRIES, CASES, str(tmp_path)))
    without_log = {"recovery"} if not engine_class(name).replays_log else set()
    assert {timing.case for timing in timings} == set(CASES) - without_log
    assert all(timing.seconds > 0 for timing in timings)


class ForgetfulEngine(Sqlite3Engine):
    """Loses a key."""

    def get_each(self, keys: Sequence[bytes]) -> int:
        return super().get_each(keys) - 1


def test_an_engine_that_answers_wrongly_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "engine_class", lambda _name: ForgetfulEngine)
    with pytest.raises(measure.WrongAnswerError, match="found 499 keys where 500"):
        measure.run_task(Task("forgetful", ENTRIES, READ_CASES, str(tmp_path)))


def test_medians_are_judged_against_the_goals_and_survive_the_file(tmp_path: Path) -> None:
    results = Results("embedded", "tag", MACHINE, {}, date="2026-01-02")
    rates = {"seerdb": [900.0, 1500.0, 1600.0], "rocksdict": [1000.0, 1000.0, 5000.0]}
    results.add(
        Sample(EMBEDDED, "put", engine, ENTRIES, "ops/s", rate, ENTRIES, {"p50_us": 1 / rate})
        for engine, values in rates.items()
        for rate in values
    )
    loaded = Results.load(results.save(tmp_path))
    assert loaded == results
    assert [(v.case, v.against, v.measured, v.word) for v in judge(loaded)] == [
        ("put", "rocksdict", 1.5, "PASS")
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["evict", "--reads", "9999"], "10000"),
        (["costs", "--entries", "many"], "many"),
        (["embedded", "--entries", "99"], "100"),
        (["compact", "--entries", ","], "','"),
        (["embedded", "--engines", ","], "','"),
        (["embedded", "--cases", ""], "''"),
        (["ingest", "--background", ","], "','"),
        (["http", "--servers", ","], "','"),
        (["merge-memory", "--entries", "9_000_000,x"], "x"),
        (["cold", "--store", "s3://bucket", "--store-options", "{"], "JSON"),
        (["backup", "--store-options", "nothing"], "JSON"),
        (["backup", "--store-options", "7"], "JSON"),
        (["followers", "--store-options", "["], "JSON"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_measured(
    command: ModuleType, words: list[str], named: str
) -> None:
    told = CliRunner().invoke(command.app, words)
    assert told.exit_code == 2
    assert named in told.output


def test_a_quick_run_has_entries_to_measure(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[embedded.Plan] = []
    monkeypatch.setattr(embedded, "measure_embedded", lambda plan, *_: plans.append(plan))
    monkeypatch.setattr(command, "_show", lambda *_: None)
    monkeypatch.setattr(Results, "save", lambda _: tmp_path)
    words = ["embedded", "--quick", "--entries", "5_000,2_000_000", "--work", str(tmp_path)]
    assert CliRunner().invoke(command.app, words).exit_code == 0
    assert [plan.entries for plan in plans] == [(embedded.LEAST_ENTRIES, 20_000)]


def test_the_fewest_reads_that_evict_takes_are_enough() -> None:
    assert replay_all(10_000, 1, "test", lambda _: None).measurements


def test_a_quick_run_is_held_against_no_goal(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_nothing(_plan: object, results: Results, *_: object) -> None:
        results.machine.update(MACHINE)
        results.add(
            Sample(EMBEDDED, "compact", engine, ENTRIES, "ops/s", 1.0, ENTRIES)
            for engine in ("seerdb", "rocksdict")
        )

    saved = []
    monkeypatch.setattr(embedded, "measure_embedded", measure_nothing)
    monkeypatch.setattr(command, "_show", lambda results, _file: saved.append(results))
    monkeypatch.setattr(Results, "save", lambda results: results)
    for words in ([], ["--quick"]):
        arguments = ["compact", "--work", str(tmp_path), *words]
        assert CliRunner().invoke(command.app, arguments).exit_code == 0
    whole, quick = saved
    assert [goal["measured"] for goal in whole.goals] == [1.0]
    assert quick.goals == list(judge(quick)) == []
