"""Letting go of what an owner holds in a store, such as a lock, when its work ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seerdb.errors import UnavailableError


@contextmanager
def letting_go(let_go: Callable[[], None]) -> Iterator[None]:
    """Call ``let_go`` when the block ends, in whatever way. Whatever ended the block is what is
    raised; where the store is away for ``let_go``, that is a note to it. Raises: what ``let_go``
    does after a block that went well."""
    try:
        yield
    except BaseException as error:
        let_go_after(error, let_go)
        raise
    let_go()


def let_go_after(error: BaseException, let_go: Callable[[], None]) -> None:
    """Call ``let_go`` after ``error``, which is about to be raised and takes a note of it where the
    store is away."""
    try:
        let_go()
    except UnavailableError as away:
        error.add_note(f"what was held is left to expire: {away}")
