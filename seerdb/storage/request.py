"""A batch on its way through the write path, from its caller to the log."""

from __future__ import annotations

from collections.abc import Callable

from seerdb.errors import SeerDBError
from seerdb.storage.batch import Batch
from seerdb.storage.entry import PUT
from seerdb.storage.wal.format import encode_operations, encode_put

Outcome = tuple[object, int | Exception]
"""A ticket and the seq of its commit, or why there was none."""
Sink = Callable[[list[Outcome]], None]


class Request:
    """The columns of one batch on their way; filled in by the leader that commits it.

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
        batch = batch.normalised()
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
