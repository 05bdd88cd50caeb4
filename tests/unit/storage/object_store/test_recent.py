"""What counts as lately, by a fake clock."""

from __future__ import annotations

from seerdb.storage.object_store.recent import RecentCounts
from seerdb.testing.clock import FakeClock


def test_the_first_minute_is_taken_as_a_whole() -> None:
    clock = FakeClock()
    recent = RecentCounts[str](clock)
    clock.advance(1)
    recent.add("a", 3)
    assert recent.in_seconds(60) == {"a": 3}
    assert recent.in_seconds(600) == {"a": 30}
    clock.advance(119)
    assert recent.in_seconds(60) == {"a": 1.5}


def test_what_is_older_than_ten_slots_is_forgotten() -> None:
    clock = FakeClock()
    recent = RecentCounts[str](clock)
    recent.add("old", 10)
    clock.advance(300)
    recent.add("new", 10)
    clock.advance(299)
    assert recent.in_seconds(599) == {"old": 10, "new": 10}
    clock.advance(1)  # the eleventh slot begins: nine whole ones are left beside it
    assert recent.in_seconds(540) == {"new": 10}
    clock.advance(300)
    assert recent.in_seconds(540) == {}


def test_what_comes_after_a_long_silence_does_not_bring_the_past_back() -> None:
    clock = FakeClock()
    recent = RecentCounts[str](clock)
    recent.add("a", 100)
    clock.advance(86_400)
    recent.add("a", 1)
    assert recent.in_seconds(540) == {"a": 1}


def test_kinds_are_counted_apart() -> None:
    recent = RecentCounts[str](FakeClock())
    for kind in "aba":
        recent.add(kind, 1)
    assert recent.in_seconds(60) == {"a": 2, "b": 1}
