"""What every object store promises, run against every implementation."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crc32c import crc32c

from seerdb.errors import AlreadyExistsError, NotFoundError, TruncatedError
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.probe import Capabilities, probe
from seerdb.storage.pieces import Pieces
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore

MIB = 1 << 20

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
"""Of the HTTP client of Azure's and Google's drivers, which know no other way."""


def _memory(request: pytest.FixtureRequest) -> ObjectStore:
    return MemoryObjectStore()


def _faulty(request: pytest.FixtureRequest) -> ObjectStore:
    return FaultyObjectStore(MemoryObjectStore())


def _local(request: pytest.FixtureRequest) -> ObjectStore:
    directory: Path = request.getfixturevalue("tmp_path")
    return StoreLocation(str(directory / "bucket")).open()


def _fsspec_memory(request: pytest.FixtureRequest) -> ObjectStore:
    return StoreLocation(f"memory://{uuid.uuid4().hex}").open()


def _moto(request: pytest.FixtureRequest) -> ObjectStore:
    return StoreLocation(*request.getfixturevalue("moto_store_url")).open()


def _minio(request: pytest.FixtureRequest) -> ObjectStore:
    return StoreLocation(*request.getfixturevalue("minio_store_url")).open()


def _azurite(request: pytest.FixtureRequest) -> ObjectStore:
    return StoreLocation(*request.getfixturevalue("azurite_store_url")).open()


def _fake_gcs(request: pytest.FixtureRequest) -> ObjectStore:
    return StoreLocation(*request.getfixturevalue("fake_gcs_store_url")).open()


@pytest.fixture(
    params=[
        pytest.param(_memory, id="memory"),
        pytest.param(_faulty, id="faulty"),
        pytest.param(_local, id="local"),
        pytest.param(_fsspec_memory, id="fsspec-memory"),
        pytest.param(_moto, id="moto", marks=pytest.mark.integration),
        pytest.param(_minio, id="minio", marks=pytest.mark.integration),
        pytest.param(_azurite, id="azurite", marks=pytest.mark.integration),
        pytest.param(_fake_gcs, id="fake-gcs", marks=pytest.mark.integration),
    ]
)
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    opened = request.param(request)
    yield opened
    opened.close()
    opened.close()  # idempotent


def test_what_is_put_is_got(store: ObjectStore) -> None:
    store.put("tables/a.sst", b"\x00bytes\xff")
    assert store.get("tables/a.sst") == b"\x00bytes\xff"


def test_put_replaces(store: ObjectStore) -> None:
    store.put("a", b"a long first version")
    store.put("a", b"short")
    assert store.get("a") == b"short"
    assert [info.size for info in store.list("a")] == [5]


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("replaced", b"")
    store.put_if_absent("created", b"")
    assert store.get("replaced") == store.get("created") == b""
    assert [(info.name, info.size) for info in store.list("")] == [("created", 0), ("replaced", 0)]
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("created", b"more")


def test_a_large_object_comes_back_whole(store: ObjectStore) -> None:
    data = bytes(range(256)) * (20 * MIB // 256)
    store.put_if_absent("tables/large.sst", data)
    assert store.get("tables/large.sst") == data
    assert store.get_range("tables/large.sst", 10 * MIB + 1, 5) == b"\x01\x02\x03\x04\x05"
    assert [info.size for info in store.list("tables/")] == [20 * MIB]


CUTS = {
    "one": (b"whole",),
    "none": (),
    "empty ones": (b"", b"a", b"", b"", b"b", b""),
    "only empty ones": (b"", b""),
    "thousands": tuple(b"%d" % number * (number % 5) for number in range(3_000)),
    "large": (b"head", bytes(range(256)) * (3 * MIB // 256), b"tail"),
}


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_put_in_pieces_reads_back_as_one(store: ObjectStore, cut: str) -> None:
    data, whole = Pieces(CUTS[cut]), b"".join(CUTS[cut])
    store.put("tables/a.sst", b"what is replaced")
    store.put("tables/a.sst", data)
    store.put_if_absent("tables/b.sst", data)
    for name in ("tables/a.sst", "tables/b.sst"):
        assert store.get(name) == whole
        assert store.checksum(name) == Checksum.of(data)
        with pytest.raises(AlreadyExistsError):
            store.put_if_absent(name, Pieces((b"other ", b"pieces")))
    assert [info.size for info in store.list("tables/")] == [len(whole)] * 2
    assert store.get("tables/b.sst") == whole


def test_a_range_is_exact(store: ObjectStore) -> None:
    store.put("a", b"0123456789")
    assert store.get_range("a", 0, 1) == b"0"
    assert store.get_range("a", 3, 4) == b"3456"
    assert store.get_range("a", 9, 1) == b"9"
    assert store.get_range("a", 0, 10) == b"0123456789"


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (8, 3), (10, 1), (50, 5)])
def test_a_range_past_the_end_is_truncated(store: ObjectStore, offset: int, length: int) -> None:
    store.put("a", b"0123456789")
    with pytest.raises(TruncatedError) as caught:
        store.get_range("a", offset, length)
    assert caught.value.name == "a"


@pytest.mark.parametrize("size", [0, 1, MIB + 1])
def test_a_checksum_is_that_of_all_bytes(store: ObjectStore, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    store.put("a/b", data)
    assert store.checksum("a/b") == Checksum(size, crc32c(data)) == Checksum.of(data)


def test_a_missing_object_is_not_found(store: ObjectStore) -> None:
    store.put("tables/a.sst", b"a")
    for name in ("missing", "tables", "tables/a", "tables/a.sst/b", "none/missing"):
        with pytest.raises(NotFoundError, match=name):
            store.get(name)
        with pytest.raises(NotFoundError, match=name):
            store.get_range(name, 0, 1)


def test_listing_is_recursive_by_prefix_and_in_the_order_of_names(store: ObjectStore) -> None:
    names = ["wal/2/a", "wal/10/b", "wal-3", "wal/2-", "manifest/001", "manifest/010", "tables/x"]
    for name in names:
        store.put(name, name.encode())
    listed = store.list("")
    assert [info.name for info in listed] == sorted(names)
    assert [info.size for info in listed] == [len(name) for name in sorted(names)]
    assert [info.name for info in store.list("wal/")] == ["wal/10/b", "wal/2-", "wal/2/a"]
    assert [info.name for info in store.list("wal/2")] == ["wal/2-", "wal/2/a"]
    assert [info.name for info in store.list("wal")] == ["wal-3", "wal/10/b", "wal/2-", "wal/2/a"]
    assert [info.name for info in store.list("manifest/00")] == ["manifest/001"]
    assert [info.name for info in store.list("tables/x")] == ["tables/x"]


def test_listing_where_nothing_is_is_empty(store: ObjectStore) -> None:
    assert store.list("") == []
    store.put("tables/a", b"a")
    assert store.list("manifest/") == []
    assert store.list("tables/b") == []
    assert store.list("tables/a/") == []


def test_a_listing_says_when_objects_were_written(store: ObjectStore) -> None:
    store.put("first", b"1")
    store.put("second", b"2")
    times = {info.name: info.modified for info in store.list("")}
    assert 1.6e9 < times["first"] <= times["second"] + 1.0  # S3 rounds to seconds


def test_deleted_objects_are_gone_and_missing_ones_no_error(store: ObjectStore) -> None:
    for name in ("tables/a", "tables/b", "tables/c"):
        store.put(name, b"x")
    store.delete(iter(["tables/a", "tables/missing", "none/missing", "tables/c"]))
    assert [info.name for info in store.list("")] == ["tables/b"]
    with pytest.raises(NotFoundError):
        store.get("tables/a")
    store.delete([])
    store.delete(["tables/b"])
    store.put_if_absent("tables/b", b"again")
    assert store.get("tables/b") == b"again"


@pytest.mark.slow
def test_more_objects_than_a_page_are_listed_and_deleted(store: ObjectStore) -> None:
    names = [f"tables/{number:05d}" for number in range(1_005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))
    assert [info.name for info in store.list("tables/")] == names
    store.delete(names)
    assert store.list("") == []


def test_create_if_absent_refuses_a_taken_name_and_leaves_it(store: ObjectStore) -> None:
    store.put_if_absent("manifest/1", b"first")
    with pytest.raises(AlreadyExistsError, match="manifest/1"):
        store.put_if_absent("manifest/1", b"second")
    assert store.get("manifest/1") == b"first"
    store.put("tables/a", b"put")
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("tables/a", b"second")
    assert store.get("tables/a") == b"put"


def test_of_racing_creators_exactly_one_wins(store: ObjectStore) -> None:
    threads, names = 8, [f"manifest/{number:020d}" for number in range(20)]
    barrier = threading.Barrier(threads)

    def create(name: str, content: bytes) -> bool:
        barrier.wait()
        try:
            store.put_if_absent(name, content)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        for name in names:
            contents = [f"{name} by writer {writer}".encode() for writer in range(threads)]
            won = list(pool.map(create, [name] * threads, contents))
            assert won.count(True) == 1, f"{won.count(True)} writers created {name}"
            assert store.get(name) == contents[won.index(True)]
    assert [info.name for info in store.list("")] == names


def test_a_reader_never_sees_half_an_object(store: ObjectStore) -> None:
    size, rounds = 256 * 1024, 20
    versions = [bytes([number]) * size for number in range(rounds)]
    store.put("a", versions[0])
    done = threading.Event()

    def read() -> list[bytes]:
        seen = []
        while not done.is_set():
            seen.append(store.get("a"))
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for version in versions:
            store.put("a", version)
        done.set()
        for reader in readers:
            assert all(data in versions for data in reader.result())


def test_the_probe_finds_nothing_missing_and_leaves_nothing_behind(store: ObjectStore) -> None:
    assert probe(store, "random") == Capabilities(True, True, True, True)
    assert store.list("") == []
