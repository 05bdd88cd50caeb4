"""What of the shipped log is read where objects of it are damaged."""

from __future__ import annotations

from seerdb.ids import Epoch, SeqNo
from seerdb.storage.object_store.names import wal_name
from seerdb.storage.shipping.shipped import read_shipped
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.wal.samples import HEADER, frame, put, segment

DATABASE = HEADER.database_id.hex()
OTHER = HEADER._replace(database_id=bytes(16))


def stored(epoch: int, first: int, last: int, *, readable: int = 9) -> tuple[str, bytes]:
    """An object of the log; of its records so many can be read."""
    records = [put(seq, b"of epoch %d" % epoch) for seq in range(first, last + 1)]
    data = bytearray(segment(*(frame(record) for record in records)))
    if readable < len(records):
        data[len(segment(*map(frame, records[:readable]))) + 40] ^= 1
    return wal_name(Epoch(epoch), SeqNo(first), SeqNo(last)), bytes(data)


def read(*objects: tuple[str, bytes]) -> tuple[list[int], int]:
    store = MemoryObjectStore()
    for name, data in objects:
        store.put(name, data)
    records, sound_seq = read_shipped(store, DATABASE, 0, strict=False)
    return [record[0] for record in records], sound_seq


def test_objects_of_a_later_epoch_go_on_where_a_damaged_one_ends() -> None:
    damaged = stored(1, 2, 5, readable=2)
    assert read(stored(1, 1, 1), damaged) == ([1, 2, 3], 1)
    assert read(stored(1, 1, 1), damaged, stored(2, 4, 7)) == ([1, 2, 3, 4, 5, 6, 7], 1)
    assert read(stored(1, 1, 1), damaged, stored(2, 2, 7)) == ([1, 2, 3, 4, 5, 6, 7], 7)
    assert read(stored(1, 1, 1), damaged, stored(2, 5, 7)) == ([1, 2, 3], 1)


def test_an_object_without_a_header_and_one_of_another_database_tell_nothing() -> None:
    first, (name, data) = stored(1, 1, 1), stored(1, 2, 3)
    assert read(first, (name, data[:100]), stored(1, 4, 4)) == ([1], 1)
    other = segment(frame(put(2, b"x")), header=OTHER)
    assert read(first, (wal_name(Epoch(1), SeqNo(2), SeqNo(2)), other)) == ([1], 1)
