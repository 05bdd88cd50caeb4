"""What may be deleted, and what never."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from seerdb.errors import CorruptionError, UnavailableError
from seerdb.ids import Epoch, SeqNo, TableId, blob_id
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import BlobRef, TableMeta, Version
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.names import (
    blob_name,
    manifest_name,
    parse_wal_name,
    table_name,
    wal_name,
)
from seerdb.storage.retention.garbage import GarbageCollector, GarbageReport, collectable
from seerdb.storage.retention.timeline import Needed
from seerdb.storage.shipping.shipped import read_shipped
from seerdb.storage.wal.columns import Record
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.manifest.samples import open_writer, table
from tests.unit.storage.wal.samples import HEADER, frame, put, segment

NOW, GRACE = 10_000.0, 900.0
OLD = NOW - GRACE - 1

STATE = ManifestState(
    number=90,
    epoch=Epoch(3),
    version=Version.of([table(1), table(2, epoch=3)]),
    last_seq=SeqNo(500),
    checkpoint=80,
    checkpoint_before=40,
    claims=(1, 20, 60),
)


def collected(*names: str, modified: float = OLD, keep: set[str] | None = None) -> list[str]:
    """Which of ``names`` are collectable in ``STATE``."""
    return collectable(
        [ObjectInfo(name, 1, modified) for name in names],
        STATE,
        now=NOW,
        grace_seconds=GRACE,
        keep=keep or set(),
    )


def name_of(counter: int, epoch: int = 1) -> str:
    return table_name(table(counter, epoch=epoch).id)


def shipped(last: int, epoch: int = 2) -> str:
    return wal_name(Epoch(epoch), SeqNo(1), SeqNo(last))


def test_tables_that_the_version_does_not_name_go() -> None:
    assert collected(name_of(7), name_of(8, epoch=3)) == [name_of(7), name_of(8, epoch=3)]


def test_tables_that_the_version_names_stay() -> None:
    assert collected(name_of(1), name_of(2, epoch=3)) == []
    assert collected(name_of(2)) == [name_of(2)], "the same number of another epoch"


def blob_of(counter: int, epoch: int = 1, number: int = 0) -> str:
    return blob_name(blob_id(table(counter, epoch=epoch).id, number))


def test_blobs_that_no_table_of_the_version_points_into_go() -> None:
    ref = BlobRef(id=blob_id(table(4).id, 1), size=9, checksum=9, total=9, values=1, bytes=9)
    pointing = replace(table(1), blobs=(ref,), pointers=1)
    state = replace(STATE, version=Version.of([pointing]))
    names = [blob_of(4), blob_of(4, number=1), blob_of(1), blob_of(5, epoch=4)]
    objects = [ObjectInfo(name, 1, OLD) for name in names]
    gone = collectable(objects, state, now=NOW, grace_seconds=GRACE, keep=set())
    assert gone == [blob_of(4), blob_of(1)], "a later epoch is somebody else's"
    young = [ObjectInfo(name, 1, NOW - GRACE) for name in names]
    assert collectable(young, state, now=NOW, grace_seconds=GRACE, keep=set()) == []


def test_blobs_stay_with_the_table_they_are_made_with_and_those_that_are_kept() -> None:
    being_made, read = blob_of(7, number=3), blob_of(8)
    assert collected(being_made, read) == [being_made, read]
    assert collected(being_made, read, keep={name_of(7), read}) == []


def test_tables_of_a_later_epoch_are_somebody_elses() -> None:
    assert collected(name_of(1, epoch=4), name_of(1, epoch=99_999_999)) == []


def test_what_the_caller_keeps_stays() -> None:
    kept = {name_of(7), manifest_name(2), shipped(100)}
    assert collected(*kept, keep=kept) == []
    assert len(collected(*kept)) == 3


def test_young_objects_stay() -> None:
    names = (name_of(7), manifest_name(2), shipped(100))
    assert collected(*names, modified=NOW - GRACE) == []
    assert len(collected(*names)) == 3


def test_records_before_the_last_two_checkpoints_go_except_claims() -> None:
    numbers = range(1, 91)
    gone = collected(*map(manifest_name, numbers))
    assert gone == [manifest_name(number) for number in range(2, 40) if number != 20]


def test_shipped_log_goes_as_far_as_tables_hold_it() -> None:
    assert collected(shipped(500), shipped(501), shipped(300, epoch=4)) == [shipped(500)]


def test_shipped_log_stays_that_an_instant_within_the_retention_needs() -> None:
    names = [shipped(400), shipped(401), shipped(500)]
    objects = [ObjectInfo(name, 1, OLD) for name in names]
    past = Needed(STATE.number, SeqNo(400), frozenset())
    gone = collectable(objects, STATE, now=NOW, grace_seconds=GRACE, keep=set(), past=past)
    assert gone == [shipped(400)]


def branch(first: int, epoch: int) -> str:
    return wal_name(Epoch(epoch), SeqNo(first), SeqNo(first - 1))


def test_branches_stay_wherever_they_begin() -> None:
    """There may be no end to what lower epochs ship late, nor to who asks what was lost."""
    assert collected(branch(501, 1), branch(300, 2), branch(400, 3), branch(600, 3)) == []


def test_what_a_probe_left_behind_goes() -> None:
    assert collected("probe/00ff12ab") == ["probe/00ff12ab"]
    assert collected("probe/00ff12ab", modified=NOW - GRACE) == []


@pytest.mark.parametrize(
    "name",
    [
        "tables/README",
        "tables/00000001-000000000007.sst.bak",
        "tables/00000001-7.sst",
        "tables/sub/00000001-000000000007.sst",
        "manifest/2",
        "manifest/00000000000000000002.old",
        "wal/1/2-3.wal",
        "probe/README",
        "probe/sub/00ff12ab",
        "checkpoints/00000000000000000002",
        "lease",
        "00000000000000000002",
    ],
)
def test_names_that_are_not_ours_stay(name: str) -> None:
    assert collected(name) == []


epochs = st.integers(1, 5)
names_of_objects = st.one_of(
    st.builds(name_of, st.integers(0, 9), epochs),
    st.integers(1, 100).map(manifest_name),
    st.builds(shipped, st.integers(1, 600), epochs),
    st.builds(branch, st.integers(1, 600), epochs),
    st.text(max_size=10),
)


@given(
    st.lists(
        st.builds(ObjectInfo, names_of_objects, st.just(1), st.floats(0, NOW)),
        max_size=30,
        unique_by=lambda info: info.name,
    ),
    st.sets(names_of_objects, max_size=5),
)
def test_nothing_that_somebody_needs_is_ever_collectable(
    objects: list[ObjectInfo], keep: set[str]
) -> None:
    gone = collectable(objects, STATE, now=NOW, grace_seconds=GRACE, keep=keep)
    needed = keep | {table_name(each.id) for each in STATE.version.tables}
    needed |= {manifest_name(n) for n in (*STATE.claims, *range(STATE.checkpoint_before, 101))}
    needed |= {info.name for info in objects if info.modified >= NOW - GRACE}
    assert not needed.intersection(gone)


parts_of_log = st.sets(
    st.builds(
        lambda epoch, first, count: wal_name(Epoch(epoch), SeqNo(first), SeqNo(first + count - 1)),
        st.integers(1, 3),
        st.integers(1, 4),
        st.sampled_from([0, 0, 1, 3]),
    ),
    min_size=2,
    max_size=6,
)
"""Names of shipped objects; those of no records are branches."""


def recovered(names: set[str], after: int) -> list[list[Record] | None]:
    """What a recovery reads of these beyond ``after``, strictly (``None``: it is refused) or
    not. Each epoch has records of its own."""
    store = MemoryObjectStore()
    for name in names:
        epoch, first, last = cast("tuple[int, int, int]", parse_wal_name(name))
        records = [put(seq, b"of epoch %d" % epoch) for seq in range(first, last + 1)]
        store.put(name, segment(frame(*records)) if records else b"")
    found: list[list[Record] | None] = []
    for strict in (True, False):
        try:
            shipped = read_shipped(store, HEADER.database_id.hex(), after, strict=strict)
            found.append(shipped.records)
        except CorruptionError:
            found.append(None)
    return found


@settings(max_examples=500)
@given(parts_of_log, parts_of_log, st.integers(0, 3), st.integers(1, 3), st.data())
def test_no_recovery_misses_what_is_collected_of_the_shipped_log(
    listed: set[str], late: set[str], last_seq: int, epoch: int, data: st.DataObject
) -> None:
    """Whenever it comes after the collector, however far that got, and whatever older writers
    ship yet."""
    gone = collectable(
        [ObjectInfo(name, 1, OLD) for name in sorted(listed)],
        ManifestState(epoch=Epoch(epoch), last_seq=SeqNo(last_seq)),
        now=NOW,
        grace_seconds=GRACE,
        keep=set(),
    )
    so_far = data.draw(st.sets(st.sampled_from(gone))) if gone else set()
    after = last_seq + data.draw(st.integers(0, 1))
    assert recovered(listed - so_far | late, after) == recovered(listed | late, after)


class Bench:
    """A database with two tables, one of them replaced, and a collector."""

    def __init__(self, memory: MemoryObjectStore, clock: FakeClock) -> None:
        self.clock = clock
        self.memory = memory
        self.store = FaultyObjectStore(self.memory, self.clock)
        self.writer = open_writer(self.store, clock=self.clock)
        self.collector = GarbageCollector(
            self.store, self.writer, clock=self.clock, grace_seconds=GRACE
        )
        for counter in (1, 2, 3):
            self.flush(counter)
        self.writer.commit(remove=[table(1).id], reason="compaction")

    def upload(self, meta: TableMeta) -> None:
        self.memory.put(table_name(meta.id), bytes(meta.size))

    def flush(self, counter: int) -> None:
        self.upload(table(counter))
        self.writer.commit(add=[table(counter)], last_seq=SeqNo(counter), reason="flush")

    @property
    def names(self) -> set[str]:
        return {info.name for info in self.memory.list("")}


@pytest.fixture
def bench() -> Bench:
    clock = FakeClock()
    return Bench(MemoryObjectStore(clock), clock)


def nothing() -> set[str]:
    return set()


def test_a_run_deletes_and_reports(bench: Bench) -> None:
    assert bench.collector.run(nothing).deleted == (), "all is young"
    bench.clock.advance(GRACE + 1)
    report = bench.collector.run(nothing)
    assert (report.deleted, report.bytes, report.refused) == ((name_of(1),), 1001, "")
    assert name_of(1) not in bench.names
    assert {name_of(2), name_of(3)} < bench.names
    assert bench.collector.run(nothing).deleted == ()


def test_tables_whose_commit_is_under_way_stay(bench: Bench) -> None:
    bench.upload(table(4))
    bench.clock.advance(GRACE + 1)
    assert name_of(4) not in bench.collector.run(lambda: {name_of(4)}).deleted
    bench.writer.commit(add=[table(4)], last_seq=SeqNo(4), reason="flush")
    assert name_of(4) not in bench.collector.run(nothing).deleted


class Interrupted(MemoryObjectStore):
    """Does something of the test's while the manifest is being read."""

    meanwhile: Callable[[], None] | None = None

    def get(self, name: str) -> bytes:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return super().get(name)


