"""Which tables are pinned, and how their bytes get to the local disk."""

from __future__ import annotations

import pytest

from seerdb.errors import DiskError, UnavailableError
from seerdb.storage.local.files import File
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.tiers.pinning import Pins, leave_copy, size_on_disk, tables_to_pin
from seerdb.storage.tiers.table_store import MAX_RANGE, TAIL, TableStore
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.tables import build_table, id_of, many, put_table


class Place:
    """A bucket with three tables of levels 0, 1 and 7, and a disk."""

    def __init__(self, *, capacity: int = 1 << 20, levels: int = 2) -> None:
        self.bucket = MemoryObjectStore()
        self.faulty = FaultyObjectStore(self.bucket)
        self.files = CrashableFileSystem()
        self.files.make_directory("cache")
        rows = many(0, 200, seq=1)
        self.built = build_table(rows)
        self.metas = [
            put_table(self.bucket, number, rows, level=level)
            for number, level in ((3, 0), (2, 1), (1, 7))
        ]
        self.version = Version.of(self.metas)
        self.disk = DiskTier(self.files, "cache", capacity)
        self.tables = TableStore(
            self.faulty, cache=BlockCache(0), disk=self.disk, fetchers=InlineExecutor()
        )
        self.pins = Pins(self.tables, self.disk, levels)
        self.bucket.calls.clear()

    def bring_all(self) -> int:
        """How many steps it took."""
        steps = 0
        while self.pins.bring():
            steps += 1
        return steps

    def is_whole(self, meta: TableMeta) -> bool:
        handle = self.tables.handle(meta)
        return not self.disk.lacks(meta.id, (*range(self.tables.open(handle).block_count), TAIL))


def test_upper_levels_are_pinned_newest_first_as_far_as_they_fit() -> None:
    newest, older, bottom = Place().metas
    version = Version.of([newest, older, bottom])
    room = size_on_disk(newest.size)
    assert tables_to_pin(version, 0, 1 << 30) == []
    assert tables_to_pin(version, 1, 1 << 30) == [newest]
    assert tables_to_pin(version, 2, 1 << 30) == [newest, older]
    assert tables_to_pin(version, 8, 1 << 30) == [newest, older, bottom]
    assert tables_to_pin(version, 8, room) == [newest]
    assert tables_to_pin(version, 8, room - 1) == []


def test_what_is_pinned_is_brought_in_whole() -> None:
    place = Place()
    place.pins.follow(place.version)
    steps = place.bring_all()
    assert place.bucket.calls == {"get_range": 4}, "a tail and all the blocks of each"
    assert steps == 2
    place.bucket.calls.clear()
    for meta in place.metas[:2]:
        handle = place.tables.handle(meta)
        place.tables.load_range(handle, 0, place.tables.open(handle).block_count, fill=True)
    assert not place.bucket.calls
    assert not place.disk.lacks(place.metas[0].id, [TAIL])
    assert place.disk.statistics().pinned_tables == 2


