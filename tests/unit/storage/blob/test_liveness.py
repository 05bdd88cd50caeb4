"""Which blobs are to be rewritten, and which table is worth it. On versions made by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from seerdb.errors import InternalError
from seerdb.ids import MAX_SEQ, BlobId, Epoch, blob_id, table_id
from seerdb.storage.blob.liveness import find_dying, most_wasteful, mostly_dead
from seerdb.storage.compaction.plan import check_plan, make_plan, position
from seerdb.storage.compaction.policy.full import merge_all
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.compaction.policy.reclaim import reclaim
from seerdb.storage.manifest.version import BlobRef, TableMeta, Version, check_version
from tests.unit.storage.manifest.samples import table

TOTAL = 100_000
OPTIONS = PolicyOptions(table_size=1 << 20)


def blob(number: int) -> BlobId:
    return blob_id(table_id(Epoch(1), 1), number)


def pointing(number: int, live: Mapping[int, int], *, keys: str = "az", run: int = 1) -> TableMeta:
    """A table that needs so many bytes of blobs, by their number."""
    refs = tuple(
        BlobRef(id=blob(each), size=TOTAL + 50, checksum=each, total=TOTAL, values=1, bytes=size)
        for each, size in live.items()
    )
    smallest, largest = (key.encode() for key in keys)
    meta = table(number, level=7, run=run, keys=(smallest, largest))
    return replace(meta, blobs=refs, pointers=len(refs), deletes=0)


def test_a_blob_is_mostly_dead_when_less_than_half_of_it_is_live() -> None:
    version = Version.of([pointing(1, {1: TOTAL // 2, 2: TOTAL // 2 - 1, 3: TOTAL})])
    assert mostly_dead(version).keys() == {blob(2)}


def test_all_tables_together_tell_how_much_of_a_blob_is_live() -> None:
    low, high = pointing(1, {1: TOTAL // 4}, keys="am"), pointing(2, {1: TOTAL // 4}, keys="nz")
    assert mostly_dead(Version.of([low])) == {blob(1): 3.0}
    both = Version.of([low, high])
    assert mostly_dead(both) == {}
    [use] = both.blobs
    assert (use.live_values, use.live_bytes, use.total) == (2, TOTAL // 2, TOTAL)


def test_a_merge_rewrites_of_the_mostly_dead_blobs_those_that_it_reads() -> None:
    low, high = pointing(1, {1: 10, 2: TOTAL}, keys="am"), pointing(2, {3: 10}, keys="nz")
    version = Version.of([low, high])
    assert find_dying(version, [low]) == {blob(1)}
    assert find_dying(version, [low, high]) == {blob(1), blob(3)}


def test_the_table_that_wastes_the_most_is_rewritten_where_it_is() -> None:
    tables = [
        pointing(1, {1: 30_000}, keys="ag"),
        pointing(2, {2: 20_000}, keys="hm"),
        pointing(3, {3: 90_000}, keys="nz"),
    ]
    version = Version.of(tables)
    wasteful = most_wasteful(version)
    assert wasteful is not None
    assert wasteful.tables == (tables[1],)
    plan = reclaim(version, OPTIONS)
    assert plan is not None
    assert (plan.tables, plan.position, plan.move) == ([tables[1]], position(wasteful), False)
    assert plan.dying == {blob(2)}
    check_plan(version, plan)
    assert reclaim(version, OPTIONS, [plan]) is None, "it is running"


def test_what_a_table_wastes_is_its_share_of_what_is_dead() -> None:
    halves = [pointing(n, {1: 200}, keys=keys) for n, keys in ((1, "am"), (2, "nz"))]
    version = Version.of(halves)
    assert most_wasteful(version) is not None
    larger = [replace(each, size=(TOTAL - 400) // 2) for each in halves]
    assert most_wasteful(Version.of(larger)) is None, "rewriting both costs what it sets free"


def test_without_blobs_or_with_live_ones_there_is_nothing_to_do() -> None:
    for tables in ([], [table(1)], [pointing(1, {1: TOTAL})]):
        assert most_wasteful(Version.of(tables)) is None
        assert reclaim(Version.of(tables), OPTIONS) is None


def test_a_run_is_merged_on_request_only_if_it_wastes() -> None:
    live, dying = Version.of([pointing(1, {1: TOTAL})]), Version.of([pointing(1, {1: 10})])
    assert merge_all(live, MAX_SEQ, 0, OPTIONS) is None
    plan = merge_all(dying, MAX_SEQ, 0, OPTIONS)
    assert plan is not None
    assert not plan.move
    assert plan.dying == {blob(1)}


def test_a_move_leaves_values_where_they_are() -> None:
    low, high = pointing(1, {1: 10}, keys="am", run=1), pointing(2, {2: 10}, keys="nz", run=2)
    version = Version.of([low, high])
    plan = make_plan(version, version.runs, (7, -2), 1000)
    assert plan is not None
    assert (plan.move, plan.dying) == (True, frozenset())


def test_versions_in_which_tables_and_blobs_do_not_fit_are_refused() -> None:
    sound = pointing(1, {1: 60_000}, keys="am")
    other = pointing(2, {1: 50_000}, keys="nz")
    with pytest.raises(InternalError, match="110000 bytes of blob"):
        check_version(Version.of([sound, other]))
    [ref] = other.blobs
    for wrong in (replace(ref, size=1), replace(ref, total=1 << 20), replace(ref, checksum=9)):
        with pytest.raises(InternalError, match="disagree"):
            check_version(Version.of([sound, replace(other, blobs=(wrong,))]))
    with pytest.raises(InternalError, match="where all its pointers lead"):
        check_version(Version.of([replace(sound, pointers=2)]))
