"""What verify finds, and what it does not mistake for damage while a server is writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from seerdb import DB
from seerdb.errors import DiskError, NotFoundError
from seerdb.ids import Epoch, SeqNo
from seerdb.storage.local.files import File, FileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import wal_name
from seerdb.storage.verify import LocalLog, VerifyReport, verify_database, verify_log
from seerdb.storage.wal.format import HEADER_SIZE, decode_header, encode_header
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.workers.threads import check_threads
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import WAL, World
from tests.unit.storage.wal import samples


def written(world: World) -> DB:
    """An open database with two tables, two shipped objects, and five log segments."""
    db = world.open()
    for number in range(10):
        db.put(b"a%d" % number, b"1")
    db.flush()
    db.put(b"b", b"1")
    db.delete_range(b"a1", b"a2")
    db.flush()
    db.put(b"c", b"1", durability="object")
    db.put(b"d", b"1", durability="object")
    world.store.outage = True
    for number in range(60):
        db.put(b"e%d" % number, b"v" * 130)
    world.store.outage = False
    world.clock.advance(60)  # so that the store is tried again
    return db


@pytest.fixture
def world() -> World:
    """The world after the death of a process that had :func:`written`."""
    before = World()
    written(before)
    return before.kill()


def report_of(
    world: World, store: ObjectStore | None = None, files: FileSystem | None = None
) -> VerifyReport:
    report = VerifyReport()
    log = LocalLog(files or world.files, WAL)
    verify_database(store or world.bucket, report, log=log)
    return report


def the_problem(world: World) -> str:
    [problem] = report_of(world).problems
    return problem


def names(world: World, prefix: str) -> list[str]:
    return [info.name for info in world.bucket.list(prefix)]


def flip(world: World, name: str, offset: int) -> None:
    """Turn a bit of an object over; a negative offset counts from its end."""
    data = bytearray(world.bucket.get(name))
    data[offset] ^= 1
    world.bucket.put(name, bytes(data))


def overwrite(world: World, path: str, offset: int, data: bytes) -> None:
    file = world.files.open(path)
    file.write_at(offset, data)
    file.close()


def paths(world: World) -> list[str]:
    return [f"{WAL}/{name}" for name in world.files.list(WAL) if name.endswith(".wal")]


def test_everything_is_counted_and_sound(world: World) -> None:
    report = report_of(world)
    assert report.ok
    assert (report.manifests, report.tables, report.segments, report.shipped) == (3, 2, 5, 2)
    assert (report.entries, report.last_seq) == (11, 74)
    assert report.records == 62 + 2, "the local log and the shipped one"
    assert (report.notes, report.unreferenced) == ([], [])


def test_threads_change_nothing_in_the_report(world: World) -> None:
    first, second = names(world, "tables/")
    shipped = names(world, "wal/")
    flip(world, second, 0)
    flip(world, shipped[0], HEADER_SIZE + 30)
    world.bucket.delete([first])
    alone, together = VerifyReport(), VerifyReport()
    told: list[tuple[str, int, int]] = []
    verify_database(world.bucket, alone)
    with check_threads() as threads:
        verify_database(
            world.bucket, together, threads=threads, progress=lambda *each: told.append(each)
        )
    assert len(together.problems) == 3
    assert together == alone
    assert told[-2:] == [("tables", 1, 2), ("tables", 2, 2)]


def test_a_closed_database_has_no_log_left_and_is_sound() -> None:
    world = World()
    written(world).close()
    report = report_of(world)
    assert (report.ok, report.segments, report.last_seq) == (True, 0, 74)


def test_a_bucket_is_checked_without_a_log(world: World) -> None:
    report = VerifyReport()
    verify_database(world.bucket, report)
    assert (report.ok, report.tables, report.segments) == (True, 2, 0)


@pytest.mark.parametrize("offset", [0, 40, -60, -1])
def test_a_damaged_table_is_named_with_the_offset_of_its_part(world: World, offset: int) -> None:
    name = names(world, "tables/")[0]
    flip(world, name, offset)
    assert the_problem(world).startswith(f"{name} at byte ")


def test_a_table_that_is_another_one_is_noticed(world: World) -> None:
    first, second = names(world, "tables/")
    world.bucket.put(first, world.bucket.get(second))
    assert the_problem(world).startswith(f"{first}: wrong length")


def test_a_missing_table_is_named(world: World) -> None:
    name = names(world, "tables/")[0]
    world.bucket.delete([name])
    assert the_problem(world) == f"{name}: the manifest names it, but it is gone"


def test_a_table_that_nobody_names_is_told_but_is_no_damage(world: World) -> None:
    stray = "tables/00000001-000000000099.sst"
    world.bucket.put(stray, b"left by a crash")
    world.bucket.put("tables/README", b"not ours")
    report = report_of(world)
    assert (report.ok, report.unreferenced) == (True, [stray])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_manifest_object_is_named_wherever_it_is(world: World, number: int) -> None:
    name = f"manifest/{number:020d}"
    flip(world, name, 30)
    assert the_problem(world).startswith(f"{name} at byte 0: checksum mismatch")


def test_a_missing_manifest_object_is_named(world: World) -> None:
    world.bucket.delete(["manifest/00000000000000000002"])
    assert "00000000000000000002: a manifest object is missing" in the_problem(world)


def test_a_lost_claim_is_noticed_although_nobody_reads_it() -> None:
    world = World()
    for _ in range(3):
        world.open().close()
    assert report_of(world).ok
    world.bucket.delete(["manifest/00000000000000000001"])
    assert the_problem(world) == "manifest/00000000000000000001: a manifest object is missing"


def test_a_record_of_another_history_is_noticed_although_nobody_reads_it() -> None:
    world, other = World(), World(seed=9)
    written(world).close()
    written(other)
    name = "manifest/00000000000000000002"
    world.bucket.put(name, other.bucket.get(name))
    problem, *_ = report_of(world).problems
    assert problem.startswith(f"{name}: the record does not fit: its previous write id ")


def test_tables_without_a_manifest_are_damage(world: World) -> None:
    world.bucket.delete(names(world, "manifest/"))
    assert "no manifest" in the_problem(world)


def test_nothing_at_all_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        verify_database(MemoryObjectStore(), VerifyReport())


def test_damage_in_the_log_is_named_with_its_offset(world: World) -> None:
    path = paths(world)[1]
    overwrite(world, path, HEADER_SIZE + 40, b"\xff")
    assert the_problem(world).startswith(f"{path} at byte {HEADER_SIZE + 24}: ")


def test_a_damaged_header_is_one_problem(world: World) -> None:
    path = paths(world)[1]
    overwrite(world, path, 40, b"\xff")
    assert the_problem(world).startswith(f"{path} at byte 0: ")


def test_a_torn_tail_is_no_damage(world: World) -> None:
    file = world.files.open(paths(world)[-1])
    file.truncate(HEADER_SIZE + 30)
    file.close()
    assert report_of(world).ok


@pytest.mark.parametrize("position", [0, 2])
def test_a_missing_segment_is_a_gap(world: World, position: int) -> None:
    missing, after = paths(world)[position : position + 2]
    world.files.remove(missing)
    assert the_problem(world).startswith(f"{after}: the log has a gap before this: expected seq ")


def test_a_segment_of_another_database_is_noticed(world: World) -> None:
    path = paths(world)[-1]
    file = world.files.open(path)
    header = decode_header(file.read_at(0, HEADER_SIZE), path)
    file.write_at(0, encode_header(header._replace(database_id=b"x" * 16)))
    file.close()
    assert f"{path}: a segment of database {(b'x' * 16).hex()}" in the_problem(world)


def test_segments_before_the_log_starts_do_not_matter(world: World) -> None:
    file = world.files.open(segment_path(WAL, 1), create=True)
    file.write_at(0, b"left over")
    file.close()
    assert report_of(world).ok


def test_a_log_that_was_taken_over_is_a_note(world: World) -> None:
    world.open("elsewhere").close()
    report = report_of(world)
    assert (report.ok, report.segments) == (True, 5)
    assert "another data directory continues this database" in report.notes[0]


def test_the_wrong_bucket_is_a_problem(world: World) -> None:
    other = World(seed=9)
    other.open().close()
    assert any("belongs to database" in each for each in report_of(world, other.bucket).problems)


def test_damaged_identity_is_named(world: World) -> None:
    overwrite(world, f"{WAL}/HOME", 0, b"?")
    assert the_problem(world).startswith(f"{WAL}/HOME: ")


def test_a_damaged_shipped_object_is_named(world: World) -> None:
    name = names(world, "wal/")[1]
    flip(world, name, HEADER_SIZE + 50)
    assert the_problem(world).startswith(f"{name} at byte ")


def test_a_gap_in_the_shipped_log_is_named(world: World) -> None:
    first, second = names(world, "wal/")
    world.bucket.delete([first])
    assert the_problem(world).startswith(f"{second}: the shipped log has a gap before this")


def test_what_a_branch_voids_hides_no_gap_in_the_shipped_log(world: World) -> None:
    for epoch, first, last in ((1, 15, 30), (2, 20, 19), (2, 22, 30)):
        world.bucket.put(wal_name(Epoch(epoch), SeqNo(first), SeqNo(last)), b"")
    found = [each for each in report_of(world).problems if "the shipped log has a gap" in each]
    assert [each.partition(": expected ")[2] for each in found] == ["seq 20, found 22"]


@pytest.mark.parametrize("is_flushed", [False, True])
def test_shipped_log_that_goes_meanwhile_is_damage_unless_tables_have_it(
    *, is_flushed: bool
) -> None:
    world = World()
    db = written(world)
    first, _ = names(world, "wal/")

    def go() -> None:
        if is_flushed:
            db.flush()
        world.bucket.delete([first])

    report = VerifyReport()
    verify_database(BusyStore(world, first, go), report)
    gone = [] if is_flushed else [f"{first}: it is listed, but it is gone"]
    assert (report.problems, report.shipped) == (gone, 2 - is_flushed)


def test_a_log_that_begins_with_a_segment_of_nothing_has_no_gap() -> None:
    """As that of a home that went on elsewhere, of which no tables tell where it begins."""
    files, report = samples.disk(), VerifyReport()
    for number, frames in (
        (1, [samples.frame(samples.seal(49, 0))]),
        (2, [samples.frame(samples.put(50))]),
    ):
        header = samples.HEADER._replace(segment=number, first_seq=50)
        file = files.open(segment_path("wal", number), create=True)
        file.write_at(0, samples.segment(*frames, header=header))
        file.close()
    verify_log(files, "wal", report)
    assert (report.problems, report.segments, report.last_seq) == ([], 2, 50)


class BusyStore(MemoryObjectStore):
    """A bucket in which something happens just before the first GET of a name with a prefix."""

    def __init__(self, world: World, prefix: str, happening: Callable[[], object]) -> None:
        super().__init__()
        self._objects = world.bucket._objects
        self._prefix = prefix
        self._happenings = iter([happening])

    def get(self, name: str) -> bytes:
        if name.startswith(self._prefix):
            for happening in self._happenings:
                happening()
        return super().get(name)


class BusyFiles(CrashableFileSystem):
    """A disk on which something happens just before each of the first reads of a segment."""

    def __init__(self, world: World, *happenings: Callable[[], object]) -> None:
        super().__init__(world.files._directories)
        self._happenings: Iterator[Callable[[], object]] = iter(happenings)

    def open_read(self, path: str) -> File:
        if path.endswith(".wal"):
            for happening in self._happenings:
                happening()
                break
        return super().open_read(path)


def test_tables_that_are_compacted_and_collected_meanwhile_are_no_damage() -> None:
    world = World()
    db = written(world)

    def compact_and_collect() -> None:
        before = names(world, "tables/")
        db.compact()
        world.bucket.delete(before)

    report = report_of(world, BusyStore(world, "tables/", compact_and_collect))
    assert report.problems == []


def test_manifest_objects_that_are_collected_meanwhile_are_no_damage() -> None:
    world = World()
    db = written(world)

    def checkpoint_and_collect() -> None:
        for _ in range(2):
            db.put(b"f", b"1")
            db.flush()
            db._engine.manifest.checkpoint()
        world.bucket.delete(["manifest/00000000000000000002", "manifest/00000000000000000003"])

    report = report_of(
        world, BusyStore(world, "manifest/00000000000000000002", checkpoint_and_collect)
    )
    assert report.problems == []


def test_segments_that_are_flushed_and_released_meanwhile_are_no_damage() -> None:
    world = World()
    db = written(world)
    files = BusyFiles(world, lambda: None, db.flush)
    report = report_of(world, files=files)
    assert report.problems == []
    assert report.segments < 5


def test_a_segment_that_is_sealed_while_it_is_read_is_no_damage() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    world.store.outage = True

    def fill() -> None:
        for number in range(20):
            db.put(b"b%d" % number, b"v" * 130)

    class Rotating(CrashableFileSystem):
        """Just after the open segment was read it gets a successor."""

        def list(self, directory: str) -> list[str]:
            if len(world.files.list(WAL)) < 3:
                fill()
            return super().list(directory)

    report = VerifyReport()
    verify_log(Rotating(world.files._directories), WAL, report, segments=[1])
    assert (report.problems, report.segments, report.records) == ([], 1, 13)


def test_a_disk_that_cannot_be_listed_is_an_error_and_no_report(world: World) -> None:
    with pytest.raises(DiskError):
        verify_database(
            world.bucket, VerifyReport(), log=LocalLog(world.files, "no such directory")
        )


def test_what_only_a_checkpoint_keeps_is_checked() -> None:
    world = World(blob_threshold=100)
    db = world.open()
    for value in (b"1", b"2"):
        db.put(b"a", value * 200)
        db.flush()
        db.checkpoint(f"before-{value.decode()}")
    db.compact()
    db.close()
    report = report_of(world)
    assert (report.problems, report.tables, report.unreferenced) == ([], 3, [])
    for name in names(world, "tables/")[:2] + names(world, "blobs/")[:1]:
        after = world.kill()
        flip(after, name, 10)
        assert report_of(after).problems[0].startswith(name)


def test_a_damaged_hold_is_told() -> None:
    """Nothing is deleted while it is there."""
    world = World()
    world.open().close()
    name = f"holds/{7:032x}"
    world.bucket.put(name, b"SeerKept")
    assert the_problem(world).startswith(name)


def test_what_is_collected_of_a_checkpoint_that_is_dropped_meanwhile_is_no_damage() -> None:
    world = World(blob_threshold=100)
    db = world.open()
    db.put(b"a", b"1" * 200)
    db.flush()
    db.checkpoint("before")
    db.put(b"a", b"2" * 200)
    db.flush()
    db.compact()
    [blob, _], table = names(world, "blobs/"), names(world, "tables/")[0]
    gone = ["checkpoints/before", blob]
    assert report_of(world, BusyStore(world, blob, lambda: world.bucket.delete(gone))).ok
    assert table in names(world, "tables/")
