"""What the store is asked, by whom and for how much: the cost meter.

A listing or deletion of many objects counts one request for each thousand, which is how the
stores page them. A multipart upload counts as one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from seerdb.clock import Clock
from seerdb.errors import CorruptionError, UnavailableError
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore

PAGE = 1000
"""Objects per request of a listing or a deletion."""


class Purpose(StrEnum):
    """Why a request was made."""

    PROBE = "probe"
    MANIFEST = "manifest"
    FLUSH = "flush"
    COMPACTION = "compaction"
    READ = "read"
    WAL = "wal"
    GARBAGE = "garbage"
    VERIFY = "verify"


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
    """US dollars. Defaults: Amazon S3 Standard, us-east-1, first 50 TB
    (https://aws.amazon.com/s3/pricing/, 2025)."""

    put_or_list: float = 0.005 / 1000
    get: float = 0.0004 / 1000
    delete: float = 0.0
    gigabyte_month: float = 0.023

    def of_request(self, operation: Operation) -> float:
        """One request of the kind."""
        if operation in (Operation.GET, Operation.GET_RANGE):
            return self.get
        return self.delete if operation is Operation.DELETE else self.put_or_list

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

    def __add__(self, other: RequestStatistics) -> RequestStatistics:
        return RequestStatistics(
            self.purpose,
            self.operation,
            self.requests + other.requests,
            self.errors + other.errors,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
            self.seconds + other.seconds,
        )


class RequestMeter:
    """Counts requests by purpose and operation. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._sums: dict[tuple[Purpose, Operation], RequestStatistics] = {}

    def merge(self, statistics: Iterable[RequestStatistics]) -> None:
        """Add what was counted elsewhere, for example in a worker process."""
        with self._lock:
            for added in statistics:
                key = (added.purpose, added.operation)
                known = self._sums.get(key)
                self._sums[key] = known + added if known else added

    def statistics(self) -> tuple[RequestStatistics, ...]:
        """One record for each purpose and operation seen, in the order of their names."""
        with self._lock:
            return tuple(self._sums[key] for key in sorted(self._sums))

    def total_requests(self) -> int:
        """All requests, whatever became of them."""
        return sum(each.requests for each in self.statistics())

    def dollars(self, prices: Prices) -> float:
        """What the requests cost; storage and traffic apart."""
        return sum(each.requests * prices.of_request(each.operation) for each in self.statistics())


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
        with self._counted(Operation.GET) as count:
            data = self._inner.get(name)
            count.bytes_in = len(data)
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._counted(Operation.GET_RANGE) as count:
            data = self._inner.get_range(name, offset, length)
            count.bytes_in = len(data)
        return data

    def put(self, name: str, data: bytes) -> None:
        with self._counted(Operation.PUT) as count:
            count.bytes_out = len(data)
            self._inner.put(name, data)

    def put_if_absent(self, name: str, data: bytes) -> None:
        with self._counted(Operation.PUT_IF_ABSENT) as count:
            count.bytes_out = len(data)
            self._inner.put_if_absent(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        with self._counted(Operation.LIST) as count:
            infos = self._inner.list(prefix)
            count.requests = _pages(len(infos))
        return infos

    def delete(self, names: Iterable[str]) -> None:
        wanted = list(names)
        with self._counted(Operation.DELETE) as count:
            count.requests = _pages(len(wanted))
            self._inner.delete(wanted)

    def close(self) -> None:
        self._inner.close()

    @contextmanager
    def _counted(self, operation: Operation) -> Iterator[_Count]:
        count = _Count()
        start = self._clock.monotonic()
        try:
            yield count
        except (UnavailableError, CorruptionError):
            count.errors = 1
            raise
        finally:
            seconds = self._clock.monotonic() - start
            self._meter.merge([count.of(self._purpose, operation, seconds)])


@dataclass(slots=True)
class _Count:
    requests: int = 1
    errors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def of(self, purpose: Purpose, operation: Operation, seconds: float) -> RequestStatistics:
        return RequestStatistics(
            purpose,
            operation,
            self.requests,
            self.errors,
            self.bytes_in,
            self.bytes_out,
            seconds,
        )


def _pages(objects: int) -> int:
    return max(1, -(-objects // PAGE))
