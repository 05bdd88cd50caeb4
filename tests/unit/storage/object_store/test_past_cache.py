"""What nobody reads soon goes past the page cache of a bucket in a directory, byte for byte."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from seerdb.errors import UnavailableError
from seerdb.storage.object_store.local_store import INCOMING, LocalObjectStore
from seerdb.storage.object_store.past_cache import write_past_cache
from seerdb.storage.pieces import Pieces

MIB = 1 << 20
BYTES = random.Random(1).randbytes(3 * MIB + 7)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    yield descriptor
    os.close(descriptor)


def cut(*sizes: int) -> list[bytes]:
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    return [BYTES[start:end] for start, end in pairwise(ends)]


def whole(descriptor: int) -> bytes:
    return os.pread(descriptor, 4 * MIB, 0)


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (0,),
        (1,),
        (4095,),
        (4096,),
        (4097,),
        (MIB,),
        (MIB - 1, 1, 1),
        (64, MIB - 64),
        (64, 0, MIB),
        (3 * MIB,),
        (64, 3 * MIB - 57),
        (1000,) * 1500,
    ],
)
def test_a_file_has_the_bytes_and_no_more(file: int, sizes: tuple[int, ...]) -> None:
    pieces, flags = cut(*sizes), fcntl.fcntl(file, fcntl.F_GETFL)
    if not write_past_cache(file, pieces):
        pytest.skip("the file system writes through its cache")
    assert whole(file) == b"".join(pieces)
    assert fcntl.fcntl(file, fcntl.F_GETFL) == flags


def test_a_write_that_is_cut_short_goes_on(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:8192], at))
    if not write_past_cache(file, cut(MIB + 1)):
        pytest.skip("the file system writes through its cache")
    assert whole(file) == BYTES[: MIB + 1]


@pytest.mark.parametrize("refuses", ["flag", "first write", "later write"])
def test_where_it_cannot_be_nothing_is_left_of_it(
    file: int, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    real, control = os.pwrite, fcntl.fcntl

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if refuses == "first write" or (refuses == "later write" and offset):
            raise OSError(errno.EINVAL, "not past the cache")
        return real(descriptor, data, offset)

    def setting(descriptor: int, command: int, *flags: int) -> Any:
        if refuses == "flag" and flags and flags[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not past the cache")
        return control(descriptor, command, *flags)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(fcntl, "fcntl", setting)
    assert not write_past_cache(file, cut(2 * MIB))
    assert whole(file) == b""
    assert not control(file, fcntl.F_GETFL) & os.O_DIRECT


def test_a_store_writes_large_cold_objects_past_the_cache_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, past = LocalObjectStore(str(tmp_path)), []

    def writing(descriptor: int, pieces: tuple[bytes, ...]) -> bool:
        past.append(sum(map(len, pieces)))
        return write_past_cache(descriptor, pieces)

    monkeypatch.setattr("seerdb.storage.object_store.local_store.write_past_cache", writing)
    for name, body in (
        ("small", Pieces(tuple(cut(64, MIB - 65)), cold=True)),
        ("warm", Pieces(tuple(cut(64, 2 * MIB)))),
        ("bytes", BYTES),
        ("large", Pieces(tuple(cut(64, MIB - 64)), cold=True)),
    ):
        store.put_if_absent(name, body)
        assert store.get(name) == bytes(body)
    assert past == [MIB]


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    store = LocalObjectStore(str(tmp_path))
    with pytest.raises(UnavailableError, match="the disk is full"):
        store.put_if_absent("wal/a", Pieces((BYTES,), cold=True))
    assert store.list("") == []
    assert list((tmp_path / INCOMING).iterdir()) == []
