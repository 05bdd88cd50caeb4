"""What handles of open databases have in common: their reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Literal, Self, overload

from seerdb.forked import Handle, keep_from_children, refuse_all
from seerdb.options import Options
from seerdb.snapshot import Snapshot
from seerdb.storage.batch import check_key, check_keys
from seerdb.storage.outward import check_may_wait
from seerdb.storage.past.time_travel import AsOf
from seerdb.storage.read.content import ContentDigest, content_digest
from seerdb.storage.read.lookup import Need
from seerdb.storage.read.read_side import ReadSide
from seerdb.storage.read.reads import View
from seerdb.storage.read.rows import (
    Entry,
    bounds,
    check_flags,
    entries,
    key_entries,
    keys,
    pairs,
    rows,
)
from seerdb.storage.read.scan import Wanted
from seerdb.storage.value import Shown


class NeedsIO:
    """The type of :data:`NEEDS_IO`."""

    def __repr__(self) -> str:
        return "NEEDS_IO"


NEEDS_IO: Final = NeedsIO()
"""What a read that must not block returns when it would have to."""


class Reader(Handle, ABC):
    """What can be read of an open database, whether or not this process may write to it."""

    def __init__(self, engine: ReadSide) -> None:
        self._engine = engine
        keep_from_children(self, refuse_all)
        engine.sampler.attach(self._serve_gets)

    @abstractmethod
    def _view(self, as_of: AsOf | None) -> View:
        """What a read looks at: now, or then."""

    def _serve_gets(self, try_get: Callable[[bytes], Shown | Need | None]) -> None:
        self._try_get = try_get

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
        """Release everything. Idempotent."""
        check_may_wait("closing a database")
        self._engine.sampler.end(self._refuse)
        self._engine.close()

    def _refuse(self, key: bytes) -> Shown | Need | None:
        self._engine.check_open()
        return self._engine.reads.try_get(key)

    def get(  # as a keyword only, an option would cost a hot get a twentieth of its time
        self,
        key: bytes,
        fill_cache: bool = True,  # noqa: FBT001, FBT002
        as_of: AsOf | None = None,
    ) -> bytes | None:
        """The value of ``key``; ``None`` when it is absent. Give the others by their names.

        Where a read takes ``as_of``, it tells what the database was then: after the commit of
        that seq, or at a time, as a ``datetime`` or a float of seconds since 1970. Raises
        ``HistoryError`` where that cannot be told.

        Where a read takes ``fill_cache=False``, what it has to load is kept neither in memory
        nor on disk: for reads of what will not be read again, so that they displace nothing.
        """
        if type(key) is not bytes or not 0 < len(key) <= 65_535:
            check_key(key)
        if as_of is not None or fill_cache is not True:
            return self._get_otherwise(key, fill_cache, as_of)
        try_get = self._try_get
        found = try_get(key)
        if isinstance(found, Need):
            found = self._load(key, found, fill_cache)
        return None if found is None else found[1]

    def _get_otherwise(self, key: bytes, fill: bool, as_of: AsOf | None) -> bytes | None:  # noqa: FBT001
        if as_of is not None:
            return self.multi_get([key], fill_cache=fill, as_of=as_of)[0]
        entry = self.get_entry(key, fill_cache=fill)
        return None if entry is None else entry.value

    def _load(self, key: bytes, need: Need, fill: bool) -> Shown | None:  # noqa: FBT001
        found = self._engine.reads.finish(key, need, fill=fill)
        self._engine.sampler.loaded()
        return found

    def get_entry(self, key: bytes, *, fill_cache: bool = True) -> Entry | None:
        """As :meth:`get`, with the sequence number."""
        check_key(key)
        if fill_cache is not True:
            check_flags(fill_cache=fill_cache)
        self._engine.check_open()
        found = self._try_get(key)
        return _entry(key, self._load(key, found, fill_cache) if isinstance(found, Need) else found)

    def try_get_entry(self, key: bytes) -> Entry | NeedsIO | None:
        """As :meth:`get_entry`, from memory only: never blocks, may return ``NEEDS_IO``."""
        if type(key) is not bytes or not 0 < len(key) <= 65_535:
            check_key(key)
        version = self._try_get(key)
        return NEEDS_IO if isinstance(version, Need) else _entry(key, version)

    def multi_get(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: AsOf | None = None
    ) -> list[bytes | None]:
        """The values of several keys, in order, all of one moment; blocks that are not in
        memory are fetched in parallel. ``fill_cache`` and ``as_of`` as for :meth:`get`."""
        return [version and version[1] for version in self._get_many(keys, fill_cache, as_of)]

    def multi_get_entries(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: AsOf | None = None
    ) -> list[Entry | None]:
        """As :meth:`multi_get`, with sequence numbers."""
        return list(map(_entry, keys, self._get_many(keys, fill_cache, as_of)))

    def _get_many(
        self,
        keys: list[bytes],
        fill: bool,  # noqa: FBT001
        as_of: AsOf | None,
    ) -> list[Shown | None]:
        check_keys(keys)
        check_flags(fill_cache=fill)
        return self._engine.reads.get_many_at(self._view(as_of), keys, fill=fill)

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
        as_of: AsOf | None = None,
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
        as_of: AsOf | None = None,
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
        as_of: AsOf | None = None,
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
        as_of: AsOf | None = None,
    ) -> Iterator[Any]:
        """Keys and values (or keys, if ``keys_only``) in ``[start, end)`` and with ``prefix``,
        ascending, or descending if ``reverse``; at most ``limit``. ``fill_cache`` and
        ``as_of`` as for :meth:`get`.

        The view is that of the call, whatever is written or expires while the iterator is used.
        An iterator is for one thread at a time: it raises ``ValueError`` in a second one.
        """
        check_flags(reverse=reverse, keys_only=keys_only, fill_cache=fill_cache)
        view = self._view(as_of)
        wanted = Wanted(*bounds(start, end, prefix), reverse, limit, fill_cache, keys_only)
        chunks = self._engine.reads.scan(view, wanted)
        return rows(chunks, keys if keys_only else pairs, reverse=reverse, limit=limit)

    def scan_entries(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        fill_cache: bool = True,
        as_of: AsOf | None = None,
    ) -> Iterator[Entry]:
        """As :meth:`scan`, with sequence numbers; values are empty if ``keys_only``."""
        check_flags(reverse=reverse, keys_only=keys_only, fill_cache=fill_cache)
        view = self._view(as_of)
        wanted = Wanted(*bounds(start, end, prefix), reverse, limit, fill_cache, keys_only)
        chunks = self._engine.reads.scan(view, wanted)
        return rows(chunks, key_entries if keys_only else entries, reverse=reverse, limit=limit)

    def digest(self, seq: int | None = None, *, second: int | None = None) -> ContentDigest:
        """A digest of all keys and values as of the commit ``seq``, or now: databases that show the
        same have the same. Reads everything. ``second``: what expires by that second since 1970
        does not count, to compare with a digest that was made then."""
        return content_digest(self._engine.reads, self._view(seq), second)

    def snapshot(self) -> Snapshot:
        """The database as it is now, to be read later. Close it: it keeps memory and tables."""
        self._engine.check_open()
        return Snapshot(self._engine)

    @property
    def visible_seq(self) -> int:
        """The newest sequence number that reads see."""
        return self._engine.live.visible_seq

    @property
    def options(self) -> Options:
        """The settings it was opened with."""
        return self._engine.options


def _entry(key: bytes, version: Shown | None) -> Entry | None:
    if version is None or version[1] is None:
        return None
    return Entry(key, version[1], version[0])
