"""What a merge reads: every block once, ahead of where it is, in requests that are worth it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from itertools import chain, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import UnavailableError
from seerdb.storage.compaction import inputs as module
from seerdb.storage.compaction.inputs import Inputs
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.names import table_name
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.tiers.table_store import MAX_RANGE
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import layout_of, many, new_table_store, put_table


class Bucket(MemoryObjectStore):
    """Notes which ranges of data blocks were asked for; ``broken`` ones fail."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int]] = []
        self.tails: dict[str, int] = {}
        self.broken = -1

    def add(self, meta: TableMeta) -> TableMeta:
        self.tails[table_name(meta.id)] = meta.tail_offset
        return meta

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset < self.tails[name]:
            if len(self.asked) == self.broken:
                raise UnavailableError("the bucket is away")
            self.asked.append((name, offset, offset + length))
        return super().get_range(name, offset, length)


class Later(Executor):
    """Makes a call when its result is wanted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        class Pending(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                if not self.done():
                    self.set_result(fn(*args, **kwargs))
                return super().result(timeout)

        self.submitted = args
        return Pending()


class Site:
    """Runs of one or more tables each, in a bucket."""

    def __init__(self, runs: list[list[tuple[int, int]]], executor: Executor | None = None) -> None:
        self.bucket = Bucket()
        numbers = iter(range(1, 1000))
        self.tables = [
            self.bucket.add(put_table(self.bucket, next(numbers), many(*rows, seq=1), run=run))
            for run, tables in enumerate(runs)
            for rows in tables
        ]
        self.store = new_table_store(self.bucket)
        self.layout = layout_of(self.tables, self.store)
        self.executor = executor or InlineExecutor()

    def keys(self, start: bytes | None = None, end: bytes | None = None) -> Iterator[list[bytes]]:
        """Of each run, newest first, the keys; checks that pieces keep what frontiers promise."""
        inputs = Inputs(self.layout.runs, start, end, self.store, self.executor)
        for source in inputs.sources(TableReader.pack_blocks):
            found: list[bytes] = []
            told: bytes | None = b""
            for chunk, frontier in source:
                assert told is not None
                keys = chunk.keys()
                assert all(told <= key for key in keys)
                assert frontier is None or all(key < frontier for key in keys)
                told = frontier
                found += keys
            yield found


BORDERS = st.integers(0, 60)


@given(
    runs=st.lists(st.lists(BORDERS, min_size=2, max_size=6, unique=True), min_size=1, max_size=3),
    bounds=st.tuples(st.none() | BORDERS, st.none() | BORDERS),
    piece=st.integers(1, 3),
    ahead=st.sampled_from([1, 1000, 4000, 1 << 20]),
)
def test_every_block_in_the_range_is_fetched_once_and_no_other(
    runs: list[list[int]], bounds: tuple[int | None, int | None], piece: int, ahead: int
) -> None:
    tables = [list(zip(sorted(run)[::2], sorted(run)[1::2], strict=False)) for run in runs]
    site = Site(tables)
    start, end = (None if bound is None else b"key%04d" % bound for bound in bounds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW_BLOCKS", piece * len(runs))
        patch.setattr(module, "AHEAD_BYTES", ahead)
        found = list(site.keys(start, end))
    for keys, rows in zip(found, reversed(tables), strict=True):
        wanted = [b"key%04d" % number for low, high in rows for number in range(low, high)]
        assert keys == [
            key for key in wanted if (start is None or start <= key) and (end is None or key < end)
        ]
    asked = sorted(site.bucket.asked)
    for (name, _, stop), (other, begin, _) in pairwise(asked):
        assert name != other or stop <= begin, "no byte comes twice"
    for handle in (handle for run in site.layout.runs for handle in run.handles):
        reader = site.store.open(handle)
        first, last = reader.block_span(start, end)
        offsets = [reader.block_range(block)[0] for block in range(first, last)]
        ranges = [each[1:] for each in asked if each[0] == table_name(handle.meta.id)]
        assert not ranges or first < last
        for begin, stop in ranges:
            assert begin in offsets
            assert stop == handle.meta.tail_offset or stop in {
                *offsets,
                sum(reader.block_range(last - 1)),
            }


def test_a_request_is_for_many_blocks_and_bounded() -> None:
    site = Site([[(0, 3000)]])
    list(site.keys())
    assert len(site.bucket.asked) == 1, "a small table is worth no second one"
    [(_, begin, end)] = site.bucket.asked
    assert end - begin == site.tables[0].tail_offset <= MAX_RANGE


@pytest.mark.parametrize("runs", [1, 2, 8])
def test_what_is_fetched_ahead_is_bounded_whatever_the_number_of_runs(
    runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_BLOCKS", 1)
    monkeypatch.setattr(module, "AHEAD_BYTES", 16_000)
    site = Site([[(0, 1000)]] * runs)
    list(site.keys())
    longest = max(end - begin for _, begin, end in site.bucket.asked)
    assert 2 * longest * runs <= 1.1 * 16_000
    assert longest * 4 >= 16_000 // (2 * runs), "else there are more requests than need be"


@pytest.mark.parametrize("runs", [1, 3])
def test_what_is_taken_apart_at_a_time_is_bounded_however_large_blocks_are(
    runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of one large value each, between many that are as small as usual."""
    bucket, window, large = MemoryObjectStore(), 30_000, b"v" * 2000
    monkeypatch.setattr(module, "WINDOW_BYTES", window)
    rows = many(0, 300, seq=1) | many(300, 350, seq=1, value=large) | many(350, 999, seq=1)
    tables = [put_table(bucket, number, rows) for number in range(1, runs + 1)]
    store = new_table_store(bucket)
    inputs = Inputs(layout_of(tables, store).runs, None, None, store, InlineExecutor())
    for source in inputs.sources(TableReader.pack_blocks):
        pieces = [piece.chunk for piece in source]
        assert list(chain.from_iterable(piece.keys() for piece in pieces)) == sorted(rows)
        assert max(piece.parts.size for piece in pieces) <= 1.1 * window / runs
        assert max(map(len, pieces)) > 100, "small ones still come many at a time"


def test_the_next_stretch_is_asked_for_before_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BLOCKS", 1)
    monkeypatch.setattr(module, "AHEAD_BYTES", 1)
    executor = Later()
    site = Site([[(0, 100)]], executor)
    inputs = Inputs(site.layout.runs, None, None, site.store, executor)
    [source] = inputs.sources(TableReader.pack_blocks)
    assert executor.submitted[1] == 0, "before anybody wants anything"
    for block in range(3):
        next(source)
        assert executor.submitted[1] == block + 1
        assert len(site.bucket.asked) == block + 1


def test_a_request_that_fails_ends_what_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BLOCKS", 1)
    monkeypatch.setattr(module, "AHEAD_BYTES", 1)
    site = Site([[(0, 100)]])
    site.bucket.broken = 2
    [source] = Inputs(site.layout.runs, None, None, site.store, site.executor).sources(
        TableReader.pack_blocks
    )
    assert len(next(source).chunk)
    assert len(next(source).chunk)
    with pytest.raises(UnavailableError, match="away"):
        next(source)
