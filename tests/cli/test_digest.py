"""seerdb digest: what a bucket holds, without opening it."""

from __future__ import annotations

from pathlib import Path

import pytest

from seerdb import DB
from tests.cli.conftest import Commands


@pytest.fixture
def run() -> Commands:
    return Commands()


def test_it_is_what_the_database_itself_tells(tmp_path: Path, run: Commands) -> None:
    data = str(tmp_path / "db")
    digests = []
    with DB.open(data, min_free_disk=0, background="inline", blob_threshold=50) as db:
        for number in range(6):
            db.put(b"key%d" % (number % 4), b"value" * 10 * number, durability="object")
            db.put(b"short", b"lived", ttl=1000, durability="object")
            digests.append(db.digest())
            if number == 3:
                db.flush()
        for known in (digests[-1], digests[1]):
            result = run("digest", data, "--seq", str(known.seq), "--json")
            assert result.json["digest"] == known.digest
    newest = digests[-1]
    result = run("digest", data, "--second", str(newest.second), "--json")
    assert result.json == newest._asdict()
    assert newest.digest in run("digest", data).text


def test_a_seq_that_is_not_there_is_told(tmp_path: Path, run: Commands) -> None:
    data = str(tmp_path / "db")
    with DB.open(data, min_free_disk=0, background="inline") as db:
        db.put(b"key", b"value")
    run("digest", data, "--seq", "99", expect=3)
