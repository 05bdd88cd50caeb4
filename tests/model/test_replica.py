"""A replica shows the database as it was after some commit, whatever its writers go through.

Each seed is a history of writers: they write at any level, flush, merge, ingest, stop, die with
their process or with their machine, and are taken over by others, while a replica looks into the
bucket now and then, or listens to the writer, or to one that does not know yet that it was taken
over. Each time it has to show what the model has at the replica's seq.
"""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from seerdb import DB, FencedError, Replica
from seerdb.storage.replication import local_segment
from seerdb.testing.model import Model
from tests.crash.trace import Write, commit
from tests.fixtures.database import World
from tests.fixtures.follower import contents, follow, stream
from tests.model.script import Step, script_of, time_of


class Followed:
    """Writers of one bucket, one after the other, the model, and a replica."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.world = World(merge_operator="append")
        self.now = self.world.clock.now()
        self.model = Model(self.world.clock.now)
        self.homes = 1
        self.db = self.world.open("home 1")
        self.replica: Replica = follow(self.world)
        self.former: list[DB] = []
        self.streamed = 0

    def do(self, number: int, step: Step) -> None:
        self.world.clock.set_now(self.now + time_of(number))
        if step.operations:
            self._write(step)
        elif step.verb in ("flush", "compact"):
            getattr(self.db, step.verb)()
        elif step.verb in ("reopen", "snapshot"):
            self._change_hands()
        [look] = self.draw.choices(
            [None, self._look, self._stream, self._hear_a_former], [6, 2, 3, 1]
        )
        if look is not None:
            look()
            self.check()

    def _write(self, step: Step) -> None:
        self.model.attempt(step.operations)
        if step.verb == "ingest":
            self.db.ingest([(key, value) for _, key, value in step.operations])
            self.model.acknowledge(self.db.visible_seq, "object")
        else:
            level = self.draw.choice(["memory", "local", "object"])
            self.model.acknowledge(commit(self.db, Write(step.operations, level)), level)

    def _change_hands(self) -> None:
        kind = self.draw.choice(["close", "kill", "other machine", "replica"])
        if kind == "replica":
            self.replica.close()
            self.replica = follow(self.world)
            self.streamed = 0
            return
        if kind == "close":
            self.db.close()
        elif kind == "kill":
            self.former.append(self.db)
            world = self.world
            self.world = World(
                files=world.files.kill(),
                bucket=world.bucket,
                clock=world.clock,
                merge_operator="append",
            )
        else:
            self.former.append(self.db)
            self.homes += 1
        self.db = self.world.open(f"home {self.homes}")
        self.model.settle(self.db.visible_seq)
        self.streamed = 0

    def _look(self) -> None:
        before, epoch = self.replica.seq, self.replica.statistics().epoch
        self.replica.refresh()
        after = self.replica.statistics()
        assert after.visible_seq >= before or after.epoch > epoch
        assert after.visible_seq >= self.model.may_survive("object")[0]

    def _stream(self) -> None:
        stream(self.db, self.replica)
        assert self.replica.seq >= self.streamed
        self.streamed = self.replica.seq

    def _hear_a_former(self) -> None:
        """One that was taken over does not know it, and the replica does."""
        if self.former:
            self._look()
            former = self.former[-1]
            with suppress(FencedError):  # then it knows
                former.put(b"void", b"")
            shown = contents(self.replica)
            stream(former, self.replica)
            assert contents(self.replica) == shown

    def check(self) -> None:
        assert self.replica._follower.tail._contents.diverged is None
        seq = self.replica.seq
        expected = {key: tuple(value) for key, value in self.model.contents(seq).items()}
        assert contents(self.replica) == expected
        for key in self.draw.sample(self.model.keys(), 5):
            assert self.replica.get(key) == self.model.get(key, at=seq)


@pytest.mark.parametrize("seed", range(12))
def test_a_replica_at_a_seq_equals_the_model_at_that_seq(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PB-06. The digests of its log agree with its writer's, too, wherever messages end."""
    monkeypatch.setattr(local_segment, "READ_BYTES", 100 << seed % 6)
    followed = Followed(seed)
    script = script_of(seed, 250)
    for number, step in enumerate(script.steps):
        followed.do(number, step)
    followed.db.flush()
    followed.replica.refresh()
    assert followed.replica.seq == followed.model.seq
    followed.check()
    assert followed.replica.statistics().compared_seq > 0
