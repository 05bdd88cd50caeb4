"""A memtable that is sealed while an older one is being flushed keeps its log segment.

The flush once took the segment of the memtable that was active when it *ended* as the first one
still needed, so a segment sealed meanwhile counted as flushed and was let go of by the next open.
Found by killing a real server under load.
"""

from __future__ import annotations

import threading
from typing import Any

from seerdb import DB, Components
from seerdb.storage.pieces import Body
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore

SETTINGS: dict[str, Any] = {
    "memtable_capacity": 1 << 20,
    "wal_segment_size": 1 << 16,
    "min_free_disk": 0,
}


class PausingStore(MemoryObjectStore):
    """Lets one upload of a table through for each permit."""

    def __init__(self) -> None:
        super().__init__()
        self.uploading = threading.Event()
        self.permits = threading.Semaphore(0)

    def put(self, name: str, data: Body) -> None:
        self.uploading.set()
        assert self.permits.acquire(timeout=60)
        super().put(name, data)

    def copy(self) -> MemoryObjectStore:
        """The bucket as it is now."""
        copied = MemoryObjectStore()
        for info in self.list(""):
            copied.put(info.name, self.get(info.name))
        return copied


def test_a_memtable_sealed_during_a_flush_keeps_its_segment() -> None:
    files, store = CrashableFileSystem(), PausingStore()
    db = DB.open("db", components=Components(files=files, object_store=store), **SETTINGS)
    db.put(b"first", b"1")
    flush = threading.Thread(target=db.flush)
    flush.start()
    assert store.uploading.wait(60)
    db.put(b"second", b"2")
    db._engine.committer.rotate()
    db.put(b"third", b"3")
    store.permits.release()
    flush.join()
    survived = Components(files=files.kill(), object_store=store.copy())
    store.permits.release(10)
    db.close()
    with DB.open("db", components=survived, **SETTINGS) as db:
        assert [db.get(key) for key in (b"first", b"second", b"third")] == [b"1", b"2", b"3"]
