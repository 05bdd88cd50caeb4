"""Tables on their way to the bucket while the next one is built."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future

from seerdb.storage.manifest.version import TableMeta


class Uploads:
    """The tables that one job makes. One at most is on its way, for each is as large in memory as
    in the bucket. For one thread; ``threads`` make the requests."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._begun: list[Future[TableMeta]] = []

    def __len__(self) -> int:
        """How many were begun."""
        return len(self._begun)

    def begin(self, put: Callable[[], TableMeta]) -> None:
        """Have ``put`` bring the next table to the bucket, once the one before is there. Raises:
        what that has raised."""
        if self._begun:
            self._begun[-1].result()
        self._begun.append(self._threads.submit(put))

    def finish(self) -> tuple[TableMeta, ...]:
        """All tables, in order, once they are in the bucket. Raises: what a ``put`` has raised."""
        return tuple(upload.result() for upload in self._begun)
