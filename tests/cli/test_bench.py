"""bench: it measures what it says, and cleans up."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Commands


def test_an_embedded_database_is_measured_and_removed(tmp_path: Path) -> None:
    report = Commands()(
        "bench", "--count", "150", "--value-size", "10", "--dir", str(tmp_path), "--json"
    ).json
    assert [(row["operation"], row["count"]) for row in report["results"]] == [
        ("put", 150),
        ("get", 150),
        ("scan", 150),
    ]
    for row in report["results"][:2]:
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["max_us"]
        assert row["per_second"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_measured_and_left_as_it_was(seerdb: Commands) -> None:
    seerdb("put", "mine", "1")
    shown = seerdb("bench", "--url", seerdb.url, "--count", "20", "--durability", "memory").text
    assert shown.startswith(f"{seerdb.url}; 20 keys with values of 100 bytes, durability memory\n")
    assert seerdb("scan", "--keys-only").text == "mine\n"
    seerdb("bench", "--url", seerdb.url, "--count", "1", "--durability", "x", expect=2)


def test_the_url_of_the_environment_is_not_measured_by_accident(seerdb: Commands) -> None:
    assert seerdb("bench", "--count", "1").text.startswith("embedded, in ")


def test_the_password_of_a_server_is_not_printed(seerdb: Commands) -> None:
    url = seerdb.url.replace("//", "//me:hunter2@")
    for form in ((), ("--json",)):
        outcome = seerdb("bench", "--url", url, "--count", "1", "--durability", "memory", *form)
        assert seerdb.url in outcome.text
        assert "hunter2" not in outcome.text + outcome.err
