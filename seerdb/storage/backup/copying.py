"""Copying objects from one store to another, several at a time, each proved on both sides.

What is read must have the checksum that was promised, and so must what was written, read back.
Memory is bounded: objects under way are at most ``MOST_IN_FLIGHT`` bytes together, or one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from seerdb.clock import Clock
from seerdb.errors import ChecksumError, CorruptionError, NotFoundError, TruncatedError
from seerdb.storage.backup.descriptor import ObjectSum
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.names import BLOB_PREFIX, TABLE_PREFIX
from seerdb.storage.workers.threads import INTERRUPTS

T = TypeVar("T")

MOST_IN_FLIGHT = 256 << 20
NAP_SECONDS = 0.1
"""How soon a copy that is slowed down notices that it is to stop."""

WATCH_SECONDS = 1.0
"""How often the watcher of a copy is told that nothing is done."""


@dataclass
class Progress:
    """How far a copy is: objects and bytes, of how many."""

    objects: int = 0
    bytes: int = 0
    total_objects: int = 0
    total_bytes: int = 0


def nothing(progress: Progress) -> None:
    """The watcher of those who do not look."""


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """How to copy: ``jobs`` objects at once on ``threads``, at most ``rate`` bytes a second, 0: as
    many as it can. For one thread.

    ``watch`` is told of every object that is done, and now and then while nothing is; what it
    raises ends the copy."""

    threads: Executor
    clock: Clock
    jobs: int = 4
    rate: int = 0
    watch: Callable[[Progress], None] = nothing
    progress: Progress = field(default_factory=Progress)

    def expect(self, objects: Iterable[tuple[int, object]]) -> None:
        """Tell the watcher that so many objects, of these sizes, are to come."""
        for size, _ in objects:
            self.progress.total_objects += 1
            self.progress.total_bytes += size
        self.watch(self.progress)

    def carry(self, tasks: Iterable[tuple[int, Callable[[], T]]]) -> list[T]:
        """Do tasks, each of which holds so many bytes in memory; returns what they return.

        Raises what a task or ``watch`` raises, when none is under way any more; what Ctrl-C and
        SIGTERM raise, at once."""
        window = _Window[T](self)
        try:
            for size, task in tasks:
                window.make_room(size)
                window.add(size, self.threads.submit(task))
            return window.finish()
        except BaseException as error:
            window.abandon(waits=not isinstance(error, INTERRUPTS))
            raise

    def done(self, size: int) -> None:
        """Tell the watcher that an object of that size is done."""
        self.progress.objects += 1
        self.progress.bytes += size
        self.watch(self.progress)

    def wait(self, seconds: float) -> None:
        """Sleep, looking every now and then whether to stop."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 0:
            self.watch(self.progress)
            self.clock.sleep(min(left, NAP_SECONDS))


class _Window(Generic[T]):
    """The tasks under way."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._running: dict[Future[T], tuple[int, int]] = {}
        """The place in the order and the size of each."""
        self._results: dict[int, T] = {}
        self._bytes = 0
        self._began = carrier.clock.monotonic()
        self._begun_bytes = 0

    def make_room(self, size: int) -> None:
        """Wait until a task of ``size`` may begin."""
        while self._running and self._is_full(size):
            self._finish_some()
        carrier = self._carrier
        if carrier.rate:
            spent = carrier.clock.monotonic() - self._began
            carrier.wait(self._begun_bytes / carrier.rate - spent)

    def _is_full(self, size: int) -> bool:
        return len(self._running) >= self._carrier.jobs or self._bytes + size > MOST_IN_FLIGHT

    def add(self, size: int, future: Future[T]) -> None:
        self._running[future] = len(self._results) + len(self._running), size
        self._bytes += size
        self._begun_bytes += size

    def finish(self) -> list[T]:
        """Wait for all; what they return, in the order in which they were added."""
        while self._running:
            self._finish_some()
        return [self._results[place] for place in range(len(self._results))]

    def abandon(self, *, waits: bool) -> None:
        """Begin nothing more, and wait, if it ``waits``, for what cannot be stopped any more;
        nobody asks what becomes of it."""
        left = [future for future in self._running if not future.cancel()]
        if waits:
            wait(left)

    def _finish_some(self) -> None:
        done, _ = wait(self._running, WATCH_SECONDS, FIRST_COMPLETED)
        if not done:
            self._carrier.watch(self._carrier.progress)
        for future in done:
            place, size = self._running.pop(future)
            self._bytes -= size
            self._results[place] = future.result()
            self._carrier.done(size)


def copy(source: ObjectStore, target: ObjectStore, wanted: ObjectSum) -> None:
    """Copy an object. Durable, and proved to be the same bytes, when it returns.

    Raises: ``CorruptionError`` when it is not as it must be in ``source`` or was changed on its
    way, ``NotFoundError``, ``UnavailableError``.
    """
    target.put(wanted.name, fetch(source, wanted))
    prove(target, wanted)


def prove(store: ObjectStore, wanted: ObjectSum) -> None:
    """Have the store read an object. Raises as :func:`copy`."""
    _compare(wanted, store.checksum(wanted.name))


def check_sizes(store: ObjectStore, needed: Iterable[ObjectSum]) -> None:
    """Raise ``NotFoundError`` for an object that is not there, or not as long as it must be: one
    LIST of tables and one of blobs."""
    there = sizes(store)
    for each in needed:
        if (found := there.get(each.name)) != each.size:
            raise NotFoundError(
                f"{each.name} of {each.size} bytes is missing or damaged: {found} bytes"
            )


def sizes(store: ObjectStore) -> dict[str, int]:
    """The lengths of all tables and blobs, by name."""
    prefixes = TABLE_PREFIX, BLOB_PREFIX
    return {info.name: info.size for prefix in prefixes for info in store.list(prefix)}


def fetch(store: ObjectStore, wanted: ObjectSum) -> bytes:
    """The bytes of an object, which are what they must be. Raises as :func:`copy`."""
    data = store.get(wanted.name)
    _compare(wanted, Checksum.of(data))
    return data


def _compare(wanted: ObjectSum, found: Checksum) -> None:
    if found.size != wanted.size:
        raise TruncatedError(
            "wrong length", name=wanted.name, expected=wanted.size, found=found.size
        )
    if found.crc32c != wanted.checksum:
        raise ChecksumError(
            "checksum mismatch", name=wanted.name, expected=wanted.checksum, found=found.crc32c
        )


def is_sound(store: ObjectStore, wanted: ObjectSum) -> bool:
    """Whether an object is there and as it must be; reads all of it."""
    try:
        prove(store, wanted)
    except (NotFoundError, CorruptionError):
        return False
    return True
