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
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from multiprocessing.spawn import get_executable
from queue import SimpleQueue
from typing import Any

from seerdb.errors import InternalError, InvalidRequestError
from seerdb.storage.allocator import share_one_arena
from seerdb.storage.shared_numbers import share

_PROGRAM = """\
import sys
sys.path[:] = {path}
from seerdb.storage.job_process import serve
serve({calls}, {board})
"""
_END = b""
"""Sent instead of a call: there are no more."""


def require_interpreter() -> None:
    """Raise ``InvalidRequestError`` where there is no interpreter to start."""
    program = os.fsdecode(get_executable() or "")
    if not program or (getattr(sys, "frozen", False) and program == sys.executable):
        raise InvalidRequestError(
            f"worker processes need a Python interpreter, and {program or 'sys.executable'!r} is "
            "none: name one by multiprocessing.set_executable, or use background='thread'"
        )


class ProcessDied(Exception):
    """The process ended before the call did."""


class JobProcess:
    """One such process. For one thread at a time."""

    def __init__(self, board: int, niceness: int) -> None:
        """Start it; does not wait until it can work. ``board``: the descriptor of the shared
        numbers. ``niceness``: how far it steps back behind this one, before it imports anything:
        that alone keeps a core busy for a third of a second, just when a memtable is full.

        Raises: ``OSError``.
        """
        self._calls, theirs = Pipe()
        with theirs:
            path = list(map(str, sys.path))
            program = _PROGRAM.format(path=path, calls=theirs.fileno(), board=board)
            # That of the interpreter, or what ``multiprocessing.set_executable`` was told.
            command = [os.fsdecode(get_executable()), "-c", program]
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), board)
            )
        wanted = os.getpriority(os.PRIO_PROCESS, 0) + niceness
        os.setpriority(os.PRIO_PROCESS, self.pid, wanted)  # 19 where it would be more

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
            is_result, outcome, place = self._calls.recv()
        except (EOFError, OSError) as error:
            self.kill()
            raise ProcessDied(f"process {self.pid} ended: {self._process.returncode}") from error
        except BaseException:
            self.kill()  # its answer is not to be taken for that of another call
            raise
        if is_result:
            return outcome
        outcome.add_note(place)
        raise outcome

    def close(self) -> None:
        """Let it end, and wait for that. Idempotent."""
        if not self.is_alive:
            return
        try:
            self._calls.send_bytes(_END)
        except OSError:
            self.kill()
        self._process.wait()
        self._calls.close()

    def kill(self) -> None:
        """End it at once. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._calls.close()


def serve(calls: int, board: int) -> None:
    """In the process: run what comes by the descriptor ``calls``, until nothing more does.

    It leaves it to the process that started it to answer signals that a terminal or a service
    manager sends to the whole group, and does not outlive it.
    """
    share_one_arena()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    share(board)
    connection, waiting = Connection(calls), SimpleQueue[bytes]()
    receiver = threading.Thread(target=_receive, args=(connection, waiting), daemon=True)
    receiver.start()
    while (call := waiting.get()) != _END:
        connection.send_bytes(_outcome(call))


def _receive(connection: Connection[Any, Any], waiting: SimpleQueue[bytes]) -> None:
    """Notice the end of the other process also while a call runs."""
    try:
        while True:
            waiting.put(connection.recv_bytes())
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
