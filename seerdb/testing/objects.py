"""Object stores for tests: one in memory, and one that fails as told.

::

    store = FaultyObjectStore(MemoryObjectStore(), clock)
    store.fail("put", match="tables/", times=2)     # two puts fail before they happen
    store.time_out_after("put_if_absent")           # it happens, then fails
    store.short("get_range")                        # the body ends early
    store.delay("get", seconds=3.0)                 # by the clock
    store.outage = True                             # nothing answers until False
    store.crash_at = 7                              # the process dies before operation 7 …
    store.crash_after = 7                           # … or right after it happened
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeVar

from seerdb.clock import Clock, SystemClock
from seerdb.errors import (
    AlreadyExistsError,
    ClosedError,
    NotFoundError,
    SeerDBError,
    TruncatedError,
    UnavailableError,
)
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.pieces import Body
from seerdb.testing.clock import FakeClock
from seerdb.testing.crash import CrashError

T = TypeVar("T")


class MemoryObjectStore:
    """Objects in a dict, with the semantics of a good cloud store. Thread-safe.

    ``clock`` gives the time of modification. ``calls`` counts by method name.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or FakeClock()
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._objects: dict[str, tuple[bytes, float]] = {}
        self.calls: Counter[str] = Counter()

    def get(self, name: str) -> bytes:
        with self._lock:
            self.calls["get"] += 1
            return self._find(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._lock:
            self.calls["get_range"] += 1
            data = self._find(name)[offset : offset + length]
        if len(data) != length:
            raise TruncatedError(
                "the object ends early", name=name, offset=offset, expected=length, found=len(data)
            )
        return data

    def checksum(self, name: str) -> Checksum:
        return Checksum.of(self.get(name))

    def put(self, name: str, data: Body) -> None:
        with self._lock:
            self.calls["put"] += 1
            self._objects[name] = (bytes(data), self._clock.now())

    def put_if_absent(self, name: str, data: Body) -> None:
        with self._lock:
            self.calls["put_if_absent"] += 1
            if name in self._objects:
                raise AlreadyExistsError(f"object {name} already exists")
            self._objects[name] = (bytes(data), self._clock.now())

    def list(self, prefix: str) -> list[ObjectInfo]:
        with self._lock:
            self.calls["list"] += 1
            return [
                ObjectInfo(name, len(data), modified)
                for name, (data, modified) in sorted(self._objects.items())
                if name.startswith(prefix)
            ]

    def delete(self, names: Iterable[str]) -> None:
        with self._lock:
            self.calls["delete"] += 1
            for name in names:
                self._objects.pop(name, None)

    def close(self) -> None:
        """The objects stay: another "process" may open the same bucket."""

    def _find(self, name: str) -> bytes:
        if name not in self._objects:
            raise NotFoundError(f"no object {name}")
        return self._objects[name][0]


class Operation(NamedTuple):
    """One line of the trace. ``names`` is the prefix for ``list``, several for ``delete``."""

    number: int
    """From 1, over all operations of the store."""
    operation: str
    names: tuple[str, ...]


class _Kind(Enum):
    FAIL = "fails before it happens"
    TIME_OUT = "happens, then times out"
    SHORT = "the body ends early"
    CORRUPT = "one bit of the body is wrong"
    DELAY = "takes long"


@dataclass(slots=True)
class _Fault:
    kind: _Kind
    operation: str
    match: str
    skip: int
    times: int
    error: SeerDBError | None = None
    seconds: float = 0.0

    def strikes(self, operation: str, names: tuple[str, ...]) -> bool:
        """Whether this operation is hit; counts down."""
        if self.times < 1 or operation != self.operation:
            return False
        if not any(self.match in name for name in names):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class FaultyObjectStore:
    """``inner`` that fails by plan; see the module docstring. Thread-safe.

    Every planning method takes the operation (a method name of the store), ``match`` (a part
    of the object's name), ``skip`` (how many matching operations go well first) and
    ``times`` (how many are then hit). The oldest plan that matches is used up first.
    ``trace`` is every operation that was asked for, refused ones included.
    """

    def __init__(self, inner: ObjectStore, clock: Clock | None = None) -> None:
        self._inner = inner
        self._clock = clock or FakeClock()
        self._lock = threading.Lock()
        # Set by tests between operations:
        self.outage = False
        """Nothing reaches the store."""
        self.crash_at: int | None = None
        """The operation of this number does not happen any more, nor does any later one."""
        self.crash_after: int | None = None
        """The operation of this number happens, but nobody hears of it; then as above."""
        # Guarded by the lock:
        self.trace: list[Operation] = []
        self._faults: list[_Fault] = []
        self._dead = False

    def fail(
        self,
        operation: str,
        *,
        match: str = "",
        skip: int = 0,
        times: int = 1,
        error: SeerDBError | None = None,
    ) -> None:
        """Raise ``error`` (default: ``UnavailableError``) instead of doing it."""
        self._plan(_Fault(_Kind.FAIL, operation, match, skip, times, error))

    def time_out_after(
        self, operation: str, *, match: str = "", skip: int = 0, times: int = 1
    ) -> None:
        """Do it, and raise ``UnavailableError`` whatever came of it."""
        self._plan(_Fault(_Kind.TIME_OUT, operation, match, skip, times))

    def short(self, operation: str, *, match: str = "", skip: int = 0, times: int = 1) -> None:
        """Read, and raise ``TruncatedError`` as a store does that answers with too little."""
        self._plan(_Fault(_Kind.SHORT, operation, match, skip, times))

    def corrupt(self, operation: str, *, match: str = "", skip: int = 0, times: int = 1) -> None:
        """Read, and flip the lowest bit of the byte in the middle."""
        self._plan(_Fault(_Kind.CORRUPT, operation, match, skip, times))

    def delay(
        self, operation: str, *, seconds: float, match: str = "", skip: int = 0, times: int = 1
    ) -> None:
        """Sleep on the clock, then go on, to the next plan that matches if there is one."""
        self._plan(_Fault(_Kind.DELAY, operation, match, skip, times, seconds=seconds))

    def get(self, name: str) -> bytes:
        return self._read("get", name, lambda: self._inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._read("get_range", name, lambda: self._inner.get_range(name, offset, length))

    def checksum(self, name: str) -> Checksum:
        return Checksum.of(self.get(name))

    def put(self, name: str, data: Body) -> None:
        self._run("put", (name,), lambda: self._inner.put(name, data))

    def put_if_absent(self, name: str, data: Body) -> None:
        self._run("put_if_absent", (name,), lambda: self._inner.put_if_absent(name, data))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._run("list", (prefix,), lambda: self._inner.list(prefix))[0]

    def delete(self, names: Iterable[str]) -> None:
        wanted = tuple(names)
        self._run("delete", wanted, lambda: self._inner.delete(wanted))

    def close(self) -> None:
        self._inner.close()

    def _plan(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _read(self, operation: str, name: str, request: Callable[[], bytes]) -> bytes:
        data, kind = self._run(operation, (name,), request)
        if kind is _Kind.SHORT:
            raise TruncatedError("the body ends early, by plan", name=name)
        if kind is _Kind.CORRUPT and data:
            middle = len(data) // 2
            return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        return data

    def _run(
        self, operation: str, names: tuple[str, ...], request: Callable[[], T]
    ) -> tuple[T, _Kind | None]:
        """The result of ``request``, and the fault that the caller has to act out."""
        number, fault = self._begin(operation, names)
        what = f"{operation} of {', '.join(names)}"
        if self.outage:
            raise UnavailableError(f"{what}: outage, by plan")
        if fault is not None and fault.kind is _Kind.FAIL:
            raise fault.error or UnavailableError(f"{what}: failed, by plan")
        times_out = fault is not None and fault.kind is _Kind.TIME_OUT
        try:
            result = request()
        except SeerDBError:
            if not times_out:
                self._crash_if(number == self.crash_after)
                raise
        self._crash_if(number == self.crash_after)
        if times_out:
            raise UnavailableError(f"{what}: timed out, by plan")
        return result, fault.kind if fault else None

    def _begin(self, operation: str, names: tuple[str, ...]) -> tuple[int, _Fault | None]:
        with self._lock:
            number = len(self.trace) + 1
            self.trace.append(Operation(number, operation, names))
        self._crash_if(self._dead or number == self.crash_at)
        while (fault := self._next_fault(operation, names)) and fault.kind is _Kind.DELAY:
            self._clock.sleep(fault.seconds)
        return number, fault

    def _next_fault(self, operation: str, names: tuple[str, ...]) -> _Fault | None:
        with self._lock:
            return next((f for f in self._faults if f.strikes(operation, names)), None)

    def _crash_if(self, condition: bool) -> None:  # noqa: FBT001
        if condition:
            self._dead = True
            raise CrashError("the process is dead, by plan")


class StallingObjectStore(MemoryObjectStore):
    """The objects of another one, as over a network that may swallow everything: while it
    ``stalls``, each request waits until the store is closed. For real threads."""

    def __init__(self, objects: MemoryObjectStore) -> None:
        super().__init__(SystemClock())
        self._objects, self._lock = objects._objects, objects._lock
        self.stalls = False
        self.is_waited_for = threading.Event()
        self._closed = threading.Event()

    def get(self, name: str) -> bytes:
        self._pass()
        return super().get(name)

    def put(self, name: str, data: Body) -> None:
        self._pass()
        super().put(name, data)

    def put_if_absent(self, name: str, data: Body) -> None:
        self._pass()
        super().put_if_absent(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        self._pass()
        return super().list(prefix)

    def close(self) -> None:
        """Cuts off what waits."""
        self._closed.set()

    def _pass(self) -> None:
        if self.stalls:
            self.is_waited_for.set()
            self._closed.wait()
        if self._closed.is_set():
            raise ClosedError("the store is closed")
