"""A clone shows what its source did, borrows it, and then goes its own way."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from seerdb import AlreadyExistsError, HistoryError, InvalidRequestError, NotFoundError
from tests.fixtures.clones import Site, content
from tests.fixtures.database import collect_garbage, fill


@pytest.fixture
def site() -> Site:
    return Site(seed=1, blob_threshold=150)


def test_a_clone_shows_what_its_source_does_and_copies_nothing(site: Site) -> None:
    with site.opened("a") as db:
        rows = fill(db, 60)
        db.flush()
        report = site.elsewhere().clone("a", "b")
    assert report.copied_objects == report.commits == 0
    assert report.borrowed_objects > 1
    assert not site.names("b", "tables/") | site.names("b", "blobs/")
    assert site.borrowers("a") == ["b"]
    assert content(site, "b") == rows


def test_what_is_written_afterwards_stays_where_it_was_written(site: Site) -> None:
    with site.opened("a") as source:
        rows = fill(source, 40)
        source.flush()
        site.elsewhere().clone("a", "b")
        with site.elsewhere().opened("b") as clone:
            clone.put(b"k0001", b"of the clone")
            clone.delete(b"k0002")
            clone.compact()
        source.put(b"k0003", b"of the source")
        source.compact()
        assert dict(source.scan()) == rows | {b"k0003": b"of the source"}
    changed = {key: value for key, value in rows.items() if key != b"k0002"}
    assert content(site, "b") == changed | {b"k0001": b"of the clone"}


def test_a_clone_has_the_log_that_was_shipped_and_is_in_no_table_yet(site: Site) -> None:
    with site.opened("a", memtable_capacity=1 << 20) as db:
        rows = fill(db, 20)
        db.flush()
        for number in range(20):
            db.put(b"logged%d" % number, b"x", durability="object")
            rows[b"logged%d" % number] = b"x"
        seq = db.visible_seq
        report = site.elsewhere().clone("a", "b")
    assert (report.seq, report.commits) == (seq, 20)
    assert content(site, "b") == rows


@pytest.mark.parametrize("seq", [True, 1.0, "1"])
def test_a_seq_that_no_manifest_could_hold_is_refused(site: Site, seq: Any) -> None:
    """A clone of seq 1.0 was a success, and nothing could open it."""
    with site.opened("a") as db:
        db.put(b"a", b"1")
    with pytest.raises(InvalidRequestError, match="must be a whole number"):
        site.elsewhere().clone("a", "b", seq=seq)


class Kept(str, Enum):  # noqa: UP042 - one whose text differs from its value
    AUDIT = "audit"


def test_a_checkpoint_may_be_named_by_a_member_of_an_enumeration(site: Site) -> None:
    with site.opened("a") as db:
        rows = fill(db, 30)
        db.checkpoint(Kept.AUDIT)
        db.delete(b"k0001")
        site.elsewhere().clone("a", "b", checkpoint=Kept.AUDIT)
    assert content(site, "b") == rows


def test_a_clone_of_a_checkpoint_shows_that(site: Site) -> None:
    with site.opened("a") as db:
        rows = fill(db, 30)
        db.checkpoint("then")
        fill(db, 60, start=15)
        db.delete_range(b"k0000", b"k0010")
        db.compact()
        collect_garbage(site, db)
        report = site.elsewhere().clone("a", "b", checkpoint="then")
        assert report.copied_objects == 0
        db.drop_checkpoint("then")
        collect_garbage(site, db)
        collect_garbage(site, db)
    assert content(site, "b") == rows
    with pytest.raises(NotFoundError, match="no checkpoint 'other'"):
        site.clone("a", "c", checkpoint="other")


def test_every_seq_of_the_past_can_be_cloned_and_survives_the_source(site: Site) -> None:
    states = {}
    with site.opened("a", history_retention=3600.0, ship_interval=0.001) as db:
        for number in range(24):
            db.put(b"k%d" % (number % 7), b"%d" % number * 80, durability="object")
            states[db.visible_seq] = dict(db.scan())
            if number % 5 == 4:
                db.flush()
            if number % 10 == 9:
                db.compact()
        for seq in states:
            report = site.elsewhere().clone("a", f"c{seq}", seq=seq)
            assert report.seq == seq
        for _ in range(3):
            fill(db, 20)
            db.compact()
            site.clock.advance(4000)
            collect_garbage(site, db)
    for seq, rows in states.items():
        assert content(site, f"c{seq}") == rows


def test_a_clone_of_a_time_shows_what_was_committed_by_then(site: Site) -> None:
    with site.opened("a", history_retention=3600.0) as db:
        rows = {}
        for number in range(5):
            rows[b"k%d" % number] = b"v"
            db.put(b"k%d" % number, b"v", durability="object")
            if number == 2:
                wanted, time_us = dict(rows), int(site.clock.now() * 1e6)
            site.clock.advance(10)
        site.clone("a", "b", time_us=time_us)
    assert content(site, "b") == wanted
    with pytest.raises(HistoryError):
        site.clone("a", "c", seq=99)


def test_what_left_the_source_before_it_was_held_is_copied(site: Site) -> None:
    with site.opened("a", history_retention=3600.0) as db:
        rows = fill(db, 30)
        db.flush()
        seq = db.visible_seq
        fill(db, 30, start=30)
        db.compact()
        report = site.elsewhere().clone("a", "b", seq=seq)
        assert report.copied_objects > 0
        assert site.names("b", "tables/") | site.names("b", "blobs/")
        site.clock.advance(4000)
        db.put(b"later", b"x")
        db.flush()
        collect_garbage(site, db)
    assert content(site, "b") == rows


def test_a_clone_is_made_where_nothing_is(site: Site) -> None:
    with site.opened("a") as db:
        fill(db, 10)
    site.at("b").put("something", b"else")
    with pytest.raises(AlreadyExistsError, match="something"):
        site.clone("a", "b")
    assert not site.names("a", "holds/")
    site.clone("a", "c")
    with pytest.raises(AlreadyExistsError):
        site.clone("a", "c")
    with pytest.raises(NotFoundError, match="no database in nowhere"):
        site.clone("nowhere", "d")


def test_a_clone_of_an_empty_database_borrows_nothing(site: Site) -> None:
    site.opened("a").close()
    assert site.clone("a", "b").borrowed_objects == 0
    assert content(site, "b") == {}
    assert not site.names("a", "holds/")
