"""A process that runs calls for the one that started it, one after the other.

It is an interpreter of its own that imports what it is asked to run, and no more. A process of
``multiprocessing`` would run the program of whoever starts it once more, all that is not kept
behind ``if __name__ == "__main__"``: a database must not do that to a program that only opened
it, and did so long before there is a job.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from multiprocessing.spawn import get_executable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from seerdb.errors import InternalError, InvalidRequestError
from seerdb.forked import keep_from_children
from seerdb.storage.workers import allocator
from seerdb.storage.workers.shared_numbers import share

_PROGRAM = """\
import os, sys
sys.path[:] = eval("".join(sys.argv[1:]))
del sys.argv[1:]
from concurrent.futures import ThreadPoolExecutor
prompt = ThreadPoolExecutor(1, "seerdb-prompt")
prompt.submit(int).result()
os.setpriority(os.PRIO_PROCESS, 0, {niceness})
from seerdb.storage.workers.job_process import serve
serve({calls}, {board}, prompt)
"""
"""On Linux niceness is a thread's, and nobody may take it back: so one thread is started first, and
keeps what the process began with."""
_TO_THE_GROUP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal or a service manager sends to all processes of a group."""
_ARGUMENT_SIZE = 64 << 10
"""Characters of the list of paths in one argument: Linux takes twice as many."""
_ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Tells glibc, before there is a second thread, what :func:`allocator.share_one_arena` would."""
_NO_THREADS_OF_NUMPY = {"OPENBLAS_NUM_THREADS": "1"}
"""Its library for matrices, which no job needs, would start one for each further processor when it
is imported, and each would turn idly for a tenth of a second: a fourth of what a start takes."""

R = TypeVar("R")

_END = b""
"""Sent instead of a call: there are no more."""
_ASKED = b"?"
"""Sent while a call runs: whether the process still does."""
_HERE = None
"""Its answer, which is no outcome of a call; and what it says when it can work."""

ASK_SECONDS = 5.0
"""How often a process is asked, while a call runs."""
MOST_UNANSWERED = 12
"""How often it is asked without an answer until it counts as dead. Not a time: one that was stopped
together with this one has not been asked meanwhile."""
STALL_SECONDS = ASK_SECONDS * MOST_UNANSWERED
"""How long it may take nothing of what it is sent, or send nothing of the rest of an outcome, until
it counts as dead."""
GOODBYE_SECONDS = 5.0
"""How long one that has nothing to do may take to end."""
IDLE_SECONDS = 2.0
"""How long it keeps the memory of its last job for the next one."""


def require_interpreter() -> None:
    """Raise ``InvalidRequestError`` where there is no interpreter to start."""
    program = os.fsdecode(get_executable() or "")
    if not program or (getattr(sys, "frozen", False) and program == sys.executable):
        raise InvalidRequestError(
            f"worker processes need a Python interpreter, and {program or 'sys.executable'!r} is "
            "none: name one by multiprocessing.set_executable, or use background='thread'"
        )


class ProcessDied(Exception):
    """The process ended before the call did, or was ended because it did not answer any more."""


class JobProcess:
    """One such process. For one thread at a time."""

    def __init__(self, board: int, niceness: int) -> None:
        """Start it; does not wait until it can work. ``board``: the descriptor of the shared
        numbers. ``niceness``: how far it steps back behind this one, before it imports anything of
        ours: that alone keeps a core busy for a third of a second, just when a memtable is full.

        Raises: ``OSError``.
        """
        self.has_worked = False
        """Whether it ever said that it takes calls: if not, none has done it harm."""
        self._calls, theirs = Pipe()
        for end in (self._calls, theirs):  # or a forked child would hide the death of either
            keep_from_children(end, Connection.close)
        _bound_stalls(self._calls.fileno())
        with theirs:
            path = ascii(_path())
            size = _ARGUMENT_SIZE
            arguments = [path[start : start + size] for start in range(0, len(path), size)]
            program = _PROGRAM.format(
                calls=theirs.fileno(),
                board=board,
                niceness=os.getpriority(os.PRIO_PROCESS, 0) + niceness,  # 19 where it would be more
            )
            # That of the interpreter, or what ``multiprocessing.set_executable`` was told.
            interpreter = [os.fsdecode(get_executable()), *_flags()]
            command = [*interpreter, "-c", program, *arguments]
            with _held_back():
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    command,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), board),
                    env={**_NO_THREADS_OF_NUMPY, **os.environ, **_ONE_ARENA},
                )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it takes calls, as far as is known."""
        return not self._calls.closed

    @property
    def has_ended(self) -> bool:
        """Whether it is dead, whoever ended it."""
        return self._process.poll() is not None

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Wait for what a picklable call returns there.

        Raises: what the call raises, with the traceback from there as a note; ``ProcessDied``,
        after which there is no other call.
        """
        call = pickle.dumps((function, args))
        try:
            self._calls.send_bytes(call)
            is_result, outcome, place = self._wait_for_outcome()
        except (EOFError, OSError) as error:
            self.kill()
            code = self._process.returncode
            raise ProcessDied(f"process {self.pid} ended: {code} {error}".strip()) from error
        except BaseException:
            self.kill()  # its answer is not to be taken for that of another call
            raise
        if is_result:
            return outcome
        outcome.add_note(place)
        raise outcome

    def _wait_for_outcome(self) -> tuple[bool, Any, str]:
        """Raises: ``TimeoutError`` when the process does not answer, as one that was stopped."""
        unanswered = 0
        while unanswered < MOST_UNANSWERED:
            if not self._calls.poll(ASK_SECONDS):
                self._calls.send_bytes(_ASKED)
                unanswered += 1
            elif (outcome := self._calls.recv()) is not _HERE:
                answer: tuple[bool, Any, str] = outcome
                return answer
            else:
                unanswered, self.has_worked = 0, True
        raise TimeoutError(f"(it did not answer for {MOST_UNANSWERED * ASK_SECONDS:.0f} s)")

    def close(self) -> None:
        """Let it end, and wait for that, but not for one that is stopped. Requires: no call runs.
        Idempotent."""
        if not self.is_alive:
            return
        with suppress(OSError, subprocess.TimeoutExpired):
            self._calls.send_bytes(_END)
            self._process.wait(GOODBYE_SECONDS)
        self.kill()

    def cut_off(self) -> None:
        """Have the call that runs raise ``ProcessDied`` soon. From any thread."""
        self._process.kill()

    def kill(self) -> None:
        """End it at once. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._calls.close()


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals to the whole group wait; in a process that is started meanwhile until :func:`serve`
    ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _current_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # deleted
        return ""


