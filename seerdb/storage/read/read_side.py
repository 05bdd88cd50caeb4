"""What handles that read stand on: the part of an engine that is the same for the writer of a
database and for those who follow it."""

from __future__ import annotations

from typing import Protocol

from seerdb.options import Options
from seerdb.storage.read.lookup import Need
from seerdb.storage.read.reads import Reads
from seerdb.storage.read.sampling import GetSampler
from seerdb.storage.read.state import LiveState
from seerdb.storage.runtime import Runtime
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.value import Shown


class ReadSide(Protocol):
    """An open database, seen by its readers. Thread-safe."""

    options: Options
    runtime: Runtime
    disk: DiskTier | None
    tables: TableStore
    live: LiveState
    reads: Reads
    sampler: GetSampler[Shown | Need | None]

    def check_open(self) -> None:
        """Raise ``ClosedError`` when it is closed."""

    def close(self) -> None:
        """Release everything. Idempotent."""
