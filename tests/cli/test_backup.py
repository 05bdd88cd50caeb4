"""Backups and restores on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB
from seerdb.cli.backup import duration, json_object
from seerdb.cli.restore import seconds_of
from seerdb.errors import InvalidRequestError
from tests.cli.conftest import Commands, fake_server, reply

COMMANDS = Commands()
UNSHIPPED: dict[str, Any] = {"background": "inline", "min_free_disk": 0, "ship_interval": 0}
"""Settings of a database whose log is not in the bucket, so that there are gaps."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a closed database ``db``, that was backed up into ``copies`` twice."""
    for number in range(2):
        with DB.open(str(tmp_path / "db"), **UNSHIPPED) as db:
            db.put(b"a%d" % number, b"1")
            db.put(b"b%d" % number, b"2")
        back_up(tmp_path, "--label", f"number {number}")
    return tmp_path


def back_up(place: Path, *arguments: str) -> dict[str, object]:
    command = "backup", "--from", str(place / "db"), "--to", str(place / "copies"), "--json"
    report: dict[str, object] = COMMANDS(*command, *arguments).json
    return report


def restored(place: Path, *arguments: str, name: str = "new") -> dict[bytes, bytes]:
    copies = str(place / "copies")
    COMMANDS("restore", "--from", copies, "--to", str(place / name), *arguments)
    with DB.open(str(place / name), background="inline", min_free_disk=0) as db:
        return dict(db.scan())


def test_a_backup_is_taken_listed_verified_and_restored(place: Path) -> None:
    copies = str(place / "copies")
    again = COMMANDS("backup", "--from", str(place / "db"), "--to", copies)
    assert "holds everything up to seq 4" in again.text
    assert "copied 0 objects, 0 bytes" in again.text
    listed = COMMANDS("backup", "list", copies, "--json").json
    assert [(each["seq"], each["label"]) for each in listed] == [
        (2, "number 0"),
        (4, "number 1"),
        (4, ""),
    ]
    assert "number 1" in COMMANDS("backup", "list", copies).text
    assert COMMANDS("backup", "verify", copies).lines[-1] == "sound"
    assert len(restored(place)) == 4
    assert restored(place, "--backup", listed[0]["id"], name="old") == {b"a0": b"1", b"b0": b"2"}
    assert restored(place, "--seq", "2", "--prefix", "a", name="part") == {b"a0": b"1"}


def test_a_dry_run_and_a_place_that_is_not_empty(place: Path) -> None:
    copies, new = str(place / "copies"), str(place / "new")
    said = COMMANDS("restore", "--from", copies, "--to", new, "--dry-run").text
    assert said.startswith("would restore seq 4 of ")
    assert not (place / "new").exists()
    done = COMMANDS("restore", "--from", copies, "--to", new).text
    assert done.startswith("restored seq 4 of ")
    assert "it is a new database" in done
    refused = COMMANDS("restore", "--from", copies, "--to", new, expect=4)
    assert "not empty" in refused.err
    assert COMMANDS("verify", new).lines[-1] == "sound"


def test_recovery_points_name_ranges_and_gaps(place: Path) -> None:
    copies = str(place / "copies")
    points = COMMANDS("recovery-points", "--from", copies, "--json").json
    assert [(each["first_seq"], each["last_seq"]) for each in points["ranges"]] == [(2, 2), (4, 4)]
    assert points["gaps"] == [{"after_seq": 2, "before_seq": 4}]
    shown = COMMANDS("recovery-points", "--from", copies).text
    assert "gap: between seq 2 and 4 log is missing" in shown
    refused = COMMANDS(
        "restore", "--from", copies, "--to", str(place / "x"), "--seq", "3", expect=3
    )
    assert "2 to 2, 4 to 4" in refused.err
    assert "every seq from" in COMMANDS("recovery-points", "--from", str(place / "db")).text


