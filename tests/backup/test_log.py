"""What the names of shipped log say is covered, beside the plainest way to find it out."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import Epoch, SeqNo
from seerdb.storage.backup.log import Log, log_of, records, time_of
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.names import wal_name
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import World


def listed(*places: tuple[int, int, int]) -> Log:
    return log_of(
        [ObjectInfo(wal_name(Epoch(e), SeqNo(a), SeqNo(b)), 10, 0.0) for e, a, b in sorted(places)]
    )


def covered(places: list[tuple[int, int, int]]) -> set[int]:
    """The commits that count: those above a branch only if they are of its epoch or a later one."""
    branches = [(epoch, first) for epoch, first, last in places if last < first]
    return {
        seq
        for epoch, first, last in places
        for seq in range(first, last + 1)
        if not any(above > epoch and seq >= start for above, start in branches)
    }


def seqs(groups: Iterator[list[Record]]) -> list[int]:
    return [record[0] for group in groups for record in group]


@pytest.mark.parametrize("seed", range(30))
def test_reach_and_parts_are_those_of_a_plain_search(seed: int) -> None:
    chance = random.Random(seed)
    places: list[tuple[int, int, int]] = []
    for _ in range(chance.randrange(25)):
        first = chance.randrange(1, 50)
        length = chance.choice([-1, 0, 1, 3, 9])
        places.append((chance.randrange(1, 4), first, first + length))
    log, there = listed(*places), covered(places)
    ends = []
    for after in range(60):
        end = after
        while end + 1 in there:
            end += 1
        ends.append(end)
        assert log.reach(after) == end
        parts = log.between(after, end)
        assert {s for each in parts for s in range(each.first, each.last + 1)} >= set(
            range(after + 1, end + 1)
        )
        assert all(each.last > after and each.first <= end for each in parts)
    assert log.reaches(range(60)) == ends


def test_a_gap_and_a_damaged_object_are_named() -> None:
    world = World()
    with world.open() as db:
        database_id = db._engine.manifest.state.database_id
        for number in range(6):
            db.put(b"k%d" % number, b"v", durability="object")
    [*names] = [info.name for info in world.bucket.list("wal/") if info.size]
    store = MemoryObjectStore()
    store._objects = dict(world.bucket._objects)
    log = log_of(store.list("wal/"))
    assert seqs(records(store, log, database_id, after=0, upto=6)) == [1, 2, 3, 4, 5, 6]
    assert time_of(store, log, database_id, 3) is not None
    assert time_of(store, log, database_id, 7) is None
    store.put(names[2], store.get(names[2])[:-1])
    with pytest.raises(CorruptionError):
        list(records(store, log, database_id, after=0, upto=6))
    assert time_of(store, log, database_id, 3) is None
    store.delete([names[2]])
    without = log_of(store.list("wal/"))
    with pytest.raises(CorruptionError, match="gap"):
        list(records(store, without, database_id, after=0, upto=6))
    assert without.reach(0) == 2


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_a_damaged_object_held_is_taken_from_others_that_hold_it_too(is_gone: bool) -> None:
    """As where an opening has shipped again what was on its way when the writer before it died."""
    world = World()
    with world.open() as db:
        database_id = db._engine.manifest.state.database_id
        for number in range(6):
            db.put(b"k%d" % number, b"v", durability="object")
    names = [info.name for info in world.bucket.list("wal/") if info.size]
    store = MemoryObjectStore()
    store._objects = dict(world.bucket._objects)
    both = store.get(names[1]) + store.get(names[2])[HEADER_SIZE:]
    larger = wal_name(Epoch(1), SeqNo(2), SeqNo(3))
    store.put(larger, both)
    log = log_of(store.list("wal/"))
    assert [each.name for each in log.between(1, 3)] == [names[1], larger]
    for damaged, sound in (
        ([larger], True),
        ([names[1], names[2]], True),
        ([larger, names[2]], False),
    ):
        copy = MemoryObjectStore()
        copy._objects = dict(store._objects)
        for name in damaged:
            copy.delete([name]) if is_gone else copy.put(name, copy.get(name)[:-1])
        if sound:
            assert seqs(records(copy, log, database_id, after=0, upto=6)) == [1, 2, 3, 4, 5, 6]
        else:
            with pytest.raises((CorruptionError, NotFoundError)):
                seqs(records(copy, log, database_id, after=0, upto=6))