def test_a_table_committed_while_the_manifest_is_read_stays() -> None:
    clock = FakeClock()
    memory = Interrupted(clock)
    bench = Bench(memory, clock)
    bench.upload(table(4))
    bench.clock.advance(GRACE + 1)
    pending = {name_of(4)}

    def meanwhile() -> None:
        bench.writer.commit(add=[table(4)], last_seq=SeqNo(4), reason="flush")
        pending.clear()

    memory.meanwhile = meanwhile
    assert bench.collector.run(lambda: set(pending)).deleted == (name_of(1),)


def test_a_table_removed_before_the_manifest_is_read_stays_for_its_readers(bench: Bench) -> None:
    bench.clock.advance(GRACE + 1)
    removed: set[str] = set()

    def keep() -> set[str]:
        kept = set(removed)
        if not removed:
            bench.writer.commit(remove=[table(2).id], reason="compaction")
            removed.add(name_of(2))
        return kept

    assert bench.collector.run(keep).deleted == (name_of(1),)


@pytest.mark.parametrize("retention", [0.0, 5_000.0])
def test_what_a_former_life_removed_stays_for_the_retention_and_the_grace_period(
    bench: Bench, retention: float
) -> None:
    """Replicas may still read it, and who removed it, and would keep it for them, is gone."""
    collector = GarbageCollector(
        bench.store, bench.writer, clock=bench.clock, grace_seconds=GRACE, retention=retention
    )
    bench.clock.advance(GRACE + 1)
    bench.writer.commit(remove=[table(2).id], reason="compaction")
    bench.clock.advance(retention + GRACE - 1)
    assert name_of(2) not in collector.run(nothing).deleted
    bench.clock.advance(2)
    assert name_of(2) in collector.run(nothing).deleted


