"""What happens between two requests of who clones, opens or drops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seerdb import ConflictError, CorruptionError, NotFoundError, UnavailableError
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.pieces import Body
from tests.fixtures.clones import At, Site, content
from tests.fixtures.database import ROOMY, collect_garbage, fill


class Meddled(Site):
    """A process that is overtaken right before it puts the first object whose name begins so."""

    prefix = ""
    meddle: Callable[[], Any] | None = None

    def at(self, place: str) -> ObjectStore:
        return _Meddled(self, place)


class _Meddled(At):
    def __init__(self, site: Meddled, place: str) -> None:
        super().__init__(site.store, place)
        self._site = site

    def put_if_absent(self, name: str, data: Body) -> None:
        meddle = self._site.meddle
        if meddle is not None and name.startswith(self._site.prefix):
            self._site.meddle = None
            meddle()
        super().put_if_absent(name, data)


def overtaken(site: Site, prefix: str, meddle: Callable[[], Any]) -> Meddled:
    other = Meddled(seed=77, bucket=site.bucket, clock=site.clock, **site.settings)
    other.prefix, other.meddle = prefix, meddle
    return other


@pytest.fixture
def site() -> Site:
    return Site(seed=5)


def test_a_collector_that_looked_before_the_hold_was_there_is_noticed(site: Site) -> None:
    with site.opened("a") as source:
        fill(source, 40)
        source.flush()

        def meddle() -> None:
            fill(source, 40, start=20)
            source.compact()
            collect_garbage(site, source)

        overtaken(site, "holds/", meddle).clone("a", "b")
        rows = dict(source.scan())
        assert site.borrowers("a") == ["b"]
        assert len(site.names("a", "holds/")) == 1
        source.compact()
        collect_garbage(site, source)
    assert content(site, "b") == rows


def test_a_merge_that_changes_no_seq_is_noticed(site: Site) -> None:
    with site.opened("a") as source:
        rows = fill(source, 30)
        source.compact()
        rows |= fill(source, 3, start=10)
        source.flush()
        before = source._engine.manifest.state.version
        assert len(before.runs) == 2

        def meddle() -> None:
            source.compact()
            collect_garbage(site, source)
            assert not {name for each in before.tables for name in each.objects} & site.names("a")

        report = overtaken(site, "holds/", meddle).clone("a", "b")
        assert (report.copied_objects, report.borrowed_objects) == (0, 1)
        assert content(site, "b") == rows


def test_a_clone_in_the_middle_that_gives_back_meanwhile_is_noticed(site: Site) -> None:
    middle = site.elsewhere()
    with site.opened("a") as source:
        fill(source, 40)
        source.compact()
    middle.clone("a", "b")
    with middle.opened("b") as clone:

        def meddle() -> None:
            fill(clone, 40, start=20)
            clone.compact()
            collect_garbage(middle, clone)
            with site.elsewhere().opened("a") as source:
                source.delete_range(b"a", b"z")
                source.compact()
                collect_garbage(site, source)

        report = overtaken(site, "holds/", meddle).clone("b", "c")
        rows = dict(clone.scan())
    assert report.lenders == ["b"]
    assert site.borrowers("a") == []
    assert content(site, "c") == rows


def test_another_state_is_begun_with_where_one_is_collected_while_it_is_copied(site: Site) -> None:
    """What was copied of that one was taken for something else in the place of the clone."""
    settings = ROOMY | {"history_retention": 3600.0, "ship_interval": 0.001}
    with site.opened("a", **settings) as source:
        fill(source, 10)
        source.flush()
        [small] = site.names("a", "tables/")
        fill(source, 30, start=10)
        source.flush()
        for number in range(4):
            source.put(b"logged%d" % number, b"x", durability="object")
            if number == 1:
                rows, seq = dict(source.scan()), source.visible_seq
        source.compact()
        other = site.elsewhere()
        other.store.fail("get", match=f"a/{small}", error=NotFoundError("collected"))
        report = other.clone("a", "b", seq=seq)
    assert (report.seq, report.commits) == (seq, 32)
    assert content(site, "b") == rows


def test_what_is_committed_until_the_hold_is_there_is_in_the_clone(site: Site) -> None:
    with site.opened("a") as source:
        fill(source, 10)
        source.flush()

        def meddle() -> None:
            fill(source, 10, start=10)
            source.flush()

        report = overtaken(site, "holds/", meddle).clone("a", "b")
        assert report.seq == source.visible_seq
        assert content(site, "b") == dict(source.scan())


def cut_short(site: Site) -> None:
    """``b``, a clone that has a manifest, and at its source the passing hold only."""
    with site.opened("a") as source:
        fill(source, 20)
    other = site.elsewhere()
    other.store.fail("put_if_absent", match="a/holds/", skip=1, times=1 << 20)
    with pytest.raises(UnavailableError):
        other.clone("a", "b")
    assert site.names("b", "manifest/")
    assert site.borrowers("a") == []
    assert len(site.names("a", "holds/")) == 1


def test_a_clone_that_was_cut_short_is_completed_by_its_first_opening(site: Site) -> None:
    cut_short(site)
    assert len(content(site, "b")) == 20
    assert site.borrowers("a") == ["b"]
    assert len(site.names("a", "holds/")) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_clone_of_which_an_interrupt_left_unknown_whether_it_was_made_keeps_what_it_borrows(
    site: Site, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holds were released, and the collector took what it is made of."""
    with site.opened("a") as source:
        rows = fill(source, 40)
        source.flush()
        put_if_absent = At.put_if_absent

        def interrupted(store: At, name: str, data: Body) -> None:
            put_if_absent(store, name, data)
            if name.startswith("manifest/"):
                raise kind

        with monkeypatch.context() as patch:
            patch.setattr(At, "put_if_absent", interrupted)
            with pytest.raises(kind):
                site.clone("a", "b")
        source.compact()
        source.delete_range(b"\0", b"\xff")
        source.compact()
        collect_garbage(site, source)
    assert content(site, "b") == rows


def test_a_hold_that_expires_while_it_is_replaced_is_not_relied_on(site: Site) -> None:
    cut_short(site)
    holds = site.names("a", "holds/")
    late = overtaken(site, "holds/", lambda: site.at("a").delete(holds))
    with pytest.raises(CorruptionError, match="does not keep them"):
        late.opened("b")
    assert site.names("a", "holds/") == set()


def test_a_clone_of_what_is_being_dropped_stops_the_drop(site: Site) -> None:
    with site.opened("a") as source:
        fill(source, 20)
    site.clone("a", "b")
    with site.opened("b") as clone:
        fill(clone, 20, start=10)
    rows = content(site, "b")
    late = overtaken(site, "manifest/", lambda: site.elsewhere().clone("b", "c"))
    with pytest.raises(ConflictError, match="borrow from this clone: c"):
        late.drop("b")
    assert content(site, "b") == content(site, "c") == rows


def test_a_clone_of_what_was_dropped_meanwhile_is_not_made(site: Site) -> None:
    with site.opened("a") as source:
        fill(source, 20)
    site.clone("a", "b")
    late = overtaken(site, "holds/", lambda: site.elsewhere().drop("b"))
    with pytest.raises(NotFoundError, match="was dropped"):
        late.clone("b", "c")
    assert not site.names("c", "manifest/")
    assert not site.borrowers("a") + site.borrowers("b")
