"""What the store is asked, by whom and for how much: the cost meter.

A listing or deletion of many objects counts one request for each thousand, which is how the
stores page them. A multipart upload counts as one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from seerdb.clock import Clock
from seerdb.errors import CorruptionError, UnavailableError
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.object_store.recent import RecentCounts
from seerdb.storage.pieces import Body

PAGE = 1000
"""Objects per request of a listing or a deletion."""


class Purpose(StrEnum):
    """Why a request was made."""

    PROBE = "probe"
    MANIFEST = "manifest"
    FLUSH = "flush"
    COMPACTION = "compaction"
    INGEST = "ingest"
    READ = "read"
    WAL = "wal"
    GARBAGE = "garbage"
    LEASE = "lease"
    VERIFY = "verify"
    BACKUP = "backup"


class Operation(StrEnum):
    """What was asked, named like the method of the store."""

    GET = "get"
    GET_RANGE = "get_range"
    PUT = "put"
    PUT_IF_ABSENT = "put_if_absent"
    LIST = "list"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars, as price lists have them: for 1,000 requests, and for a GiB kept a month.
    Defaults: Amazon S3 Standard, us-east-1, first 50 TB (https://aws.amazon.com/s3/pricing/, 2025).

    The setting ``prices`` has the same names."""

    put_or_list: float = 0.005
    get: float = 0.0004
    delete: float = 0.0
    gigabyte_month: float = 0.023

    def of_request(self, operation: Operation) -> float:
        """One request of the kind."""
        if operation in (Operation.GET, Operation.GET_RANGE):
            return self.get / 1000
        return (self.delete if operation is Operation.DELETE else self.put_or_list) / 1000

    def of_storage(self, size: int) -> float:
        """Keeping ``size`` bytes for a month; Amazon's gigabyte is 2^30 bytes."""
        return self.gigabyte_month * size / (1 << 30)


@dataclass(frozen=True, slots=True)
class RequestStatistics:
    """Sums over the requests of one purpose and operation.

    ``errors`` are those without an answer (unavailable, truncated); "not found" and "already
    exists" are answers. ``bytes_in`` came from the store, ``bytes_out`` went to it;
    ``seconds`` is the time spent waiting, added up over threads.
    """

    purpose: Purpose
    operation: Operation
    requests: int = 0
    errors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0


class RequestMeter:
    """Counts requests by purpose and operation; with a clock, those of late too. Thread-safe."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._recent = RecentCounts[tuple[Purpose, Operation]](clock) if clock else None
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._sums: dict[tuple[Purpose, Operation], _Sums] = {}

    def add(
        self,
        purpose: Purpose,
        operation: Operation,
        *,
        requests: int = 1,
        errors: int = 0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Count requests; see :class:`RequestStatistics`."""
        with self._lock:
            sums = self._sums.get((purpose, operation))
            if sums is None:
                sums = self._sums[purpose, operation] = _Sums()
            sums.requests += requests
            sums.errors += errors
            sums.bytes_in += bytes_in
            sums.bytes_out += bytes_out
            sums.seconds += seconds
        if self._recent is not None:
            self._recent.add((purpose, operation), requests)

    def merge(self, statistics: Iterable[RequestStatistics]) -> None:
        """Add what was counted elsewhere, for example in a worker process."""
        for added in statistics:
            counted = asdict(added)
            self.add(counted.pop("purpose"), counted.pop("operation"), **counted)

    def statistics(self) -> tuple[RequestStatistics, ...]:
        """One record for each purpose and operation seen, in the order of their names."""
        with self._lock:
            return tuple(
                RequestStatistics(purpose, operation, **asdict(self._sums[purpose, operation]))
                for purpose, operation in sorted(self._sums)
            )

    def recent_in_seconds(self, seconds: float) -> dict[tuple[Purpose, Operation], float]:
        """Requests in so many seconds at the rate of late; see :meth:`RecentCounts.in_seconds`."""
        return self._recent.in_seconds(seconds) if self._recent is not None else {}


class MeteredObjectStore:
    """``inner``, counting every request into ``meter`` as made for ``purpose``. Thread-safe."""

    def __init__(
        self, inner: ObjectStore, meter: RequestMeter, purpose: Purpose, clock: Clock
    ) -> None:
        self._inner = inner
        self._meter = meter
        self._purpose = purpose
        self._clock = clock

    def get(self, name: str) -> bytes:
        with self._timed(Operation.GET) as request:
            data = self._inner.get(name)
            request.bytes_in = len(data)
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._timed(Operation.GET_RANGE) as request:
            data = self._inner.get_range(name, offset, length)
            request.bytes_in = len(data)
        return data

    def checksum(self, name: str) -> Checksum:
        with self._timed(Operation.GET) as request:
            checksum = self._inner.checksum(name)
            request.bytes_in = checksum.size
        return checksum

    def put(self, name: str, data: Body) -> None:
        with self._timed(Operation.PUT) as request:
            request.bytes_out = len(data)
            self._inner.put(name, data)

    def put_if_absent(self, name: str, data: Body) -> None:
        with self._timed(Operation.PUT_IF_ABSENT) as request:
            request.bytes_out = len(data)
            self._inner.put_if_absent(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        with self._timed(Operation.LIST) as request:
            infos = self._inner.list(prefix)
            request.requests = _pages(len(infos))
        return infos

    def delete(self, names: Iterable[str]) -> None:
        wanted = list(names)
        with self._timed(Operation.DELETE) as request:
            request.requests = _pages(len(wanted))
            self._inner.delete(wanted)

    def close(self) -> None:
        self._inner.close()

    def _timed(self, operation: Operation) -> _Request:
        return _Request(self._meter, self._purpose, operation, self._clock)


class _Request:
    """A request under way; counted when it ends, however it ends."""

    __slots__ = (
        "_clock",
        "_meter",
        "_operation",
        "_purpose",
        "_start",
        "bytes_in",
        "bytes_out",
        "requests",
    )

    def __init__(
        self, meter: RequestMeter, purpose: Purpose, operation: Operation, clock: Clock
    ) -> None:
        self._meter = meter
        self._purpose = purpose
        self._operation = operation
        self._clock = clock
        self.requests = 1
        self.bytes_in = 0
        self.bytes_out = 0

    def __enter__(self) -> Self:
        self._start = self._clock.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._meter.add(
            self._purpose,
            self._operation,
            requests=self.requests,
            errors=int(isinstance(error, UnavailableError | CorruptionError)),
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            seconds=self._clock.monotonic() - self._start,
        )


@dataclass(slots=True)
class _Sums:
    requests: int = 0
    errors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0


def _pages(objects: int) -> int:
    return max(1, -(-objects // PAGE))
