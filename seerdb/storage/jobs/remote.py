"""Running a job on another machine, which shares the bucket with this one and nothing else.

What runs it is trusted with the bucket but not to run it once: a worker that was given up for
dead may go on, and write at any time, while another does the same job. So, there, an object is
created and never replaced: whatever a second run or a late one does, what a first run wrote
stays as it was read back. And here a reply counts only if what it speaks of is in *this* bucket.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

from seerdb.clock import SystemClock
from seerdb.errors import (
    InternalError,
    InvalidRequestError,
    NotFoundError,
    TruncatedError,
    WorkerError,
)
from seerdb.storage.jobs.control import JobControl, JobCounts, under_control
from seerdb.storage.jobs.runners import Job, JobFunction, Result, metered_store
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose, RequestMeter, RequestStatistics
from seerdb.storage.pieces import Body, end_of
from seerdb.storage.workers.cluster import MOST_AT_ONCE, Cluster, watch_call
from seerdb.storage.workers.pace import at_full_speed

TAIL_BYTES = 64
"""Of each object that was written; a table's hold the checksum of what leads to all the rest."""


@cache
def own_version() -> str:
    """Of the SeerDB that this process runs. It is asked for when the database is opened, and on a
    worker with the first job, which imports it: what is installed may be replaced later."""
    return version("seerdb")


def require_shared(url: str | None, store: ObjectStore | None) -> None:
    """Raise ``InvalidRequestError`` for a bucket that certainly is in this process only."""
    if store is not None or (url or "").startswith("memory:"):
        raise InvalidRequestError(
            "Dask workers open the bucket by its location, which an object store of the caller's "
            "or in memory has not: name one by the setting store, or use background='thread'"
        )


class DaskRunner:
    """Runs jobs that need nothing but the bucket on the workers of a cluster. Thread-safe."""

    shares_memory = False
    shares_disk = False

    def __init__(
        self,
        cluster: Cluster,
        location: StoreLocation,
        meter: RequestMeter,
        store_for: Callable[[Purpose], ObjectStore],
    ) -> None:
        own_version()
        self._cluster = cluster
        self._location = location
        self._meter = meter
        self._store_for = store_for

    @property
    def at_once(self) -> int:
        """As many as the cluster had threads when it was last asked, up to ``MOST_AT_ONCE``."""
        return max(1, min(self._cluster.threads, MOST_AT_ONCE))

    def run(
        self,
        function: JobFunction[Job, Result],
        job: Job,
        purpose: Purpose,
        control: JobControl | None = None,
    ) -> Result:
        """See :class:`~seerdb.storage.jobs.runners.JobRunner`. The job keeps the rate it begins
        with, and ``control`` counts what it did when it is done.

        Raises: what the job raises; ``WorkerError`` when it was not done, or may have been
        done but the reply is lost; ``ClosedError`` once it is cancelled, without waiting for it.
        """
        control = control or JobControl()
        remote = RemoteJob.of(function, job, self._location, purpose, control.rate)
        call = self._cluster.submit(run_remotely, remote)
        with control.cancelling(call.cancel):
            reply: Reply = call.result()
        self._meter.merge(reply.statistics)
        control.count(*reply.counts)
        self._check_written(reply, self._store_for(purpose))
        result: Result = reply.result
        return result

    def _check_written(self, reply: Reply, store: ObjectStore) -> None:
        """A worker may reach another bucket under the same location, such as a directory of its
        own machine, or a server at its own loopback address."""
        for name, size, tail in reply.written:
            try:
                found = store.get_range(name, size - len(tail), len(tail))
            except (NotFoundError, TruncatedError) as error:
                raise self._elsewhere(name) from error
            if found != tail:
                raise self._elsewhere(name)

    def _elsewhere(self, name: str) -> WorkerError:
        return WorkerError(
            f"a Dask worker says that it wrote {name}, but that is not in {self._location} as seen "
            "from here; workers must reach the same bucket under the same location"
        )


@dataclass(frozen=True)
class Reply:
    """What a job returned, what it wrote (name, size, last bytes), what it asked the store, and
    how much went through it."""

    result: Any
    written: tuple[tuple[str, int, bytes], ...]
    statistics: tuple[RequestStatistics, ...]
    counts: JobCounts


@dataclass(frozen=True)
class RemoteJob:
    """A job on its way: sealed, so that another version of SeerDB does not misread it, and so
    that nothing on the way, which logs what it sees, sees the credentials in it."""

    version: str
    name: str
    rate: int
    """Bytes a second that it may read and write; 0: as many as it can."""
    sealed: bytes = field(repr=False)

    @classmethod
    def of(
        cls,
        function: JobFunction[Any, Any],
        job: object,
        location: StoreLocation,
        purpose: Purpose,
        rate: int = 0,
    ) -> RemoteJob:
        """Seal a job."""
        sealed = pickle.dumps((function, job, location, purpose))
        return cls(own_version(), purpose.value, rate, sealed)

    def unseal(self) -> tuple[JobFunction[Any, Any], object, StoreLocation, Purpose]:
        """What was sealed. Raises: ``WorkerError`` where another version runs."""
        here = own_version()
        if here != self.version:
            raise WorkerError(
                f"the database runs seerdb {self.version}, this Dask worker runs {here}; install "
                "the same on both"
            )
        function, job, location, purpose = pickle.loads(self.sealed)  # noqa: S301 - we serve it
        return function, job, location, purpose


def run_remotely(remote: RemoteJob) -> Reply:
    """Run a job here, on a worker; until its end, or until nobody waits for it any more."""
    function, job, location, purpose = remote.unseal()
    meter, control = RequestMeter(), JobControl()
    control.rate = remote.rate
    created = CreatingStore(metered_store(location, purpose, meter))
    store, pace = under_control(
        control, created, at_full_speed, SystemClock(), is_forgotten=watch_call()
    )
    result = function(job, OsFileSystem(), store, pace)
    return Reply(result, tuple(created.written), meter.statistics(), control.counts)


class CreatingStore:
    """``inner``, in which a put creates: it never replaces other bytes.

    The same bytes again are no error, which is what a second run of a job puts. Deletes
    nothing. One job's, which puts one object at a time.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.written: list[tuple[str, int, bytes]] = []
        """Name, size and last bytes of each object that was put."""

    def get(self, name: str) -> bytes:
        return self._inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._inner.get_range(name, offset, length)

    def checksum(self, name: str) -> Checksum:
        return self._inner.checksum(name)

    def put(self, name: str, data: Body) -> None:
        """Raises ``AlreadyExistsError`` when other bytes have the name."""
        self._inner.put_if_absent(name, data)
        self.written.append((name, len(data), end_of(data, TAIL_BYTES)))

    def put_if_absent(self, name: str, data: Body) -> None:
        self.put(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        raise InternalError(f"only the collector deletes, but a job wants to: {list(names)}")

    def close(self) -> None:
        self._inner.close()
