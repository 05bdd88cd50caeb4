"""A batch on its way through the write path, from its caller to the log."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from seerdb.errors import InvalidRequestError, SeerDBError
from seerdb.storage.batch import Batch
from seerdb.storage.entry import MERGE, PUT
from seerdb.storage.operators import MergeOperator, check_operand
from seerdb.storage.outward import call_out
from seerdb.storage.wal.format import encode_operations, encode_put

Outcome = tuple[object, int | Exception]
"""A ticket and the seq of its commit, or why there was none."""
Sink = Callable[[list[Outcome]], None]
Ticket = tuple[Sink, object, int]
"""Who is told, once the commit of that seq is in the bucket, and for what."""


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
        "seq",
        "sink",
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
        else:
            self.payload = encode_operations(self.kinds, self.keys, self.values)
        self.level = level
        self.expect = expect
        self.ticket = ticket
        self.sink = sink
        self.done = False
        self.seq = 0
        self.error: SeerDBError | None = None


def settle(
    group: list[Request], error: SeerDBError | None, shipped: int
) -> tuple[dict[Sink, list[Outcome]], list[Ticket]]:
    """Mark each request as done. Returns what there is to tell, by sink, and whom to tell later:
    those of the level ``shipped``, unless there is an ``error``."""
    sinks: dict[Sink, list[Outcome]] = {}
    tickets: list[Ticket] = []
    for request in group:
        request.error = error
        request.done = True
        if request.sink is None:
            continue
        if error is None and request.level == shipped:
            tickets.append((request.sink, request.ticket, request.seq))
        else:
            sinks.setdefault(request.sink, []).append((request.ticket, error or request.seq))
    return sinks, tickets


def tell(sink: Sink, outcomes: list[Outcome]) -> None:
    """Raises what the sink raises."""
    call_out(sink, outcomes)


def ready(batch: Batch, operator: MergeOperator | None, now_us: Callable[[], int]) -> Batch:
    """The batch as it is logged: nothing in it hides another, and lifetimes begin now.

    Raises ``InvalidRequestError`` where it merges what cannot be merged.
    """
    if batch.kinds.count(PUT) == len(batch.kinds):
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
