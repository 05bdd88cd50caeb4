"""Separating large values: which, into how many blobs, and what is said of them."""

from __future__ import annotations

import pytest

from seerdb.errors import ChecksumError
from seerdb.ids import Epoch, blob_id, maker_of, table_id
from seerdb.storage.blob import writer
from seerdb.storage.blob.aside import Aside
from seerdb.storage.blob.format import Directory
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.blob.writer import BlobWriter
from seerdb.storage.manifest.version import BlobRef
from seerdb.storage.merge import EMPTY, Chunk
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import BLOB_PREFIX, blob_name
from seerdb.storage.pointer import BlobPointer, count_by_blob
from seerdb.storage.sstable.packed import Packed, pack
from seerdb.storage.value import (
    BELOW,
    Expiring,
    Merge,
    Operand,
    Value,
    decode_value,
    encode_values,
    pointer_in,
)
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore

TABLE = table_id(Epoch(1), 5)


def new_writer(store: ObjectStore, threshold: int = 10) -> BlobWriter:
    return BlobWriter(store, TABLE, threshold=threshold, compression="none")


def entries_of(values: list[Value]) -> Packed:
    count = len(values)
    return pack([b"%03d" % n for n in range(count)], list(range(count)), *encode_values(values))


def values_of(entries: Packed) -> list[Value]:
    return list(map(decode_value, entries.kinds.tolist(), entries.values()))


def stored(values: list[Value]) -> bytes:
    return b"".join(pointer.stored for value in values if (pointer := pointer_in(value)))


def test_values_from_the_threshold_on_are_separated() -> None:
    store = MemoryObjectStore()
    blobs = new_writer(store)
    merge = Merge(BELOW, (Operand(1, b"o" * 50),))
    based = Merge(b"b" * 50, (Operand(1, b"o"),))
    values: list[Value] = [b"s" * 9, b"l" * 10, b"l" * 11, b"", None, merge, based]
    values += [Expiring(b"s" * 9, 7), Expiring(b"e" * 10, 7), b"l" * 10]
    entries = entries_of(values)
    separated = blobs.separate(entries)
    assert (separated.keys(), list(separated.seqs)) == (entries.keys(), list(entries.seqs))
    found = values_of(separated)
    kept = [at for at, value in enumerate(found) if pointer_in(value) is None]
    assert kept == [0, 3, 4, 5, 6, 7]
    assert [found[at] for at in kept] == [values[at] for at in kept]
    assert values_of(entries) == values, "what is packed stays as it is"
    expiring = found[8]
    assert isinstance(expiring, Expiring)
    assert expiring.expires == 7
    assert store.list(BLOB_PREFIX) == [], "nothing is uploaded before it must"
    [ref] = blobs.finish(count_by_blob(stored(found)))
    assert (ref.id, maker_of(ref.id)) == (blob_id(TABLE, 0), TABLE)
    assert (ref.values, ref.bytes, ref.total) == (4, 41 + 4 * 9, 41 + 4 * 9)
    data = store.get(blob_name(ref.id))
    assert (len(data), len(list(Directory(ref.id, data)))) == (ref.size, 4)
    read = BlobReader(store, InlineExecutor())
    pointers = [pointer for value in found if (pointer := pointer_in(value))]
    assert [read.get(each) for each in pointers] == [b"l" * 10, b"l" * 11, b"e" * 10, b"l" * 10]


def test_a_threshold_of_nothing_separates_nothing() -> None:
    blobs = new_writer(MemoryObjectStore(), threshold=0)
    entries = entries_of([b"x" * 1000])
    assert blobs.separate(entries) is entries
    assert blobs.finish({}) == ()


def test_entries_without_large_values_are_not_copied() -> None:
    entries = entries_of([b"x" * 9, None, b""])
    assert new_writer(MemoryObjectStore()).separate(entries) is entries


