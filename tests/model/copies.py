"""What else there is of a database, whatever befalls it: its past, checkpoints, backups, clones, a
replica, and what a repair makes of its bucket."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar

from seerdb import DB, ConflictError, HistoryError, NotFoundError, Replica
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.prune import prune
from seerdb.storage.backup.restore import Wanted, restore_archive
from seerdb.storage.backup.retention import Retention
from seerdb.storage.backup.take import Source, Wish, take_backup
from seerdb.storage.repair.finds import Means
from seerdb.storage.repair.rebuild import repair
from seerdb.storage.retention.checkpoints import held
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.model import Model
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.crash.trace import add_to
from tests.fixtures.backups import carrier
from tests.fixtures.clones import At, Site
from tests.fixtures.database import World, collect_garbage
from tests.fixtures.follower import contents, follow, stream
from tests.fixtures.repairs import MANIFEST_PREFIX, verified
from tests.model.nodes import MAIN, Nodes

REPOSITORY = "repository"
MOST_CLONES = 4


class Copies(Nodes):
    """See the module docstring. Where it is not the same clock that tells, values that may expire
    are left out."""

    VERBS: ClassVar = Nodes.VERBS | {"checkpoint": 2, "drop_checkpoint": 1, "restore": 2, "undo": 1}
    VERBS |= {"past": 8, "history": 2, "back_up": 3, "prune": 1, "restore_elsewhere": 4}
    VERBS |= {"clone": 2, "use_clone": 4, "drop_clone": 1, "look": 4, "stream": 3, "repair": 1}

    def __init__(self, seed: int) -> None:
        self.checkpoints: dict[str, tuple[int, Model]] = {}
        self.backups: dict[str, tuple[int, Model]] = {}
        self.clones: dict[str, Model] = {}
        self.replica: Replica | None = None
        self.made_of = 0
        super().__init__(seed)

    def _name(self) -> str:
        self.made_of += 1
        return f"copy{self.made_of}"

    def _some_seq(self, draw: random.Random) -> int:
        newest = self.model.seq
        return draw.randrange(max(0, newest - draw.choice([3, 30, 300])), newest + 1)

    def _ship(self) -> None:
        self.db._engine.flush_and_ship()
        self.model.secure(self.model.seq, "object")

    # Its own past.

    def _checkpoint(self, draw: random.Random) -> None:
        name = self._name()
        self.db.checkpoint(name)
        self.model.secure(self.model.seq, "object")
        self.checkpoints[name] = self.model.seq, self.model.copy()

    def _drop_checkpoint(self, draw: random.Random) -> None:
        if self.checkpoints:
            name = draw.choice(list(self.checkpoints))
            del self.checkpoints[name]
            self.db.drop_checkpoint(name)

    def _restore(self, draw: random.Random) -> None:
        seq = self._some_seq(draw)
        self.model.attempt_restore(seq)
        try:
            report = self.db.restore_in_place(seq)
        except HistoryError:
            self.model.refuse()
        else:
            self._made(report.seq, "object")

    def _undo(self, draw: random.Random) -> None:
        """Have all be again as a checkpoint keeps it, though it be of commits that were lost."""
        if self.checkpoints:
            name = draw.choice(list(self.checkpoints))
            seq, model = self.checkpoints[name]
            self.model.attempt([])
            self.model._states[-1] = dict(model._states[seq])
            self._made(self.db.restore_in_place(checkpoint=name).seq, "object")

    def _past(self, draw: random.Random) -> None:
        seq = self._some_seq(draw)
        made = self.times[seq]
        as_of: int | datetime = seq
        if draw.random() < 0.5:
            is_last = seq == self.model.seq or self.times[seq + 1] - made > 0.005
            if not is_last or made + 0.002 > self.db._engine.opened.clock.now():
                return
            as_of, made = datetime.fromtimestamp(made + 0.002, UTC), made + 0.002
        with suppress(HistoryError):
            shown = {e.key: (e.value, e.seq) for e in self.db.scan_entries(as_of=as_of)}
            self.compare(shown, self.model, seq, made, lasting=as_of == seq)

    def _history(self, draw: random.Random) -> None:
        key = draw.choice(self.model.keys() or [b"a"])
        with suppress(HistoryError):
            versions = self.db.history(key)
            assert [each.seq for each in versions] == sorted({each.seq for each in versions})
            for version in versions:
                found = self.model._states[version.seq].get(key)
                if found is None or found.expires is None:
                    assert version.value == (found.value if found else None)

    def compare(
        self,
        shown: dict[bytes, tuple[bytes, int]],
        model: Model,
        seq: int,
        now: float,
        *,
        lasting: bool = True,
        seqs: bool = True,
    ) -> None:
        """``lasting``: leave out what may expire; ``seqs``: also those are as in the model."""
        expected = {key: tuple(value) for key, value in model.contents(seq, now).items()}
        for key, stored in model._states[seq].items():
            if lasting and stored.expires is not None:
                shown.pop(key, None)
                expected.pop(key, None)
        if seqs:
            assert shown == expected
        else:
            assert {k: v[0] for k, v in shown.items()} == {k: v[0] for k, v in expected.items()}

    # Backups and repairs.

    def _back_up(self, draw: random.Random) -> None:
        source, random_bytes = self.site.at(MAIN), self.site.random.randbytes
        self._ship()
        with held(source, clock=self.clock, random_bytes=random_bytes) as hold:
            report = take_backup(
                Source(source, hold.state),
                self.site.at(REPOSITORY),
                Wish(full=draw.random() < 0.2),
                carrier(self.clock),
                random_bytes,
            )
        assert report.seq == self.model.seq
        self.backups[report.id] = report.seq, self.model.copy()

    def _prune(self, draw: random.Random) -> None:
        if not self.backups:
            return
        repository, keep = self.site.at(REPOSITORY), Retention(count=draw.choice([1, 2, 5]))
        try:
            prune(repository, keep, self.clock, self.site.random.randbytes)
        finally:
            left = At(self.bucket, REPOSITORY).list("backups/")
            names = {info.name.removeprefix("backups/") for info in left}
            self.backups = {name: self.backups[name] for name in self.backups if name in names}

    def _restore_elsewhere(self, draw: random.Random) -> None:
        """Of a backup, or of any commit out of the repository or the bucket."""
        kind = draw.choice(["backup", "repository", "bucket"])
        wanted: dict[str, Any] = {}
        if kind == "bucket":
            seq, model = self._some_seq(draw), self.model
            wanted["seq"] = seq
        elif not self.backups:
            return
        elif kind == "backup":
            wanted["backup"] = draw.choice(list(self.backups))
            seq, model = self.backups[wanted["backup"]]
        else:
            newest, model = list(self.backups.values())[-1]
            wanted["seq"] = seq = draw.randrange(newest + 1)
        target = MemoryObjectStore(self.clock)
        source = self.site.at(MAIN if kind == "bucket" else REPOSITORY)
        with suppress(HistoryError):
            restore_archive(
                open_archive(source),
                target,
                Wanted(**wanted),
                carrier(self.clock),
                self.site.random.randbytes,
                dry_run=False,
            )
            self.compare(self._found_in(target), model, seq, self.now(), seqs=False)

    def _found_in(self, bucket: MemoryObjectStore) -> dict[bytes, tuple[bytes, int]]:
        assert verified(bucket).problems == []
        world = World(bucket=bucket, clock=self.clock, seed=99, merge_operator="append")
        db = world.open()
        found = {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}
        world.end(db)
        return found

    def _repair(self, draw: random.Random) -> None:
        """Of a copy of the bucket some records of whose manifest are lost or damaged, nothing is
        lost and nothing back of which the report does not tell."""
        self._ship()
        copy, target = MemoryObjectStore(self.clock), MemoryObjectStore(self.clock)
        copy._objects = dict(self.bucket._objects)
        source = At(copy, MAIN)
        records = [info.name for info in source.list(MANIFEST_PREFIX)]
        for name in draw.choice([records, records[-1:], draw.sample(records, 1)]):
            data = bytearray(source.get(name))
            data[draw.randrange(len(data))] ^= 1
            source.put(name, bytes(data))
        random_bytes = random.Random(7).randbytes
        means = Means(
            clock=self.clock, random_bytes=random_bytes, threads=InlineExecutor(), log=None
        )
        try:
            report = repair(source, target, means)
        except NotFoundError:  # there is nothing in it
            assert self._model_contents() == {}
            return
        found, lasting = self._found_in(target), self.model._states[-1]
        told = [(each.smallest or b"", each.largest or b"\xff" * 9) for each in report.lost]
        told += [(doubt.smallest, doubt.largest) for doubt in report.doubts]
        values = {key: value for key, (value, _) in found.items()}
        expected = {key: value.value for key, value in self._model_contents().items()}
        for key in {key for key, _ in set(values.items()) ^ set(expected.items())}:
            expires = key in lasting and lasting[key].expires is not None
            is_told = any(low <= key <= high for low, high in told)
            assert expires or is_told or report.notes

    # Clones.

    def _clone(self, draw: random.Random) -> None:
        if len(self.clones) == MOST_CLONES:
            return
        kind, source, place = draw.choice(["newest", "seq", "kept", "again"]), MAIN, self._name()
        wanted: dict[str, Any] = {}
        self._ship()
        model, seq = self.model, self.model.seq
        if kind == "again" and self.clones:
            source = draw.choice(list(self.clones))
            model, seq = self.clones[source], self.clones[source].seq
        elif kind == "kept" and self.checkpoints:
            wanted["checkpoint"] = draw.choice(list(self.checkpoints))
            seq, model = self.checkpoints[wanted["checkpoint"]]
        elif kind == "seq":
            wanted["seq"] = seq = self._some_seq(draw)
        with suppress(HistoryError):
            self.site.clone(source, place, **wanted)
            twin = model.copy()
            twin._states, twin._attempted = twin._states[: seq + 1], False
            self.clones[place] = twin
            self._check_clone(place)

    def _opened(self, place: str) -> tuple[Site, DB]:
        site = Site(bucket=self.bucket, clock=self.clock, merge_operator="append", **self.settings)
        return site, site.opened(place)

    def _check_clone(self, place: str) -> None:
        site, db = self._opened(place)
        self._compare_clone(db, place)
        assert db.verify().problems == []
        site.end(db)

    def _compare_clone(self, db: DB, place: str) -> None:
        shown = {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}
        model = self.clones[place]
        self.compare(shown, model, model.seq, self.now(), seqs=False)

    def _use_clone(self, draw: random.Random) -> None:
        if not self.clones:
            return
        place = draw.choice(list(self.clones))
        site, db = self._opened(place)
        model = self.clones[place]
        model.now = db._engine.opened.clock.now
        for _ in range(draw.choice([0, 1, 5, 15])):
            operations = [self._operation(draw), self._operation(draw)]
            model.attempt(operations)
            model._attempted = False
            with db.batch() as batch:
                add_to(batch, operations)
        verb = draw.choice(["flush", "compact", "collect"])
        if verb == "collect":
            db.compact()
            for _ in range(2):
                collect_garbage(site, db)
        else:
            getattr(db, verb)()
        self._compare_clone(db, place)
        site.end(db)

    def _drop_clone(self, draw: random.Random) -> None:
        if self.clones:
            place = draw.choice(list(self.clones))
            model = self.clones.pop(place)
            try:
                self.site.drop(place)
            except ConflictError:  # another one borrows from it
                self.clones[place] = model

    # A replica.

    def _followed(self) -> Replica:
        if self.replica is None:
            world = World(bucket=self.bucket, clock=self.clock, seed=7, **self.settings)
            world.settings["merge_operator"] = "append"
            place = At(FaultyObjectStore(self.bucket, self.clock), MAIN)
            world.store = place  # type: ignore[assignment]
            self.replica = follow(world)
        return self.replica

    def _look(self, draw: random.Random) -> None:
        if self.replica is not None and draw.random() < 0.1:
            self.replica.close()
            self.replica = None
        self._followed().refresh()
        assert self._followed().seq >= self.model.may_survive("object")[0]
        self._check_replica()

    def _stream(self, draw: random.Random) -> None:
        """From the writer, or from one that does not know that it was taken over."""
        former = draw.random() < 0.3 and self.formers
        if former:
            self._followed().refresh()
        stream(draw.choice(self.formers).db if former else self.db, self._followed())
        self._check_replica()

    def _check_replica(self) -> None:
        replica = self._followed()
        assert replica._follower.tail._contents.diverged is None
        self.compare(contents(replica), self.model, replica.seq, self.now())

    def end(self) -> None:
        """Nothing fails any more, and all of it is sound."""
        self.heal()
        self.site.store.crash_at = self.site.files.crash_at = None
        self.check()
        for place in self.clones:
            self._check_clone(place)
        self.db.flush()
        assert self.db.verify().problems == []
        self._forget()
        self.site.end(self.db)
