"""A batch on its way through the write path, from its caller to the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from seerdb.errors import InvalidRequestError, SeerDBError
from seerdb.options import Durability
from seerdb.storage.batch import Batch, check_key
from seerdb.storage.entry import MERGE, PUT
from seerdb.storage.memtable import points_of
from seerdb.storage.operators import MergeOperator, check_operand
from seerdb.storage.wal.format import encode_operations, encode_put

LEVELS = {level.value: rank for rank, level in enumerate(Durability)}
MEMORY, INTERVAL, LOCAL, OBJECT = range(4)

Outcome = tuple[object, int | Exception]
"""A ticket and the seq of its commit, or why there was none."""
Sink = Callable[[Iterable[Outcome]], None]
"""Runs through what it is told once, soon, on any thread: commits become visible by that."""


class ListSink:
    """A sink that gets a list, of what is visible by then. Equal to that of the same sink."""

    def __init__(self, sink: Callable[[list[Outcome]], None]) -> None:
        self._sink = sink

    def __call__(self, outcomes: Iterable[Outcome]) -> None:
        self._sink(list(outcomes))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListSink) and other._sink == self._sink

    def __hash__(self) -> int:
        return hash(self._sink)


Ticket = tuple[Sink, object, int]
"""Who is told, once the commit of that seq is in the bucket, and for what."""


Submission = tuple[Batch, str | None, tuple[bytes, int] | None, object]
"""A batch that nobody waits for; its durability, if not the database's; a key and the seq that
it must have; a ticket."""

RECORD_OVERHEAD = 64
"""At least what the log adds to the payload of a record."""


class Request:
    """The columns of a batch that is :func:`ready`; filled in by the leader that commits it.

    Holds the columns, not the batch: what was encoded is what is applied, whatever becomes of
    the batch meanwhile.
    """

    __slots__ = (
        "done",
        "error",
        "expect",
        "keys",
        "kinds",
        "level",
        "payload",
        "points",
        "seq",
        "sink",
        "size",
        "ticket",
        "values",
    )

    def __init__(
        self,
        batch: Batch,
        level: int,
        expect: tuple[bytes, int] | None,
        ticket: object = None,
        sink: Sink | None = None,
    ) -> None:
        self.kinds, self.keys, self.values = batch.kinds, batch.keys, batch.values
        if len(self.kinds) == 1 and self.kinds[0] == PUT:
            self.payload = encode_put(self.keys[0], self.values[0])
            self.points = None
        else:
            self.payload = encode_operations(self.kinds, self.keys, self.values)
            self.points = points_of(self.kinds, self.keys, self.values)
        self.size = len(self.payload) + RECORD_OVERHEAD
        """Bytes that it takes in the log, no less."""
        self.level = level
        self.expect = expect
        self.ticket = ticket
        self.sink = sink
        self.done = False
        self.seq = 0
        self.error: SeerDBError | None = None

    def fail(self, error: SeerDBError) -> None:
        """It ended in ``error``."""
        self.error = error
        self.done = True


def level_of(durability: str) -> int:
    """The rank of a durability. Raises ``InvalidRequestError``."""
    try:
        level = LEVELS.get(durability)
    except TypeError:  # not hashable
        level = None
    if level is None:
        raise InvalidRequestError(
            f"durability must be one of {', '.join(LEVELS)}, not {durability!r}"
        )
    return level


def check_expectation(expect: object) -> None:
    """Raise ``InvalidRequestError`` unless ``expect`` is a key and the seq it must have."""
    if not isinstance(expect, tuple) or len(expect) != 2:
        raise InvalidRequestError(f"expect must be a key and a seq, not {expect!r}")
    key, seq = expect
    check_key(key)
    if isinstance(seq, bool) or not isinstance(seq, int) or seq < 0:
        raise InvalidRequestError(
            f"expect must be a seq, a whole number from 1, or 0 for an absent key; not {seq!r}"
        )


def ready(batch: Batch, operator: MergeOperator | None, now_us: Callable[[], int]) -> Batch:
    """The batch as it is logged: nothing in it hides another, and lifetimes begin now.

    Raises ``InvalidRequestError`` where it merges what cannot be merged.
    """
    if batch.is_plain:
        return batch
    if MERGE in batch.kinds:
        _check_merges(batch, operator)
    return batch.normalised().stamped(now_us)


def _check_merges(batch: Batch, operator: MergeOperator | None) -> None:
    if operator is None:
        raise InvalidRequestError(
            "the database has no merge operator; open it with the setting merge_operator"
        )
    for kind, operand in zip(batch.kinds, batch.values, strict=True):
        if kind == MERGE:
            check_operand(operator, operand)


class CommitStatistics(msgspec.Struct, frozen=True):
    """Counters since the database was opened; bytes are those of keys and values."""

    commits: int
    operations: int
    user_bytes: int
    groups: int
    largest_group: int
    queued: int
