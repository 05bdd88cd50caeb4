"""Levels and the estimate of what is live, on versions made by hand."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from seerdb.ids import TableId, blob_id
from seerdb.storage.manifest.version import BlobRef, TableMeta, Version
from seerdb.storage.status.tree import (
    BlobStatistics,
    LevelStatistics,
    blobs,
    levels,
    live_bytes,
    ratio,
)


def table(  # a table of 100 entries and 1,000 bytes
    number: int, keys: str, *, level: int = 0, run: int = 1, deletes: int = 0, entries: int = 100
) -> TableMeta:
    return TableMeta(
        id=TableId(f"{number:08d}-000000000000"),
        level=level,
        run=run,
        size=1000,
        checksum=0,
        entries=entries,
        deletes=deletes,
        range_deletes=number,
        smallest=keys[0].encode(),
        largest=keys[1].encode(),
        min_seq=1,
        max_seq=1,
        tail_offset=900,
    )


def test_levels_count_what_their_runs_hold() -> None:
    version = Version.of(
        [
            table(1, "az", run=3, deletes=5),
            table(2, "az", run=4),
            table(3, "am", level=2, run=1),
            table(4, "nz", level=2, run=1, deletes=7),
        ]
    )
    assert levels(version) == [
        LevelStatistics(0, 2, 2, 2000, 200, 5, 3),
        LevelStatistics(2, 1, 2, 2000, 200, 7, 7),
    ]
    assert levels(Version()) == []


OLD = [table(1, "af", level=1), table(2, "hm", level=1)]


@pytest.mark.parametrize(
    ("newer", "live"),
    [
        ([], 2000),
        ([table(3, "bc", run=2)], 2000),
        ([table(3, "fh", run=2)], 2000),
        ([table(3, "gh", run=2)], 2000),
        ([table(3, "gg", run=2)], 3000),
        ([table(3, "nz", run=2)], 3000),
        ([table(3, "nz", run=2), table(4, "pq", run=3)], 3000),
        ([table(3, "mz", run=2), table(4, "pq", run=3)], 3000),
        ([table(3, "nz", run=2, deletes=25)], 2750),
        ([table(3, "nz", run=2, entries=0)], 2000),
    ],
    ids=[
        "one run",
        "inside another's range",
        "over two",
        "up to the first key of another",
        "in a gap",
        "beside all",
        "on top of a new one",
        "on top of one that does not count",
        "tombstones",
        "range tombstones alone",
    ],
)
def test_what_overlaps_older_tables_is_taken_for_overwrites(
    newer: list[TableMeta], live: int
) -> None:
    assert live_bytes(Version.of(OLD + newer)) == live


class Counted(bytes):
    """A key that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: bytes) -> bool:
        Counted.comparisons += 1
        return bytes.__lt__(self, other)

    def __le__(self, other: bytes) -> bool:
        Counted.comparisons += 1
        return bytes.__le__(self, other)


def test_many_runs_side_by_side_are_not_each_compared_with_all_others() -> None:
    """The numbers of a database with 10,000 runs took 40 seconds."""
    keys = [Counted(b"%04d" % (number * 577 % 1000)) for number in range(1000)]
    tables = [
        replace(table(number, "aa", run=number), smallest=key, largest=key)
        for number, key in enumerate(keys, 1)
    ]
    version = Version.of(tables)
    Counted.comparisons = 0
    assert live_bytes(version) == 1000 * 1000
    assert 1000 < Counted.comparisons < 1000 * 40


def test_values_in_blobs_live_with_the_tables_that_point_at_them() -> None:
    blob = blob_id(OLD[0].id, 0)
    refs = [
        BlobRef(id=blob, size=900, checksum=1, total=800, values=values, bytes=size)
        for values, size in ((3, 300), (2, 200))
    ]
    low = replace(OLD[0], blobs=(refs[0],), pointers=3)
    high = replace(OLD[1], blobs=(refs[1],), pointers=2)
    version = Version.of([low, high])
    assert blobs(version) == BlobStatistics(blobs=1, values=5, bytes=900, live_bytes=500)
    assert live_bytes(version) == 2000 + 500
    over = replace(table(3, "ac", run=2), blobs=(refs[1],), pointers=2)
    assert live_bytes(Version.of([low, over])) == 1000 + 300, "taken for overwrites"


def test_nothing_is_divided_by_nothing() -> None:
    assert (ratio(3, 2), ratio(0, 2), ratio(3, 0)) == (1.5, 0, 0)
