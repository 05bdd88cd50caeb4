"""``seerdb drill``: what it says, and what it exits with."""

from __future__ import annotations

from pathlib import Path

from seerdb import DB
from tests.cli.conftest import Commands


def test_a_drill_tells_whether_a_backup_brings_back_what_was_there(tmp_path: Path) -> None:
    directory, copies, scratch = (str(tmp_path / name) for name in ("data", "copies", "scratch"))
    seerdb = Commands()
    with DB.open(directory, min_free_disk=0, history_retention=3600.0) as db:
        for number in range(20):
            db.put(b"%d" % number, b"v")
        made = db.backup(copies)
        db.put(b"later", b"v")
    arguments = ("drill", copies, "--from", directory, "--scratch", scratch)
    told = seerdb(*arguments).text
    assert told.startswith(f"backup {made.id} is what the database was after seq 20: 20 keys, ")
    report = seerdb(*arguments, "--backup", made.id, "--json").json
    assert (report["seq"], report["compared"], report["note"]) == (20, True, "")
    assert not [path for path in Path(scratch).rglob("*") if path.is_file()]
    seerdb(*arguments, "--backup", "none", expect=3)
    for table in (Path(copies) / "tables").iterdir():
        table.write_bytes(b"x" * table.stat().st_size)
    assert ".sst: checksum mismatch" in seerdb(*arguments, expect=6).err
    assert not [path for path in Path(scratch).rglob("*") if path.is_file()]
