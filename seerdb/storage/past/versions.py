"""What a key held over time: every version of it that the retention still tells.

One pass over the log of the retention, a part of it at a time. What was in effect when it begins,
what an ingest wrote or a restore in place brought back, and what came of a gap in the log is looked
up in the tables of then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from seerdb.storage.entry import DELETE_RANGE
from seerdb.storage.memtable import Memtable
from seerdb.storage.operators import MergeOperator
from seerdb.storage.past.history import Instant, gap
from seerdb.storage.past.log import Log, Released
from seerdb.storage.read.reads import Reads, View
from seerdb.storage.read.state import State
from seerdb.storage.retention.timeline import Mark
from seerdb.storage.value import SECOND_US, Shown
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import SINGLE, decode_batch


class KeyVersion(NamedTuple):
    """What a commit made of a key."""

    seq: int
    time: float | None
    """When it was committed, in seconds since 1970; ``None`` where the log does not tell."""
    value: bytes | None
    """``None``: it was deleted. Where the time is not known, that may have been earlier, or it has
    expired."""


def versions(
    key: bytes,
    look: Callable[[], tuple[list[Mark], Log]],
    *,
    reads: Reads,
    view_of: Callable[[Instant], View],
    operator: MergeOperator | None,
) -> list[KeyVersion]:
    """Every version of ``key`` from the first mark on, oldest first; at the beginning the one that
    was in effect then. What expires is no version.

    ``look`` lists what there is, as that of :func:`~seerdb.storage.past.history.live_instant` does.
    Raises: ``MergeError``, ``CorruptionError``, ``DiskError``, ``UnavailableError``;
    ``HistoryError`` when neither log nor tables lead to the newest commit.
    """
    found: list[KeyVersion] = []
    marks, log = look()
    first = marks[0].number
    mark: Mark | None = marks[0]
    while mark is not None:
        restores = {each.last_seq for each in marks if each.restored and each.number > first}
        view = view_of(Instant(mark, [], mark.last_seq, mark.time_us))
        shown = reads.get_at(view, key) or (0, None)
        found += _in_tables(shown, mark, found[-1] if found else None, restores)
        state = State(Memtable([], operator), (), view.state.layout)
        reached = mark.last_seq
        while True:
            try:
                for records in log.after(reached):
                    found += _in_log(state, records, key, reads)
                    reached = records[-1][0]
                break
            except Released:
                marks, log = look()
        mark = next((each for each in marks if each.last_seq > reached), None)
    if log.newest is not None and log.newest > reached:
        raise gap(reached + 1, None, "the history of a key")
    return found


def _in_tables(
    shown: Shown, mark: Mark, before: KeyVersion | None, restores: set[int]
) -> Iterator[KeyVersion]:
    """The version that the tables of ``mark`` show, unless it is the one ``before``. ``restores``
    brought versions back, with the seqs that they had."""
    seq, value = shown
    had, held = (0, None) if before is None else (before.seq, before.value)
    if seq == had or (value is None and held is None) or (had in restores and value == held):
        return
    if mark.last_seq in restores:
        yield KeyVersion(mark.last_seq, mark.time_us / SECOND_US, value)
    elif value is not None:
        is_ingest = mark.ingested and seq == mark.last_seq
        yield KeyVersion(seq, mark.time_us / SECOND_US if is_ingest else None, value)
    elif not mark.ingested:
        # After an ingest nothing but what that wrote is new: what is gone then has expired.
        yield KeyVersion(mark.last_seq, None, None)


def _in_log(state: State, records: list[Record], key: bytes, reads: Reads) -> Iterator[KeyVersion]:
    """The versions that ``records`` make of the key, applied to ``state`` one by one."""
    for seq, time_us in _applied(state.active, records, key):
        _, value = reads.get_at(View(state, seq, time_us // SECOND_US), key) or (0, None)
        yield KeyVersion(seq, time_us / SECOND_US, value)


def _applied(memtable: Memtable, records: list[Record], key: bytes) -> Iterator[tuple[int, int]]:
    """Apply what ``records`` do to ``key``, and tell seq and time after each that does."""
    unpack, fixed = SINGLE.unpack_from, SINGLE.size
    for seq, time_us, payload in records:
        if len(payload) >= fixed:
            count, kind, key_length, _ = unpack(payload)
            # Most records are one operation, on another key.
            if count == 1 and kind != DELETE_RANGE and payload[fixed : fixed + key_length] != key:
                continue
        operations = _of_key(payload, seq, key)
        if operations[0]:
            memtable.apply(seq, *operations, time_us)
            yield seq, time_us


def _of_key(payload: bytes, seq: int, key: bytes) -> tuple[bytes, list[bytes], list[bytes]]:
    """The operations of a batch that concern ``key``."""
    kinds, keys, values = decode_batch(payload, f"the batch of seq {seq}")
    chosen = [
        (kind, each, value)
        for kind, each, value in zip(kinds, keys, values, strict=True)
        if each == key or (kind == DELETE_RANGE and each < key < value)
    ]
    return (
        bytes(kind for kind, _, _ in chosen),
        [each for _, each, _ in chosen],
        [value for _, _, value in chosen],
    )
