"""The disk tier: what is pinned in it, what jobs leave in it, what it lacks, when it gives way."""

from __future__ import annotations

import pytest

from seerdb.storage.local.parts_file import write_parts
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.testing.files import CrashableFileSystem
from tests.unit.storage.tables import id_of
from tests.unit.storage.tiers.test_disk_tier import HEADER, A, B, C, on_disk, tier_on


@pytest.fixture
def files() -> CrashableFileSystem:
    files = CrashableFileSystem()
    files.make_directory("cache")
    return files


def test_what_is_pinned_makes_room_for_nothing(files: CrashableFileSystem) -> None:
    tier = tier_on(files, 3 * (HEADER + 100))
    tier.pin([A])
    tier.write(A, 0, bytes(100))
    for number in range(10, 30):
        tier.write(id_of(number), 0, bytes(100))
        assert tier.read(id_of(number), 0) is not None
    assert tier.read(A, 0) is not None
    tier.pin([A, B])
    for part in range(3):
        tier.write(B, part, bytes(100))
    assert [tier.read(B, part) is not None for part in range(3)] == [True, True, False]
    tier.write(C, 0, bytes(100))
    assert tier.read(C, 0) is None, "nothing is left for others"
    found = tier.statistics()
    assert (found.pinned_tables, found.pinned_bytes) == (2, 3 * (HEADER + 100))
    tier.pin([B])
    tier.write(C, 0, bytes(100))
    assert [tier.read(table, 0) is not None for table in (A, B, C)] == [False, True, True]
    assert tier.statistics().pinned_tables == 1


def test_a_pinned_table_makes_no_room_for_itself(files: CrashableFileSystem) -> None:
    tier = tier_on(files, HEADER + 100)
    tier.pin([A])
    tier.write(A, 0, bytes(100))
    tier.write(A, 1, bytes(100))
    assert tier.read(A, 0) is not None
    tier.write(A, 2, bytes(200))
    assert tier.read(A, 0) is not None


def test_what_a_job_left_is_adopted_and_pinned(files: CrashableFileSystem) -> None:
    size = HEADER + 100
    tier = tier_on(files, 4 * size)
    for number in range(10, 14):
        tier.write(id_of(number), 0, bytes(100))
    with tier.room(2 * size) as directory:
        assert tier.statistics().tables == 2, "in advance, so that the disk never holds more"
        tier.write(B, 0, bytes(100))
        assert tier.statistics().bytes == 4 * size
        assert directory is not None
        write_parts(files, directory, A, [(-1, b"t" * 100), (0, b"0" * 100)])
    assert tier.adopt(A)
    assert not tier.adopt(C)
    assert [tier.read(A, part) for part in (-1, 0, 1)] == [b"t" * 100, b"0" * 100, None]
    assert tier.statistics().bytes <= 4 * size
    for number in range(20, 30):
        tier.write(id_of(number), 0, bytes(100))
    assert tier.read(A, 0) is not None
    assert tier.statistics().bytes == on_disk(files) == 4 * size


def test_there_is_no_room_beside_what_is_pinned(files: CrashableFileSystem) -> None:
    tier = tier_on(files, 300)
    tier.write(A, 0, bytes(100))
    tier.pin([A])
    with tier.room(200) as directory:
        assert directory is None
    assert tier.statistics().bytes == HEADER + 100
    assert tier.read(A, 0) is not None


def test_a_file_that_nobody_adopted_is_dropped(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    write_parts(files, "cache", A, [(0, b"x")])
    tier.drop(A)
    assert files.list("cache") == []


def test_what_is_lacking(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 1, b"one")
    tier.write(A, -1, b"tail")
    assert tier.lacks(A, [0, 1, 2, -1]) == [0, 2]
    assert tier.lacks(B, [0, -1]) == [0, -1]
    tier.close()
    assert tier_on(files).lacks(A, [0, 1, 2, -1]) == [0, 2]


def test_only_what_is_still_in_use_is_retained(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    for table in (A, B, C):
        tier.write(table, 0, b"zero")
    tier.close()
    tier = tier_on(files)
    assert tier.read(C, 0) is not None
    tier.retain({B})
    assert [tier.read(table, 0) for table in (A, B, C)] == [None, b"zero", None]
    assert len(files.list("cache")) == 1


def test_it_gives_way_before_the_disk_is_full(files: CrashableFileSystem) -> None:
    files.free_space = 1000
    tier = DiskTier(files, "cache", 1 << 20, keep_free=500)
    tier.write(A, 0, b"a" * 100)
    tier.write(B, 0, b"b" * 600)
    assert tier.read(B, 0) is None, "others would have less than is theirs"
    files.free_space = 510
    tier.write(B, 1, b"b" * 100)
    assert tier.statistics().tables == 0, "others took of it"
    files.free_space = 1000
    tier.write(B, 2, b"b" * 100)
    assert tier.read(B, 2) == b"b" * 100
    assert tier.statistics().bytes == on_disk(files)
