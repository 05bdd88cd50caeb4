"""The disk tier: within its budget, over restarts, on a disk that lies, fails and fills."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import DiskError
from seerdb.ids import TableId
from seerdb.storage.local.files import File
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.local.parts_file import PartsFile
from seerdb.storage.tiers.disk_tier import DiskTier, discard, open_tier
from seerdb.testing.files import CrashableFileSystem, _MemoryFile
from tests.unit.storage.tables import id_of

HEADER = 12
A, B, C = id_of(1), id_of(2), id_of(3)


@pytest.fixture
def files() -> CrashableFileSystem:
    files = CrashableFileSystem()
    files.make_directory("cache")
    return files


def tier_on(files: CrashableFileSystem, capacity: int = 10_000) -> DiskTier:
    return DiskTier(files, "cache", capacity)


def on_disk(files: CrashableFileSystem) -> int:
    return sum(files.open_read(f"cache/{name}").size() for name in files.list("cache"))


def path_of(table: TableId) -> str:
    return f"cache/{table}.parts"


def test_what_is_written_is_read() -> None:
    files = CrashableFileSystem()
    files.make_directory("cache")
    tier = tier_on(files)
    assert tier.read(A, 0) is None
    tier.write(A, 0, b"zero")
    tier.write(A, 7, b"")
    tier.write(A, -1, b"tail")
    tier.write(B, 0, b"other")
    assert [tier.read(A, part) for part in (0, 7, -1, 1)] == [b"zero", b"", b"tail", None]
    assert tier.read(B, 0) == b"other"
    statistics = tier.statistics()
    assert (statistics.hits, statistics.misses, statistics.tables) == (4, 2, 2)
    assert statistics.bytes == on_disk(files) == 4 * HEADER + 4 + 0 + 4 + 5


def test_what_another_database_left_is_removed(files: CrashableFileSystem) -> None:
    for database in ("first", "second"):
        for life in range(2):
            tier = open_tier(files, "cache", 10_000, database)
            assert tier.read(A, 0) == (database.encode() if life else None)
            tier.write(A, 0, database.encode())
            tier.close()


def test_of_an_unknown_database_nothing_is_kept(files: CrashableFileSystem) -> None:
    tier_on(files).write(A, 0, b"whose?")
    assert open_tier(files, "cache", 10_000, "first").read(A, 0) is None


def test_a_part_is_written_once(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    for _ in range(3):
        tier.write(A, 0, b"zero")
    assert tier.statistics().bytes == on_disk(files) == HEADER + 4


def test_it_survives_a_restart(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    for part in range(5):
        tier.write(A, part, b"%d" % part * part)
    tier.write(B, -1, b"tail")
    before = tier.statistics().bytes
    tier.close()
    again = tier_on(files)
    assert (again.statistics().bytes, again.statistics().tables) == (before, 2)
    assert [again.read(A, part) for part in range(5)] == [b"%d" % part * part for part in range(5)]
    again.write(A, 9, b"more")
    assert (again.read(A, 9), again.read(B, -1)) == (b"more", b"tail")


def test_a_table_that_was_dropped_is_gone(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    tier.write(B, 0, b"zero")
    tier.drop(A)
    tier.drop(C)
    tier.reject(B)
    assert (tier.read(A, 0), tier.read(B, 0), files.list("cache")) == (None, None, [])
    statistics = tier.statistics()
    assert (statistics.bytes, statistics.tables, statistics.rejected) == (0, 0, 1)
    tier.write(A, 0, b"again")
    assert tier.read(A, 0) == b"again"


def test_a_dropped_table_of_an_earlier_run_is_gone_too(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    tier.close()
    tier = tier_on(files)
    tier.drop(A)
    assert (tier.statistics().bytes, files.list("cache")) == (0, [])


def test_the_table_used_longest_ago_makes_room(files: CrashableFileSystem) -> None:
    tier = tier_on(files, 3 * (HEADER + 100))
    for table in (A, B, C):
        tier.write(table, 0, bytes(100))
    assert tier.read(A, 0) is not None
    tier.write(C, 1, bytes(100))
    assert [tier.read(table, 0) is not None for table in (A, B, C)] == [True, False, True]
    assert tier.read(C, 1) == bytes(100)
    assert tier.statistics().evictions == 1


def test_tables_that_are_written_and_never_read_drive_out_none_that_is(
    files: CrashableFileSystem,
) -> None:
    """A scan of much brings parts of many tables."""
    tier = tier_on(files, 3 * (HEADER + 100))
    tier.write(A, 0, bytes(100))
    for number in range(10, 30):
        assert tier.read(A, 0) is not None
        tier.write(id_of(number), 0, bytes(100))
    assert tier.statistics().tables == 3
    for number in range(30, 34):
        tier.write(id_of(number), 0, bytes(100))
    assert tier.read(A, 0) is None, "not read for a whole round"


def test_tables_nobody_used_since_the_restart_make_room_first(files: CrashableFileSystem) -> None:
    tier = tier_on(files, 3 * (HEADER + 100))
    for table in (A, B, C):
        tier.write(table, 0, bytes(100))
    tier.close()
    tier = tier_on(files, 3 * (HEADER + 100))
    assert tier.read(A, 0) is not None
    tier.write(A, 1, bytes(100))
    tier.write(A, 2, bytes(100))
    assert [tier.read(A, part) is not None for part in range(3)] == [True] * 3
    assert tier.statistics().tables == 1


def test_a_table_of_an_earlier_run_makes_room_for_itself_last(files: CrashableFileSystem) -> None:
    """It was looked for among the tables in use, and not found there."""
    tier = tier_on(files, 3 * (HEADER + 100))
    for table in (A, B, C):
        tier.write(table, 0, bytes(100))
    tier.close()
    tier = tier_on(files, 3 * (HEADER + 100))
    assert tier.read(B, 0) == tier.read(C, 0) == bytes(100)
    tier.write(A, 1, bytes(100))
    assert [tier.read(table, 0) is not None for table in (A, B, C)] == [True, False, True]
    assert tier.read(A, 1) == bytes(100)


def test_one_table_alone_starts_again_when_it_is_full(files: CrashableFileSystem) -> None:
    tier = tier_on(files, 2 * (HEADER + 100))
    for part in range(3):
        tier.write(A, part, bytes(100))
    assert tier.read(A, 2) == bytes(100)
    assert tier.statistics().bytes == on_disk(files) <= 2 * (HEADER + 100)


def test_a_part_larger_than_the_budget_is_not_kept(files: CrashableFileSystem) -> None:
    tier = tier_on(files, 100)
    tier.write(A, 0, bytes(50))
    tier.write(B, 0, bytes(100))
    assert (tier.read(A, 0), tier.read(B, 0)) == (bytes(50), None)


def test_a_smaller_budget_than_before_is_kept_at_once(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    for table in (A, B, C):
        tier.write(table, 0, bytes(1000))
    tier.close()
    tier = tier_on(files, 2100)
    assert tier.statistics().bytes == on_disk(files) == 2 * (HEADER + 1000)
    tier.close()
    assert tier_on(files, 10).statistics().tables == 0
    assert on_disk(files) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("wwwwrrdxo"), st.integers(1, 4), st.integers(-1, 3), st.integers(0, 90)
        ),
        max_size=60,
    )
)
def test_the_budget_is_never_exceeded_and_no_answer_is_wrong(
    steps: list[tuple[str, int, int, int]],
) -> None:
    files = CrashableFileSystem()
    files.make_directory("cache")
    tier = tier_on(files, 400)
    for action, table, part, size in steps:
        data = bytes([table, part + 1]) * size
        if action == "w":
            tier.write(id_of(table), part, data)
            assert len(data) + HEADER > 400 or tier.read(id_of(table), part) is not None
        elif action == "r":
            found = tier.read(id_of(table), part)
            assert found is None or set(found) <= {table, part + 1}
        elif action == "d":
            tier.drop(id_of(table))
        elif action == "x":
            tier.reject(id_of(table))
        else:
            tier.close()
            tier = tier_on(files, 400)
        assert tier.statistics().bytes == on_disk(files) <= 400


@pytest.mark.parametrize("keep", range(2 * HEADER + 8 + 1))
def test_a_torn_record_is_cut_off(files: CrashableFileSystem, keep: int) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    tier.write(A, 1, b"one!")
    tier.close()
    file = files.open(path_of(A))
    file.truncate(keep)
    tier = tier_on(files)
    first, second = tier.read(A, 0), tier.read(A, 1)
    assert first == (b"zero" if keep >= HEADER + 4 else None)
    assert second == (b"one!" if keep >= 2 * (HEADER + 4) else None)
    tier.write(A, 2, b"two")
    assert tier.read(A, 2) == b"two"
    assert tier.statistics().bytes == on_disk(files)
    tier.close()
    assert tier_on(files).read(A, 2) == b"two", "it was appended after the cut"


@pytest.mark.parametrize("offset", range(HEADER))
def test_a_damaged_header_ends_the_file(files: CrashableFileSystem, offset: int) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    tier.write(A, 1, b"one")
    tier.close()
    file = files.open(path_of(A))
    position = HEADER + 4 + offset
    file.write_at(position, bytes([file.read_at(position, 1)[0] ^ 0x10]))
    tier = tier_on(files)
    assert (tier.read(A, 0), tier.read(A, 1)) == (b"zero", None)
    assert tier.statistics().bytes == on_disk(files) == HEADER + 4


def test_a_file_under_the_name_of_another_table_is_not_believed(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"of table A")
    tier.close()
    files.rename(path_of(A), path_of(B))
    assert tier_on(files).read(B, 0) is None


def test_rubbish_is_not_believed(files: CrashableFileSystem) -> None:
    files.open(path_of(A), create=True).write_at(0, random.Random(1).randbytes(5000))
    tier = tier_on(files)
    assert tier.read(A, 0) is None
    assert (tier.statistics().bytes, on_disk(files)) == (0, 0)


def test_files_of_others_are_left_alone(files: CrashableFileSystem) -> None:
    files.open("cache/notes.txt", create=True).write_at(0, bytes(20_000))
    tier = tier_on(files, 1000)
    tier.write(A, 0, bytes(500))
    tier.write(B, 0, bytes(500))
    assert "notes.txt" in files.list("cache")
    assert tier.statistics().bytes == HEADER + 500


def test_all_that_a_tier_has_left_is_discarded(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    tier.write(B, 0, b"other")
    tier.close()
    files.open(path_of(C), create=True).close()
    files.open("cache/notes.txt", create=True).close()
    discard(files, "cache")
    assert files.list("cache") == ["notes.txt"]


def test_a_full_disk_costs_hits_only(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    files.no_space = True
    tier.write(B, 0, b"zero")
    tier.write(A, 1, b"one")
    assert tier.read(B, 0) is None
    assert tier.statistics().errors == 2
    files.no_space = False
    tier.write(B, 0, b"zero")
    assert tier.read(B, 0) == b"zero"
    assert tier.statistics().bytes == on_disk(files)


class _FailingFiles(CrashableFileSystem):
    """Opening a file fails while ``broken``."""

    broken = False

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        if self.broken:
            raise DiskError("broken, by plan")
        return super().open(path, create=create, direct=direct)

    def open_read(self, path: str) -> File:
        if self.broken:
            raise DiskError("broken, by plan")
        return super().open_read(path)


def test_a_broken_disk_costs_hits_only() -> None:
    files = _FailingFiles()
    files.make_directory("cache")
    tier = tier_on(files, 1000)
    tier.write(A, 0, bytes(400))
    tier.write(B, 0, bytes(400))
    tier.close()
    tier = tier_on(files, 1000)
    files.broken = True
    assert tier.read(A, 0) is None
    tier.write(A, 1, b"one")
    tier.write(C, 0, b"zero")
    assert tier.statistics().errors >= 3
    files.broken = False
    tier.write(C, 0, bytes(900))
    assert tier.read(C, 0) == bytes(900), "there is room, though A and B could not be read"
    assert tier.statistics().bytes == on_disk(files) <= 1000


class _FailingReads(CrashableFileSystem):
    """Files whose part after ``readable`` bytes cannot be read."""

    readable = 1 << 30

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        file = super().open(path, create=create, direct=direct)
        read_at = file.read_at

        def read_some(offset: int, length: int) -> bytes:
            if offset + length > self.readable:
                raise DiskError("a bad sector, by plan")
            return read_at(offset, length)

        file.read_at = read_some  # type: ignore[method-assign]
        return file


def test_a_bad_sector_costs_hits_only() -> None:
    files = _FailingReads()
    files.make_directory("cache")
    tier = tier_on(files, 1000)
    for part in range(4):
        tier.write(A, part, bytes(100))
    tier.close()
    tier = tier_on(files, 1000)
    files.readable = 2 * (HEADER + 100)
    assert tier.read(A, 3) is None
    assert tier.read(A, 0) == bytes(100)
    assert tier.statistics().errors == 1
    tier.write(B, 0, bytes(900))
    assert tier.read(B, 0) is None
    files.readable = 1 << 30
    assert tier.read(B, 0) == bytes(900)
    assert tier.statistics().bytes == on_disk(files)


def test_a_file_that_cannot_be_removed_costs_no_error(
    files: CrashableFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise DiskError("broken, by plan")

    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    monkeypatch.setattr(files, "remove", refuse)
    tier.drop(A)
    assert (tier.read(A, 0), tier.statistics().errors) == (None, 1)


def test_a_file_that_cannot_be_looked_at_does_not_keep_the_database_closed() -> None:
    files = _FailingFiles()
    files.make_directory("cache")
    tier_on(files).write(A, 0, b"zero")
    files.broken = True
    tier = tier_on(files)
    assert tier.read(A, 0) is None
    assert tier.statistics().errors >= 1


def test_after_close_it_neither_answers_nor_keeps(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    tier.close()
    tier.close()
    assert tier.read(A, 0) is None
    tier.write(A, 1, b"late")
    assert tier_on(files).read(A, 0) == b"zero", "a late reader harms nothing"


def test_a_file_that_somebody_cuts_off_while_it_is_walked(files: CrashableFileSystem) -> None:
    tier = tier_on(files)
    tier.write(A, 0, b"zero")
    tier.write(A, 1, b"one")
    tier.close()
    file = files.open(path_of(A))
    size = file.size()

    def size_before_the_cut() -> int:
        file.truncate(HEADER + 4 + 5)
        return size

    file.size = size_before_the_cut  # type: ignore[method-assign]
    parts = PartsFile(file)
    parts.walk(A)
    assert list(parts.offsets) == [0]
    assert parts.size == HEADER + 4


def test_readers_and_writers_beside_each_other(tmp_path: Path) -> None:
    """Files are closed, removed and made anew all the while; on a real disk, where the number
    of a closed file is soon that of another."""
    tier = DiskTier(OsFileSystem(), str(tmp_path), 3000)

    def use(worker: int) -> None:
        choose = random.Random(worker)
        for _ in range(600):
            table, part = id_of(choose.randrange(1, 8)), choose.randrange(-1, 4)
            expected = f"{table} {part} ".encode() * 8
            action = choose.random()
            if action < 0.4:
                tier.write(table, part, expected)
            elif action < 0.43:
                tier.drop(table)
            else:
                assert tier.read(table, part) in (None, expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    statistics = tier.statistics()
    assert statistics.errors <= statistics.misses
    assert statistics.hits > 0
    assert statistics.bytes == sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000
    tier.close()


def test_a_late_write_leaves_nothing_behind_a_close(files: CrashableFileSystem) -> None:
    """Of a read that was under way: the directory may be another tier's by then."""
    tier = tier_on(files)
    tier.write(A, 0, b"before")
    tier.close()
    tier.write(B, 0, b"after")
    tier.write(A, 1, b"after")
    assert files.list("cache") == [f"{A}.parts"]
    assert (tier.read(B, 0), tier.statistics().errors) == (None, 0)
    assert tier_on(files).read(A, 0) == b"before"


def test_files_that_cannot_be_closed_cost_hits_only(
    files: CrashableFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network's file system, which may tell only then that there is no more room."""

    def close(_: object) -> None:
        raise DiskError("no more room")

    monkeypatch.setattr(_MemoryFile, "close", close)
    tier = tier_on(files, 1000)
    for table in (A, B, C):
        tier.write(table, 0, bytes(400))
    assert (tier.read(A, 0), tier.read(C, 0)) == (None, bytes(400))
    assert tier.statistics().bytes == on_disk(files) <= 1000
    tier.reject(B)
    assert tier.statistics().bytes == on_disk(files) == 400 + HEADER
    tier.close()
    assert tier.statistics().errors == 3
