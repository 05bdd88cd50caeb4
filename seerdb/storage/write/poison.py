"""The first fatal error wins; afterwards every write raises it again. Reads go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from seerdb.errors import ClosedError, FencedError, PoisonedError


def in_words(cause: BaseException) -> str:
    """What an error says; of an interrupt, which may say nothing or a number, its kind as well."""
    return str(cause) if isinstance(cause, Exception) and str(cause) else repr(cause)


class Poison:
    """A latch for the first fatal error of a database. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.cause: BaseException | None = None

    def set(self, cause: BaseException) -> bool:
        """Latch ``cause``; returns whether it is the first."""
        with self._lock:
            if self.cause is not None:
                return False
            self.cause = cause
            return True

    def check(self) -> None:
        """Raise :meth:`error` if a cause is latched."""
        if self.cause is not None:
            raise self.error()

    def error(self) -> ClosedError:
        """The error a write gets from now on, a fresh one of the latched kind with the first
        cause chained. Requires: a cause is latched."""
        error = self._error()
        error.__cause__ = self.cause
        return error

    def _error(self) -> ClosedError:
        if isinstance(self.cause, FencedError):
            return FencedError(str(self.cause))
        if isinstance(self.cause, ClosedError) and not isinstance(self.cause, PoisonedError):
            return ClosedError(str(self.cause))
        assert self.cause is not None
        return PoisonedError(
            f"no write is taken since an earlier one failed ({in_words(self.cause)}); "
            "reads go on; open the database again to recover"
        )


class FailingAll:
    """Where an error is one of the whole database: ``fail`` latches it. An interrupt goes on, any
    other error ends here, and every waiter gets it as what poisoned the database."""

    def __init__(self, fail: Callable[[BaseException], object]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            return False
        self._fail(error)
        return isinstance(error, Exception)
