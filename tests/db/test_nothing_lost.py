"""What a flush or a merge loses, doubles or changes is found before anybody sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seerdb import DB, CorruptionError, InternalError
from seerdb.events import WorkFailed
from seerdb.storage import merge
from seerdb.storage.compaction import run as compaction
from seerdb.storage.entry import NO_TOMBSTONES
from seerdb.storage.flush import plain_log
from seerdb.storage.flush import run as flush
from seerdb.storage.jobs.runners import LocalRunner
from seerdb.storage.memtable import Memtable
from seerdb.storage.merge import Chunk
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.replay import Replay
from seerdb.storage.wal.singles import packed_singles
from tests.fixtures.database import ROOMY, WAL, World, fill

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
    pack = TableReader.pack_blocks
    monkeypatch.setattr(TableReader, "pack_blocks", lambda *a: fault(pack(*a)))


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
    assert not db._engine.outputs._in_flight, "what it has made is garbage"
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
            db.merge(b"k0001", b"more")
        db.flush()
    before = db.digest()
    with monkeypatch.context() as broken:

        def losing(*given: Any, **more: Any) -> Iterator[list[Chunk]]:
            for window in merge.windows(*given, **more):
                yield [Chunk(keys[1:], seqs[1:], values[1:]) for keys, seqs, values in window]

        broken.setattr(compaction, "windows", losing)
        with pytest.raises(CorruptionError, match="lost, doubled or changed"):
            db.compact()
    db.compact()
    assert db.digest() == before


def test_tables_of_a_release_without_digests_are_merged_as_before(monkeypatch: Patch) -> None:
    world = World()
    with monkeypatch.context() as older:
        older.setattr("seerdb.storage.flush.run.TableMeta", _without_digest)
        db, rows = two_runs(world)
    assert not any(table.digest for table in db._engine.manifest.state.version.tables)
    db.compact()
    assert all(table.digest for table in db._engine.manifest.state.version.tables)
    assert dict(db.scan()) == rows
    assert not db.verify().problems


def _without_digest(**fields: Any) -> Any:
    from seerdb.storage.manifest.version import TableMeta

    return TableMeta(**(fields | {"digest": ""}))


def lose_entry(memtable: Memtable) -> None:
    del memtable.newest[b"k0003"]


def lose_newest_entry(memtable: Memtable) -> None:
    """As if it had never come."""
    del memtable.newest[next(reversed(memtable.newest))]
    del memtable.seqs[-1], memtable.values[-1]


def change_value(memtable: Memtable) -> None:
    memtable.values[memtable.newest[b"k0003"]] = b"w" * 200


def lose_delete(memtable: Memtable) -> None:
    memtable.values[memtable.newest[b"k0005"]] = b"v" * 200


def bring_back_older(memtable: Memtable) -> None:
    memtable.newest[b"k0004"] = 4


def change_seq(memtable: Memtable) -> None:
    memtable.seqs[memtable.newest[b"k0003"]] += 1


def lose_range(memtable: Memtable) -> None:
    memtable.tombstones = NO_TOMBSTONES


MEMORY_FAULTS = [
    lose_entry,
    lose_newest_entry,
    change_value,
    lose_delete,
    bring_back_older,
    change_seq,
    lose_range,
]


def written(db: DB) -> None:
    fill(db, 20)
    db.put(b"k0004", b"again")
    db.delete(b"k0005")
    db.delete_range(b"k0010", b"k0012")
    with db.batch() as batch:
        batch.put(b"k0011", b"after the range")
        batch.put(b"k0011", b"twice")
    db.put(b"last", b"one")


@pytest.mark.parametrize("threshold", [0, 100])
@pytest.mark.parametrize("fault", MEMORY_FAULTS)
def test_a_memtable_that_is_not_what_was_logged_is_not_flushed(
    fault: Callable[[Memtable], None], threshold: int
) -> None:
    world = World()
    db = world.open(**ROOMY, blob_threshold=threshold)
    written(db)
    fault(db._engine.live.current.active)
    with pytest.raises(CorruptionError, match="lose, double or change"):
        db.flush()
    assert not db._table_ids()
    # The log has it all.
    world = world.kill()
    db = world.open(**ROOMY)
    db.flush()
    expected = World().open(**ROOMY)
    written(expected)
    assert db.digest() == expected.digest()._replace(second=db.digest().second)


def test_a_memtable_that_lost_what_hides_older_tables_only_is_not_flushed() -> None:
    """Of what the memtable itself has nothing is amiss then."""
    world = World()
    db = world.open(**ROOMY)
    fill(db, 20)
    db.flush()
    tables = db._table_ids()
    db.delete_range(b"k0010", b"k0012")
    db.put(b"last", b"one")
    lose_range(db._engine.live.current.active)
    with pytest.raises(CorruptionError, match="lose, double or change"):
        db.flush()
    assert db._table_ids() == tables
    db = world.kill().open(**ROOMY)
    db.flush()
    assert db.get(b"k0010") is None


@pytest.mark.parametrize("fault", [change_value, change_seq, bring_back_older])
def test_of_puts_and_deletes_the_table_is_what_was_logged(
    fault: Callable[[Memtable], None],
) -> None:
    db = World().open(**ROOMY)
    rows = fill(db, 20)
    before = db.digest()
    fault(db._engine.live.current.active)
    db.flush()
    assert db.digest() == before
    assert dict(db.scan()) == rows


@pytest.mark.parametrize("fault", FAULTS)
def test_a_flush_that_changes_an_entry_does_not_count(
    fault: Callable[[Packed], Packed], monkeypatch: Patch
) -> None:
    db = World().open(**ROOMY)
    for number in range(20):
        db.put(b"k%04d" % number, b"value %04d" % number)
    db.delete_range(b"x", b"y")  # for it to be made of the memtable
    before = db.digest()
    with monkeypatch.context() as broken:
        pieces = flush._pieces
        broken.setattr(flush, "_pieces", lambda *a: map(fault, pieces(*a)))
        with pytest.raises(CorruptionError, match="lose, double or change"):
            db.flush()
    assert not db._table_ids()
    db.flush()
    assert db.digest() == before


def test_a_replay_that_skips_a_record_is_not_flushed(monkeypatch: Patch) -> None:
    """As in a worker process, which has nothing but the log."""
    db = World().open(**ROOMY)
    fill(db, 20)
    db.put(b"k", b"v", ttl=1_000.0)
    monkeypatch.setattr(LocalRunner, "shares_memory", False)
    take = Replay.take
    with monkeypatch.context() as broken:
        broken.setattr(Replay, "take", lambda self, records: take(self, records[1:]))
        with pytest.raises(CorruptionError, match="lose, double or change"):
            db.flush()
    db.flush()
    assert db.digest().entries == 21


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_plain_log_is_taken_for_is_not_flushed_if_it_is_wrong(
    fault: Callable[[Packed], Packed], monkeypatch: Patch
) -> None:
    db = World().open(**ROOMY)
    for number in range(20):
        db.put(b"k%04d" % number, b"value %04d" % number)
    before = db.digest()
    monkeypatch.setattr(LocalRunner, "shares_memory", False)

    def wrong(records: Sequence[Record]) -> Packed | None:
        entries = packed_singles(records)
        return entries and fault(entries)

    with monkeypatch.context() as broken:
        broken.setattr(plain_log, "packed_singles", wrong)
        with pytest.raises(CorruptionError, match="lose, double or change"):
            db.flush()
    assert not db._table_ids()
    db.flush()
    assert db.digest() == before


def test_operands_and_what_they_are_folded_to_are_left_out_and_all_else_is_not() -> None:
    db = World().open(**ROOMY, merge_operator="append")
    written(db)
    for number in range(5):
        db.merge(b"k%04d" % number, b"more")
    before = db.digest()
    db.flush()
    assert db.digest() == before
    written(db)
    db.merge(b"k0001", b"more")
    change_value(db._engine.live.current.active)
    with pytest.raises(CorruptionError, match="lose, double or change"):
        db.flush()


def test_a_damaged_log_holds_back_no_memtable_that_is_sound() -> None:
    world = World()
    db = world.open(**ROOMY)
    rows = fill(db, 20)
    [segment] = db._engine.live.current.active.segments
    file = world.files.open(f"{WAL}/{segment:020d}.wal")
    file.write_at(4096 + 300, b"\xff" * 8)
    file.close()
    db.flush()
    assert dict(db.scan()) == rows
    assert db._engine.flusher.statistics.unproved == 1
    assert [event.work for event in world.events if isinstance(event, WorkFailed)] == [
        "prove a flush"
    ]


def test_a_table_that_ends_at_another_seq_than_its_memtable_is_not_published(
    monkeypatch: Patch,
) -> None:
    db = World(**ROOMY).open()
    rows = fill(db, 3)
    run = LocalRunner.run

    def run_short(runner: LocalRunner, *job: Any) -> Any:
        result = run(runner, *job)
        return replace(result, last_seq=result.last_seq - 1)

    with monkeypatch.context() as patched:
        patched.setattr(LocalRunner, "run", run_short)
        with pytest.raises(InternalError, match="end at seq 2, their memtable at 3"):
            db.flush()
    assert (db.statistics().tables, db.statistics().flushed_seq) == (0, 0)
    db.flush()
    assert (db.statistics().tables, dict(db.scan())) == (1, rows)
