"""What reads of the past and restores in place find while the log they read is flushed, shipped and
let go of, and its file used again.

Every place where that could come in is tried, line by line.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from seerdb import HistoryError
from seerdb.storage.past import history, log, rewind, time_travel, versions
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.storage.wal.segments import list_segments, segment_path
from tests.fixtures.database import ROOMY, WAL, World
from tests.fixtures.interleaving import every_line

MODULES = history, log, time_travel, versions, rewind
SHIPPED: dict[str, Any] = {**ROOMY, "history_retention": 600.0, "ship_interval": 3600.0}
FLUSHED_AT = 2
COMMITS = 5


class Story:
    """A database whose key ``k`` was put again and again, and when."""

    def __init__(self, **settings: Any) -> None:
        self.world = World(**settings)
        self.db = self.world.open()
        self.times = [self.world.clock.now()]
        for seq in range(1, COMMITS + 1):
            self.world.clock.advance(1.0)
            assert self.db.put(b"k", b"%d" % seq) == seq
            self.times.append(self.world.clock.now())
            if seq == FLUSHED_AT:
                self.world.clock.advance(0.25)
                self.db.flush()
        self.world.clock.advance(1.0)

    def change(self) -> None:
        """Let go of all the log that was read, and write over it."""
        engine = self.db._engine
        there = set(list_segments(self.world.files, WAL))
        for _ in range(2):
            self.world.clock.advance(1.0)
            self.db.put(b"other", b"later")
            self.db.flush()
            engine.shipper.finish()
            engine.retention.let_go()
        assert not there & set(list_segments(self.world.files, WAL))


def each_time(act: Callable[[Story], Any], expected: Any, **settings: Any) -> None:
    """``act`` gives what is expected wherever the change comes."""
    for change in every_line(*MODULES):
        story = Story(**settings)
        with change.by(story.change):
            found = act(story)
        assert found == expected, change.number
        story.world.end(story.db)


def history_of(story: Story) -> list[tuple[int, bytes | None]]:
    return [(each.seq, each.value) for each in story.db.history(b"k")]


EVERY_VERSION = [(seq, b"%d" % seq) for seq in range(1, COMMITS + 1)]


def test_history_leaves_nothing_out() -> None:
    each_time(history_of, EVERY_VERSION, **SHIPPED)


def test_a_seq_is_told_as_it_was() -> None:
    each_time(lambda story: story.db.get(b"k", as_of=4), b"4", **SHIPPED)


@pytest.mark.parametrize("seq", [4, 5])
def test_a_time_is_told_as_it_was(seq: int) -> None:
    def read(story: Story) -> tuple[bytes | None, int]:
        at = story.times[seq] + 0.1
        return story.db.get(b"k", as_of=at), story.db.seq_at(at)

    each_time(read, (b"%d" % seq, seq), **SHIPPED)


@pytest.mark.parametrize(("seq", "kind"), [(4, "seq"), (5, "time")])
def test_what_is_restored_in_place_is_what_was_asked_for(seq: int, kind: str) -> None:
    def restore(story: Story) -> tuple[int, bytes | None, bytes | None]:
        report = story.db.restore_in_place(seq if kind == "seq" else story.times[seq] + 0.1)
        return report.restored_seq, story.db.get(b"k"), story.db.get(b"other")

    each_time(restore, (seq, b"%d" % seq, None), **SHIPPED)


def test_with_no_log_in_the_bucket_nothing_older_is_told() -> None:
    """What was let go of for good is an error, or in a history a gap that ends with tables."""
    settings = SHIPPED | {"ship_interval": 0.0}

    def read(story: Story) -> bytes | None:
        try:
            return story.db.get(b"k", as_of=story.times[-1] + 0.1)
        except HistoryError as error:
            assert "the log from seq 3 on is not there" in str(error)  # noqa: PT017
            return b"5"

    def newest_of(story: Story) -> tuple[int, bytes | None]:
        found = history_of(story)
        assert all(one[0] < other[0] for one, other in pairwise(found))
        assert set(found) <= set(EVERY_VERSION)
        return found[-1]

    each_time(read, b"5", **settings)
    each_time(newest_of, (5, b"5"), **settings)


def test_a_damaged_log_is_no_end_of_it() -> None:
    """What is on the disk alone, and cannot be read, is not passed over."""
    story = Story(**SHIPPED)
    file = story.world.files.open(segment_path(WAL, max(list_segments(story.world.files, WAL))))
    file.write_at(0, bytes(HEADER_SIZE))
    file.close()
    with pytest.raises(HistoryError, match="the log from seq 3 on is not there"):
        story.db.get(b"k", as_of=story.times[-1])
    with pytest.raises(HistoryError, match="the log from seq 3 on is not there"):
        story.db.history(b"k")
