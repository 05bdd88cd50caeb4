"""A directory as a bucket: what is on disk when, and how the file system's errors come out."""

from __future__ import annotations

import errno
import operator
import os
import stat
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from seerdb.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    TruncatedError,
    UnavailableError,
)
from seerdb.storage.object_store import local_store
from seerdb.storage.object_store.base import DeletionDeniedError
from seerdb.storage.object_store.local_store import ABANDONED_SECONDS, INCOMING, LocalObjectStore
from seerdb.storage.pieces import Pieces


class PowerCut(BaseException):
    """Nothing after this instant happens."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def store(directory: Path) -> LocalObjectStore:
    return LocalObjectStore(str(directory))


def record_calls(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]) -> None:
    """Call ``before`` with what each durable step is about to do."""

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def wrapper(*args: Any, **options: Any) -> Any:
            directory = name == "fsync" and Path(f"/proc/self/fd/{args[0]}").is_dir()
            before(f"{name} directory" if directory else name)
            return real(*args, **options)

        monkeypatch.setattr(os, name, wrapper)

    for name in ("writev", "fsync", "link", "replace"):
        wrap(name)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(("method", "publish"), [("put", "replace"), ("put_if_absent", "link")])
def test_contents_are_synced_before_the_name_and_the_name_before_returning(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch, method: str, publish: str
) -> None:
    store.put("tables/first", b"creates the directories")
    steps: list[str] = []
    record_calls(monkeypatch, steps.append)
    getattr(store, method)("tables/a", b"a")
    assert steps == ["writev", "fsync", publish, "fsync directory"]


def test_new_directories_are_synced_into_their_parents(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    record_calls(monkeypatch, steps.append)
    store.put("wal/1/a", b"a")  # bucket, wal, wal/1 and .incoming are new, and a name is
    assert steps.count("fsync directory") == 5


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
@pytest.mark.parametrize("step", range(4))
def test_a_power_cut_at_any_step_leaves_all_or_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, method: str, step: int
) -> None:
    store = LocalObjectStore(str(directory))
    store.put("tables/old", b"old")
    steps: list[str] = []

    def cut(operation: str) -> None:
        if len(steps) == step:
            raise PowerCut
        steps.append(operation)

    with monkeypatch.context() as patched:
        record_calls(patched, cut)
        with pytest.raises(PowerCut):
            getattr(store, method)("tables/new", b"new")
    after = LocalObjectStore(str(directory))
    listed = {info.name: after.get(info.name) for info in after.list("")}
    assert listed == {"tables/old": b"old"} | ({"tables/new": b"new"} if step == 3 else {})


def test_a_name_is_durable_before_anyone_is_told_that_it_exists(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_if_absent("manifest/1", b"first")
    steps: list[str] = []
    record_calls(monkeypatch, steps.append)
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("manifest/1", b"second")
    assert steps[-1] == "fsync directory"


def test_staged_files_are_not_listed_and_not_left_behind(
    store: LocalObjectStore, directory: Path
) -> None:
    store.put("a", b"a")
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("a", b"b")
    assert list((directory / INCOMING).iterdir()) == []
    (directory / INCOMING / "half").write_bytes(b"half an obj")
    assert [info.name for info in store.list("")] == ["a"]
    assert store.list(".") == []


def test_what_dead_writers_left_is_swept_by_the_first_write_and_the_rest_stays(
    store: LocalObjectStore, directory: Path
) -> None:
    store.put("a", b"a")
    left, young = directory / INCOMING / "left", directory / INCOMING / "young"
    for file, age in ((left, ABANDONED_SECONDS + 60), (young, ABANDONED_SECONDS - 60)):
        file.write_bytes(b"half an obj")
        modified = (directory / "a").stat().st_mtime - age
        os.utime(file, (modified, modified))
    store.put("b", b"b")  # not its first
    assert left.exists()
    LocalObjectStore(str(directory)).put("c", b"c")
    assert not left.exists()
    assert young.exists()


def test_reading_creates_nothing(store: LocalObjectStore, directory: Path) -> None:
    assert store.list("") == []
    store.delete(["a"])
    with pytest.raises(NotFoundError):
        store.get("a")
    assert not directory.exists()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "the file system failed"),
    ],
)
def test_a_failed_write_says_why_and_leaves_nothing(
    store: LocalObjectStore,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reason: str,
) -> None:
    store.put("first", b"1")
    for method in (store.put, store.put_if_absent):
        with monkeypatch.context() as patched:
            failing(patched, "writev", number)
            with pytest.raises(UnavailableError, match=rf"tables/a: .*{reason}") as caught:
                method("tables/a", b"a")
        assert isinstance(caught.value.__cause__, OSError)
    assert [info.name for info in store.list("")] == ["first"]
    assert list((directory / INCOMING).iterdir()) == []


def test_a_failed_read_is_unavailable_and_says_permission_denied(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"a")
    failing(monkeypatch, "open", errno.EACCES)
    with pytest.raises(UnavailableError, match="permission denied"):
        store.get("a")
    failing(monkeypatch, "scandir", errno.EACCES)
    with pytest.raises(UnavailableError, match="permission denied"):
        store.list("")


def test_a_deletion_that_is_denied_is_told_from_a_store_that_fails(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"a")

    for number, kind in ((errno.EACCES, DeletionDeniedError), (errno.EIO, UnavailableError)):

        def unlink(path: Path, number: int = number) -> None:
            raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr(Path, "unlink", unlink)
        with pytest.raises(UnavailableError) as caught:
            store.delete(["a"])
        assert type(caught.value) is kind


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("make", [pipe, endless, unix_socket])
@pytest.mark.timeout(20)
def test_what_is_no_file_is_damage_that_is_told_at_once(
    make: Callable[[Path], None], store: LocalObjectStore, directory: Path
) -> None:
    (directory / "manifest").mkdir(parents=True)
    make(directory / "manifest/7")
    with pytest.raises(CorruptionError, match=r"^manifest/7: what has its name is no file but a"):
        store.get("manifest/7")
    with pytest.raises(CorruptionError, match="remove it"):
        store.get_range("manifest/7", 3, 9 << 20)
    if make is not endless:
        with pytest.raises(CorruptionError, match="remove it"):
            store.get_range("manifest/7", 3, 9)
    with pytest.raises(CorruptionError):
        store.checksum("manifest/7")
    store.delete(["manifest/7"])
    assert store.list("manifest/") == []


def test_a_range_far_behind_the_end_costs_no_memory(store: LocalObjectStore) -> None:
    store.put("a", b"12345")
    with pytest.raises(TruncatedError) as caught:
        store.get_range("a", 2, 1 << 62)
    assert (caught.value.expected, caught.value.found) == (1 << 62, 3)
    with pytest.raises(TruncatedError) as caught:
        store.get_range("a", 7, 1)
    assert caught.value.found == 0


def test_a_directory_is_no_object(store: LocalObjectStore, directory: Path) -> None:
    (directory / "manifest/7").mkdir(parents=True)
    for read in (store.get, store.checksum, lambda name: store.get_range(name, 0, 1)):
        with pytest.raises(NotFoundError, match="no object manifest/7"):
            read("manifest/7")


def test_a_file_system_without_hard_links_is_named(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "link", errno.EPERM)
    with pytest.raises(InvalidRequestError, match="hard links"):
        store.put_if_absent("a", b"a")
    store.put("a", b"a")


def test_a_name_below_an_object_cannot_be_written(store: LocalObjectStore) -> None:
    store.put("a", b"a")
    for method in (store.put, store.put_if_absent):
        with pytest.raises(UnavailableError):
            method("a/b", b"b")
    store.put("b/c", b"c")
    with pytest.raises(UnavailableError):
        store.put("b", b"b")


def test_a_short_write_is_continued(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: real(descriptor, pieces[0][:3]))
    store.put("a", b"0123456789")
    assert store.get("a") == b"0123456789"


@pytest.mark.parametrize("most", [0, 1, 4, 5, 6, 10, 26])
def test_a_short_write_of_pieces_is_continued(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Wherever it ends: in a piece, between two, in all of a group."""
    real = os.write

    def short(descriptor: int, pieces: Sequence[bytes]) -> int:
        return real(descriptor, b"".join(pieces)[:most])

    monkeypatch.setattr(os, "writev", short)
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    monkeypatch.setattr(local_store, "_AT_ONCE", 5)
    cut = (b"", b"01234", b"5", b"", b"6789", b"abcdefg", b"", b"hijkl", b"mn", b"op")
    store.put("a", Pieces(cut))
    store.put_if_absent("b", Pieces(cut))
    assert store.get("a") == store.get("b") == b"".join(cut)


