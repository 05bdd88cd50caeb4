"""Clones on the command line, and between real directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seerdb
from seerdb import DB, InvalidRequestError
from tests.cli.conftest import Commands

COMMANDS = Commands()
QUIET: dict[str, Any] = {"background": "inline", "min_free_disk": 0}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with a closed database ``db`` of 20 commits."""
    with DB.open(str(tmp_path / "db"), **QUIET) as db:
        for number in range(20):
            db.put(b"k%02d" % number, b"v" * 100)
    return tmp_path


def rows(place: Path, **settings: Any) -> dict[bytes, bytes]:
    with DB.open(str(place), **{**QUIET, **settings}) as db:
        assert db.verify().ok
        return dict(db.scan())


def test_a_clone_is_made_listed_verified_and_dropped(source: Path) -> None:
    a, b = str(source / "db"), str(source / "branch")
    made = COMMANDS("clone", "--from", a, "--to", b)
    assert "cloned seq 20 of" in made.text
    assert "copied 0, 0 bytes, and 0 commits of the log" in made.text
    assert rows(source / "branch") == rows(source / "db")
    [listed] = COMMANDS("clone", "list", a, "--json").json
    assert (listed["url"], listed["seq"]) == (f"{b}/bucket", 20)
    assert f"{b}/bucket" in COMMANDS("clone", "list", a).text
    assert COMMANDS("verify", b).lines[-1] == "sound"
    assert COMMANDS("clone", "drop", b).lines[-1] == "nothing was deleted; --yes does it"
    assert len(rows(source / "branch")) == 20
    COMMANDS("clone", "drop", b, "--yes")
    assert COMMANDS("clone", "list", a, "--json").json == []
    assert "was dropped" in COMMANDS("clone", "drop", b, "--yes", expect=3).err
    assert len(rows(source / "db")) == 20


def test_a_clone_of_a_clone_is_backed_up_and_restored(source: Path) -> None:
    places = [str(source / name) for name in ("db", "one", "two", "copies", "new")]
    COMMANDS("clone", "--from", places[0], "--to", places[1])
    with DB.open(places[1], **QUIET) as db:
        db.put(b"of the clone", b"1")
        report = db.clone(places[2])
    assert (report.seq, len(report.lenders)) == (21, 2)
    COMMANDS("backup", "--from", places[2], "--to", places[3])
    COMMANDS("restore", "--from", places[3], "--to", places[4])
    for name in ("db", "one", "two"):
        (source / name).rename(source / f"moved {name}")
    assert rows(source / "new")[b"of the clone"] == b"1"


def test_what_is_to_be_cloned_is_named_in_one_way(source: Path) -> None:
    a, b = str(source / "db"), str(source / "b")
    assert "--from where" in COMMANDS("clone", "--from", a, expect=2).err
    both = COMMANDS("clone", "--from", a, "--to", b, "--seq", "3", "--at", "5", expect=2)
    assert "only one of them" in both.err
    wrong = COMMANDS("clone", "--from", a, "--to", b, "--checkpoint", "none", expect=3)
    assert "there is no checkpoint 'none'" in wrong.err
    COMMANDS("clone", "--from", a, "--to", b, "--seq", "20")
    assert "not empty" in COMMANDS("clone", "--from", a, "--to", b, expect=4).err
    assert "one kind" in COMMANDS("clone", "--from", a, "--to", "s3://x/y", expect=2).err
    with pytest.raises(InvalidRequestError, match="no password"):
        seerdb.clone("ftp://me:secret@host/a", "ftp://host/b")


def test_what_is_kept_for_a_clone_that_was_deleted_by_hand_is_forgotten(source: Path) -> None:
    a, b = str(source / "db"), str(source / "b")
    made = COMMANDS("clone", "--from", a, "--to", b, "--json").json
    COMMANDS("clone", "forget", a, made["database_id"])
    assert COMMANDS("clone", "list", a, "--json").json == []
    COMMANDS("clone", "forget", a, made["database_id"], expect=3)
    with pytest.raises(seerdb.CorruptionError, match=f"{a}/bucket, from which it borrows"):
        DB.open(b, **QUIET)


def test_worker_processes_merge_what_a_clone_borrows(source: Path) -> None:
    before = rows(source / "db")
    seerdb.clone(str(source / "db"), str(source / "b"))
    with DB.open(str(source / "b"), background="process", min_free_disk=0) as clone:
        clone.put(b"k05", b"new")
        clone.compact()
        names = [table.id for table in clone._engine.manifest.state.version.tables]
        assert all(int(name.split("-")[0]) > 1 for name in names)
    assert rows(source / "b") == before | {b"k05": b"new"}


def test_worker_processes_restore_a_clone_in_place(source: Path) -> None:
    before = rows(source / "db")
    seerdb.clone(str(source / "db"), str(source / "b"))
    with DB.open(str(source / "b"), background="process", min_free_disk=0) as clone:
        clone.put(b"k05", b"new")
        clone.restore_in_place(20)
        assert dict(clone.scan()) == before


def test_a_clone_is_verified_and_repaired_though_its_lender_has_damaged_the_hold(
    source: Path,
) -> None:
    a, b, c = (str(source / name) for name in ("db", "branch", "rebuilt"))
    COMMANDS("clone", "--from", a, "--to", b)
    before = rows(source / "branch")
    [hold] = (source / "db" / "bucket" / "holds").iterdir()
    hold.write_bytes(hold.read_bytes()[:-1])
    told = f"{a}/bucket/holds/{hold.name}"
    verified = COMMANDS("verify", b, "--json", expect=1).json
    assert [told in each for each in verified["problems"]] == [True]
    assert (verified["tables"], verified["unreferenced"]) == (1, [])
    repaired = COMMANDS("repair", "--from", b, "--to", c, "--json", expect=8).json
    assert [loss["name"] for loss in repaired["lost"]] == [told]
    assert rows(source / "rebuilt") == before
