"""The shipped log: the log's bytes in the bucket, as ``shipper.py`` puts them there.

A shipped object holds a stretch of one segment: that segment's header, then the frames, byte
for byte, so the reader of segments reads it. Objects are immutable and continue each other
without a gap; each says in its name which records count in it, so its first and last frame may
hold others too.

::

    wal/<20 digits epoch>/<20 digits first seq>-<20 digits last seq>.wal

After a PUT that somebody waits for, the shipper makes sure that no higher epoch has claimed the
database (I6): a new owner lists ``wal/`` after its claim, so a PUT with no claim after it is seen
by every later owner, and one with a claim after it is never acknowledged.

Yet such a PUT may come after the new owner has listed, and reach beyond what that took over. So
a home that takes over a log, or goes on after damage has cost it a part of its own, first says
from where it goes on, by an empty object whose first seq is one more than its last: from that
first seq on, everything of a lower epoch is void. Otherwise epochs of one home tell the same
log, and their objects complete each other, and may overlap.

What is in no log has no seq here either: an ingest takes its seq from the manifest, so it is
between two objects, and the manifest record that shows it reaches there.

When the collector may take objects is said in ``retention/garbage.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from seerdb.errors import CorruptionError
from seerdb.ids import MAX_SEQ, Epoch, SeqNo
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import WAL_PREFIX, parse_wal_name, wal_name
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.reader import read_segment
from seerdb.storage.wal.replay import check_database

Fetch = Callable[[list[str]], Iterable[bytes]]
"""Gets objects, in the order of their names. Raises as ``get`` does, when that one's turn comes."""


class ShippedObject(NamedTuple):
    """An object of the shipped log that holds records; those from ``end`` on are void."""

    name: str
    first: int
    last: int
    end: int


def begin_branch(store: ObjectStore, epoch: Epoch, seq: int) -> None:
    """Say that in ``epoch`` the log goes on after ``seq``, and not as it went on before: what
    lower epochs put there above that is void. Durable when it returns."""
    store.put_if_absent(wal_name(epoch, SeqNo(seq + 1), SeqNo(seq)), b"")


def list_shipped(store: ObjectStore) -> list[ShippedObject]:
    """What the bucket lists of the log and no branch voids, by epoch, then by seq. One request."""
    return shipped_of(info.name for info in store.list(WAL_PREFIX))


def shipped_of(names: Iterable[str]) -> list[ShippedObject]:
    """What of these names is log that no branch voids, by epoch, then by seq."""
    parsed = ((parse_wal_name(name), name) for name in names)
    places = sorted((place, name) for place, name in parsed if place is not None)
    branches = [(epoch, first) for (epoch, first, last), _ in places if last < first]
    found = []
    for (epoch, first, last), name in places:
        end = min((start for above, start in branches if above > epoch), default=MAX_SEQ)
        if first <= last and first < end:
            found.append(ShippedObject(name, first, last, end))
    return found


def newest_shipped(listed: Iterable[ShippedObject]) -> int:
    """The last seq that the objects hold; 0 when there are none."""
    return max((min(each.last, each.end - 1) for each in listed), default=0)


class ShippedRecords(NamedTuple):
    """Records in order and without a gap; those up to ``sound_seq`` are in objects that are as
    they were, those above in some that are damaged further on, or behind such."""

    records: list[Record]
    sound_seq: int


def read_shipped(
    store: ObjectStore,
    database_id: str,
    after: int,
    *,
    strict: bool,
    listed: Iterable[ShippedObject] | None = None,
    fetch: Fetch | None = None,
) -> ShippedRecords:
    """The shipped records after seq ``after``.

    ``listed`` is what :func:`list_shipped` gave, if it was asked already. ``fetch`` gets the
    objects, perhaps side by side: there may be thousands, and a takeover waits for them. Raises:
    ``CorruptionError`` for a gap or a damaged object if ``strict``; else what comes before it is
    returned.
    """
    needed = [
        each for each in (list_shipped(store) if listed is None else listed) if after < each.last
    ]
    sound: dict[int, Record] = {}
    saved: dict[int, Record] = {}
    try:
        bodies = (fetch or partial(map, store.get))([each.name for each in needed])
        for each, data in zip(needed, bodies, strict=True):
            found, error = _records_of(data, database_id, each)
            if error is not None and strict:
                raise error
            records = sound if error is None else saved
            records.update((record[0], record) for record in found if after < record[0] < each.end)
    except CorruptionError:
        if strict:
            raise
    whole = _contiguous(sound, after, stop_at_gap=not strict)
    return ShippedRecords(
        _contiguous(saved | sound, after, stop_at_gap=True) if saved else whole,
        whole[-1][0] if whole else after,
    )


def _records_of(
    data: bytes, database_id: str, shipped: ShippedObject
) -> tuple[list[Record], CorruptionError | None]:
    """The records of an object that stand before any damage, and what is wrong with it."""
    name, first, last, _ = shipped
    try:
        scan = read_segment(data, name, None)
        check_database(scan, database_id)
    except CorruptionError as error:
        return [], error
    records = [record for record in scan.records if first <= record[0] <= last]
    if not scan.damages and records and (records[0][0], records[-1][0]) == (first, last):
        return records, None
    return records, CorruptionError(
        "a shipped log does not hold what its name says",
        name=name,
        expected=f"seq {first} to {last}",
        found=f"{len(records)} records",
    )


def _contiguous(
    records: dict[int, Record], after: int, *, stop_at_gap: bool = False
) -> list[Record]:
    ordered = [records[seq] for seq in sorted(records)]
    for position, record in enumerate(ordered):
        if record[0] != after + 1 + position:
            if stop_at_gap:
                return ordered[:position]
            raise CorruptionError(
                "the shipped log has a gap",
                name=WAL_PREFIX,
                expected=f"seq {after + 1 + position}",
                found=f"seq {record[0]}",
            )
    return ordered
