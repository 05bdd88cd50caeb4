"""seerdb digest: what a bucket holds, without opening it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from seerdb import DB
from tests.architecture.source import ROOT
from tests.cli.conftest import Commands

WRITES = """
import seerdb, words
seerdb.register_merge_operator("longest", words.longest)
with seerdb.DB.open("data", min_free_disk=0, merge_operator="longest") as db:
    db.put(b"word", b"log")
    db.flush()
    db.merge(b"word", b"tree")
    print(db.digest().digest)
"""


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


def test_a_program_of_a_few_lines_makes_an_operator_known(tmp_path: Path, run: Commands) -> None:
    """The one in the documentation."""
    page = (ROOT / "docs" / "cli.md").read_text()
    [program] = re.findall(r"```python\n(import seerdb\nimport words.*?)```", page, re.DOTALL)
    (tmp_path / "longest.py").write_text(program)
    (tmp_path / "words.py").write_text(
        "def longest(older, newer):\n    return max(older, newer, key=len)\n"
    )

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    digest = python("-c", WRITES).strip()
    told = msgspec.json.decode(python("longest.py", "digest", "data", "--json"))
    assert (told["digest"], told["entries"]) == (digest, 1)
    run("digest", str(tmp_path / "data"), expect=2)