def test_who_is_fenced_deletes_nothing(bench: Bench) -> None:
    bench.clock.advance(GRACE + 1)
    open_writer(bench.memory, seed=1)
    before = bench.names
    assert "took over" in bench.collector.run(nothing).refused
    with pytest.raises(Exception, match="took over"):
        bench.flush(9)
    bench.store.trace.clear()
    assert "took over" in bench.collector.run(nothing).refused
    assert not bench.store.trace, "who knows that it is fenced does not even ask"
    assert bench.names - {name_of(9)} == before


@pytest.mark.parametrize("number", [1, 3, 5])
def test_with_a_missing_record_nothing_is_deleted(bench: Bench, number: int) -> None:
    bench.clock.advance(GRACE + 1)
    bench.memory.delete([manifest_name(number)])
    before = bench.names
    report = bench.collector.run(nothing)
    assert report.deleted == ()
    assert "manifest" in report.refused
    assert bench.names == before


def test_with_a_damaged_record_nothing_is_deleted(bench: Bench) -> None:
    bench.clock.advance(GRACE + 1)
    bench.store.corrupt("get", times=100)
    before = bench.names
    assert "damaged" in bench.collector.run(nothing).refused
    assert bench.names == before


def test_without_a_manifest_nothing_is_deleted(bench: Bench) -> None:
    bench.clock.advance(GRACE + 1)
    bench.memory.delete([info.name for info in bench.memory.list("manifest/")])
    before = bench.names
    assert "lost" in bench.collector.run(nothing).refused
    assert bench.names == before