_BEGAN_IN = _current_directory()
"""Where this was imported."""


def _path() -> list[str]:
    """Where this interpreter looks for modules; for its current directory that in which it found
    this one, as the one it is in by now may have another SeerDB, or none."""
    return [str(each) or _BEGAN_IN for each in sys.path]


def _flags() -> list[str]:
    """Those of this interpreter, if it goes by no environment. That may be meant for another one,
    as ``PYTHONHOME`` of a program that brings its own, with which this one does not start."""
    if sys.flags.isolated:
        return ["-I"]
    return ["-E"] if sys.flags.ignore_environment else []


def _bound_stalls(descriptor: int) -> None:
    """Have a socket fail, as one that is broken does, when nothing can be sent for so long, or
    nothing comes of what is being received."""
    with socket.socket(fileno=os.dup(descriptor)) as end:
        end.settimeout(None)  # whatever the default of the program is: the descriptors share it
        patience = struct.pack("ll", int(STALL_SECONDS), int(STALL_SECONDS % 1 * 1e6))
        for bound in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            end.setsockopt(socket.SOL_SOCKET, bound, patience)


_prompt: Executor | None = None
"""Of such a process: the thread that has not stepped back."""


def promptly(function: Callable[..., R], *args: Any) -> R:
    """In such a process: a call that steps back behind nobody, where threads can tell (Linux).
    Anywhere else it is a plain call."""
    return function(*args) if _prompt is None else _prompt.submit(function, *args).result()


def serve(calls: int, board: int, prompt: Executor) -> None:
    """In the process: run what comes by the descriptor ``calls``, until nothing more does.

    It leaves it to the process that started it to answer signals that a terminal or a service
    manager sends to the whole group, and does not outlive it.
    """
    global _prompt  # noqa: PLW0603 - of the whole process, whose calls find it there
    _prompt = prompt
    allocator.keep_freed_memory()
    for number in _TO_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    share(board)
    connection, waiting = Connection(calls), SimpleQueue[bytes]()
    sending = threading.Lock()
    receiver = threading.Thread(target=_receive, args=(connection, waiting, sending), daemon=True)
    receiver.start()
    for call in _until_end(waiting):
        outcome = _outcome(call)
        try:
            with sending:
                connection.send_bytes(outcome)
        except OSError:  # nobody is there any more
            os._exit(1)


def _until_end(waiting: SimpleQueue[bytes]) -> Iterator[bytes]:
    """The calls as they come. Memory goes back to the kernel when none has come for a while."""
    while True:
        try:
            call = waiting.get(timeout=IDLE_SECONDS)
        except Empty:
            allocator.give_back()
            call = waiting.get()
        if call == _END:
            return
        yield call


def _receive(
    connection: Connection[Any, Any], waiting: SimpleQueue[bytes], sending: threading.Lock
) -> None:
    """Tell the other process that this one can work, answer it, and notice its end, also while a
    call runs."""
    try:
        with sending:
            connection.send(_HERE)
        while True:
            received = connection.recv_bytes()
            if received == _ASKED:
                with sending:
                    connection.send(_HERE)
            else:
                waiting.put(received)
    except (EOFError, OSError):
        os._exit(1)


def _outcome(call: bytes) -> bytes:
    """Whether the call returned, what it returned or raised, and the traceback if it raised."""
    try:
        function, args = pickle.loads(call)  # noqa: S301 - of the process that started this one
        return pickle.dumps((True, function(*args), ""))
    except Exception as error:  # noqa: BLE001 - raised again by :meth:`JobProcess.call`
        place = f"in a worker process:\n{traceback.format_exc()}"
        try:
            failure = pickle.dumps((False, error, place))
            pickle.loads(failure)  # noqa: S301 - as the other process will
        except Exception:  # noqa: BLE001 - what a class of somebody's raises when it is pickled
            told = InternalError(f"a worker process failed: {error!r}")
            return pickle.dumps((False, told, place))
        return failure
