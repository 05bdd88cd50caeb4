"""What a job elsewhere may do to the bucket, what of its reply is believed, and who sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from seerdb.errors import (
    AlreadyExistsError,
    ClosedError,
    InternalError,
    NotFoundError,
    UnavailableError,
)
from seerdb.storage.jobs import remote
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.jobs.remote import CreatingStore, DaskRunner, RemoteJob, run_remotely
from seerdb.storage.local.files import FileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Operation, Purpose, RequestMeter
from seerdb.storage.pieces import Pieces
from seerdb.storage.workers.cluster import MOST_AT_ONCE
from seerdb.storage.workers.pace import Pace
from seerdb.testing.objects import MemoryObjectStore


@dataclass(frozen=True)
class Write:
    """Put ``data`` under ``name``."""

    name: str
    data: bytes


def run_write(job: Write, files: FileSystem, store: ObjectStore, pace: Pace) -> str:
    store.put(job.name, job.data)
    return job.name


def run_read(job: Write, files: FileSystem, store: ObjectStore, pace: Pace) -> bytes:
    return store.get(job.name)


class Here:
    """In place of a cluster: its one worker is this thread, and reaches ``location``."""

    def __init__(self, location: StoreLocation | None = None) -> None:
        self.location = location
        self.before_reply: Callable[[], object] = threading.Event().set
        self.cancelled = False
        self.threads = 0

    def submit(self, function: Any, remote: RemoteJob) -> Here:
        if self.location is not None:
            run, job, _, purpose = remote.unseal()
            remote = RemoteJob.of(run, job, self.location, purpose)
        self._outcome: Callable[[], Any] = lambda: function(remote)
        return self

    def result(self) -> Any:
        self.before_reply()
        if self.cancelled:
            raise ClosedError("cancelled")
        return self._outcome()

    def cancel(self) -> None:
        self.cancelled = True


def runner_on(tmp_path: Path, cluster: Here) -> tuple[DaskRunner, ObjectStore, RequestMeter]:
    location, meter = StoreLocation(str(tmp_path / "bucket")), RequestMeter()
    store = location.open()
    fake: Any = cluster
    return DaskRunner(fake, location, meter, lambda _: store), store, meter


def test_a_job_is_run_and_its_requests_are_counted(tmp_path: Path) -> None:
    runner, store, meter = runner_on(tmp_path, Here())
    assert runner.run(run_write, Write("a", b"1" * 100), Purpose.COMPACTION) == "a"
    assert store.get("a") == b"1" * 100
    [counted] = meter.statistics()
    assert (counted.purpose, counted.operation) == (Purpose.COMPACTION, Operation.PUT_IF_ABSENT)
    assert counted.bytes_out == 100


def test_a_job_keeps_its_rate_and_says_at_its_end_what_it_did(tmp_path: Path) -> None:
    cluster, control = Here(), JobControl()
    runner, _, _ = runner_on(tmp_path, cluster)
    sent: list[RemoteJob] = []
    submit = cluster.submit

    def submitting(function: Any, remote: RemoteJob) -> Here:
        sent.append(remote)
        return submit(function, remote)

    cluster.submit = submitting  # type: ignore[method-assign]
    control.rate = 1 << 30
    runner.run(run_write, Write("a", b"1" * 100), Purpose.COMPACTION, control)
    assert [remote.rate for remote in sent] == [1 << 30]
    assert control.counts == (0, 100, 0)


@pytest.mark.parametrize(("threads", "at_once"), [(0, 1), (3, 3), (99, MOST_AT_ONCE)])
def test_as_many_at_once_as_the_cluster_has_threads(
    tmp_path: Path, threads: int, at_once: int
) -> None:
    cluster = Here()
    cluster.threads = threads
    assert runner_on(tmp_path, cluster)[0].at_once == at_once


def test_errors_of_the_job_come_back(tmp_path: Path) -> None:
    runner, _, _ = runner_on(tmp_path, Here())
    with pytest.raises(NotFoundError):
        runner.run(run_read, Write("none", b""), Purpose.COMPACTION)


@pytest.mark.parametrize("other", [b"", b"other bytes", b"1" * 99 + b"2"])
def test_a_worker_that_reaches_another_bucket_is_not_believed(tmp_path: Path, other: bytes) -> None:
    elsewhere = StoreLocation(str(tmp_path / "elsewhere"))
    runner, store, _ = runner_on(tmp_path, Here(elsewhere))
    if other:
        store.put("a", other)
    with pytest.raises(UnavailableError, match="workers must reach the same bucket"):
        runner.run(run_write, Write("a", b"1" * 100), Purpose.COMPACTION)
    assert elsewhere.open().get("a") == b"1" * 100


@pytest.mark.parametrize("while_it_runs", [False, True])
def test_a_job_that_is_cancelled_is_not_waited_for(tmp_path: Path, while_it_runs: bool) -> None:
    cluster, control = Here(), JobControl()
    runner, store, _ = runner_on(tmp_path, cluster)
    if while_it_runs:
        cluster.before_reply = control.cancel
    else:
        control.cancel()
    with pytest.raises(ClosedError):
        runner.run(run_write, Write("a", b"1"), Purpose.COMPACTION, control)
    assert store.list("") == []
    cluster.cancelled = False
    control.cancel()
    assert not cluster.cancelled, "it is over"


def test_what_is_on_its_way_shows_no_credentials() -> None:
    location = StoreLocation("s3://bucket/db", {"key": "AKIA", "whatever": "hunter2"})
    job = RemoteJob.of(run_write, Write("a", b"1"), location, Purpose.COMPACTION)
    assert "hunter2" not in f"{job!r} {job}"
    assert "AKIA" not in f"{job!r} {job}"
    assert job.unseal() == (run_write, Write("a", b"1"), location, Purpose.COMPACTION)


def test_another_version_refuses_before_it_reads(tmp_path: Path) -> None:
    location = StoreLocation(str(tmp_path))
    job = RemoteJob.of(run_write, Write("a", b"1"), location, Purpose.COMPACTION)
    with pytest.raises(UnavailableError, match=r"runs seerdb 0\.0\.0, this Dask worker runs"):
        run_remotely(replace(job, version="0.0.0", sealed=b"not what it seems"))


def test_the_version_is_that_which_runs_though_another_was_installed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was upgraded and not started anew said that it was the new one, and was believed:
    jobs of one release were read by another."""
    installed = ["1.0.0"]
    monkeypatch.setattr(remote, "version", lambda _: installed[-1])
    remote.own_version.cache_clear()
    try:
        cluster = Here()
        runner, _, _ = runner_on(tmp_path, cluster)
        installed.append("2.0.0")
        runner.run(run_write, Write("a", b"1"), Purpose.COMPACTION)
        job = RemoteJob.of(run_write, Write("b", b"1"), StoreLocation("/"), Purpose.COMPACTION)
        assert job.version == "1.0.0"
        with pytest.raises(UnavailableError, match=r"runs seerdb 2\.0\.0, this Dask worker runs 1"):
            run_remotely(replace(job, version="2.0.0"))
    finally:
        remote.own_version.cache_clear()


def test_a_put_creates_and_never_replaces() -> None:
    inner = MemoryObjectStore()
    store = CreatingStore(inner)
    store.put("a", b"1" * 100)
    with pytest.raises(AlreadyExistsError):
        store.put("a", b"2")
    assert (inner.get("a"), store.written) == (b"1" * 100, [("a", 100, b"1" * 64)])
    store.put("b", Pieces((b"1" * 90, b"2" * 10)))
    assert store.written[1:] == [("b", 100, b"1" * 54 + b"2" * 10)]
    with pytest.raises(InternalError, match="only the collector deletes"):
        store.delete(["a"])
    assert store.get("a") == b"1" * 100
