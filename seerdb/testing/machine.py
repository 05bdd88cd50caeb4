"""What goes wrong on a simulated machine: the process dies, the disk is full, a sync fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

from seerdb.errors import DiskError, DiskFullError
from seerdb.testing.crash import CrashError
from seerdb.testing.disk import Content


class Machine:
    """Fault switches and the count of operations; every operation of the disk goes through.

    - ``no_space``: whatever could need a block fails; ``free_space`` is what is free otherwise;
    - ``crash_at``: the operation of this number (1 is the first that changes anything) raises
      ``CrashError``, as does every call after it. It has no effect at all or, with
      ``crash_halfway``, half of a write, or all of anything else;
    - ``operations`` counts, and ``trace`` lists, what changed something.
    """

    def __init__(self) -> None:
        self.no_space = False
        self.free_space = 1 << 40
        self.crash_at: int | None = None
        self.crash_halfway = False
        self.operations = 0
        self.trace: list[str] = []
        self.mutex = threading.RLock()
        # Guarded by mutex:
        self._failing_syncs = 0
        self._dead = False

    def fail_sync(self, times: int = 1) -> None:
        """Let the next ``times`` syncs of files fail, and what they were to make durable be
        forgotten, as kernels do: a later sync that succeeds does not bring it back."""
        self._failing_syncs = times

    def step(
        self, operation: str, effect: Callable[[], None], half: Callable[[], None] | None = None
    ) -> None:
        """Count an operation and do it, or die at it. Requires: ``mutex``."""
        self.check_alive()
        self.operations += 1
        self.trace.append(operation)
        if self.operations == self.crash_at:
            self._dead = True
            if self.crash_halfway:
                (half or effect)()
            raise CrashError(f"operation {self.operations}: {operation}")
        effect()

    def sync_content(self, content: Content, path: str, *, metadata: bool) -> None:
        """The sync of a file, as a step. Requires: ``mutex``."""

        def effect() -> None:
            if self._failing_syncs:
                self._failing_syncs -= 1
                content.forget()
                raise disk_error(errno.EIO, path)
            content.sync(metadata=metadata)

        self.step(f"{'sync' if metadata else 'sync data'} {path}", effect)

    def check_alive(self) -> None:
        """Raises: ``CrashError`` after the crash."""
        if self._dead:
            raise CrashError("the process is dead")

    def check_space(self, path: str) -> None:
        """Raises: ``DiskFullError`` while there is no space, ``CrashError`` after the crash."""
        self.check_alive()
        if self.no_space:
            raise disk_error(errno.ENOSPC, path)


def disk_error(number: int, path: str) -> DiskError:
    """The error that ``OsFileSystem`` would raise for this ``errno``."""
    kind = DiskFullError if number == errno.ENOSPC else DiskError
    error = kind(f"{path}: {os.strerror(number)}")
    error.__cause__ = OSError(number, os.strerror(number), path)
    return error
