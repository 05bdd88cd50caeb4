"""Filters of prefixes: no scan shows anything else for them, whatever was set when."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.database import World

KEYS = st.lists(st.sampled_from([b"a", b"b", b"\xff"]), min_size=1, max_size=5).map(b"".join)
SETTINGS = st.fixed_dictionaries(
    {"filter_prefix": st.integers(0, 4), "filter_bits_per_key": st.sampled_from([0, 10, 30])}
)
RANGES = st.tuples(KEYS, KEYS).filter(lambda pair: pair[0] < pair[1])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(KEYS, min_size=1, max_size=8)),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("delete_range"), RANGES),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("reopen"), SETTINGS),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(SETTINGS, STEPS, st.lists(KEYS, max_size=6), RANGES)
def test_scans_are_those_of_a_database_without(
    values: dict[str, Any],
    steps: list[tuple[str, Any]],
    prefixes: list[bytes],
    bounds: tuple[bytes, bytes],
) -> None:
    world = World(memtable_capacity=1 << 20)
    db, model = world.open(**values), dict[bytes, bytes]()
    for number, (step, argument) in enumerate(steps):
        value = b"%d" % number
        if step == "put":
            for key in argument:
                db.put(key, value)
                model[key] = value
        elif step == "delete":
            db.delete(argument)
            model.pop(argument, None)
        elif step == "delete_range":
            db.delete_range(*argument)
            model = {k: v for k, v in model.items() if not argument[0] <= k < argument[1]}
        elif step == "flush":
            db.flush()
        elif step == "compact":
            db.compact()
        else:
            db.close()
            db = world.open(**argument)
    db.flush()
    rows = sorted(model.items())
    for prefix in {*prefixes, *(key[:size] for key in model for size in range(1, 5))}:
        expected = [row for row in rows if row[0].startswith(prefix)]
        assert list(db.scan(prefix=prefix)) == expected
        assert list(db.scan(prefix=prefix, reverse=True)) == expected[::-1]
        for key in (prefix + b"a", prefix + b"b"):
            assert list(db.scan(key, prefix=prefix)) == [row for row in expected if row[0] >= key]
    start, end = bounds
    assert list(db.scan(start, end)) == [row for row in rows if start <= row[0] < end]
    assert not db.verify().problems
    db.close()
