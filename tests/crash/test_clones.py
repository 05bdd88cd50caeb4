"""A death around every change of the store while a clone is made, opened, merged, given back and
dropped.

After each: the source has lost nothing, a clone that is there is whole, doing the same again
succeeds, and nothing is kept for good for a clone that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from seerdb import CorruptionError, NotFoundError
from seerdb.storage.object_store.names import MANIFEST_PREFIX
from seerdb.storage.retention.checkpoints import HOLD_SECONDS
from seerdb.testing.crash import CrashError
from tests.fixtures.clones import Site, content
from tests.fixtures.database import collect_garbage, fill

pytestmark = pytest.mark.crash

CHANGES = {"put", "put_if_absent", "delete"}


class Scene:
    """A source with log that is in no table, and a chain of one clone, made anew for each death."""

    def __init__(self) -> None:
        self.site = Site(seed=4, blob_threshold=150)
        with self.site.opened("a") as db:
            self.rows = fill(db, 30)
        self.site.clone("a", "b")
        with self.site.opened("b") as db:
            db.put(b"own", b"b" * 200)
            db.flush()
            db.put(b"logged", b"x", durability="object")
        self.mine = self.rows | {b"own": b"b" * 200, b"logged": b"x"}
        self.before = dict(self.mine)

    def check_borrower(self) -> None:
        """The clone is whole; of what was not acknowledged any part may be there."""
        found = content(self.site, "b")
        written = {key: value for key, value in found.items() if key in self.mine}
        assert found == written, "a key that nobody wrote"
        assert {**self.before, **found} == found

    def check_source(self) -> None:
        assert content(self.site, "a") == self.rows
        assert content(self.site, "b") == self.mine

    def collect(self, place: str) -> None:
        """Let every hold expire that may, and everything go that nobody needs."""
        site = self.site.elsewhere()
        with site.opened(place) as db:
            for number in range(3):
                site.clock.advance(HOLD_SECONDS)
                db.put(b"passing", b"%d" % number)
                db.delete(b"passing")
                db.flush()
                collect_garbage(site, db)


def deaths(run: Callable[[Scene, Site], None], check: Callable[[Scene], None]) -> int:
    """Die before and after each operation that changes something; returns how many there are."""
    scene = Scene()
    whole = scene.site.elsewhere()
    run(scene, whole)
    changes = [each.number for each in whole.store.trace if each.operation in CHANGES]
    for number in changes:
        for moment in ("crash_at", "crash_after"):
            scene = Scene()
            process = scene.site.elsewhere()
            setattr(process.store, moment, number)
            with pytest.raises(CrashError):
                run(scene, process)
            check(scene)
    return len(changes)


def test_a_clone_whose_making_dies_anywhere_is_whole_or_not_there() -> None:
    def run(_: Scene, process: Site) -> None:
        process.clone("b", "c")

    def check(scene: Scene) -> None:
        scene.check_source()
        site = scene.site.elsewhere()
        if not site.names("c", MANIFEST_PREFIX):
            assert not [place for place in site.borrowers("b") if place == "c"]
            site.clone("b", "c")
        assert content(site, "c") == scene.mine
        for place in ("a", "b"):
            scene.collect(place)
        assert sorted(site.borrowers("a")) == ["b", "c"]
        assert site.borrowers("b") == ["c"]
        assert content(site, "c") == scene.mine

    assert deaths(run, check) > 6


def test_a_clone_that_is_never_finished_keeps_nothing_for_good() -> None:
    def run(_: Scene, process: Site) -> None:
        process.clone("b", "c")

    def check(scene: Scene) -> None:
        if scene.site.names("c", MANIFEST_PREFIX):
            return
        for place in ("a", "b"):
            scene.collect(place)
        assert len(scene.site.names("a", "holds/")) == 1
        assert not scene.site.names("b", "holds/")

    assert deaths(run, check) > 6


def test_a_clone_of_the_past_that_dies_anywhere_is_whole_or_not_there() -> None:
    def run(scene: Scene, process: Site) -> None:
        with scene.site.opened("b", history_retention=1e6) as db:
            seq = db.visible_seq
            fill(db, 40, start=10)
            db.compact()
            process.clone("b", "c", seq=seq)

    def check(scene: Scene) -> None:
        site = scene.site.elsewhere()
        if site.names("c", MANIFEST_PREFIX):
            assert content(site, "c") == scene.mine
            for place in ("a", "b"):
                scene.collect(place)
            assert content(site, "c") == scene.mine

    assert deaths(run, check) > 6


def test_the_life_of_a_clone_dies_anywhere_and_nobody_loses_anything() -> None:
    """Opened, merged and collected until nothing is borrowed any more, beside its source's
    collector."""

    def run(scene: Scene, process: Site) -> None:
        scene.mine |= {b"k%04d" % number: b"v" * 200 for number in range(25, 35)}
        with process.opened("b") as db:
            fill(db, 10, start=25)
            db.flush()
            for _ in range(2):
                db.compact()
                collect_garbage(process, db)

    def check(scene: Scene) -> None:
        scene.collect("a")
        scene.check_borrower()
        scene.collect("b")
        scene.collect("a")
        scene.check_borrower()

    assert deaths(run, check) > 6


def test_a_drop_that_dies_anywhere_is_completed_by_the_next() -> None:
    def run(_: Scene, process: Site) -> None:
        process.drop("b")

    def check(scene: Scene) -> None:
        site = scene.site.elsewhere()
        with suppress(CorruptionError, NotFoundError):
            assert content(site, "b") == scene.mine
        try:
            site.drop("b")
        except NotFoundError:
            assert all(name.startswith(MANIFEST_PREFIX) for name in site.names("b"))
        assert not site.borrowers("a")
        with pytest.raises(NotFoundError, match="was dropped"):
            site.opened("b")
        assert content(site, "a") == scene.rows

    assert deaths(run, check) > 4