@pytest.mark.parametrize("size", [None, 0, 1001])
def test_when_a_named_table_is_damaged_its_sources_stay(bench: Bench, size: int | None) -> None:
    bench.clock.advance(GRACE + 1)
    bench.memory.delete([name_of(2)])
    if size is not None:
        bench.memory.put(name_of(2), bytes(size))
    report = bench.collector.run(nothing)
    assert (report.deleted, table(2).id in report.refused) == ((), True)
    assert name_of(1) in bench.names


def test_another_database_in_the_bucket_is_left_alone(bench: Bench) -> None:
    bench.clock.advance(GRACE + 1)
    other = ManifestWriter(
        bench.store,
        replace(bench.writer.state, database_id="e" * 32),
        clock=bench.clock,
        random_bytes=bytes,
    )
    collector = GarbageCollector(bench.store, other, clock=bench.clock, grace_seconds=GRACE)
    assert "took over" in collector.run(nothing).refused


def test_a_run_cut_short_is_completed_by_the_next(bench: Bench) -> None:
    for counter in range(4, 8):
        bench.flush(counter)
        bench.writer.checkpoint()
    bench.writer.commit(remove=[TableId(table(3).id)], reason="compaction")
    bench.clock.advance(GRACE + 1)
    for operation in ("list", "get", "delete"):
        bench.store.fail(operation)
        with pytest.raises(UnavailableError):
            bench.collector.run(nothing)
        assert load(bench.memory) == bench.writer.state
    bench.store.time_out_after("delete")
    with pytest.raises(UnavailableError):
        bench.collector.run(nothing)
    assert bench.collector.run(nothing) == GarbageReport(), "the unheard deletion was complete"
    assert not {name_of(1), name_of(3), manifest_name(2)} & bench.names
    assert load(bench.memory) == bench.writer.state
    bench.flush(20)
