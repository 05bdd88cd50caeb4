"""Garbage collection beside clones: neither side loses what it needs, and in the end nothing is
kept that nobody needs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from seerdb import DB, CorruptionError
from seerdb.storage.object_store.names import hold_name
from seerdb.storage.retention.checkpoints import HOLD_SECONDS
from tests.fixtures.clones import Site, content
from tests.fixtures.database import collect_garbage, fill


@pytest.fixture
def site() -> Site:
    return Site(seed=2)


def named(db: DB) -> set[str]:
    return {name for table in db._engine.manifest.state.version.tables for name in table.objects}


def test_what_a_clone_borrows_stays_when_its_source_has_replaced_all(site: Site) -> None:
    """PB-12."""
    with site.opened("a") as source:
        rows = fill(source, 40)
        source.flush()
        borrowed = named(source)
        site.elsewhere().clone("a", "b")
        fill(source, 80)
        source.compact()
        for _ in range(3):
            site.clock.advance(HOLD_SECONDS)
            fill(source, 5)
            collect_garbage(site, source)
        assert borrowed <= site.names("a")
        assert not borrowed & named(source)
    assert content(site, "b") == rows


def test_merges_replace_what_is_borrowed_and_then_the_source_may_delete_it(site: Site) -> None:
    other = site.elsewhere()
    with site.opened("a") as source:
        rows = fill(source, 40)
        source.flush()
        borrowed = named(source)
        other.clone("a", "b")
        rows |= fill(source, 40, start=40)
        source.compact()
        with other.opened("b") as clone:
            mine = dict(clone.scan()) | fill(clone, 10, start=90)
            clone.compact()
            assert not borrowed & named(clone)
            assert site.borrowers("a") == ["b"], "a reader may be in the middle of the old ones"
            collect_garbage(other, clone)
            collect_garbage(site, source)
            assert site.borrowers("a") == []
            assert site.names("a", "tables/") == named(source)
            assert dict(clone.scan()) == mine
    assert content(site, "a") == rows
    assert content(site, "b") == mine


def test_a_clone_gives_nothing_back_that_its_own_checkpoints_need(site: Site) -> None:
    other = site.elsewhere()
    with site.opened("a") as source:
        rows = fill(source, 40)
        source.compact()
    other.clone("a", "b")
    with other.opened("b") as clone:
        clone.checkpoint("begun")
        fill(clone, 10, start=5)
        clone.compact()
        collect_garbage(other, clone)
        assert site.borrowers("a") == ["b"]
        other.clone("b", "c", checkpoint="begun")
        clone.drop_checkpoint("begun")
        collect_garbage(other, clone)
        assert site.borrowers("a") == ["c"]
    with site.opened("a") as source:
        source.delete_range(b"a", b"z")
        source.compact()
        collect_garbage(site, source)
    assert content(site, "c") == rows


def test_a_clone_gives_nothing_back_that_its_own_history_needs(site: Site) -> None:
    other = Site(seed=9, bucket=site.bucket, clock=site.clock, history_retention=3600.0)
    with site.opened("a") as source:
        fill(source, 30)
    other.clone("a", "b")
    with other.opened("b") as clone:
        fill(clone, 30)
        clone.compact()
        collect_garbage(other, clone)
        assert site.borrowers("a") == ["b"]
        site.clock.advance(4000)
        clone.put(b"later", b"x")
        clone.flush()
        collect_garbage(other, clone)
        assert site.borrowers("a") == []


def test_a_snapshot_of_a_clone_keeps_what_it_borrows(site: Site) -> None:
    other = site.elsewhere()
    with site.opened("a") as source:
        rows = fill(source, 30)
        source.flush()
        other.clone("a", "b")
        with other.opened("b", block_cache_capacity=0) as clone:
            with clone.snapshot() as snapshot:
                fill(clone, 30, start=20)
                clone.compact()
                collect_garbage(other, clone)
                collect_garbage(site, source)
                assert dict(snapshot.scan()) == rows
            collect_garbage(other, clone)
            assert site.borrowers("a") == []


def test_a_collector_does_without_a_lender_and_gives_back_later(site: Site) -> None:
    other = site.elsewhere()
    with site.opened("a") as source:
        fill(source, 30)
    other.clone("a", "b")
    with other.opened("b") as clone:
        fill(clone, 30)
        clone.compact()
        fill(clone, 30)
        clone.compact()
        before = site.names("b", "tables/")
        other.store.fail("delete", match="a/", times=100)
        collect_garbage(other, clone)
        assert site.names("b", "tables/") < before
        assert site.borrowers("a") == ["b"]
        other.store._faults.clear()
        collect_garbage(other, clone)
        assert site.borrowers("a") == []


def test_source_and_clones_live_long_side_by_side_and_nobody_loses_anything() -> None:
    """At random: writes, merges, collections, clones of clones, and deaths in between."""
    for seed in range(4):
        rng = random.Random(seed)
        site = Site(seed=seed, blob_threshold=150 if seed % 2 else 1 << 20)
        sites, rows = {"a": site}, {"a": dict[bytes, bytes]()}
        opened = {"a": site.opened("a")}
        for step in range(60):
            place = rng.choice(list(opened))
            db, here = opened[place], sites[place]
            match rng.randrange(6):
                case 0 | 1:
                    rows[place] |= fill(db, 12, start=rng.randrange(60))
                case 2:
                    db.compact()
                case 3:
                    collect_garbage(here, db)
                case 4 if len(opened) < 5:
                    db.flush()
                    to = f"clone{step}"
                    sites[to] = site.elsewhere()
                    sites[to].clone(place, to)
                    rows[to] = dict(rows[place])
                    opened[to] = sites[to].opened(to)
                case _:
                    sites[place] = here.after_death()
                    opened[place] = sites[place].opened(place)
            for each, found in opened.items():
                assert dict(found.scan()) == rows[each], (seed, step, each)
        for place, db in opened.items():
            db.close()
            assert content(site, place) == rows[place], (seed, place)


def test_a_clone_whose_hold_is_gone_is_refused_by_everyone(site: Site) -> None:
    with site.opened("a") as source:
        fill(source, 30)
    report = site.clone("a", "b")
    site.at("a").delete([hold_name(report.database_id)])
    with pytest.raises(CorruptionError, match=r"a, from which it borrows tables, does not keep"):
        site.elsewhere().opened("b")


def test_nothing_comes_back_that_was_given_back(site: Site) -> None:
    """Restores in place among it: the source may be about to delete it."""
    other = Site(seed=9, bucket=site.bucket, clock=site.clock, history_retention=3600.0)
    with site.opened("a") as source:
        rows = fill(source, 30)
        source.compact()
        other.clone("a", "b")
        with other.opened("b") as clone:
            seq = clone.visible_seq
            fill(clone, 30, start=10)
            clone.compact()
            clone.restore_in_place(seq)
            assert dict(clone.scan()) == rows
            collect_garbage(other, clone)
            assert site.borrowers("a") == ["b"]
            assert dict(clone.scan()) == rows


@pytest.mark.parametrize("settings", [{}, {"blob_threshold": 150}])
def test_a_full_compaction_of_a_clone_lets_its_source_be_deleted(settings: dict[str, Any]) -> None:
    """Also where nothing was written to the clone, and nothing is to be merged."""
    site = Site(**settings)
    other = site.elsewhere()
    with site.opened("a") as source:
        rows = fill(source, 60)
        source.compact()
        assert len(source._engine.manifest.state.version.runs) == 1
    other.clone("a", "b")
    with other.opened("b") as clone:
        report = clone.compact()
        assert (len(report.removed), len(report.added)) == (1, 1)
        assert named(clone) <= other.names("b")
        collect_garbage(other, clone)
        assert site.borrowers("a") == []
        again = clone.compact()
        assert (again.removed, again.added) == ([], []), "once is enough"
        assert dict(clone.scan()) == rows
    site.at("a").delete(site.names("a"))
    assert content(site, "b") == rows
    other.clone("b", "c")
    assert content(site, "c") == rows


def test_a_clone_collects_its_own_garbage_while_it_borrows(site: Site) -> None:
    """What it borrows lies elsewhere, and is not missing for that."""
    with site.opened("a") as source:
        fill(source, 60)
        source.compact()
        borrowed = named(source)
    other = site.elsewhere()
    other.clone("a", "b")
    with other.opened("b") as clone:
        for _ in range(2):
            fill(clone, 2, start=90)
            clone.flush()
        replaced = named(clone) - borrowed
        clone.compact(b"k0090")
        assert borrowed < named(clone)
        assert replaced
        assert not replaced & named(clone)
        collect_garbage(other, clone)
        assert not replaced & other.names("b")


def test_a_compaction_of_a_range_of_a_clone_copies_nothing(site: Site) -> None:
    other = site.elsewhere()
    with site.opened("a") as source:
        fill(source, 60)
        source.compact()
    other.clone("a", "b")
    with other.opened("b") as clone:
        report = clone.compact(b"a", b"z")
        assert (report.removed, report.added) == ([], [])