def test_a_full_blob_is_uploaded_and_the_next_one_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BLOB_SIZE", 50)
    store = MemoryObjectStore()
    blobs = new_writer(store)
    values: list[Value] = []
    for number in range(7):
        values += values_of(blobs.separate(entries_of([b"%d" % number * 20])))
    assert len(store.list(BLOB_PREFIX)) == 3
    refs = blobs.finish(count_by_blob(stored(values)))
    assert [ref.id for ref in refs] == [blob_id(TABLE, number) for number in range(4)]
    assert [ref.values for ref in refs] == [2, 2, 2, 1]
    read = BlobReader(store, InlineExecutor())
    pointers = [value for value in values if isinstance(value, BlobPointer)]
    assert [read.get(each) for each in pointers] == [b"%d" % n * 20 for n in range(7)]


def test_refs_into_blobs_from_before_say_how_much_of_them_this_table_needs() -> None:
    earlier = blob_id(table_id(Epoch(1), 1), 0)
    old = BlobRef(id=earlier, size=9, checksum=8, total=7, values=3, bytes=6)
    blobs = BlobWriter(MemoryObjectStore(), TABLE, threshold=10, compression="none", known=[old])
    assert blobs.finish({old.id: (1, 2)}) == (
        BlobRef(id=old.id, size=9, checksum=8, total=7, values=1, bytes=2),
    )
    assert blobs.finish({}) == (), "one that this table does not point into is not named"


def test_an_upload_that_reads_back_differently_is_an_error() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    store.corrupt("get", match=BLOB_PREFIX)
    blobs = BlobWriter(store, TABLE, threshold=10, compression="none")
    found = values_of(blobs.separate(entries_of([b"x" * 10])))
    with pytest.raises(ChecksumError, match="reads back differently"):
        blobs.finish(count_by_blob(stored(found)))


@pytest.mark.parametrize("special", [False, True])
def test_what_waits_goes_to_the_blob_in_the_order_of_keys(special: bool) -> None:
    store = MemoryObjectStore()
    blobs = new_writer(store)
    aside = Aside(blobs, special=special)
    first = Chunk([b"d", b"a", b"x"], [3, 2, 5], [b"D" * 10, b"A" * 11, None])
    second = Chunk([b"c"], [4], [b"C" * 12])
    third = Chunk([b"b", b"e"], [6, 7], [b"b" * 9, b""])
    assert aside.without_large(first) == Chunk([b"x"], [5], [None])
    assert aside.without_large(second) == EMPTY
    assert aside.without_large(third) is third
    large = aside.with_pointers()
    assert (large.keys, large.seqs) == ([b"a", b"c", b"d"], [2, 4, 3])
    [ref] = blobs.finish(count_by_blob(stored(list(large.values))))
    places = list(Directory(ref.id, store.get(blob_name(ref.id))))
    assert places == [pointer.place for value in large.values if (pointer := pointer_in(value))]
    assert [place.length for place in places] == [11 + 9, 12 + 9, 10 + 9]


def test_what_is_merged_does_not_wait_and_what_expires_does() -> None:
    aside = Aside(new_writer(MemoryObjectStore()), special=True)
    merge = Merge(b"b" * 50, (Operand(1, b"o" * 50),))
    values: list[Value] = [merge, Expiring(b"e" * 10, 7), Expiring(b"e" * 9, 7)]
    left = aside.without_large(Chunk([b"m", b"l", b"s"], [1, 2, 3], values))
    assert left == Chunk([b"m", b"s"], [1, 3], [values[0], values[2]])
    [found] = aside.with_pointers().values
    assert isinstance(found, Expiring)
    assert isinstance(found.value, BlobPointer)
    assert found.expires == 7


def test_without_a_threshold_nothing_waits() -> None:
    aside = Aside(new_writer(MemoryObjectStore(), threshold=0), special=True)
    chunk = Chunk([b"a"], [1], [b"A" * 100])
    assert aside.without_large(chunk) is chunk
    assert aside.with_pointers().keys == []
