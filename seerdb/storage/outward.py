"""Calls into the code of others, listeners and sinks, and what these must not do in turn.

They are called by the very threads for which a flush, a commit or a close would wait, some of them
with all writers held. Whoever waits there waits for himself. So a thread is marked while it makes
such a call, and what would wait refuses a thread that is, of any database: they share threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from seerdb.errors import InvalidRequestError

T = TypeVar("T")


class _Calls(threading.local):
    """How many calls this thread is in."""

    depth = 0


_calls = _Calls()


def call_out(call: Callable[[T], object], told: T) -> None:
    """Tell a listener or a sink. Raises what it raises."""
    _calls.depth += 1
    try:
        call(told)
    finally:
        _calls.depth -= 1


def check_may_wait(what: str) -> None:
    """Raise ``InvalidRequestError`` within :func:`call_out`. Requires: nothing was changed yet."""
    if _calls.depth:
        raise InvalidRequestError(
            f"{what} is refused within a listener or a sink: it may have to wait for the work that "
            "called it; hand it to another thread, and return"
        )
