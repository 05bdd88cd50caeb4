"""One process for jobs, from the end that starts it: what it runs, what it does not run, and how
it ends."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.spawn import get_executable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn
from unittest.mock import Mock
from zipfile import ZipFile

import pytest

import seerdb
from seerdb.clock import SystemClock
from seerdb.errors import CorruptionError, InternalError, InvalidRequestError
from seerdb.storage.workers import allocator, job_process
from seerdb.storage.workers.job_process import (
    MOST_UNANSWERED,
    JobProcess,
    ProcessDied,
    _until_end,
    promptly,
    require_interpreter,
)
from seerdb.storage.workers.shared_numbers import Board
from seerdb.storage.workers.threads import Workers

NICENESS = 3
PATIENCE = 60


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with closing(Board()) as made:
        yield made


@pytest.fixture
def process(board: Board) -> Iterator[JobProcess]:
    with closing(JobProcess(board.fileno(), NICENESS)) as started:
        yield started


def test_it_steps_back_before_it_imports_anything_of_ours(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes a third of a second of a processor."""
    package, told = tmp_path / "seerdb", tmp_path / "told"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, pathlib\n"
        "niceness = os.getpriority(os.PRIO_PROCESS, 0)\n"
        f"pathlib.Path({str(told)!r}).write_text(str(niceness))\n"
        "os._exit(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with closing(JobProcess(board.fileno(), NICENESS)) as process, pytest.raises(ProcessDied):
        process.call(int)
    assert int(told.read_text()) == min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, 19)


def test_a_program_that_is_no_interpreter_is_not_started_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(InvalidRequestError, match="use background='thread'"):
        Workers("process", SystemClock())
    Workers("thread", SystemClock()).close()
    before = get_executable()
    multiprocessing.set_executable("/usr/bin/python3")
    try:
        require_interpreter()
    finally:
        multiprocessing.set_executable(before)


def test_it_runs_one_call_after_the_other(process: JobProcess) -> None:
    assert [process.call(os.getpid) for _ in range(3)] == [process.pid] * 3
    assert len(process.call(bytes, 10 << 20)) == 10 << 20


def told(name: str) -> Any:
    return getattr(sys, name)


def test_it_looks_where_who_started_it_does(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more paths than one argument of a program holds it could not be started."""
    odd = ["a'b", 'c"d', "e{f}\n", "\udcff", "é"]
    many = [f"/no/such/{'directory' * 20}/{number}" for number in range(1_000)]
    monkeypatch.setattr(sys, "path", [*sys.path, *odd, *many])
    with closing(JobProcess(board.fileno(), NICENESS)) as process:
        assert process.call(told, "path") == sys.path
        assert process.call(told, "argv") == ["-c"]


def test_it_finds_what_its_starter_found_where_it_began(tmp_path: Path) -> None:
    """An interactive session looks in its current directory, and may have gone elsewhere."""
    began, elsewhere = tmp_path / "began", tmp_path / "elsewhere"
    for directory, said in [(began, "right"), (elsewhere, "wrong")]:
        directory.mkdir()
        (directory / "where.py").write_text(f"def told():\n    return {said!r}\n")
    program = f"""
import os, sys
sys.path[:] = ["", *{sys.path!r}]
import where
from seerdb.storage.workers.job_process import JobProcess
from seerdb.storage.workers.shared_numbers import Board
os.chdir({str(elsewhere)!r})
process = JobProcess(Board().fileno(), 0)
print(process.call(where.told))
process.close()
"""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=began, capture_output=True, text=True, check=True)
    assert ran.stdout == "right\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_of_its_threads_take_memory_from_one_place(process: JobProcess) -> None:
    """A second arena reserves 64 MiB; a merge in there kept half as much memory again."""
    assert process.call(promptly, len, bytearray(1 << 20)) == 1 << 20
    reserved = [
        int(end, 16) - int(start, 16)
        for line in process.call(Path.read_text, Path("/proc/self/maps")).splitlines()
        for start, _, end in [line.split()[0].partition("-")]
        if line.split()[1] == "---p" and len(line.split()) == 5
    ]
    assert max(reserved, default=0) < 32 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc lists threads")
@pytest.mark.skipif(os.cpu_count() == 1, reason="there would be none anyhow")
def test_it_has_no_threads_that_nobody_uses(process: JobProcess) -> None:
    process.call(eval, "__import__('numpy') and None")
    threads = list(Path(f"/proc/{process.pid}/task").iterdir())
    ours = process.call(eval, "__import__('threading').active_count()")
    assert len(threads) == ours


def test_memory_is_kept_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "give_back", Mock(side_effect=AssertionError))
    waiting = SimpleQueue[bytes]()
    for call in (b"1", b"2", b""):
        waiting.put(call)
    assert list(_until_end(waiting)) == [b"1", b"2"]


def resident(process_id: int) -> int:
    """Megabytes."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def take_and_free() -> int:
    blocks = [b"x" * (8 << 20) for _ in range(8)]
    blocks.clear()
    return resident(os.getpid())


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told what to do")
def test_memory_goes_back_when_there_is_nothing_to_do(process: JobProcess) -> None:
    before = process.call(resident, process.pid)
    assert process.call(take_and_free) >= before + 48
    deadline = SystemClock().monotonic() + PATIENCE
    while resident(process.pid) > before + 16:
        assert SystemClock().monotonic() < deadline
        SystemClock().sleep(0.05)
    assert process.call(os.getpid) == process.pid


def raise_corruption() -> NoReturn:
    raise CorruptionError("bad bytes", name="a", offset=7)


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


def raise_unpicklable() -> NoReturn:
    raise Unpicklable(1, 2)


def return_unpicklable() -> Callable[[], None]:
    return lambda: None


def test_what_a_call_raises_comes_back_with_the_place_there(process: JobProcess) -> None:
    with pytest.raises(CorruptionError, match="bad bytes") as error:
        process.call(raise_corruption)
    assert (error.value.name, error.value.offset) == ("a", 7)
    assert "in raise_corruption" in "".join(error.value.__notes__)


def test_what_cannot_come_back_is_told(process: JobProcess) -> None:
    with pytest.raises(InternalError, match=r"a worker process failed: Unpicklable\(3\)"):
        process.call(raise_unpicklable)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        process.call(return_unpicklable)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        process.call(lambda: None)
    assert process.call(os.getpid) == process.pid


def test_it_leaves_signals_to_who_started_it(process: JobProcess) -> None:
    """Also before it can work: it died, or printed a stack over what had interrupted it."""
    for _ in range(2):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
        assert process.call(os.getpid) == process.pid
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "of who started it"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_its_death_is_told(process: JobProcess, number: signal.Signals) -> None:
    with pytest.raises(ProcessDied, match=f"ended: {-number}"):
        process.call(signal.raise_signal, number)
    assert not process.is_alive
    with pytest.raises(ProcessDied):
        process.call(os.getpid)


def test_what_died_between_two_calls_is_told(process: JobProcess) -> None:
    process.call(os.getpid)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessDied):
        process.call(os.getpid)
    assert not process.is_alive


