"""The replica's side of the live log: its thread goes on whatever a connection ends in."""

from __future__ import annotations

import pytest

from seerdb.storage.replication.format import Heartbeat, Hello
from seerdb.storage.replication.live import LiveTail
from seerdb.storage.replication.running import Mark
from seerdb.storage.replication.shipped import Piece


class Target:
    """Notes why connections ended, and has the tail close after the second."""

    def __init__(self) -> None:
        self.seq = 0
        self.ended: list[Exception] = []
        self.tail: LiveTail | None = None

    def greet(self, hello: Hello, first: int) -> None:
        raise AssertionError("nobody answers")

    def take(self, piece: Piece) -> None:
        raise AssertionError("nobody answers")

    def compare(self, mark: Mark) -> None:
        raise AssertionError("nobody answers")

    def heard(self, heartbeat: Heartbeat) -> None:
        raise AssertionError("nobody answers")

    def lost(self, error: Exception) -> None:
        self.ended.append(error)
        if len(self.ended) == 2:
            assert self.tail is not None
            self.tail.close()


def ends(url: str) -> list[Exception]:
    target = Target()
    target.tail = LiveTail(url, target)
    target.tail.run()
    return target.ended


@pytest.mark.parametrize("port", ["1", "99999", "no port"])
def test_whatever_a_connection_ends_in_it_is_told_and_tried_again(port: str) -> None:
    """PB-04. The thread ended without a word on what is neither an error of ours nor one of HTTP,
    and the replica waited for it for ever."""
    assert len(ends(f"http://127.0.0.1:{port}")) == 2
