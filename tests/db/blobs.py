"""A database with large values, and what became of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seerdb import DB
from seerdb.storage.manifest.version import BlobUse, Version
from seerdb.storage.object_store.names import BLOB_PREFIX
from tests.fixtures.database import World

THRESHOLD = 100


def value(seed: int, size: int = 1000) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def key(number: int) -> bytes:
    return b"key%05d" % number


def new_world(**settings: Any) -> World:
    """Memtables are flushed when a test says so."""
    defaults: dict[str, Any] = {
        "blob_threshold": THRESHOLD,
        "memtable_capacity": 1 << 22,
        "wal_segment_size": 1 << 22,
    }
    return World(**defaults | settings)


def version_of(db: DB) -> Version:
    return db._engine.manifest.state.version


def blobs_of(db: DB) -> list[BlobUse]:
    return version_of(db).blobs


def blob_objects(world: World) -> list[str]:
    return [info.name for info in world.bucket.list(BLOB_PREFIX)]


@contextmanager
def requests(world: World) -> Iterator[Counter[str]]:
    """What the bucket was asked in the block: operation and kind of object."""
    counted: Counter[str] = Counter()
    before = len(world.store.trace)
    yield counted
    for asked in world.store.trace[before:]:
        counted[f"{asked.operation} {asked.names[0].split('/')[0]}"] += 1


def fill(db: DB, numbers: range, *, seed: int = 0, size: int = 1000) -> dict[bytes, bytes]:
    rows = {key(number): value(seed + number, size) for number in numbers}
    for name, data in rows.items():
        db.put(name, data)
    return rows


def collect(world: World, db: DB) -> None:
    """Let the grace period pass, and the collector run."""
    world.clock.advance(10_000)
    db._engine.background.garbage.wake()