def test_damage_is_found_named_and_gone_around(place: Path) -> None:
    copies = str(place / "copies")
    newest = max((place / "copies" / "tables").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    found = COMMANDS("backup", "verify", copies, expect=1)
    assert newest.name in found.text
    assert found.lines[-1] == "damaged; problems: 1"
    checked = COMMANDS("backup", "verify", copies, "--json", expect=1).json
    assert [bool(each["problems"]) for each in checked["backups"]] == [False, True]
    said = COMMANDS("restore", "--from", copies, "--to", str(place / "new")).text
    assert "note: " in said
    assert "restored seq 2" in said
    back_up(place, "--full")
    assert COMMANDS("backup", "verify", copies).lines[-1] == "sound"


def test_a_list_shows_what_is_kept_labels_on_one_line_and_what_is_damaged(place: Path) -> None:
    copies = str(place / "copies")
    made = back_up(place, "--keep", "--label", "a\x1b[2J\nb")
    *_, plain, kept = COMMANDS("backup", "list", copies).lines
    assert (plain.split()[-3], kept.split()[-3]) == ("–", "yes")
    assert "a\\x1b[2J\\nb" in kept
    (place / "copies" / "backups" / str(made["id"])).write_bytes(b"x" * 100)
    listed = COMMANDS("backup", "list", copies, "--json")
    assert len(listed.json) == 2
    assert listed.err.startswith(f"damaged: backups/{made['id']}")
    assert COMMANDS("backup", "list", copies).lines[0].startswith(f"damaged: backups/{made['id']}")


def test_a_prune_says_what_it_would_do_until_it_is_told_to(place: Path) -> None:
    copies = str(place / "copies")
    said = COMMANDS("backup", "prune", copies, "--keep-last", "1")
    assert "would delete 1 backups" in said.text
    assert "--yes does it" in said.text
    assert len(COMMANDS("backup", "list", copies, "--json").json) == 2
    done = COMMANDS("backup", "prune", copies, "--keep-last", "1", "--yes", "--json").json
    assert len(done["pruned"]) == 1
    assert not done["dry_run"]
    assert len(COMMANDS("backup", "list", copies, "--json").json) == 1
    kept = COMMANDS("backup", "prune", copies, "--keep-for", "1d", "--yes", "--json").json
    assert kept["pruned"] == []
    COMMANDS("backup", "prune", copies, expect=2)


def test_a_server_backs_up_while_it_serves(seerdb: Commands, tmp_path: Path) -> None:
    seerdb("put", "a", "1")
    report = seerdb("backup", "--to", str(tmp_path / "copies"), "--label", "live", "--json").json
    [listed] = COMMANDS("backup", "list", str(tmp_path / "copies"), "--json").json
    assert (listed["id"], listed["label"]) == (report["id"], "live")
    assert restored(tmp_path) == {b"a": b"1"}
    assert "whole path" in seerdb("backup", "--to", "relative", expect=2).err


def test_a_backup_that_fails_on_the_server_fails_the_command() -> None:
    running = {"id": "1", "state": "running", "bytes": 5, "total_bytes": 9}
    answers = [(202, running), (200, {"id": "1", "state": "failed", "error": "no room"})]
    with fake_server(lambda handler: reply(handler, *_encoded(answers.pop(0)))) as server:
        failed = server.commands("backup", "--to", "/copies", expect=1)
    assert "the backup failed: no room" in failed.err


def _encoded(answer: tuple[int, object]) -> tuple[int, bytes]:
    return answer[0], json.dumps(answer[1]).encode()


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    assert "say where --to" in COMMANDS("backup", "--label", "x", expect=2).err
    nowhere = str(tmp_path / "nowhere")
    COMMANDS("backup", "--from", nowhere, "--to", str(tmp_path / "copies"), expect=3)
    COMMANDS("restore", "--from", nowhere, "--to", str(tmp_path / "new"), expect=3)
    COMMANDS("backup", "list", nowhere, expect=3)
    COMMANDS("backup", "verify", nowhere, expect=3)
    options = ("--to-options", "[]", "--to", str(tmp_path))
    COMMANDS("backup", "--from", nowhere, *options, expect=2)


@pytest.mark.parametrize("wrong", ["[]", "{", '{"a":' + "[" * 20_000])
def test_options_are_a_json_object_that_is_not_nested_too_deep(wrong: str) -> None:
    with pytest.raises(InvalidRequestError, match="options are a JSON object"):
        json_object(wrong)


def test_times_and_durations_are_written_in_many_ways() -> None:
    assert [duration(text) for text in ("60", "1.5m", "2h", "1d", "1w")] == [
        60,
        90,
        7200,
        86_400,
        604_800,
    ]
    assert seconds_of("2023-11-14T22:13:20Z") == seconds_of("2023-11-14T22:13:20") == 1_700_000_000
    assert seconds_of("2023-11-14T23:13:20+01:00") == seconds_of("1700000000")
    for wrong in ("", "d", "5y", "-1d"):
        with pytest.raises(InvalidRequestError):
            duration(wrong)
    for wrong in ("yesterday", "nan", "inf", "1e30", "9999-12-31T23:59-23:59"):
        with pytest.raises(InvalidRequestError):
            seconds_of(wrong)