def test_one_that_takes_no_more_of_a_large_call_counts_as_dead(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it was idle, it held whoever had a large call for it for ever."""
    monkeypatch.setattr(job_process, "STALL_SECONDS", 0.2)
    with closing(JobProcess(board.fileno(), NICENESS)) as process:
        process.call(os.getpid)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(ProcessDied, match="-9"):
            process.call(len, bytes(10 << 20))


def test_one_that_stops_within_its_reply_counts_as_dead(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for the rest of it waited for ever, and nobody was told."""
    monkeypatch.setattr(job_process, "STALL_SECONDS", 0.2)
    with closing(JobProcess(board.fileno(), NICENESS)) as process:
        process.call(os.getpid)
        receive = process._calls.recv

        def stopped_meanwhile() -> Any:
            os.kill(process.pid, signal.SIGSTOP)
            return receive()

        monkeypatch.setattr(process._calls, "recv", stopped_meanwhile)
        with pytest.raises(ProcessDied, match="-9"):
            process.call(bytes, 100 << 20)


def test_who_is_interrupted_gets_no_answer_to_an_earlier_call(
    process: JobProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(process._calls, "recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.call(os.getpid)
    assert not process.is_alive


def test_one_that_is_stopped_is_ended(process: JobProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call never came back, and nobody was told."""
    process.call(os.getpid)
    monkeypatch.setattr(job_process, "ASK_SECONDS", 0.001)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(ProcessDied, match="did not answer"):
        process.call(os.getpid)
    assert not process.is_alive
    assert process.has_ended


def test_one_that_is_stopped_while_it_is_idle_keeps_no_close_waiting(
    process: JobProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.call(os.getpid)
    monkeypatch.setattr(job_process, "GOODBYE_SECONDS", 0.001)
    os.kill(process.pid, signal.SIGSTOP)
    process.close()
    assert process.has_ended


def read_whole(path: str) -> str:
    return Path(path).read_text()


def test_one_that_answers_may_take_as_long_as_it_likes(
    process: JobProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, most = tmp_path / "gate", MOST_UNANSWERED - 1
    os.mkfifo(gate)
    silence = itertools.cycle([True] * most + [False] * most)
    poll_really, answered = process._calls.poll, threading.Semaphore(0)

    def poll(_: float) -> bool:
        if next(silence):
            return False
        answered.release()
        return poll_really(PATIENCE)

    monkeypatch.setattr(process._calls, "poll", poll)
    with ThreadPoolExecutor(1) as caller:
        call = caller.submit(process.call, read_whole, str(gate))
        with gate.open("w") as held:
            for _ in range(3 * most):
                assert answered.acquire(timeout=PATIENCE)
            held.write("done")
        assert call.result(PATIENCE) == "done"
    assert process.call(os.getpid) == process.pid, "answers that came late are no outcome"


def test_the_close_waits_for_what_runs_and_says_nothing_of_what_died(
    board: Board, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = JobProcess(board.fileno(), NICENESS)
    with ThreadPoolExecutor(1) as caller:
        call = caller.submit(process.call, read_whole, str(gate))
        with gate.open("w") as held:  # waits until the call reads
            held.write("done")
        assert call.result(PATIENCE) == "done"
    process.close()
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    dead = JobProcess(board.fileno(), NICENESS)
    os.kill(dead.pid, signal.SIGKILL)
    dead.close()


HOLDING = """
import signal
def hold(path):
    with open(path, "w") as pipe:
        pipe.write("runs")
        pipe.flush()
        signal.pause()
"""
STARTER = """
import sys
from holding import hold
from seerdb.storage.workers.job_process import JobProcess
from seerdb.storage.workers.shared_numbers import Board
board = Board()
JobProcess(board.fileno(), 0).call(hold, sys.argv[1])
"""


def test_it_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    (tmp_path / "holding.py").write_text(HOLDING)
    held = tmp_path / "held"
    os.mkfifo(held)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(held)], env=environment)
    with held.open() as pipe:
        assert pipe.read(4) == "runs"
        starter.kill()
        starter.wait()
        assert pipe.read() == "", "nobody holds it any more"


FORKING = STARTER.replace(
    "JobProcess(board.fileno(), 0).call(hold, sys.argv[1])",
    """process = JobProcess(board.fileno(), 0)
import os, signal, threading
threading.Thread(target=process.call, args=(hold, sys.argv[1]), daemon=True).start()
while not os.path.exists(sys.argv[2]):
    signal.sigtimedwait([], 0.01)
child = os.fork()
if not child:
    signal.pause()
print(child, flush=True)
signal.pause()
""",
)


def test_it_does_not_outlive_who_started_it_for_a_forked_child(tmp_path: Path) -> None:
    """The child had a copy of the socket, so that the end of its parent was not noticed."""
    (tmp_path / "holding.py").write_text(HOLDING)
    held, runs = tmp_path / "held", tmp_path / "runs"
    os.mkfifo(held)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (
        subprocess.Popen(
            [sys.executable, "-c", FORKING, str(held), str(runs)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            text=True,
        ) as starter,
        held.open() as pipe,
    ):
        assert starter.stdout is not None
        assert pipe.read(4) == "runs"
        runs.touch()
        child = int(starter.stdout.readline())
        starter.kill()
        try:
            assert select.select([pipe], [], [], PATIENCE / 6)[0], "it goes on"
            assert pipe.read() == "", "nobody holds it any more"
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("flag", ["-E", "-I"])
def test_it_goes_by_no_environment_that_its_starter_ignores(flag: str) -> None:
    """It did not start with a ``PYTHONHOME`` that is meant for another interpreter."""
    program = f"import sys\nsys.path[:] = {sys.path!r}\n{CALLER}"
    ran = subprocess.run(
        [sys.executable, flag, "-c", program],
        env={**os.environ, "PYTHONHOME": "/no/such/home"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (ran.stdout, ran.stderr) == (f"{seerdb.__file__} 3\n", "")


CALLER = """
import seerdb
from seerdb.storage.workers.job_process import JobProcess
from seerdb.storage.workers.shared_numbers import Board
board = Board()
process = JobProcess(board.fileno(), 0)
print(seerdb.__file__, process.call(len, b"abc"))
process.close()
"""
PROGRAM = """
import sys
from seerdb import DB
print("once", flush=True)
with DB.open(sys.argv[1], background="process", memtable_capacity=1 << 20) as db:
    for number in range(100):
        db.put(b"%d" % number, b"x")
    db.flush()
    print(len(list(db.scan())), flush=True)
"""


@pytest.mark.parametrize("by_name", [True, False])
def test_a_program_without_a_guard_is_run_once(tmp_path: Path, by_name: bool) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, str(path) if by_name else "-", str(tmp_path / "data")],
        input=None if by_name else PROGRAM,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert (ran.stdout, ran.stderr) == ("once\n100\n", "")


def test_it_works_out_of_an_archive(tmp_path: Path) -> None:
    """As a zipapp is. Its workers looked for a file there, and died; no flush came to its end."""
    package, archive = Path(seerdb.__file__).parent, tmp_path / "archive.zip"
    with ZipFile(archive, "w") as made:
        for path in package.rglob("*.py"):
            made.write(path, path.relative_to(package.parent))
    program = f"import sys\nsys.path.insert(0, {str(archive)!r})\n{CALLER}"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (ran.stdout, ran.stderr) == (f"{archive}/seerdb/__init__.py 3\n", "")
