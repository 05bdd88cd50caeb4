"""What is open stays with its process: a forked child cannot use it, and it cannot be sent.

A child has a copy of the memory and shares the files, but has none of the threads. What it wrote
would lie in the log over what its parent writes there, and it would hold the lock of the directory
for as long as it lives.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn, SupportsIndex, TypeVar
from weakref import WeakKeyDictionary

from seerdb.errors import ClosedError, InvalidRequestError

T = TypeVar("T")


class Handle:
    """What is open, and there once: to copy or to pickle it raises ``InvalidRequestError``.

    A copy would not learn that it was closed, nor that it is in a forked child.
    """

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        raise InvalidRequestError(
            f"what is open cannot be copied or pickled: threads share one {type(self).__name__}, "
            "another process opens its own"
        )


def keep_from_children(owned: T, let_go: Callable[[T], None]) -> None:
    """From now on, call ``let_go`` with ``owned`` first in each child that is forked."""
    _owned[owned] = let_go


def refuse_all(handle: object) -> None:
    """Have whatever is asked of ``handle`` raise ``ClosedError``; to close it does nothing."""
    attributes = vars(handle)
    left = _LeftBehind(dict(attributes))
    attributes.update(dict.fromkeys(attributes, left), close=_nothing)


class _LeftBehind:
    """Stands for each attribute of a handle, which it keeps: nothing of them is to be freed, for
    that might close what is shared."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self._attributes = attributes

    def __call__(self, *_: object, **__: object) -> NoReturn:
        _refuse()

    def __getattr__(self, _name: str) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise ClosedError(
        "this was opened before the process was forked, and belongs to the parent; "
        "use it there, or start processes by spawning"
    )


def _nothing() -> None:
    """There is nothing to close."""


def _let_go() -> None:
    for owned, let_go in list(_owned.items()):
        let_go(owned)
    _owned.clear()


_owned: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_let_go)
