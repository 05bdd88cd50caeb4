"""What people see of a database at one moment, as a digest: to compare it with a copy, a restored
database or a replica, however differently that keeps it in tables, blobs and log.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import NamedTuple

from seerdb.clock import Clock, ForwardClock
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.digest import NONE, digest
from seerdb.storage.entry import PUT
from seerdb.storage.history import at_seq, past_of
from seerdb.storage.layout import Layout
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.operators import find_operator
from seerdb.storage.reads import Reads, View
from seerdb.storage.replay import Replay
from seerdb.storage.row_cache import RowCache
from seerdb.storage.rows import living
from seerdb.storage.scan import Wanted
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.sstable.packed import pack
from seerdb.storage.state import LiveState, State
from seerdb.storage.table_store import TableStore
from seerdb.storage.timeline import state_of
from seerdb.storage.value import SECOND_US


class ContentDigest(NamedTuple):
    """Of all keys and their values after a commit, without those that have expired by a second.

    Two databases of one history that show the same have the same digest. The first half of it, 16
    hex digits, tells keys and values alone, the second half with which commit each was written.
    """

    seq: int
    """The newest commit that counts."""
    second: int
    """Since 1970: what expires by then does not count."""
    entries: int
    digest: str
    """32 hex digits."""


def bucket_digest(
    store: ObjectStore,
    threads: Executor,
    clock: Clock,
    *,
    seq: int | None = None,
    second: int | None = None,
) -> ContentDigest:
    """The digest of what a bucket holds of a database, its shipped log too, as of the commit
    ``seq`` (default: the newest). ``second``: see :class:`ContentDigest`; by default that of the
    commit, or now.

    Claims nothing and writes nothing. Raises: ``NotFoundError``, ``HistoryError``,
    ``CorruptionError``, ``UnavailableError``.
    """
    timeline, log = past_of(store)
    if seq is None:
        second = clock.now_ns() // 10**9 if second is None else second
        seq = timeline.marks[-1].last_seq
        for records in log.after(seq):
            seq = records[-1][0]
    instant = at_seq(timeline, log, seq)
    state = state_of(store, instant.base)
    operator = find_operator(state.merge_operator) if state.merge_operator else None
    tables = TableStore(store, cache=BlockCache(0), disk=None, fetchers=threads)
    memtable = Memtable([], operator)
    if instant.records:
        replay = Replay(instant.base.last_seq, operator)
        replay.take(instant.records)
        memtable = replay.memtable([])
    shown = State(memtable, (), Layout(state.version, tables, RowCache(lambda: 0)))
    blobs = BlobReader(store, threads)
    reads = Reads(LiveState(shown, seq), tables, blobs, ForwardClock(clock), operator)
    at = instant.time_us // SECOND_US if second is None else second
    return content_digest(reads, View(shown, seq, at))


def content_digest(reads: Reads, view: View) -> ContentDigest:
    """The digest of what ``view`` shows. Reads all of it, values in blobs too, and keeps nothing of
    it in the caches. Raises as reads do."""
    total = NONE
    for found in reads.scan(view, Wanted(None, None, fill=False)):
        keys, seqs, values = living(found)
        kinds = bytes((PUT,)) * len(keys)
        total += digest(pack(keys, seqs, kinds, values))  # type: ignore[arg-type]  # all are bytes
    return ContentDigest(view.at, view.second, total.entries, str(total))
