"""What a flush or a merge loses, doubles or changes is found before anybody sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from seerdb import DB, CorruptionError
from seerdb.storage.compaction import run as compaction
from seerdb.storage.merge import Chunk
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.table_store import TableStore
from tests.fixtures.database import ROOMY, World, fill

Patch = pytest.MonkeyPatch


def without_first(entries: Packed) -> Packed:
    return entries.between(1, len(entries))


def with_flipped_bit(entries: Packed) -> Packed:
    parts = entries.parts.copy()
    parts[-1] ^= 1
    lengths = None if entries.shape else entries.lengths
    return Packed(parts, entries.seqs, entries.kinds, lengths=lengths, shape=entries.shape)


def with_values_swapped(entries: Packed) -> Packed:
    assert entries.shape
    rows = entries.parts.reshape(len(entries), -1).copy()
    rows[[0, 1], entries.shape[0] :] = rows[[1, 0], entries.shape[0] :]
    return Packed(rows.ravel(), entries.seqs, entries.kinds, shape=entries.shape)


def with_another_seq(entries: Packed) -> Packed:
    seqs = entries.seqs.copy()
    seqs[0] += np.uint64(1)
    lengths = None if entries.shape else entries.lengths
    return Packed(entries.parts, seqs, entries.kinds, lengths=lengths, shape=entries.shape)


FAULTS: list[Callable[[Packed], Packed]] = [
    without_first,
    with_flipped_bit,
    with_values_swapped,
    with_another_seq,
]


def two_runs(world: World) -> tuple[DB, dict[bytes, bytes]]:
    db = world.open(**ROOMY, compaction="tiered")
    rows = {}
    for start in (0, 10):
        for number in range(start, start + 20):
            key, value = b"k%04d" % number, b"value %04d of %04d" % (number, start)
            db.put(key, value)
            rows[key] = value
        db.flush()
    return db, rows


def read_wrongly(monkeypatch: Patch, fault: Callable[[Packed], Packed]) -> None:
    """Blocks that a merge reads are not what is in them."""
    load = TableStore.load_packed
    monkeypatch.setattr(TableStore, "load_packed", lambda *a, **k: fault(load(*a, **k)))


def merge_wrongly(monkeypatch: Patch, fault: Callable[[Packed], Packed]) -> None:
    """What a merge makes is not what it should."""
    newest = compaction._newest
    monkeypatch.setattr(compaction, "_newest", lambda *a: map(fault, newest(*a)))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", [read_wrongly, merge_wrongly])
def test_a_merge_that_changes_an_entry_does_not_count(
    where: Callable[[Patch, Callable[[Packed], Packed]], None],
    fault: Callable[[Packed], Packed],
    monkeypatch: Patch,
) -> None:
    world = World()
    db, rows = two_runs(world)
    before = db.digest()
    tables = db._table_ids()
    with monkeypatch.context() as broken:
        where(broken, fault)
        with pytest.raises(CorruptionError, match="lost, doubled or changed"):
            db.compact()
    assert db._table_ids() == tables
    db.compact()
    assert db._table_ids() != tables
    assert dict(db.scan()) == rows
    assert db.digest() == before


def test_a_merge_that_reads_a_row_twice_does_not_count(monkeypatch: Patch) -> None:
    """A row that comes twice drops once, as an older version of itself."""
    db, _ = two_runs(World())

    def twice(entries: Packed) -> Packed:
        return entries.take(np.array([0, *range(len(entries))]))

    read_wrongly(monkeypatch, twice)
    with pytest.raises(CorruptionError, match="lost, doubled or changed"):
        db.compact()


@pytest.mark.parametrize("special", ["ranges", "expiry", "operands"])
def test_a_merge_of_special_tables_that_loses_what_it_read_does_not_count(
    special: str, monkeypatch: Patch
) -> None:
    world = World()
    db = world.open(**ROOMY, compaction="tiered", merge_operator="append")
    for start in (0, 10):
        fill(db, 20, start=start)
        if special == "ranges":
            db.delete_range(b"k0003", b"k0005")
        if special == "expiry":
            db.put(b"short", b"lived", ttl=100)
        if special == "operands":
            db.merge(b"k0012", b"more")
        db.flush()
    before = db.digest()
    with monkeypatch.context() as broken:
        windows = compaction.windows

        def losing(*given: Any, **more: Any) -> Iterator[list[Chunk]]:
            for window in windows(*given, **more):
                yield [Chunk(keys[1:], seqs[1:], values[1:]) for keys, seqs, values in window]

        broken.setattr(compaction, "windows", losing)
        with pytest.raises(CorruptionError, match="lost, doubled or changed"):
            db.compact()
    db.compact()
    assert db.digest() == before


def test_tables_of_a_release_without_digests_are_merged_as_before(monkeypatch: Patch) -> None:
    world = World()
    with monkeypatch.context() as older:
        older.setattr("seerdb.storage.flush.TableMeta", _without_digest)
        db, rows = two_runs(world)
    assert not any(table.digest for table in db._engine.manifest.state.version.tables)
    db.compact()
    assert all(table.digest for table in db._engine.manifest.state.version.tables)
    assert dict(db.scan()) == rows
    assert not db.verify().problems


def _without_digest(**fields: Any) -> Any:
    from seerdb.storage.manifest.version import TableMeta

    return TableMeta(**(fields | {"digest": ""}))