def test_pieces_are_written_as_they_are_so_many_by_a_call(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.writev, []

    def noted(descriptor: int, views: Sequence[memoryview]) -> int:
        written.append(list(views))
        return real(descriptor, views)

    monkeypatch.setattr(os, "writev", noted)
    pieces = tuple(b"%d" % number for number in range(1_100))
    store.put("a", Pieces(pieces))
    assert [len(views) for views in written] == [512, 512, 76]
    whole = [view.obj for view in chain.from_iterable(written)]
    assert all(map(operator.is_, whole, pieces)), "nothing is copied"
    assert store.get("a") == b"".join(pieces)


@pytest.mark.parametrize("sizes", [[300_000], [128 << 10] * 2, [90_000] * 3, [1, 384 << 10, 1]])
def test_no_call_writes_more_than_128_kib(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    real, written = os.writev, []

    def noted(descriptor: int, views: Sequence[memoryview]) -> int:
        written.append(sum(map(len, views)))
        return real(descriptor, views)

    monkeypatch.setattr(os, "writev", noted)
    pieces = tuple(os.urandom(size) for size in sizes)
    store.put("a", Pieces(pieces))
    *full, last = written
    assert set(full) == {128 << 10}
    assert 0 < last <= 128 << 10
    assert store.get("a") == b"".join(pieces)


def test_a_short_read_is_continued(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"0123456789")
    real = os.pread
    monkeypatch.setattr(
        os, "pread", lambda descriptor, length, offset: real(descriptor, min(length, 3), offset)
    )
    assert store.get("a") == b"0123456789"
    assert store.get_range("a", 2, 7) == b"2345678"


def test_a_relative_directory_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalObjectStore("bucket")
    monkeypatch.chdir("/")
    store.put("a", b"a")
    assert (tmp_path / "bucket" / "a").read_bytes() == b"a"
