"""The layout: what of range tombstones the next one takes over."""

from __future__ import annotations

import pytest

from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import RangeTombstone, RangeTombstones
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.read import layout as layouts
from seerdb.storage.read.layout import Layout
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.tiers.table_store import TableStore
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import many, new_table_store, put_table

DELETED = [RangeTombstone(b"key%04d" % n, b"key%04d" % (n + 1), 100 + n) for n in range(0, 40, 2)]


def follow(former: Layout | None, tables: list[TableMeta], table_store: TableStore) -> Layout:
    return Layout(Version.of(tables), table_store, RowCache(lambda: 0), former=former)


def test_range_tombstones_are_put_in_order_once_whatever_is_flushed_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    ordered: list[int] = []

    def order(tombstones: object) -> RangeTombstones:
        made = RangeTombstones(tombstones)  # type: ignore[arg-type]
        ordered.append(len(made.tombstones))
        return made

    monkeypatch.setattr(layouts, "RangeTombstones", order)
    version = [put_table(store, 1, many(0, 40, seq=1)), put_table(store, 2, {}, DELETED)]
    layout = follow(None, version, tables)
    layout.load_tombstones(tables)
    assert ordered == [len(DELETED)]
    for number in range(3, 6):
        version.append(put_table(store, number, many(0, 40, seq=200 * number)))
        layout = follow(layout, version, tables)
        assert layout.tombstones is not None, "nothing is to be loaded"
    version.append(put_table(store, 6, {}, [RangeTombstone(b"key", b"kez", 2000)]))
    layout = follow(follow(layout, version, tables), version, tables)
    assert layout.load_tombstones(tables).covering(b"key0001", MAX_SEQ) == 2000
    assert layout.load_tombstones(tables).covering(b"key0002", 1999) == 102
    assert ordered == [len(DELETED), 1]


def test_tombstones_of_a_table_that_is_gone_hide_nothing() -> None:
    """A restore in place may bring back what they hid."""
    store = MemoryObjectStore()
    tables = new_table_store(store)
    version = [put_table(store, 1, many(0, 40, seq=1)), put_table(store, 2, {}, DELETED)]
    layout = follow(None, version, tables)
    layout.load_tombstones(tables)
    kept = put_table(store, 3, {}, [RangeTombstone(b"key0001", b"key0002", 2000)])
    layout = follow(layout, [version[0], kept], tables)
    assert layout.load_tombstones(tables).tombstones == ((b"key0001", b"key0002", 2000),)
    layout = follow(layout, version[:1], tables)
    assert not layout.load_tombstones(tables)
