"""Try again what may succeed, and find out what an ambiguous write has done.

A request that failed with ``UnavailableError`` may nevertheless have happened. For put and
delete that is harmless: doing it twice is doing it once. For put-if-absent it is not: our
own first attempt makes the second one find the name taken. So whenever the name is taken,
and whenever the attempts run out, the object is read back and compared. Its contents carry
a write id that nobody else can have, so equal bytes prove that the write was ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import TypeAlias, TypeVar

from seerdb.clock import Clock
from seerdb.errors import (
    AlreadyExistsError,
    NotFoundError,
    SeerDBError,
    TruncatedError,
    UnavailableError,
)
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.pieces import Body

T = TypeVar("T")
Failures: TypeAlias = type[SeerDBError] | tuple[type[SeerDBError], ...]

READ_BACKS = 2
"""How often an object has to differ from ours to be another's: one answer may be damaged."""


class RetryingObjectStore:
    """``inner`` with at most ``attempts`` per request, and waits between them.

    The n-th wait is random between 0 and ``base_seconds`` · 2^(n-1), at most
    ``cap_seconds``, so that clients that failed together do not come back together.
    ``give_up`` is asked after each failure; true means that further attempts are futile now.
    Retries ``UnavailableError``, and of reads ``TruncatedError``: an answer that is short, unless
    the object itself is, and then so are all answers. Thread-safe.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        clock: Clock,
        random: Random,
        attempts: int = 5,
        base_seconds: float = 0.05,
        cap_seconds: float = 2.0,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._random = random
        self._attempts = attempts
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._give_up = give_up

    def get(self, name: str) -> bytes:
        return self._read(lambda: self._inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._read(lambda: self._inner.get_range(name, offset, length))

    def checksum(self, name: str) -> Checksum:
        return self._read(lambda: self._inner.checksum(name))

    def put(self, name: str, data: Body) -> None:
        self._retry(lambda: self._inner.put(name, data))

    def put_if_absent(self, name: str, data: Body) -> None:
        """Create the object, also when an earlier attempt of this very call already has.

        Requires: ``data`` is different from what any other writer puts under ``name``.
        Raises: ``AlreadyExistsError`` when another's object is there; ``UnavailableError``
        when the outcome is unknown.
        """
        try:
            self._retry(lambda: self._inner.put_if_absent(name, data))
        except AlreadyExistsError as refusal:
            self._settle(name, data, refusal, self.get)
        except UnavailableError as failure:
            self._settle(name, data, failure, self._inner.get)

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._retry(lambda: self._inner.list(prefix))

    def delete(self, names: Iterable[str]) -> None:
        wanted = list(names)
        self._retry(lambda: self._inner.delete(wanted))

    def close(self) -> None:
        self._inner.close()

    def _retry(self, request: Callable[[], T], failures: Failures = UnavailableError) -> T:
        for attempt in range(self._attempts - 1):
            try:
                return request()
            except failures:
                if self._give_up():
                    raise
                longest = min(self._cap_seconds, self._base_seconds * 2**attempt)
                self._clock.sleep(self._random.uniform(0, longest))
        return request()

    def _read(self, request: Callable[[], T]) -> T:
        return self._retry(request, (UnavailableError, TruncatedError))

    def _settle(
        self, name: str, data: Body, cause: SeerDBError, get: Callable[[str], bytes]
    ) -> None:
        """Return if our object is there; otherwise raise what is known."""
        try:
            is_ours = any(get(name) == bytes(data) for _ in range(READ_BACKS))
        except (NotFoundError, UnavailableError, TruncatedError) as error:
            # Absent is no proof either: a request may still be on its way.
            raise UnavailableError(
                f"whether {name} was created is unknown; reading it back failed ({error}) "
                f"after: {cause}"
            ) from cause
        if not is_ours:
            raise AlreadyExistsError(f"object {name} already exists") from cause
