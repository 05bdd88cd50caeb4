"""A program without standard streams: their numbers are the first that it gives to files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seerdb import DB

PATIENCE = 60
WITHOUT = 'exec "$0" "$@" <&- >&- 2>&-'
PROGRAM = """
import os, sys
from pathlib import Path
from seerdb import DB
path, background = sys.argv[1:]
db = DB.open(path, background=background)
for round in range(3):
    db.put(b"%d" % round, b"value")
    db.flush()
db.compact()
db.put(b"last", b"value")
low = [os.readlink(f"/proc/self/fd/{n}") for n in range(3) if os.path.exists(f"/proc/self/fd/{n}")]
Path(path, "low").write_text(repr(low))
for number in range(3):
    try:
        os.write(number, b"Fatal Python error")
    except OSError:
        pass
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("background", ["thread", "process"])
def test_what_goes_to_a_stream_that_is_closed_goes_into_no_file_of_a_database(
    tmp_path: Path, background: str
) -> None:
    """A crash wrote its last words over the header of the log: it could not be opened."""
    subprocess.run(
        ["sh", "-c", WITHOUT, sys.executable, "-c", PROGRAM, str(tmp_path), background],
        check=True,
        timeout=PATIENCE,
    )
    assert (tmp_path / "low").read_text() == repr(["/dev/null"] * 3)
    with DB.open(tmp_path) as db:
        assert [key for key, _ in db.scan()] == [b"0", b"1", b"2", b"last"]
