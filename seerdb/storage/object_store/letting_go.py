"""Letting go of what an owner holds in a store, such as a lock, when its work ends.

What it cannot let go of expires, or is left to who comes next. So whoever interrupts the work does
not wait long for a store that does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seerdb.errors import BusyError, UnavailableError
from seerdb.storage.workers.threads import INTERRUPTS, run_within

LET_GO_SECONDS = 5.0
"""How long Ctrl-C and SIGTERM wait."""


@contextmanager
def letting_go(
    let_go: Callable[[], None],
    seconds: float = LET_GO_SECONDS,
    left: Callable[[UnavailableError], None] | None = None,
) -> Iterator[None]:
    """Call ``let_go`` when the block ends, in whatever way. Whatever ended the block is what is
    raised; where the store is away for ``let_go``, or there is no thread for it, that is a note to
    it. Ctrl-C and SIGTERM wait for it ``seconds`` at most. Raises: what ``let_go`` does after a
    block that went well, but for the store being away or denying it, which ``left`` is told instead
    where there is one."""
    try:
        yield
    except BaseException as error:
        let_go_after(error, let_go, seconds)
        raise
    try:
        let_go()
    except UnavailableError as away:
        if left is None:
            raise
        left(away)


def let_go_after(
    error: BaseException, let_go: Callable[[], None], seconds: float = LET_GO_SECONDS
) -> None:
    """Call ``let_go`` after ``error``, which is about to be raised and takes a note of it where
    that was not possible. See :func:`letting_go`."""
    try:
        if isinstance(error, INTERRUPTS):
            run_within(seconds, let_go)
        else:
            let_go()
    except (UnavailableError, BusyError) as why:
        error.add_note(f"what was held is left to expire: {why}")
    except TimeoutError:
        error.add_note(f"what was held is left to expire: no answer within {seconds:.0f} s")
