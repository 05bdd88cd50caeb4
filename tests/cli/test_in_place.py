"""Restoring in place on the command line: through a server, and in a directory."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from seerdb import DB
from tests.cli.conftest import Commands


def test_a_server_goes_back_and_forth(seerdb: Commands) -> None:
    seerdb("put", "a", "1")
    seq = seerdb("stats", "--json").json["visible_seq"]
    seerdb("put", "a", "2")
    asked = ("restore", "--in-place", "--seq", str(seq))
    would = seerdb(*asked, "--dry-run").text
    assert would.startswith(f"would restore seq {seq} in the place of {seq + 1}: ")
    assert seerdb("get", "a").out == b"2"
    assert seerdb(*asked).text == (
        f"seq {seq + 2} is what seq {seq} was\n"
        f"checkpoint before-restore-{seq + 2} keeps what it replaced, up to seq {seq + 1}\n"
        f"to undo it: seerdb restore --in-place --checkpoint before-restore-{seq + 2}\n"
    )
    assert seerdb("get", "a").out == b"1"
    name = f"before-restore-{seq + 2}"
    undone = seerdb("restore", "--in-place", "--checkpoint", name, "--json").json
    seqs = undone["seq"], undone["restored_seq"], undone["replaced_seq"]
    assert seqs == (seq + 3, seq + 1, seq + 2)
    assert seerdb("get", "a").out == b"2"
    elsewhere = Commands()(*asked, "--url", seerdb.url).text
    assert elsewhere.endswith(f"--checkpoint before-restore-{seq + 4} --url {seerdb.url}\n")
    seerdb("restore", "--in-place", "--at", "2001-01-01", expect=3)
    seerdb("restore", "--in-place", "--checkpoint", "none", expect=3)


def test_a_directory_goes_back_to_a_time(tmp_path: Path) -> None:
    directory = str(tmp_path / "data")
    with DB.open(directory, min_free_disk=0) as db:
        db.put(b"a", b"1")
        [made] = db.history(b"a")
        db.put(b"a", b"2")
        refused = Commands()(
            "restore", "--in-place", "--seq", "1", "--data-dir", directory, expect=4
        )
        assert "is locked by process" in refused.err
    arguments = ("restore", "--in-place", "--data-dir", directory, "--at", repr(made.time))
    done = Commands()(*arguments).text
    assert done.startswith("seq 3 is what seq 1 was\n")
    undo = done.rpartition("to undo it: seerdb ")[2]
    with DB.open(directory, min_free_disk=0) as db:
        assert db.get(b"a") == b"1"
    Commands()(*shlex.split(undo))
    with DB.open(directory, min_free_disk=0) as db:
        assert db.get(b"a") == b"2"
    assert Commands()(*arguments).text.startswith("seq 5 is what seq 1 was\n")
    with DB.open(directory, min_free_disk=0) as db:
        assert db.get(b"a") == b"1"
        assert db.get(b"a", as_of=2) == b"2"


def test_a_seq_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    directory = str(tmp_path / "data")
    with DB.open(directory, min_free_disk=0) as db:
        db.put(b"a", b"1")
    arguments = ("restore", "--in-place", "--seq", "5", "--data-dir", directory)
    assert Commands()(*arguments, expect=3).err == (
        "seerdb: seq 5 is after the end, which is seq 1\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "--in-place",
        "--in-place --seq 1 --checkpoint x",
        "--in-place --seq 1 --from x",
        "--in-place --seq 1 --prefix x",
        "--in-place --seq 1 --store x",
        "--seq 1",
        "--from x --to y --checkpoint z",
        "--from x --to y --data-dir z",
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(arguments: str) -> None:
    Commands()("restore", *arguments.split(), expect=2)
