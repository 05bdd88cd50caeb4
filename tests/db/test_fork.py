"""A database that is open while its process forks: the child harms nothing of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from seerdb import DB

SCRIPT = """
import os, signal, sys
from seerdb import DB, ClosedError

path, level = sys.argv[1:]


def say(words):
    os.write(1, f"{words}\\n".encode())  # at once: two processes share the pipe


db = DB.open(path, durability=level)
snapshot = db.snapshot()
for n in range(10):
    db.put(b"%03d" % n, b"before")


def put_batch():
    with db.batch() as batch:
        batch.put(b"child", b"v")


hear, tell = os.pipe()
child = os.fork()
if not child:
    signal.alarm(100)  # whatever hangs
    os.read(hear, 1)
    calls = {
        "put": lambda: db.put(b"child", b"v"),
        "batch": put_batch,
        "delete": lambda: db.delete(b"000"),
        "flush": db.flush,
        "get": lambda: db.get(b"000"),
        "scan": lambda: list(db.scan()),
        "seq": lambda: db.visible_seq,
        "stats": db.stats,
        "snapshot": lambda: snapshot.get(b"000"),
    }
    for name, call in calls.items():
        try:
            call()
        except ClosedError as error:
            assert "forked" in str(error), error
            say(f"refused {name}")
    snapshot.close()
    with db:
        pass
    db.close()
    say("closed")
    if level == "interval":  # this one outlives its parent
        signal.pause()
    os._exit(0)
for n in range(10, 30):
    db.put(b"%03d" % n, b"after")
os.write(tell, b"!")
if level == "memory":
    os.waitpid(child, 0)
say(f"child {child}")
os.kill(os.getpid(), signal.SIGKILL)
"""
REFUSED = ["put", "batch", "delete", "flush", "get", "scan", "seq", "stats", "snapshot"]


def run(path: Path, level: str) -> tuple[list[str], int]:
    """What the child said, and its process id."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), level], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said: list[str] = []
        child = 0
        while len(said) < len(REFUSED) + 1 or not child:
            line = process.stdout.readline()
            if not line:
                break
            if line.startswith("child "):
                child = int(line.split()[1])
            else:
                said.append(line.strip())
        process.wait()
    assert child, said  # whoever kills process 0 kills all of these tests
    return said, child


def check(path: Path) -> None:
    with DB.open(path) as db:
        found = dict(db.scan())
    assert found == {b"%03d" % n: b"before" if n < 10 else b"after" for n in range(30)}


def test_a_forked_child_writes_nothing_over_what_its_parent_wrote(tmp_path: Path) -> None:
    said, _ = run(tmp_path, "memory")
    assert said == [*(f"refused {name}" for name in REFUSED), "closed"]
    check(tmp_path)


def test_a_forked_child_does_not_keep_the_directory_locked(tmp_path: Path) -> None:
    said, child = run(tmp_path, "interval")
    try:
        assert said[-1] == "closed"
        check(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
