"""What one process may share among the databases it opens, and the ports they stand on."""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from seerdb.clock import Clock, SystemClock
from seerdb.events import Listener, ignore
from seerdb.options import DASK_SCHEME
from seerdb.storage.local.files import FileSystem
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.stores import OpenStore
from seerdb.storage.outward import call_out
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.workers.cluster import MOST_AT_ONCE, Cluster
from seerdb.storage.workers.threads import Workers

ROW_CACHE_SHARE = 32
"""One part in so many of ``block_cache_capacity`` is for rows, whatever blocks would need."""


class Runtime:
    """Threads, worker processes and the block cache of a process, and its connection to a Dask
    cluster, if ``background`` names one. Thread-safe.

    One may be given to several databases, which then share its memory budget and threads;
    whoever made it closes it, after them.
    """

    def __init__(self, *, background: str, block_cache_capacity: int, clock: Clock) -> None:
        _, scheme, address = background.rpartition(DASK_SCHEME)
        # A job on the cluster takes a thread here, which waits for it.
        self.workers = Workers(
            "process" if scheme else background, clock, MOST_AT_ONCE if scheme else None
        )
        self.cluster = Cluster(address, self.workers.start_thread) if scheme else None
        self._rows_capacity = block_cache_capacity // ROW_CACHE_SHARE
        self.cache = BlockCache(block_cache_capacity - self._rows_capacity)
        self._row_caches: weakref.WeakSet[RowCache] = weakref.WeakSet()

    def new_row_cache(self) -> RowCache:
        """A row cache for one database. Those that live share their part of the budget, and
        half of what blocks leave free: the other half lets more blocks in at once."""
        return RowCache(self._row_allowance, self._row_caches)

    def _row_allowance(self) -> int:
        return (self._rows_capacity + self.cache.spare // 2) // max(1, len(self._row_caches))

    def close(self) -> None:
        """End its threads, processes and connections. Idempotent."""
        if self.cluster is not None:
            self.cluster.close()
        self.workers.close()


@dataclass(frozen=True, kw_only=True)
class Components:
    """What a database is built on; the defaults are the real world.

    ``object_store`` replaces the setting ``store``; worker processes could not reach it and are
    not used then, and Dask workers are refused. ``open_other`` opens the buckets that a clone
    borrows from, instead of the location of its store. ``runtime`` replaces the settings
    ``background`` and ``block_cache_capacity``. ``address`` is the URL at which clients reach this
    process, if they do: the lease tells it to those who wait to take over.
    """

    files: FileSystem = field(default_factory=OsFileSystem)
    clock: Clock = field(default_factory=SystemClock)
    object_store: ObjectStore | None = None
    open_other: OpenStore | None = None
    listener: Listener = ignore
    runtime: Runtime | None = None
    random: random.Random = field(default_factory=random.SystemRandom)
    random_bytes: Callable[[int], bytes] = os.urandom
    address: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "listener", partial(call_out, self.listener))
