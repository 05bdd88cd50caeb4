"""External sorting: bounded runs, merged in bounded groups, the last of equal keys."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import ChecksumError, InvalidRequestError
from seerdb.storage.ingest import dump, sorting
from seerdb.storage.ingest.sorting import (
    MergeJob,
    ScratchDirectory,
    SortedRun,
    merge_groups,
    merged,
    run_merge,
    sort,
)
from seerdb.storage.workers.pace import at_full_speed
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore

Rows = list[tuple[bytes, bytes]]


def allow() -> None:
    """Let every run be written."""


def read(files: CrashableFileSystem, runs: list[SortedRun]) -> Rows:
    return [
        (key, value or b"")  # type: ignore[misc]
        for chunk in merged(files, runs, at_full_speed)
        for key, value in zip(chunk.keys, chunk.values, strict=True)
    ]


@given(
    rows=st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.binary(max_size=9))),
    memory=st.sampled_from([1, 1000, 1 << 20]),
    chunk=st.sampled_from([1, 20, 1 << 16]),
)
def test_pairs_come_out_sorted_and_of_equal_keys_the_last(
    rows: Rows, memory: int, chunk: int
) -> None:
    files = CrashableFileSystem()
    with (
        pytest.MonkeyPatch.context() as patch,
        ScratchDirectory(files, "scratch").scratch() as scratch,
    ):
        patch.setattr(sorting, "SORT_MEMORY", memory)
        patch.setattr(dump, "CHUNK_BYTES", chunk)
        runs = sort(rows, scratch, allow)
        assert read(files, runs) == sorted(dict(rows).items())
        if len(runs) > 1:
            middle = len(runs) // 2
            job = MergeJob(tuple(runs[:middle]), scratch.new_path())
            older = run_merge(job, files, MemoryObjectStore(), at_full_speed)
            assert older.entries == len(read(files, runs[:middle]))
            assert read(files, [older, *runs[middle:]]) == sorted(dict(rows).items())
    assert files.list("scratch") == []


def test_runs_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "SORT_MEMORY", 100 * (108 + sorting.PAIR_OVERHEAD))
    draw = random.Random(1)
    with ScratchDirectory(CrashableFileSystem(), "scratch").scratch() as scratch:
        rows = [(draw.randbytes(8), draw.randbytes(100)) for _ in range(1000)]
        runs = sort(rows, scratch, allow)
    assert {run.entries for run in runs[:-1]} == {101}
    assert sum(run.entries for run in runs) == 1000


def runs_of(*largest: int) -> list[SortedRun]:
    return [SortedRun(str(number), 1, 1, size) for number, size in enumerate(largest)]


@pytest.mark.parametrize(
    ("largest", "groups"),
    [
        ([], []),
        ([10], [1]),
        ([10, 10, 10], [3]),
        ([40, 40, 40, 10], [2, 2]),
        ([1000, 1000, 1000], [2, 1]),
        ([10] * 25, [10, 10, 5]),
    ],
)
def test_merges_are_as_wide_as_memory_allows_and_neighbours_stay_neighbours(
    monkeypatch: pytest.MonkeyPatch, largest: list[int], groups: list[int]
) -> None:
    monkeypatch.setattr(sorting, "MERGE_MEMORY", 100)
    runs = runs_of(*largest)
    found = merge_groups(runs)
    assert [len(group) for group in found] == groups
    assert [run for group in found for run in group] == runs


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((b"", b""), "1 to 65,535 bytes"),
        ((b"k" * 65_536, b""), "1 to 65,535 bytes"),
        (("k", b""), "a key must be bytes"),
        ((b"k", None), "a value must be bytes"),
        ((b"k", bytearray(b"v")), "a value must be bytes"),
    ],
)
def test_what_is_no_pair_is_named(pair: tuple[bytes, bytes], message: str) -> None:
    files = CrashableFileSystem()
    with (
        ScratchDirectory(files, "scratch").scratch() as scratch,
        pytest.raises(InvalidRequestError, match=f"pair 3 cannot be ingested: .*{message}"),
    ):
        sort([(b"a", b""), (b"b", b""), pair], scratch, allow)
    assert files.list("scratch") == []


def test_a_refusal_to_write_ends_the_sort() -> None:
    files = CrashableFileSystem()

    def refuse() -> None:
        raise InvalidRequestError("no room")

    with (
        ScratchDirectory(files, "scratch").scratch() as scratch,
        pytest.raises(InvalidRequestError, match="no room"),
    ):
        sort([(b"a", b"")], scratch, refuse)


def test_leftovers_are_removed_and_what_is_not_ours_stays() -> None:
    files = CrashableFileSystem()
    files.make_directory("scratch")
    for name in ("000001-000001.run", "notes.txt"):
        files.open(f"scratch/{name}", create=True)
    directory = ScratchDirectory(files, "scratch")
    assert files.list("scratch") == ["notes.txt"]
    with directory.scratch() as one, directory.scratch() as other:
        assert one.new_path() != other.new_path()


def test_a_damaged_run_is_found() -> None:
    files = CrashableFileSystem()
    with ScratchDirectory(files, "scratch").scratch() as scratch:
        [run] = sort([(b"a", b"1"), (b"b", b"2")], scratch, allow)
        files.open(run.path).write_at(run.size - 1, b"?")
        with pytest.raises(ChecksumError, match=f"{run.path} at byte 16"):
            read(files, [run])
