"""A put that is a group of its own and that no sync follows, in one function.

What ``commit.py`` does for a group step by step, this does for one put with all that it touches in
reach: at level ``memory`` a put takes 1.6 µs, and each call or attribute on the way up to a
twentieth of it. It does without a leader: the lock of the state is enough, as long as nobody
leads, nothing is in flight, and the memtable has not reached its ``limit``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from seerdb.clock import ForwardClock
from seerdb.options import MAX_KEY_SIZE, MAX_VALUE_SIZE
from seerdb.storage.memtable import ENTRY_OVERHEAD, Memtable
from seerdb.storage.read.state import LiveState
from seerdb.storage.wal.writer import PutAppender
from seerdb.storage.write.poison import Poison
from seerdb.storage.write.request import Request

LonePut: TypeAlias = Callable[[bytes, bytes], int]
"""Commits a key with a value and returns the seq; or 0, and did nothing, where that takes a leader
or they are not what may be put. Raises what poisoned the database meanwhile. Thread-safe.
"""


def led_put(_key: bytes, _value: bytes) -> int:
    """The :data:`LonePut` where each put takes a leader."""
    return 0


def lone_put_into(  # noqa: C901 - one function is the point
    memtable: Memtable,
    append: PutAppender,
    *,
    live: LiveState,
    clock: ForwardClock,
    queue: deque[Request],
    poison: Poison,
    poisoned: Callable[[BaseException], None],
) -> LonePut:
    """Puts into ``memtable``, as long as it is the active one, and by ``append`` into its segment.

    They overtake nothing that is in ``queue``, and tell ``poisoned`` of an error that they are the
    first to meet.
    """
    lock, wall_ns = live.lock, clock.wall_ns
    newest, values = memtable.newest, memtable.values
    append_value, append_seq = values.append, memtable.seqs.append

    def put(key: bytes, value: bytes) -> int:  # noqa: C901
        if type(key) is not bytes or type(value) is not bytes:
            return 0
        sizes = key_size, value_size = len(key), len(value)
        if not 0 < key_size <= MAX_KEY_SIZE or value_size > MAX_VALUE_SIZE:
            return 0
        if queue:
            return 0
        with lock:  # of all ways to hold it the one in which no interrupt leaves it locked
            size = memtable.size + key_size + value_size + ENTRY_OVERHEAD
            if size >= memtable.limit or poison.cause is not None:
                return 0
            now = wall_ns() // 1000
            if now < clock.told_us or now < clock.committed_us:
                now = clock.now_us()  # what was seen to expire must not outlive a crash
            if now > clock.committed_us:
                clock.committed_us = now
            seq = live.visible_seq + 1
            try:
                append(seq, clock.committed_us, key, value, sizes)
                if memtable.pinned:
                    memtable.keep((key,))
                place = len(values)
                append_seq(seq)
                append_value(value)
                newest[key] = place
                memtable.size = size
                memtable.last_seq = live.visible_seq = seq
            except BaseException as failure:  # noqa: BLE001 - raised below
                error, is_news = failure, poison.set(failure)
            else:
                return seq
        if is_news:
            poisoned(error)
        raise poison.error() if isinstance(error, Exception) else error

    return put
