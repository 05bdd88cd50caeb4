"""What the entries of tables tell of each other: who holds newer versions, and who was replaced.

Tables are told apart by their position in a list that ascends by id. Three facts help:

- A version, which is a key and a seq, lies in one table only of any state of a database. Two
  tables that share one are a merge's output and, directly or not, its input, and the output has the
  higher id, as ids are given out when jobs begin.
- A merge passes over all its inputs have, key by key. So a key that an input has between the
  smallest and the largest key of an output is in that output, or it was dropped for good; or it is
  in another output of a merge before that one, and so not where such a one may be lost.
- What a version says is true for ever. A version with a newer one of its key above it is not
  needed, unless the newer one is an operand, which may be folded onto it.

What is kept for one key may hold older versions of others, so whatever hides those is kept too.

Streams: memory holds a stretch of each table that overlaps another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple

from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import MERGE, RangeTombstone, RangeTombstones
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import table_name
from seerdb.storage.repair.report import Loss
from seerdb.storage.repair.survey import SoundTable
from seerdb.storage.sstable.reader import TableReader

STRETCH = 1 << 20
"""Bytes of a table that one request reads."""

_Entry = tuple[bytes, int, int, int]
"""Key, position of the table, seq, kind."""


class Found(NamedTuple):
    """Of one key in one table."""

    position: int
    seq: int
    kind: int


@dataclass
class Facts:
    """``newer``: pairs of tables, the first of which has a newer version of a key that both have.
    ``successors``: of a table those with a higher id that share a version with it. ``open``: first
    and last key of a table that no table with a higher id makes superfluous; ``loose``: those with
    such a key, or a range tombstone, that no successor must have seen.
    ``hiding``: others, without which older versions that kept tables have would be seen."""

    newer: set[tuple[int, int]] = field(default_factory=set)
    successors: dict[int, set[int]] = field(default_factory=dict)
    open: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    loose: set[int] = field(default_factory=set)
    hiding: set[int] = field(default_factory=set)

    @property
    def kept(self) -> set[int]:
        """The tables that are needed."""
        return self.loose | self.hiding


def compare(store: ObjectStore, tables: Sequence[SoundTable], lost: Sequence[Loss] = ()) -> Facts:
    """Read all tables that overlap others, twice. ``lost``: tables that are damaged or gone, which
    may have had what no successor has. Raises: ``UnavailableError``."""
    facts = Facts()
    met = _overlapping([table.meta for table in tables])
    readers = {each: _open(store, tables[each].meta) for each in met}

    def versions() -> Iterator[tuple[bytes, list[Found]]]:
        streams = [_entries(store, reader, position) for position, reader in readers.items()]
        for key, group in groupby(merge(*streams), itemgetter(0)):
            yield key, [Found(*entry[1:]) for entry in group]

    for _, found in versions():
        if len(found) > 1:
            _relate(facts, tables, found)
    for key, found in versions():
        for each in found:
            if not _is_covered(each, found):
                _note_open(facts, tables, key, each.position, lost)
    tombstones = {each: readers[each].tombstones for each in met}
    _note_tombstones(facts, tables, tombstones, lost)
    facts.loose |= set(range(len(tables))) - set(met)
    facts.loose |= {each for each, table in enumerate(tables) if not table.has_seq}
    facts.loose -= {each for each, table in enumerate(tables) if table.is_gone}
    while missing := _hiders(versions(), tombstones, facts.kept):
        facts.hiding |= missing
    return facts


def _overlapping(tables: Sequence[TableMeta]) -> list[int]:
    """The positions of those that overlap another one."""
    order = sorted(range(len(tables)), key=lambda each: tables[each].smallest)
    met: set[int] = set()
    reach: int | None = None
    for each in order:
        if reach is not None and tables[each].smallest <= tables[reach].largest:
            met |= {each, reach}
        if reach is None or tables[each].largest > tables[reach].largest:
            reach = each
    return sorted(met)


def _open(store: ObjectStore, meta: TableMeta) -> TableReader:
    size = meta.size - meta.tail_offset
    return TableReader(meta, store.get_range(table_name(meta.id), meta.tail_offset, size))


def _entries(store: ObjectStore, reader: TableReader, position: int) -> Iterator[_Entry]:
    first = 0
    while first < reader.block_count:
        start, _ = reader.block_range(first)
        last = first
        while last < reader.block_count and sum(reader.block_range(last)) - start <= STRETCH:
            last += 1
        last = max(last, first + 1)
        size = sum(reader.block_range(last - 1)) - start
        data = store.get_range(table_name(reader.meta.id), start, size)
        for number in range(first, last):
            offset, length = reader.block_range(number)
            begin = offset - start
            keys, seqs, kinds, _ = reader.decode_block(
                number, data[begin : begin + length]
            ).columns()
            for key, seq, kind in zip(keys, seqs, kinds, strict=True):
                yield key, position, seq, kind
        first = last


def _relate(facts: Facts, tables: Sequence[SoundTable], found: list[Found]) -> None:
    for one in found:
        for other in found:
            if one.position == other.position:
                continue
            if one.seq > other.seq:
                facts.newer.add((one.position, other.position))
            elif one.seq == other.seq and one.position > other.position:
                if tables[one.position].has_seq and tables[other.position].has_seq:
                    facts.successors.setdefault(other.position, set()).add(one.position)
                else:
                    facts.newer.add((one.position, other.position))


def _is_covered(version: Found, found: list[Found]) -> bool:
    return any(
        each.position > version.position
        and (each.seq == version.seq or (each.seq > version.seq and each.kind != MERGE))
        for each in found
    )


def _note_open(
    facts: Facts, tables: Sequence[SoundTable], key: bytes, position: int, lost: Sequence[Loss]
) -> None:
    first, _ = facts.open.get(position, (key, key))
    facts.open[position] = first, key
    successors = facts.successors.get(position, set())
    was_seen = any(_passes(tables[each].meta, key) for each in successors)
    if not was_seen or any(_may_have_had(loss, key, key) for loss in lost):
        facts.loose.add(position)


def _may_have_had(loss: Loss, first: bytes, last: bytes) -> bool:
    """Whether a table that is lost may have had anything from one key to another."""
    if loss.smallest is None or loss.largest is None:
        return True
    return loss.smallest <= last and first <= loss.largest


def _passes(meta: TableMeta, key: bytes) -> bool:
    """Whether the merge that made a table has passed over ``key``. The end of a range tombstone
    may be where it stopped."""
    return meta.smallest <= key and (
        key < meta.largest or (key == meta.largest and not meta.range_deletes)
    )


def _note_tombstones(
    facts: Facts,
    tables: Sequence[SoundTable],
    tombstones: dict[int, tuple[RangeTombstone, ...]],
    lost: Sequence[Loss],
) -> None:
    for position, own in tombstones.items():
        for tombstone in own:
            spans = [
                (each.start, each.end)
                for other, others in tombstones.items()
                if other > position
                for each in others
                if each.seq >= tombstone.seq
            ]
            spans += [
                (tables[each].meta.smallest, tables[each].meta.largest)
                for each in facts.successors.get(position, set())
            ]
            was_lost = any(_may_have_had(loss, tombstone.start, tombstone.end) for loss in lost)
            if was_lost or not _spanned(tombstone, spans):
                facts.loose.add(position)


def _hiders(
    versions: Iterator[tuple[bytes, list[Found]]],
    tombstones: dict[int, tuple[RangeTombstone, ...]],
    kept: set[int],
) -> set[int]:
    """The tables that have to be beside those that are ``kept``, so that no key of these is older
    than it is known to be. What they hold may need others in turn."""
    everywhere = RangeTombstones(chain.from_iterable(tombstones.values()))
    own = (tombstones[each] for each in tombstones if each in kept)
    at_hand = RangeTombstones(chain.from_iterable(own))
    missing: set[int] = set()
    for key, found in versions:
        held = max((each.seq for each in found if each.position in kept), default=None)
        if held is None:
            continue
        newest = max(found, key=lambda each: (each.seq, each.position))
        covered = everywhere.covering(key, MAX_SEQ)
        if covered > newest.seq:
            if at_hand.covering(key, MAX_SEQ) <= held:
                missing.add(_holder(tombstones, key, covered))
        elif held < newest.seq:
            missing.add(newest.position)
    return missing


def _holder(tombstones: dict[int, tuple[RangeTombstone, ...]], key: bytes, seq: int) -> int:
    """The table of the highest id with the range tombstone of ``seq`` over ``key``."""
    return max(
        position
        for position, own in tombstones.items()
        if any(each.seq == seq and each.start <= key < each.end for each in own)
    )


def _spanned(tombstone: RangeTombstone, spans: list[tuple[bytes, bytes]]) -> bool:
    """Whether the spans leave nothing of a tombstone's range."""
    reached = tombstone.start
    for start, end in sorted(spans):
        if start <= reached < end:
            reached = end
    return reached >= tombstone.end
