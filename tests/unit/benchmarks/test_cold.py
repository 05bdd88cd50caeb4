"""Cold reads, counted: the goals hold at a size that a test can build, and the counts are right."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from benchmarks import cold
from benchmarks.cold import GET, HOT, MISSING, SCAN, Pairs, Place, measure_cold, missed
from benchmarks.results import Results

KEYS = 20_000


@pytest.fixture(autouse=True)
def few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "READS", 300)
    monkeypatch.setattr(cold, "SCANS", 50)
    monkeypatch.setattr(cold, "HOT_GETS", 2_000)
    monkeypatch.setattr(cold, "HOT_ROUNDS", 1)
    monkeypatch.setattr(cold, "SMALL_KEYS", 5_000)


def test_a_cold_get_is_one_request_a_missing_key_none_and_a_short_scan_one(
    tmp_path: Path,
) -> None:
    place, small = Place(tmp_path / "many", {}), Place(tmp_path / "few", {})
    for _ in range(2):  # built, and found
        results = measure_cold(place, small, KEYS, "test", lambda _: None)
        found = {measurement.case: measurement for measurement in results.measurements}
        assert (found[GET].value, found[GET].detail["most"]) == (1, 1)
        assert found[MISSING].value < 0.03
        assert found[SCAN].detail["mean"] == found[SCAN].value == 1
        assert found[SCAN].detail["runs"] == 1
        assert found[HOT].detail["us"] > 0
        assert set(missed(results)) <= {HOT}, "which is a matter of time"


def test_a_database_of_another_size_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path, {})
    place.fill(Pairs(2_000))
    with pytest.raises(ValueError, match="holds 2,000 keys"):
        place.fill(Pairs(3_000))


def test_pairs_differ_and_missing_keys_are_none_of_them() -> None:
    pairs = Pairs(5_000)
    stored = dict(pairs)
    assert len(stored) == 5_000
    assert not any(pairs.missing(number) in stored for number in range(5_000))
    assert {len(value) for value in stored.values()} == {100}


def test_the_command_may_be_run_with_another_number_of_keys(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_show", lambda *_: None)
    monkeypatch.setattr(Results, "save", lambda _: tmp_path)
    monkeypatch.setattr(command, "missed", lambda _: [])
    for keys in ("2000", "3000", "6000"):
        words = ["cold", "--keys", keys, "--work", str(tmp_path)]
        CliRunner().invoke(command.app, words, catch_exceptions=False)
