"""What a bucket shows of its database at one moment, read with nothing else, as a digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from seerdb.clock import Clock, ForwardClock
from seerdb.errors import CorruptionError, HistoryError, NotFoundError
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.manifest.fencing import RandomBytes
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.letting_go import letting_go
from seerdb.storage.object_store.names import hold_name
from seerdb.storage.operators import find_operator
from seerdb.storage.past.history import at_seq, past_of
from seerdb.storage.read.content import ContentDigest, content_digest
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.reads import Reads, View
from seerdb.storage.read.state import LiveState, State
from seerdb.storage.retention.checkpoints import HOLD_SECONDS, hold_is_left
from seerdb.storage.retention.garbage import release
from seerdb.storage.retention.kept import Kept, encode_kept, list_checkpoints, record_of
from seerdb.storage.retention.timeline import state_of
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.value import SECOND_US
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.replay import Replay
from seerdb.storage.workers.threads import InlineExecutor

CACHE_BYTES = 32 << 20


def digest_of(
    store: ObjectStore,
    state: ManifestState,
    second: int,
    clock: Clock,
    records: tuple[Record, ...] = (),
) -> ContentDigest:
    """Of the tables of ``state`` and of ``records`` after it, without what expires by ``second``.

    Raises: ``NotFoundError`` for an object that is gone, ``CorruptionError``, ``UnavailableError``;
    ``InvalidRequestError`` for a merge operator that this process does not know.
    """
    operator = find_operator(state.merge_operator) if state.merge_operator else None
    fetchers = InlineExecutor()
    tables = TableStore(store, cache=BlockCache(CACHE_BYTES), disk=None, fetchers=fetchers)
    layout = Layout(state.version, tables, RowCache(lambda: 0))
    memtable, seq = Memtable([], operator), int(state.last_seq)
    if records:
        replay = Replay(seq, operator)
        replay.take(list(records))
        memtable, seq = replay.memtable([]), records[-1][0]
    shown = State(memtable, (), layout)
    blobs = BlobReader(store, fetchers)
    reads = Reads(LiveState(shown, seq), tables, blobs, ForwardClock(clock), operator)
    try:
        return content_digest(reads, View(shown, seq, second))
    except CorruptionError as damage:
        if isinstance(damage.__cause__, NotFoundError):  # a blob is gone
            raise NotFoundError(str(damage)) from damage
        raise


def digest_then(
    store: ObjectStore,
    seq: int,
    second: int,
    clock: Clock,
    random_bytes: RandomBytes,
    left: Callable[[str], None],
) -> ContentDigest:
    """Of the database in a bucket as it was after the commit ``seq``: as its past tells, or as a
    checkpoint of that very commit keeps it. Tables may have been made later, where the log is gone,
    and checkpoints too: then what expires by that second does not count. ``left`` is told of a hold
    that the bucket did not let go of.

    Raises: ``HistoryError`` when that cannot be told any more, and as :func:`digest_of`.
    """
    try:
        return _past(store, seq, second, clock, partial(_held, random_bytes, left))
    except HistoryError:
        for _, kept in list_checkpoints(store):
            if kept.record.last_seq == seq:
                made = kept.record.time_us // SECOND_US + 1
                return digest_of(store, kept.state, max(second, made), clock)
        raise


def _past(
    store: ObjectStore,
    seq: int,
    second: int,
    clock: Clock,
    holding: Callable[[ObjectStore, ManifestState, Clock], AbstractContextManager[None]],
) -> ContentDigest:
    timeline, log = past_of(store)
    instant = at_seq(timeline, log, seq)
    state = state_of(store, instant.base)
    second = max(second, instant.time_us // SECOND_US + 1)
    try:
        with holding(store, state, clock):
            return digest_of(store, state, second, clock, tuple(instant.records))
    except NotFoundError as error:
        raise HistoryError(f"seq {seq:,} was collected while it was read: {error}") from error


@contextmanager
def _held(
    random_bytes: RandomBytes,
    left: Callable[[str], None],
    store: ObjectStore,
    state: ManifestState,
    clock: Clock,
) -> Iterator[None]:
    """Keep what is there of a state from before: unlike a hold of the newest one, it may come too
    late for some of it."""
    now_us = int(clock.now() * SECOND_US)
    kept = Kept(random_bytes(16).hex(), "", now_us, HOLD_SECONDS, record_of(state))
    let_go = partial(release, store, hold_name(kept.id))
    with letting_go(let_go, left=partial(hold_is_left, left, HOLD_SECONDS)):
        store.put_if_absent(hold_name(kept.id), encode_kept(kept))
        yield