def test_a_request_brings_in_a_bounded_range(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(levels=1)
    monkeypatch.setattr("seerdb.storage.tiers.table_store.MAX_RANGE", 1000)
    assert MAX_RANGE == 4 << 20
    sizes = []
    fetch = place.bucket.get_range

    def noted(name: str, offset: int, length: int) -> bytes:
        sizes.append(length)
        return fetch(name, offset, length)

    place.bucket.get_range = noted  # type: ignore[method-assign]
    place.pins.follow(place.version)
    place.bring_all()
    assert place.is_whole(place.metas[0])
    assert len(sizes) > 5
    assert max(sizes[1:]) <= 1000
    assert sum(sizes) == place.metas[0].size


def test_what_is_here_in_parts_is_completed() -> None:
    place = Place(levels=1)
    handle = place.tables.handle(place.metas[0])
    place.tables.load_range(handle, 3, 6, fill=True)
    place.bucket.calls.clear()
    place.pins.follow(place.version)
    place.bring_all()
    assert place.bucket.calls == {"get_range": 2}, "before and behind"
    assert place.is_whole(place.metas[0])


def test_a_copy_that_was_left_needs_no_request() -> None:
    place = Place()
    meta = place.metas[0]
    with place.pins.room(0, meta.size, [meta.id]) as directory:
        leave_copy(place.files, directory, meta.id, place.built)
        place.pins.adopt([meta])
    place.pins.follow(Version.of(place.metas[1:]))
    assert place.disk.statistics().pinned_tables == 1, "another edit came first"
    place.pins.follow(Version.of([meta]))
    place.bucket.calls.clear()
    assert place.is_whole(meta)
    place.bring_all()
    assert not place.bucket.calls
    with place.pins.room(7, meta.size, [meta.id]) as directory:
        assert directory is None, "nothing is kept of the lower levels"


def test_copies_of_a_job_that_failed_are_removed() -> None:
    place = Place()
    meta = place.metas[0]

    def job() -> None:
        with place.pins.room(0, meta.size, [id_of(50), meta.id]) as directory:
            leave_copy(place.files, directory, meta.id, place.built)
            assert len(place.files.list("cache")) == 1
            raise UnavailableError("planned")

    with pytest.raises(UnavailableError):
        job()
    assert place.files.list("cache") == []
    assert place.disk.statistics().bytes == 0


def test_what_leaves_the_version_is_pinned_no_more() -> None:
    place = Place()
    place.pins.follow(place.version)
    place.bring_all()
    place.pins.follow(Version.of(place.metas[1:]))
    assert place.disk.statistics().pinned_tables == 1
    assert place.bring_all() == 0


def test_copies_of_what_nobody_publishes_are_given_up() -> None:
    """They were pinned, and so kept, until the next opening."""
    place = Place()
    kept, given_up, _ = place.metas
    with place.pins.room(0, kept.size + given_up.size, [kept.id, given_up.id]) as directory:
        for meta in (kept, given_up):
            leave_copy(place.files, directory, meta.id, place.built)
        place.pins.adopt([kept, given_up])
    place.pins.disown([given_up.id])
    assert place.files.list("cache") == [f"{kept.id}.parts"]
    place.pins.follow(Version.of([kept]))
    place.pins.disown([kept.id])
    found = place.disk.statistics()
    assert (found.tables, found.pinned_tables) == (1, 1), "it was published"


def test_tables_that_do_not_fit_are_not_brought_in() -> None:
    place = Place(capacity=3000, levels=8)
    place.pins.follow(place.version)
    assert place.bring_all() == 0


@pytest.mark.parametrize("kept", [0, 10])
def test_a_disk_that_fails_is_not_tried_for_ever(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some writes each fails, which costs the table all that was kept of it."""
    place = Place()
    writes = 0

    def refuse() -> None:
        nonlocal writes
        writes += 1
        if writes > kept:
            raise DiskError("broken, by plan")

    opened = place.files.open

    def failing(path: str, *, create: bool = False, direct: bool = False) -> File:
        file = opened(path, create=create, direct=direct)
        write = file.write_at

        def write_at(offset: int, data: bytes) -> None:
            refuse()
            write(offset, data)

        file.write_at = write_at  # type: ignore[method-assign]
        return file

    monkeypatch.setattr(place.files, "open", failing)
    place.pins.follow(place.version)
    assert place.bring_all() == 2
    assert place.disk.statistics().errors > 0


def test_an_outage_is_told_and_tried_again() -> None:
    place = Place()
    place.pins.follow(place.version)
    place.faulty.fail("get_range", times=1)
    with pytest.raises(UnavailableError):
        place.pins.bring()
    place.bring_all()
    assert all(map(place.is_whole, place.metas[:2]))


def test_a_disk_that_takes_no_copy_fails_no_job() -> None:
    place = Place()
    meta = place.metas[0]
    place.files.make_directory(f"cache/{meta.id}.parts")
    leave_copy(place.files, "cache", meta.id, place.built)
    leave_copy(place.files, "nowhere", meta.id, place.built)


def test_without_a_disk_tier_nothing_happens() -> None:
    place = Place()
    pins = Pins(place.tables, None, 8)
    pins.follow(place.version)
    pins.adopt(place.metas)
    pins.disown(meta.id for meta in place.metas)
    with pins.room(0, 1, []) as directory:
        assert directory is None
    assert not pins.bring()
