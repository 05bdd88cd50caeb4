"""Snapshot: the handle on the database as it was at one moment."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, Self, overload

from seerdb.errors import ClosedError
from seerdb.forked import Handle, keep_from_children, refuse_all
from seerdb.storage.batch import check_key, check_keys
from seerdb.storage.read.read_side import ReadSide
from seerdb.storage.read.reads import View
from seerdb.storage.read.rows import bounds, check_flags, keys, pairs, rows
from seerdb.storage.read.scan import Wanted


class Snapshot(Handle):
    """The database as it was when the snapshot was taken, what expired since included.
    Thread-safe.

    Lives in memory only. Keeps the memtables and tables of its moment until closed.
    """

    def __init__(self, engine: ReadSide) -> None:
        self._engine = engine
        keep_from_children(self, refuse_all)
        view = engine.reads.view()
        self._view: View | None = view
        self._seq = view.at

    @property
    def seq(self) -> int:
        """The newest commit it shows."""
        return self._seq

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what it keeps. Idempotent; reads raise ``ClosedError`` afterwards."""
        self._view = None

    def _open_view(self) -> View:
        self._engine.check_open()
        if self._view is None:
            raise ClosedError("the snapshot is closed; take another")
        return self._view

    def get(self, key: bytes, *, fill_cache: bool = True) -> bytes | None:
        """The value of ``key``; ``None`` when it was absent. ``fill_cache`` as for
        ``DB.get``."""
        check_key(key)
        if fill_cache is not True:
            check_flags(fill_cache=fill_cache)
        version = self._engine.reads.get_at(self._open_view(), key, fill=fill_cache)
        return version and version[1]

    def multi_get(self, keys: list[bytes], *, fill_cache: bool = True) -> list[bytes | None]:
        """The values of several keys, in order."""
        check_keys(keys)
        check_flags(fill_cache=fill_cache)
        found = self._engine.reads.get_many_at(self._open_view(), keys, fill=fill_cache)
        return [version and version[1] for version in found]

    @overload
    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: Literal[False] = False,
        fill_cache: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]: ...

    @overload
    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: Literal[True],
        fill_cache: bool = True,
    ) -> Iterator[bytes]: ...

    @overload
    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool,
        fill_cache: bool = True,
    ) -> Iterator[Any]: ...

    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        fill_cache: bool = True,
    ) -> Iterator[Any]:
        """As ``DB.scan``, of the snapshot's moment."""
        check_flags(reverse=reverse, keys_only=keys_only, fill_cache=fill_cache)
        wanted = Wanted(*bounds(start, end, prefix), reverse, limit, fill_cache, keys_only)
        chunks = self._engine.reads.scan(self._open_view(), wanted)
        return rows(chunks, keys if keys_only else pairs, reverse=reverse, limit=limit)
