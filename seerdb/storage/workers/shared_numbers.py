"""Whole numbers that worker processes and the one that started them both see."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from seerdb.errors import BusyError

SHARED_JOBS = 64
SHARED_NUMBERS = 8
"""How many jobs in processes may share how many numbers with this one."""
_SIZE = 8 * SHARED_JOBS * SHARED_NUMBERS


class SharedNumbers:
    """A few whole numbers that a worker process and the one that started it both see, each in one
    step."""

    def __init__(self, board: memoryview, place: int) -> None:
        self._board = board
        self._offset = place * SHARED_NUMBERS

    def __getitem__(self, position: int) -> int:
        number: int = self._board[self._offset + position]
        return number

    def __setitem__(self, position: int, number: int) -> None:
        self._board[self._offset + position] = number


def _new_file() -> int:
    """The descriptor of a file without a name, with room for all numbers: where a page that is
    mapped finds none, the kernel ends the process instead of failing a call."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("seerdb-numbers")  # in memory, so that no disk can be full
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, bytes(_SIZE))
    return descriptor


def _numbers_in(descriptor: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, _SIZE)).cast("q")


class Board:
    """Where the numbers stand: a file without a name, which processes map. Thread-safe."""

    def __init__(self) -> None:
        """Raises: ``OSError`` without a descriptor or memory for it."""
        self._descriptor = _new_file()  # open as long as processes start
        try:
            self._numbers = _numbers_in(self._descriptor)
        except BaseException:
            self.close()
            raise
        self._lock = threading.Lock()
        self._places = list(range(SHARED_JOBS))  # guarded by the lock

    def fileno(self) -> int:
        """The descriptor that a worker process inherits, for :func:`share`."""
        return self._descriptor

    def close(self) -> None:
        """No process that starts from here on shares it; those that do go on."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @contextmanager
    def lend(self) -> Iterator[tuple[int, SharedNumbers]]:
        """Numbers, all 0, to share with a job, which finds them by :func:`numbers_at` their
        place. Raises: ``BusyError`` when too many jobs do."""
        with self._lock:
            if not self._places:
                raise BusyError(
                    f"{SHARED_JOBS} jobs wait for processes; it runs again", retry_after_seconds=1.0
                )
            place = self._places.pop()
        numbers = SharedNumbers(self._numbers, place)
        for position in range(SHARED_NUMBERS):
            numbers[position] = 0
        try:
            yield place, numbers
        finally:
            with self._lock:
                self._places.append(place)


_boards: list[memoryview] = []
"""Of a worker process: that of the process that started it."""


def share(descriptor: int) -> None:
    """In a worker process: use the board of the process that started it."""
    _boards.append(_numbers_in(descriptor))


def numbers_at(place: int) -> SharedNumbers:
    """In a worker process: the numbers of :meth:`Board.lend`."""
    return SharedNumbers(_boards[0], place)
