"""Objects that are in use though the newest version does not tell: being made, or just removed.

What keeps the garbage collector away from a table while no manifest names it yet, and from one,
with the blobs it points into, that a reader of an older version, here or elsewhere, may still want.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from seerdb.clock import Clock
from seerdb.ids import Epoch, TableId, table_id
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.names import table_name

GRACE_SECONDS = 300.0
"""How long an object that nobody names any more is kept, for readers elsewhere."""


class TableOutputs:
    """Gives out table ids, and remembers which of them and of the removed are in use.

    Thread-safe.
    """

    def __init__(self, epoch: Epoch, clock: Clock) -> None:
        self._epoch = epoch
        self._clock = clock
        # Guarded by the lock: lanes run beside each other.
        self._lock = threading.Lock()
        self._next = 1
        self._in_flight: set[TableId] = set()
        self._removed_at: dict[str, float] = {}

    def begin(self, count: int = 1) -> tuple[TableId, ...]:
        """Fresh ids, in use until :meth:`finish`."""
        with self._lock:
            numbers = range(self._next, self._next + count)
            tables = tuple(table_id(self._epoch, number) for number in numbers)
            self._next = numbers.stop
            self._in_flight.update(tables)
        return tables

    def first_new(self) -> TableId:
        """No table of this id or a later one was begun before this call."""
        with self._lock:
            return table_id(self._epoch, self._next)

    def finish(self, tables: Iterable[TableId]) -> None:
        """These are named by the manifest now, or will never be."""
        with self._lock:
            self._in_flight.difference_update(tables)

    def removed(self, tables: Iterable[TableMeta]) -> None:
        """These have left the version; they stay in use for the grace period."""
        now = self._clock.monotonic()
        names = [name for table in tables for name in table.objects]
        with self._lock:
            self._removed_at |= dict.fromkeys(names, now)

    def in_use(self) -> set[str]:
        """Names of objects that must not be deleted; nor must blobs made with such a table."""
        since = self._clock.monotonic() - GRACE_SECONDS
        with self._lock:
            self._removed_at = {n: at for n, at in self._removed_at.items() if at > since}
            return {*map(table_name, self._in_flight), *self._removed_at}
