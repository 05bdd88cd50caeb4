"""Loading the manifest: what it costs, and what it does with damage."""

from __future__ import annotations

import pytest

from seerdb.errors import (
    ChecksumError,
    CorruptionError,
    NotFoundError,
    TruncatedError,
    UnavailableError,
    UnsupportedFormatError,
)
from seerdb.ids import SeqNo
from seerdb.storage.manifest.store import load, manifest_numbers
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
from seerdb.storage.object_store.names import manifest_name
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.manifest.samples import open_writer, table


def flush(writer: ManifestWriter, counter: int) -> None:
    """Commit one table."""
    writer.commit(add=[table(counter)], last_seq=SeqNo(counter), reason="flush")


def history(store: ObjectStore) -> ManifestWriter:
    """Claim 1, edits 2 and 3, checkpoint 4, edits 5 and 6."""
    writer = open_writer(store)
    flush(writer, 1)
    flush(writer, 2)
    writer.checkpoint()
    flush(writer, 3)
    flush(writer, 4)
    return writer


def test_an_empty_bucket_has_no_manifest() -> None:
    store = MemoryObjectStore()
    assert load(store) is None
    assert dict(store.calls) == {"list": 1}


def test_names_that_are_not_ours_are_passed_over() -> None:
    store = MemoryObjectStore()
    for name in ("manifest/README", "manifest/7", "manifest/" + "9" * 21, "manifesto"):
        store.put(name, b"mine")
    assert load(store) is None
    writer = history(store)
    assert load(store) == writer.state


def test_after_a_clean_close_one_list_and_one_get() -> None:
    store = MemoryObjectStore()
    writer = history(store)
    writer.checkpoint()
    store.calls.clear()
    assert load(store) == writer.state
    assert dict(store.calls) == {"list": 1, "get": 1}


def test_otherwise_one_get_more_for_each_object_back_to_the_checkpoint() -> None:
    store = MemoryObjectStore()
    writer = history(store)
    store.calls.clear()
    assert load(store) == writer.state
    assert dict(store.calls) == {"list": 1, "get": 3}


def test_before_the_first_checkpoint_everything_is_read() -> None:
    store = MemoryObjectStore()
    writer = open_writer(store)
    flush(writer, 1)
    assert load(store) == writer.state


def test_needed_objects_are_fetched_in_one_go_when_the_caller_can() -> None:
    store = MemoryObjectStore()
    writer = history(store)
    asked: list[list[str]] = []

    def fetch_many(names: list[str]) -> list[bytes]:
        asked.append(names)
        return [store.get(name) for name in names]

    assert load(store, fetch_many=fetch_many) == writer.state
    assert asked == [[manifest_name(4), manifest_name(5)]]


@pytest.mark.parametrize("missing", [4, 5])
def test_a_missing_object_is_named(missing: int) -> None:
    store = MemoryObjectStore()
    history(store)
    store.delete([manifest_name(missing)])
    with pytest.raises(CorruptionError, match="missing") as caught:
        load(store)
    assert caught.value.name == manifest_name(missing)


def test_objects_before_the_checkpoint_are_not_needed() -> None:
    store = MemoryObjectStore()
    writer = history(store)
    store.delete([manifest_name(number) for number in (1, 2, 3)])
    assert load(store) == writer.state


@pytest.mark.parametrize("number", [4, 5, 6])
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        (ChecksumError, lambda data: data[:-2] + b"!" + data[-1:]),
        (TruncatedError, lambda data: data[:-1]),
        (TruncatedError, lambda _: b""),
        (UnsupportedFormatError, lambda data: b"x" + data[1:]),
        (UnsupportedFormatError, lambda data: data[:8] + b"\x09" + data[9:]),
    ],
    ids=["flipped", "cut", "empty", "magic", "future"],
)
def test_damage_is_reported_and_nothing_is_made_of_it(
    number: int,
    kind: type[CorruptionError],
    damage: object,
) -> None:
    store = MemoryObjectStore()
    history(store)
    assert callable(damage)
    store.put(manifest_name(number), damage(store.get(manifest_name(number))))
    with pytest.raises(kind) as caught:
        load(store)
    assert caught.value.name == manifest_name(number)


def test_an_object_under_another_ones_name_is_damage() -> None:
    store = MemoryObjectStore()
    history(store)
    store.put(manifest_name(5), store.get(manifest_name(6)))
    with pytest.raises(CorruptionError, match="another one's record") as caught:
        load(store)
    assert (caught.value.name, caught.value.expected, caught.value.found) == (
        manifest_name(5),
        5,
        6,
    )


def test_a_record_of_another_history_is_damage() -> None:
    ours, theirs = MemoryObjectStore(), MemoryObjectStore()
    history(ours)
    writer = open_writer(theirs, seed=1)
    for counter in (11, 12, 13, 14):
        flush(writer, counter)
    ours.put(manifest_name(5), theirs.get(manifest_name(5)))
    with pytest.raises(CorruptionError, match="must be") as caught:
        load(ours)
    assert caught.value.name == manifest_name(5)


class Overtaken(MemoryObjectStore):
    """While the first load reads, two checkpoints come and the collector runs."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.stray: tuple[str, bytes] | None = None

    def list(self, prefix: str) -> list[ObjectInfo]:
        listed = super().list(prefix)
        if self.armed:
            self.armed = False
            writer = open_writer(self, seed=5)
            writer.checkpoint()
            flush(writer, 9)
            writer.checkpoint()
            if self.stray:
                self.put(*self.stray)
            else:
                self.delete(manifest_name(number) for number in range(1, 7))
        return listed


def test_a_load_that_the_collector_overtakes_starts_again() -> None:
    store = Overtaken()
    history(store)
    store.armed = True
    state = load(store)
    assert state is not None
    assert state.number == manifest_numbers(store)[-1]
    assert table(9) in state.version.tables


def test_a_load_that_finds_a_stray_in_place_of_a_collected_object_starts_again() -> None:
    """A sleeper's creation succeeded in a hole that the collector had made."""
    store = Overtaken()
    history(store)
    stray = MemoryObjectStore()
    flush(open_writer(stray, seed=77), 1)
    store.stray = (manifest_name(5), stray.get(manifest_name(2)))
    store.armed = True
    state = load(store)
    assert state is not None
    assert state.number == manifest_numbers(store)[-1]


def test_a_byte_flipped_on_the_way_is_read_again() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    writer = history(store)
    store.corrupt("get")
    assert load(store) == writer.state
    store.corrupt("get", times=4)
    with pytest.raises(CorruptionError):
        load(store)


class StaleListing(MemoryObjectStore):
    """Lists what it has not."""

    def get(self, name: str) -> bytes:
        raise NotFoundError(name)


def test_a_store_that_lists_what_it_has_not_is_refused() -> None:
    store = StaleListing()
    open_writer(MemoryObjectStore())
    store.put(manifest_name(1), b"there")
    with pytest.raises(CorruptionError, match="lists a manifest object"):
        load(store)


def test_an_outage_is_not_an_empty_database() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    history(store)
    for operation in ("list", "get"):
        store.fail(operation)
        with pytest.raises(UnavailableError):
            load(store)
