"""A merge that somebody waits for, divided among those that may do a part of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from seerdb.ids import TableId
from seerdb.storage.compaction.divide import divide
from seerdb.storage.compaction.plan import SPLIT_TABLES, Plan, check_plan, make_plan
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.sstable.reader import TableReader
from tests.unit.storage.compaction.toy import table
from tests.unit.storage.sstable.samples import OpenTable, build, meta_of, puts

ENTRIES = 4000


def no_reader(_: TableId) -> None:
    """No index is in memory."""


def runs_of_one_table(count: int, size: int) -> Version:
    keys = b"key0000", b"key%04d" % (ENTRIES - 1)
    return Version.of([table(n, size, run=n, keys=keys) for n in range(1, count + 1)])


def one_run(tables: int, size: int) -> Version:
    def named(n: int) -> TableMeta:
        return table(n, size, level=7, run=1, keys=(b"%03d" % n, b"%03d+" % n))

    return Version.of([table(999, keys=(b"000", b"999")), *map(named, range(1, tables + 1))])


def merge_of(version: Version, table_size: int) -> Plan:
    plan = make_plan(version, version.runs, (7, -version.runs[-1].number), table_size)
    assert plan is not None
    return plan


@pytest.mark.parametrize("index", ["bisect", "learned"])
@pytest.mark.parametrize("among", [2, 3, 4])
def test_parts_of_one_size_begin_within_tables(index: str, among: int) -> None:
    built = build(puts(ENTRIES, value_size=20), block_size=512, index=index)
    reader = TableReader(meta_of(built), built.tail)
    version = runs_of_one_table(4, len(built.data))
    plan = merge_of(version, len(built.data))
    assert plan.parts == [(None, None)]
    divided = divide(plan, among, lambda _: reader)
    check_plan(version, divided)
    assert replace(divided, splits=()) == plan
    borders = [0, *(int(split[3:].ljust(4, b"0")) for split in divided.splits), ENTRIES]
    shares = [(end - start) / ENTRIES for start, end in pairwise(borders)]
    assert len(shares) == among
    assert shares == pytest.approx([1 / among] * among, abs=0.05)


def test_where_no_index_is_in_memory_parts_begin_with_tables() -> None:
    plan = merge_of(one_run(6, 100), 100)
    assert divide(plan, 2, no_reader).splits == (b"004",)
    assert divide(plan, 3, no_reader).splits == (b"003", b"005")
    alone = merge_of(runs_of_one_table(4, 100), 100)
    assert divide(alone, 2, no_reader) == alone


def test_no_part_is_smaller_than_a_table() -> None:
    plan = merge_of(one_run(3, 100), 100)
    assert plan.size // 100 == 4, "with the fresh one"
    assert len(divide(plan, 2, no_reader).parts) == 2
    assert len(divide(plan, 8, no_reader).parts) == 3, "of four one would begin in a table"
    small = merge_of(one_run(3, 100), 500)
    assert divide(small, 2, no_reader) == small


def test_a_large_merge_has_as_many_parts_as_are_done_in_full_turns() -> None:
    plan = merge_of(one_run(5 * SPLIT_TABLES, 100), 100)
    assert len(plan.parts) == 5
    assert divide(plan, 1, no_reader) == plan
    assert [len(divide(plan, n, no_reader).parts) for n in (2, 3, 4, 5)] == [6, 6, 8, 5]
    assert divide(plan, 2, no_reader).splits == (b"008", b"015", b"021", b"028", b"035")


def test_what_is_moved_is_not_divided() -> None:
    version = Version.of([table(n, 100, run=n, keys=(b"%d" % n, b"%d+" % n)) for n in range(1, 5)])
    plan = merge_of(version, 100)
    assert plan.move
    assert divide(plan, 2, no_reader) == plan


def test_a_table_of_tombstones_alone_has_no_place_to_begin_within() -> None:
    built = OpenTable(build(puts(1))).reader
    plan = merge_of(one_run(4, 100), 100)
    assert divide(plan, 2, lambda _: built).splits == (b"003",)
