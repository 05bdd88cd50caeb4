"""What people do with any database, done with a clone: branches of it, backups, checks, repairs,
replicas; and what it says when those it borrows from are away."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from seerdb import (
    ConflictError,
    CorruptionError,
    FencedError,
    InvalidRequestError,
    NotFoundError,
    Replica,
    UnavailableError,
)
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.restore import Wanted, restore_archive
from seerdb.storage.backup.take import Source, Wish, take_backup
from seerdb.storage.clone import drop
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.lender import NO_LOANS
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import hold_name
from seerdb.storage.repair.finds import Means
from seerdb.storage.repair.rebuild import repair
from seerdb.storage.retention.checkpoints import held
from seerdb.storage.retention.kept import held_names, list_held_for_clones
from seerdb.storage.retention.loans import Holds
from seerdb.storage.verify import VerifyReport, verify_database
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.files import CrashableFileSystem
from tests.fixtures.backups import carrier
from tests.fixtures.clones import Site, content
from tests.fixtures.database import collect_garbage, fill
from tests.fixtures.follower import checks

RANDOM = random.Random(5).randbytes


@pytest.fixture
def site() -> Site:
    return Site(seed=3, blob_threshold=150)


def branch(site: Site) -> dict[bytes, bytes]:
    """``b``, a clone of ``a``, with tables of its own beside those that it borrows."""
    with site.opened("a") as source:
        rows = fill(source, 60)
        source.compact()
        site.elsewhere().clone("a", "b")
        fill(source, 20, start=500)
    with site.opened("b") as clone:
        rows |= {b"k0005": b"changed" * 40, b"new": b"row"}
        clone.put(b"k0005", rows[b"k0005"])
        clone.put(b"new", b"row")
    return rows


def test_a_clone_of_a_clone_borrows_from_both_and_needs_only_those(site: Site) -> None:
    rows = branch(site)
    report = site.clone("b", "c")
    assert report.lenders == ["a", "b"]
    assert sorted(site.borrowers("a")) == ["b", "c"]
    assert site.borrowers("b") == ["c"]
    assert content(site, "c") == rows
    other = site.elsewhere()
    with other.opened("b") as clone:
        clone.delete_range(b"a", b"z")
        clone.compact()
        for _ in range(2):
            collect_garbage(other, clone)
    assert site.borrowers("a") == ["c"]
    with site.opened("a") as source:
        source.delete_range(b"a", b"z")
        source.compact()
        for _ in range(2):
            collect_garbage(site, source)
    assert content(site, "c") == rows


def test_clones_of_copies_find_what_was_copied(site: Site) -> None:
    settings = {"history_retention": 3600.0}
    with site.opened("a", **settings) as source:
        rows = fill(source, 30)
        source.compact()
        rows |= fill(source, 5, start=100)
        source.flush()
        seq = source.visible_seq
        fill(source, 5, start=100)
        source.compact(b"k0100")
        made = site.clone("a", "b", seq=seq)
        assert made.copied_objects > 0
        assert made.borrowed_objects > 0
        site.clock.advance(4000)
        source.put(b"later", b"x")
        source.flush()
        collect_garbage(site, source)
    report = site.clone("b", "c")
    assert report.copied_objects == 0
    assert report.lenders == ["a", "b"]
    assert content(site, "c") == rows


def test_a_backup_of_a_clone_has_what_it_borrows(site: Site) -> None:
    rows = branch(site)
    store = site.stores("b").of(Purpose.BACKUP)
    repository, restored = site.at("repository"), site.at("restored")
    with held(store, clock=site.clock, random_bytes=RANDOM) as hold:
        source = Source(store, hold.state)
        take_backup(source, repository, Wish(), carrier(site.clock), RANDOM)
    for place in ("a", "b"):
        site.at(place).delete(site.names(place))
    archive = open_archive(repository)
    assert archive.bases[0].state.loans == NO_LOANS
    restore_archive(archive, restored, Wanted(), carrier(site.clock), RANDOM)
    assert content(site, "restored") == rows


def test_a_restore_from_the_bucket_of_a_clone_has_what_it_borrows(site: Site) -> None:
    rows = branch(site)
    archive = open_archive(site.stores("b").of(Purpose.BACKUP))
    restore_archive(archive, site.at("r"), Wanted(), carrier(site.clock), RANDOM)
    for place in ("a", "b"):
        site.at(place).delete(site.names(place))
    assert content(site, "r") == rows


def test_the_bucket_of_a_clone_is_verified_with_what_it_borrows(site: Site) -> None:
    branch(site)
    report = VerifyReport()
    verify_database(site.stores("b").of(Purpose.VERIFY), report)
    assert report.problems == []
    assert report.tables > len(site.names("b", "tables/"))
    names = held_names(site.at("a"), report_of(site, "b"))
    borrowed = min(name for name in names if name.startswith("tables/"))
    damaged = bytearray(site.at("a").get(borrowed))
    damaged[40] ^= 1
    site.at("a").put(borrowed, bytes(damaged))
    again = VerifyReport()
    verify_database(site.stores("b").of(Purpose.VERIFY), again)
    assert any(borrowed in problem for problem in again.problems)
    site.at("a").put(borrowed, bytes(damaged[:40] + bytes([damaged[40] ^ 1]) + damaged[41:]))
    site.at("a").delete(site.names("a", "holds/"))
    lost = VerifyReport()
    verify_database(site.stores("b").of(Purpose.VERIFY), lost)
    assert lost.problems == [
        "a: it does not keep what this clone borrows from it, which may go at any moment"
    ]


@pytest.mark.parametrize("lost", ["nothing", "newest", "all"])
def test_a_clone_is_repaired_with_what_it_borrows(site: Site, lost: str) -> None:
    rows = branch(site)
    manifest = sorted(site.names("b", "manifest/"))
    site.at("b").delete({"nothing": [], "newest": manifest[-1:], "all": manifest}[lost])
    means = Means(clock=site.clock, random_bytes=RANDOM, threads=InlineExecutor())
    report = repair(site.stores("b").of(Purpose.VERIFY), site.at("r"), means)
    assert report.lost == [] or lost == "newest"
    for place in ("a", "b"):
        site.at(place).delete(site.names(place))
    assert content(site, "r") == rows


def damage_hold(site: Site, place: str) -> str:
    """Turn over a bit of the only hold that is kept in a place; returns its name."""
    [name] = site.names(place, "holds/")
    data = bytearray(site.at(place).get(name))
    data[-1] ^= 1
    site.at(place).put(name, bytes(data))
    return name


def test_a_damaged_hold_is_told_and_all_else_is_verified(site: Site) -> None:
    branch(site)
    before = VerifyReport()
    verify_database(site.stores("b").of(Purpose.VERIFY), before)
    name, holds, report = damage_hold(site, "a"), Holds(), VerifyReport()
    verify_database(site.stores("b", holds).of(Purpose.VERIFY), report, holds=holds)
    assert [each.partition(" at byte")[0] for each in report.problems] == [f"a/{name}"]
    assert (report.tables, report.blobs) == (before.tables, before.blobs)
    assert report.unreferenced == before.unreferenced


@pytest.mark.parametrize("lost", ["nothing", "newest", "all"])
def test_a_clone_is_repaired_though_the_hold_of_its_lender_is_damaged(
    site: Site, lost: str
) -> None:
    rows = branch(site)
    name, holds = damage_hold(site, "a"), Holds()
    with site.opened("a") as source:
        source.put(b"later", b"than the clone")
        source.flush()
    manifest = sorted(site.names("b", "manifest/"))
    site.at("b").delete({"nothing": [], "newest": manifest[-1:], "all": manifest}[lost])
    means = Means(clock=site.clock, random_bytes=RANDOM, threads=InlineExecutor(), holds=holds)
    report = repair(site.stores("b", holds).of(Purpose.VERIFY), site.at("r"), means)
    assert report.lost[0].name == f"a/{name}"
    assert (len(report.lost) == 1) or lost == "newest"
    assert ("all counts that lies there" in report.lost[0].problem) == (lost == "all")
    for place in ("a", "b"):
        site.at(place).delete(site.names(place))
    assert content(site, "r") == rows


def report_of(site: Site, place: str) -> str:
    """The id of the clone in a place."""
    found = list_held_for_clones(site.at("a"))
    return next(kept.id for kept in found if kept.name == place)


def follow(site: Site, place: str) -> Replica:
    values = site.settings | {"place": place}
    components = replace(site.components(values), files=CrashableFileSystem())
    return Replica.open("replica", components=components, **site.settings)


def test_a_replica_of_a_clone_follows_it(site: Site) -> None:
    rows = branch(site)
    other = site.elsewhere()
    with other.opened("b") as clone:
        replica = follow(site.elsewhere(), "b")
        assert dict(replica.scan()) == rows
        rows |= fill(clone, 60, start=30)
        clone.compact()
        replica.refresh()
        collect_garbage(other, clone)
        assert dict(replica.scan()) == dict(clone.scan()) == rows
        replica.close()


def test_a_replica_refuses_a_clone_for_which_nothing_is_kept(site: Site) -> None:
    branch(site)
    site.at("a").delete(site.names("a", "holds/"))
    with pytest.raises(CorruptionError, match="does not keep them"):
        follow(site, "b")


def test_a_replica_tells_that_the_clone_it_follows_was_dropped(site: Site) -> None:
    branch(site)
    replica = follow(site.elsewhere(), "b")
    replica.refresh()
    site.drop("b")
    for _ in range(2):
        with pytest.raises(NotFoundError, match="was dropped"):
            replica.refresh()
        assert not checks(replica)["follow"]
    replica.close()


def test_a_replica_goes_on_when_a_drop_is_taken_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = branch(site)
    replica = follow(site.elsewhere(), "b")
    looked = iter((False, True))

    def borrowed(_: ObjectStore) -> None:
        if next(looked):
            with pytest.raises(NotFoundError):
                replica.refresh()
            raise ConflictError("others borrow from this clone")

    monkeypatch.setattr(drop, "_check_unused", borrowed)
    with pytest.raises(ConflictError):
        site.drop("b")
    with site.opened("b") as clone:
        rows |= fill(clone, 3)
    replica.refresh()
    assert dict(replica.scan()) == rows
    assert checks(replica)["follow"]
    replica.close()


def test_the_past_of_a_clone_can_be_read_where_it_borrows(site: Site) -> None:
    with site.opened("a") as source:
        rows = fill(source, 30)
    site.clone("a", "b")
    with site.opened("b", history_retention=3600.0) as clone:
        seq = clone.visible_seq
        fill(clone, 30, start=10)
        clone.delete(b"k0001")
        clone.compact()
        assert dict(clone.scan(as_of=seq)) == rows
        assert clone.get(b"k0001") is None


def test_an_unreachable_lender_is_named_and_nothing_else_suffers(site: Site) -> None:
    rows = branch(site)
    other = site.elsewhere()
    with other.opened("b", block_cache_capacity=0) as clone:
        other.store.fail("get_range", match="a/", times=1 << 20)
        with pytest.raises(UnavailableError, match=r"^a cannot be reached, from which this clone"):
            dict(clone.scan())
        clone.put(b"meanwhile", b"x")
        clone.flush()
        other.store._faults.clear()
        site.clock.advance(60)
        assert dict(clone.scan()) == rows | {b"meanwhile": b"x"}
    down = site.elsewhere()
    down.store.fail("list", match="a/", times=1 << 20)
    with pytest.raises(UnavailableError, match="a/holds"):
        down.opened("b")


def test_a_source_that_is_gone_is_named(site: Site) -> None:
    branch(site)
    other = site.elsewhere()
    with other.opened("b", block_cache_capacity=0) as clone:
        site.at("a").delete(site.names("a"))
        with pytest.raises(CorruptionError, match="borrowed from a, is not there"):
            dict(clone.scan())
    with pytest.raises(CorruptionError, match="and a, from which it borrows tables"):
        site.elsewhere().opened("b")


def test_a_clone_that_borrows_nothing_any_more_needs_no_source(site: Site) -> None:
    with site.opened("a", blob_threshold=1 << 20) as source:
        rows = fill(source, 30)
    site.clone("a", "b")
    with site.opened("b", blob_threshold=1 << 20) as clone:
        rows |= fill(clone, 10, start=25)
        clone.compact()
    site.at("a").delete(site.names("a"))
    assert content(site, "b") == rows


def test_clones_are_dropped_with_all_they_have_and_nothing_else(site: Site) -> None:
    rows = branch(site)
    before = site.names("a")
    told = site.drop("b", dry_run=True)
    assert told.dry_run
    assert 3 < told.objects < len(site.names("b"))
    assert content(site, "b") == dict(rows)
    site.at("b").put("foreign", b"file")
    report = site.drop("b")
    assert (report.others, report.lenders) == (1, ["a"])
    assert "foreign" in site.names("b")
    assert all(name.startswith("manifest/") for name in site.names("b") - {"foreign"})
    assert site.names("a") == before - {hold_name(report.database_id)}
    assert site.borrowers("a") == []


def test_a_drop_shuts_out_the_writer(site: Site) -> None:
    branch(site)
    with site.elsewhere().opened("b") as clone:
        site.drop("b")
        left = site.names("b")
        clone.put(b"late", b"x")
        with pytest.raises(FencedError):
            clone.flush()
    assert site.names("b", "manifest/") == left
    with pytest.raises(NotFoundError, match="was dropped"):
        site.elsewhere().opened("b")


def test_a_clone_that_never_borrowed_anything_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    with site.opened("a"):
        pass
    assert site.clone("a", "b").lenders == []
    with site.opened("b") as clone:
        clone.put(b"a", b"1")
    assert site.drop("b", dry_run=True).objects > 0
    monkeypatch.setattr("seerdb.storage.clone.drop.discard", lambda *_: None)
    site.drop("b")  # cut short
    monkeypatch.undo()
    site.drop("b")
    assert {name.partition("/")[0] for name in site.names("b")} == {"manifest"}
    with pytest.raises(NotFoundError):
        site.drop("b")
    with pytest.raises(NotFoundError, match="was dropped"):
        site.opened("b")


def test_what_others_borrow_from_is_not_dropped_and_still_opens(site: Site) -> None:
    rows = branch(site)
    site.clone("b", "c")
    for dry_run in (True, False):
        with pytest.raises(ConflictError, match="others borrow from this clone: c"):
            site.drop("b", dry_run=dry_run)
    assert content(site, "b") == rows
    with pytest.raises(InvalidRequestError, match="no clone"):
        site.drop("a")
    site.drop("c")
    site.drop("b")
    with pytest.raises(NotFoundError):
        site.drop("b")


def test_what_tells_the_loans_of_a_lost_manifest_is_checked(site: Site) -> None:
    branch(site)
    loans = "b/loans"
    store = site.stores("b").of(Purpose.VERIFY)
    for is_gone in (False, True):
        site.bucket.put(loans, b"?")
        if is_gone:
            site.bucket.delete([loans])
        report = VerifyReport()
        verify_database(store, report)
        [problem] = report.problems
        assert problem.startswith("loans")
