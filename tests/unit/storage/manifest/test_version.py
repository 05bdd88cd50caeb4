"""The invariants of a version, one by one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from seerdb.errors import InternalError
from seerdb.storage.manifest.version import Version, check_version
from tests.unit.storage.manifest.samples import table


def test_runs_are_grouped_and_newest_first() -> None:
    version = Version.of(
        [
            table(1, level=1, run=0, keys=(b"m", b"z")),
            table(2, level=0),
            table(3, level=0),
            table(4, level=1, run=0, keys=(b"a", b"l")),
        ]
    )
    assert [(run.level, run.number) for run in version.runs] == [(0, 3), (0, 2), (1, 0)]
    assert [each.smallest for each in version.runs[2].tables] == [b"a", b"m"]
    assert version.runs[2].size == 1001 + 1004
    check_version(version)


def test_an_edit_replaces_tables_in_one_step() -> None:
    old = Version.of([table(1), table(2)])
    new = old.changed(add=[table(3, level=1)], remove=[table(1).id, table(2).id])
    assert [each.id for each in new.tables] == [table(3).id]
    assert len(old.tables) == 2, "the old version must not change"


def test_a_table_moves_by_being_removed_and_added() -> None:
    moved = table(1, level=3)
    assert Version.of([table(1)]).changed(add=[moved], remove=[moved.id]).tables == [moved]


def test_removing_a_table_that_is_not_there_does_not_fit() -> None:
    with pytest.raises(InternalError, match="not there"):
        Version.of([table(1)]).changed(add=[], remove=[table(2).id])


def test_a_table_is_in_a_version_once() -> None:
    with pytest.raises(InternalError, match="twice"):
        Version.of([table(1)]).changed(add=[table(1, level=2)], remove=[])


def test_tables_of_a_run_do_not_overlap() -> None:
    left, right = (table(n, run=0, keys=keys) for n, keys in ((1, (b"a", b"m")), (2, (b"m", b"z"))))
    with pytest.raises(InternalError, match="overlap"):
        check_version(Version.of([left, right]))
    check_version(Version.of([left, replace(right, smallest=b"n")]))


def test_the_open_end_of_a_range_tombstone_may_touch_the_next_table() -> None:
    left = table(1, run=0, keys=(b"a", b"m"), range_deletes=1)
    check_version(Version.of([left, table(2, run=0, keys=(b"m", b"z"))]))
    with pytest.raises(InternalError, match="overlap"):
        check_version(Version.of([left, table(2, run=0, keys=(b"l", b"z"))]))


def test_a_table_does_not_end_before_it_starts() -> None:
    with pytest.raises(InternalError, match="ends before"):
        check_version(Version.of([table(1, keys=(b"b", b"a"))]))
    with pytest.raises(InternalError, match="ends before"):
        check_version(Version.of([replace(table(1), min_seq=5, max_seq=4)]))
