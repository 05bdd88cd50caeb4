"""Deleted keys that came back: what hides a value goes only when nothing older is left (I7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seerdb import DB
from seerdb.storage.compaction.plan import BOTTOM_LEVEL
from tests.fixtures.levels import Levels, merge_runs

DELETES: dict[str, Callable[[DB], object]] = {
    "delete": lambda db: db.delete(b"k"),
    "range delete": lambda db: db.delete_range(b"j", b"l"),
}
"""Apart, for a merge without range deletes is another code."""


@pytest.mark.parametrize("kind", DELETES)
def test_a_merge_of_upper_levels_keeps_tombstones(kind: str) -> None:
    """SB-07, PB-18. A compaction dropped every tombstone that it met: the values in deeper levels,
    which it had not looked at, were back."""
    levels = Levels()
    db = levels.db
    db.put(b"k", b"old")
    db.flush()
    levels.merge(0, to=2)
    db.put(b"k", b"newer")
    db.flush()
    DELETES[kind](db)
    db.flush()
    plan = levels.merge(0, to=1)
    assert (len(plan.inputs), plan.bottom) == (2, False)
    nothing: list[object] = [None, []]
    assert [db.get(b"k"), list(db.scan())] == nothing
    for opened in (levels.reopen, levels.world.lose_machine().open):
        db = opened()
        assert [db.get(b"k"), list(db.scan())] == nothing


HIDING: dict[str, Callable[[DB, bytes], object]] = {
    "delete": lambda db, key: db.delete(key),
    "put": lambda db, key: db.put(key, b"new"),
    "put that expires": lambda db, key: db.put(key, b"new", ttl=1000),
    "expired": lambda db, key: db.put(key, b"new", ttl=1),
    "merge": lambda db, key: db.merge(key, b" and new"),
}
SHOWN = {"put": b"new", "put that expires": b"new", "merge": b"old and new"}


@pytest.mark.parametrize("bits", [1, 10, 64])
@pytest.mark.parametrize("kind", HIDING)
def test_filters_know_the_keys_of_every_kind_of_entry(kind: str, bits: int) -> None:
    """SB-08. Deletes and merges went into the filter under another key than lookups asked for:
    the lookup passed the table over and found the value below it."""
    levels = Levels(filter_bits_per_key=bits, merge_operator="append")
    keys = [b"%04d" % number for number in range(0, 400, 2)]
    for key in keys:
        levels.db.put(key, b"old")
    levels.db.flush()
    levels.merge(0, to=BOTTOM_LEVEL)
    for key in keys:
        HIDING[kind](levels.db, key)
    levels.db.flush()
    levels.world.clock.advance(5.0)
    expected = [SHOWN.get(kind)] * len(keys)

    def check(db: DB) -> None:
        assert [db.get(key) for key in keys] == expected
        assert db.multi_get(keys) == expected

    check(levels.reopen())
    levels.db.put(b"0001", b"so that there is something to merge")
    levels.db.flush()
    assert not levels.merge(0, to=1).bottom
    check(levels.reopen())
    assert levels.merge(1, BOTTOM_LEVEL, to=BOTTOM_LEVEL).bottom
    check(levels.reopen())


@pytest.mark.parametrize("kind", DELETES)
def test_older_is_told_by_seq_and_place_and_not_by_the_number_of_a_table(kind: str) -> None:
    """AB-07. A merge of old tables makes a table with a high number. A merge of tombstones looked
    for older data among lower numbers, found none and dropped them: the old value was back."""
    levels = Levels()
    db = levels.db
    for value in (b"oldest", b"old"):
        db.put(b"k", value)
        db.flush()
    values = levels.level(0)
    DELETES[kind](db)
    db.flush()
    db.put(b"a", b"1")
    db.flush()
    newest = levels.level(0)[0]
    merge_runs(db, values, to=5)
    [merged] = levels.level(5)
    assert merged.tables[0].id > newest.tables[0].id, "or this tests nothing"
    plan = levels.merge(0, to=3)
    assert (len(plan.inputs), plan.bottom) == (2, False)
    assert [db.get(b"k"), list(db.scan())] == [None, [(b"a", b"1")]]
    db = levels.reopen()
    assert [db.get(b"k"), list(db.scan())] == [None, [(b"a", b"1")]]
    assert levels.merge(3, 5, to=5).bottom
    assert (db.statistics().table_entries, list(db.scan())) == (1, [(b"a", b"1")])


@pytest.mark.parametrize("beside", [[], [b"m"], [b"a"], [b"z"]])
def test_a_table_reaches_as_far_as_its_range_deletes(beside: list[bytes]) -> None:
    """AB-13. The bounds of a table left its range deletes out, and were empty where it held
    nothing else: merges took it for apart from what it hides, and what was hidden was back."""
    levels = Levels()
    db = levels.db
    rows = {b"%c" % letter: b"old" for letter in b"cdklpq"}
    for key, value in rows.items():
        db.put(key, value)
    db.flush()
    levels.merge(0, to=BOTTOM_LEVEL)
    db.delete_range(b"d", b"q")
    for key in beside:
        db.put(key, b"new")
    db.flush()
    [run] = levels.level(0)
    [table] = run.tables
    assert (table.smallest, table.largest) == (min([b"d", *beside]), max([b"q", *beside]))
    expected = {b"c": b"old", b"q": b"old"} | dict.fromkeys(beside, b"new")

    def check(db: DB) -> None:
        assert dict(db.scan()) == expected
        assert list(db.scan(reverse=True)) == sorted(expected.items(), reverse=True)
        assert {key: value for key in rows | expected if (value := db.get(key))} == expected

    check(db)
    plan = levels.merge(0, to=1)
    assert (plan.bottom, plan.move) == (False, True)
    check(levels.reopen())
    assert levels.merge(1, BOTTOM_LEVEL, to=BOTTOM_LEVEL).bottom
    check(levels.reopen())
    assert levels.db.statistics().table_entries == len(expected)


BOUNDS = [(None, None), (b"b", b"y"), (b"c", b"d"), (b"d", b"e"), (b"d", b"g"), (b"g", None)]


@pytest.mark.parametrize("level", [0, 1, 6])
def test_a_scan_backwards_is_the_scan_backwards(level: int) -> None:
    """LB-11. A delete did not hide what older tables held, and a reverse scan started at the bound
    where it should have ended."""
    levels = Levels()
    db = levels.db
    for key in (b"a", b"c", b"d", b"f", b"g", b"z"):
        db.put(key, b"old")
    db.flush()
    levels.merge(0, to=BOTTOM_LEVEL)
    db.delete(b"d")
    db.delete_range(b"f", b"g")
    db.put(b"e", b"new")
    db.flush()
    if level:
        levels.merge(0, to=level)
    db.delete(b"a")
    shown = [(b"c", b"old"), (b"e", b"new"), (b"g", b"old"), (b"z", b"old")]
    for start, end in BOUNDS:
        rows = [(k, v) for k, v in shown if (start or b"") <= k < (end or b"\xff")]
        assert list(db.scan(start, end)) == rows
        assert list(db.scan(start, end, reverse=True)) == rows[::-1]
        assert list(db.scan(start, end, reverse=True, limit=1)) == rows[:-2:-1]
    for prefix in (b"a", b"c", b"d", b"e", b"f", b"g"):
        rows = [(k, v) for k, v in shown if k.startswith(prefix)]
        assert list(db.scan(prefix=prefix)) == list(db.scan(prefix=prefix, reverse=True)) == rows
