"""Fetching values: how many requests, and what comes of damage."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from seerdb.errors import ClosedError, CorruptionError, TruncatedError, UnavailableError
from seerdb.ids import Epoch, blob_id, table_id
from seerdb.storage.blob import reader
from seerdb.storage.blob.format import BlobBuilder
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.blob.resolve import Resolver
from seerdb.storage.merge import Chunk
from seerdb.storage.object_store.names import blob_name
from seerdb.storage.pointer import BlobPointer
from seerdb.storage.value import Expiring, pointer_in
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore

SIZE = 1000


def put_blob(store: MemoryObjectStore, number: int, count: int) -> list[BlobPointer]:
    """Upload a blob of values that do not compress."""
    builder = BlobBuilder(blob_id(table_id(Epoch(1), 1), number), "zstd")
    pointers = [builder.add(value(number, each)) for each in range(count)]
    store.put(blob_name(builder.blob), builder.finish().data)
    return pointers


def value(blob: int, number: int) -> bytes:
    return random.Random(1000 * blob + number).randbytes(SIZE)


class Rig:
    def __init__(self, blobs: int = 1, count: int = 20) -> None:
        self.bucket = MemoryObjectStore()
        self.pointers = [put_blob(self.bucket, number, count) for number in range(blobs)]
        self.bucket.calls.clear()
        self.reader = BlobReader(self.bucket, InlineExecutor())

    @property
    def requests(self) -> int:
        made = self.bucket.calls.total()
        self.bucket.calls.clear()
        return made


def test_one_value_is_one_request() -> None:
    rig = Rig()
    assert rig.reader.get(rig.pointers[0][7]) == value(0, 7)
    assert (rig.requests, rig.reader.fetched) == (1, 1)


def test_neighbours_come_together_in_any_order() -> None:
    rig = Rig(blobs=2)
    wanted = [rig.pointers[0][3], rig.pointers[1][9], rig.pointers[0][2], rig.pointers[0][5]]
    found = rig.reader.get_many([*wanted, wanted[0]])
    expected = [value(0, 3), value(1, 9), value(0, 2), value(0, 5)]
    assert [found[pointer] for pointer in wanted] == expected
    assert len(found) == 4
    assert rig.requests == 2, "one a blob"


def test_what_lies_far_apart_is_fetched_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(reader, "MAX_GAP", 3 * (SIZE + 9))
    assert len(rig.reader.get_many([rig.pointers[0][0], rig.pointers[0][4]])) == 2
    assert rig.requests == 1
    assert len(rig.reader.get_many([rig.pointers[0][0], rig.pointers[0][5]])) == 2
    assert rig.requests == 2
    monkeypatch.setattr(reader, "MAX_RANGE", 5 * (SIZE + 9))
    assert len(rig.reader.get_many(rig.pointers[0])) == 20
    assert rig.requests == 4


def test_nothing_wanted_is_no_request() -> None:
    rig = Rig()
    assert rig.reader.get_many([]) == {}
    assert rig.requests == 0


def test_a_missing_blob_is_damage_and_no_missing_key() -> None:
    rig = Rig(blobs=2)
    name = blob_name(rig.pointers[1][0].place.blob)
    rig.bucket.delete([name])
    for pointers in ([rig.pointers[1][2]], [rig.pointers[0][0], rig.pointers[1][2]]):
        with pytest.raises(CorruptionError, match="gone") as found:
            rig.reader.get_many(pointers)
        assert (found.value.name, found.value.offset) == (name, 2 * (SIZE + 9))
    with pytest.raises(CorruptionError, match="gone"):
        rig.reader.get(rig.pointers[1][0])


def test_a_short_blob_is_damage() -> None:
    rig = Rig()
    name = blob_name(rig.pointers[0][0].place.blob)
    rig.bucket.put(name, rig.bucket.get(name)[: 5 * (SIZE + 9) - 1])
    assert rig.reader.get(rig.pointers[0][3]) == value(0, 3)
    for wanted in (rig.pointers[0][4:5], rig.pointers[0]):
        with pytest.raises(TruncatedError):
            rig.reader.get_many(wanted)


def test_damage_names_the_value_and_spares_its_neighbours() -> None:
    rig = Rig()
    pointer = rig.pointers[0][4]
    name, offset = blob_name(pointer.place.blob), pointer.place.offset
    data = bytearray(rig.bucket.get(name))
    data[offset + 17] ^= 4
    rig.bucket.put(name, bytes(data))
    with pytest.raises(CorruptionError) as found:
        rig.reader.get_many(rig.pointers[0])
    assert (found.value.name, found.value.offset) == (name, offset)
    others = [each for each in rig.pointers[0] if each != pointer]
    assert len(rig.reader.get_many(others)) == 19


def test_a_bucket_that_is_away_is_no_damage() -> None:
    rig = Rig()
    store = FaultyObjectStore(rig.bucket)
    store.fail("get_range", error=UnavailableError("planned"))
    with pytest.raises(UnavailableError):
        BlobReader(store, InlineExecutor()).get(rig.pointers[0][0])


def test_requests_run_side_by_side_and_end_with_the_threads() -> None:
    rig = Rig(blobs=3)
    wanted = [pointers[0] for pointers in rig.pointers]
    with ThreadPoolExecutor(3) as fetchers:
        threaded = BlobReader(rig.bucket, fetchers)
        assert len(threaded.get_many(wanted)) == 3
    with pytest.raises(ClosedError):
        threaded.get_many(wanted)


def chunk_of(pointers: list[BlobPointer]) -> Chunk:
    values = [each if at % 2 else Expiring(each, 9) for at, each in enumerate(pointers)]
    keys = [b"%03d" % number for number in range(len(values))]
    return Chunk(keys, list(range(len(values))), values)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chunk_is_resolved_a_few_bytes_at_a_time(reverse: bool) -> None:
    rig = Rig(count=20)
    chunk = chunk_of(rig.pointers[0])
    pieces = list(
        Resolver(rig.reader, pointer_in, at_first=2 * (SIZE + 9)).pieces(chunk, reverse=reverse)
    )
    lengths = [len(piece.keys) for piece in pieces]
    assert lengths == [2, 4, 8, 6], "twice as much each time"
    in_order = pieces[::-1] if reverse else pieces
    assert [key for piece in in_order for key in piece.keys] == chunk.keys
    assert [seq for piece in in_order for seq in piece.seqs] == chunk.seqs
    found = [each for piece in in_order for each in piece.values]
    assert found[0::2] == [Expiring(value(0, n), 9) for n in range(0, 20, 2)]
    assert found[1::2] == [value(0, n) for n in range(1, 20, 2)]


def test_pieces_that_nobody_takes_are_not_fetched() -> None:
    rig = Rig(count=20)
    pieces = Resolver(rig.reader, pointer_in, at_first=1).pieces(chunk_of(rig.pointers[0]))
    assert len(next(pieces).keys) == 1
    assert (rig.requests, rig.reader.fetched) == (1, 1)


def test_a_chunk_of_which_nothing_is_wanted_stays_as_it_is() -> None:
    rig = Rig()
    chunk = chunk_of(rig.pointers[0])
    assert list(Resolver(rig.reader, lambda value: None).pieces(chunk)) == [chunk]
    assert rig.requests == 0
