"""Compaction on the workers of a Dask cluster: real processes that share only the bucket."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seerdb import (
    DB,
    ClosedError,
    Components,
    InvalidRequestError,
    Runtime,
    UnavailableError,
)
from seerdb.clock import SystemClock
from seerdb.errors import AlreadyExistsError
from seerdb.events import CompactionCompleted, WorkFailed
from seerdb.storage.compaction import inputs
from seerdb.storage.compaction.run import run_compaction
from seerdb.storage.jobs.remote import DaskRunner, RemoteJob, run_remotely
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose, RequestMeter
from seerdb.storage.object_store.names import table_name
from seerdb.storage.retention.garbage import collectable
from seerdb.storage.retention.outputs import GRACE_SECONDS
from seerdb.storage.workers import cluster as cluster_module
from seerdb.storage.workers import lanes as lanes_module
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.dask import (
    WITHOUT_SEERDB,
    DaskCluster,
    Gate,
    Through,
    failing_job,
    meeting_compaction,
    telling_compaction,
    uncompressed_compaction,
)
from tests.fixtures.events import PATIENCE, Heard

pytest.importorskip("distributed")
pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to answer than a cluster in use should."""
    monkeypatch.setattr(cluster_module, "ANSWER_SECONDS", 30.0)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    cluster = DaskCluster(tmp_path_factory.mktemp("dask"))
    try:
        cluster.start(workers=2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(started: DaskCluster) -> DaskCluster:
    """A cluster with two workers, whatever the last test did to it."""
    for _ in range(2 - len(started.pids())):
        started.start_worker()
    started.wait_for_workers()
    return started


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def fill(db: DB) -> dict[bytes, bytes]:
    """Three runs, which no plan merges by itself; returns what they hold."""
    for run in range(3):
        for number in range(run, 100 + run):
            db.put(b"%04d" % number, b"%d" % run * 50, durability="memory")
        db.flush()
    return dict(db.scan())


def gated(db: DB, gate: Gate) -> Through:
    compactor = db._engine.compactor
    compactor._merger._runner = through = Through.gate(compactor._merger._runner, gate)
    return through


def bucket(db: DB) -> StoreLocation:
    location = db._engine.stores.location
    assert location is not None
    return location


def assert_sound(db: DB, rows: dict[bytes, bytes]) -> None:
    assert dict(db.scan()) == rows
    assert db.verify().problems == []
    assert [check for check in db.health() if not check.ok] == []


def test_compaction_runs_on_a_worker_and_flush_does_not(
    open_db: OpenDB, cluster: DaskCluster, gate: Gate, moto_store_url: tuple[str, dict[str, Any]]
) -> None:
    url, options = moto_store_url
    heard = Heard()
    db = open_db(
        background=cluster.background,
        store=url,
        store_options=options,
        components=Components(listener=heard),
    )
    rows = fill(db)
    gated(db, gate)
    with ThreadPoolExecutor(1) as caller:
        compaction = caller.submit(db.compact)
        assert gate.wait_for_job() in cluster.pids()
        gate.let_go()
        report = compaction.result(PATIENCE)
    assert (len(report.removed), len(report.added)) == (3, 1)
    assert_sound(db, rows)
    requests = {(row.purpose, row.operation) for row in db.statistics().store_requests}
    assert {("flush", "put"), ("compaction", "put_if_absent")} <= requests
    assert ("compaction", "put") not in requests
    assert heard.count(WorkFailed) == 0
    assert options["secret"] not in repr(db._engine._remote)


def test_a_worker_killed_in_the_middle(open_db: OpenDB, cluster: DaskCluster, gate: Gate) -> None:
    """It has written a table, and dies before it says so: another one does the same job."""
    db = open_db(background=cluster.background)
    rows = fill(db)
    through = gated(db, gate)
    with ThreadPoolExecutor(1) as caller:
        compaction = caller.submit(db.compact)
        first = gate.wait_for_job()
        os.kill(first, signal.SIGKILL)
        assert gate.wait_for_job() in cluster.pids() - {first}
        gate.let_go()
        report = compaction.result(PATIENCE)
    assert len(through.jobs) == 1, "the scheduler began it again"
    assert report.added == [through.jobs[0].outputs[0]]
    assert_sound(db, rows)


def test_a_late_run_of_a_job_replaces_nothing(open_db: OpenDB, cluster: DaskCluster) -> None:
    """A worker given up for dead goes on, after another one's tables were published."""
    db = open_db(background=cluster.background)
    rows = fill(db)
    compactor = db._engine.compactor
    compactor._merger._runner = through = Through(compactor._merger._runner, run_compaction)
    db.compact()
    [job], store = through.jobs, bucket(db).open()
    before = {info.name: store.get(info.name) for info in store.list("tables/")}
    again = RemoteJob.of(run_compaction, job, bucket(db), Purpose.COMPACTION)
    reply = run_remotely(again)
    assert {name for name, _, _ in reply.written} == {
        table_name(table.id) for table in reply.result.tables
    }
    other = RemoteJob.of(uncompressed_compaction, job, bucket(db), Purpose.COMPACTION)
    with pytest.raises(AlreadyExistsError):
        run_remotely(other)
    assert {info.name: store.get(info.name) for info in store.list("tables/")} == before
    assert_sound(db, rows)


def test_a_worker_moves_what_lives_in_blobs_and_a_late_run_changes_nothing(
    open_db: OpenDB, cluster: DaskCluster
) -> None:
    db = open_db(background=cluster.background, blob_threshold=40, compression="none")
    rows = fill(db)
    for number in range(80):
        db.delete(b"%04d" % number)
        rows.pop(b"%04d" % number, None)
    compactor = db._engine.compactor
    compactor._merger._runner = through = Through(compactor._merger._runner, run_compaction)
    db.compact()
    db.compact()
    *_, job = (job for job in through.jobs if job.plan.dying)
    assert db.statistics().blobs.values == len(rows)
    assert_sound(db, rows)
    store = bucket(db).open()
    before = {info.name: store.get(info.name) for info in store.list("")}
    reply = run_remotely(RemoteJob.of(run_compaction, job, bucket(db), Purpose.COMPACTION))
    written = [name for name, _, _ in reply.written]
    assert [name.split("/")[0] for name in written] == ["blobs", "tables"], "the table comes last"
    assert {info.name: store.get(info.name) for info in store.list("")} == before


def test_a_reply_that_is_lost(open_db: OpenDB, cluster: DaskCluster, gate: Gate) -> None:
    """The connection breaks while the job runs: it runs again under new names, and what the
    first run wrote is garbage."""
    heard = Heard()
    db = open_db(background=cluster.background, components=Components(listener=heard))
    rows = fill(db)
    through = gated(db, gate)
    engine = db._engine
    assert engine.runtime.cluster is not None
    asked = engine.compactor.ask()
    engine.background.compaction.wake()
    gate.wait_for_job()
    engine.compactor._merger._runner = afterwards = Through(through.runner, run_compaction)
    engine.runtime.cluster._client.close()
    heard.wait_for_error("runs again later")
    lane = engine.background.compaction
    assert lane.wake_and_wait(lambda: asked.is_done, PATIENCE)
    gate.let_go()
    [first], [second] = through.jobs, afterwards.jobs
    assert not set(first.outputs) & set(second.outputs)
    assert [table.id for table in engine.manifest.state.version.tables] == [second.outputs[0]]
    store = bucket(db).open()
    garbage = collectable(
        store.list(""),
        engine.manifest.state,
        now=SystemClock().now() + GRACE_SECONDS + 60,
        grace_seconds=GRACE_SECONDS,
        keep=engine.compactor._outputs.in_use(),
    )
    assert table_name(first.outputs[0]) in garbage
    assert table_name(second.outputs[0]) not in garbage
    assert_sound(db, rows)


@pytest.mark.parametrize("scheduler_hangs", [False, True])
def test_closing_cancels_the_job(
    open_db: OpenDB, cluster: DaskCluster, gate: Gate, scheduler_hangs: bool
) -> None:
    heard = Heard()
    db = open_db(background=cluster.background, components=Components(listener=heard))
    rows = fill(db)
    gated(db, gate)
    with ThreadPoolExecutor(1) as caller:
        compaction = caller.submit(db.compact)
        gate.wait_for_job()
        with ExitStack() as awake:
            if scheduler_hangs:
                cluster.scheduler.send_signal(signal.SIGSTOP)
                awake.callback(cluster.scheduler.send_signal, signal.SIGCONT)
            db.close()  # the job stands at the gate all the while
        with pytest.raises(ClosedError):
            compaction.result(PATIENCE)
    gate.let_go()
    assert heard.count(WorkFailed) == 0
    assert dict(open_db().scan()) == rows


def test_a_restore_in_place_waits_for_no_job(
    open_db: OpenDB, cluster: DaskCluster, gate: Gate
) -> None:
    """It waited for the merge, however long that took, and then threw it away or undid it."""
    db = open_db(background=cluster.background)
    rows = fill(db)
    db.checkpoint("then")
    through = gated(db, gate)
    with ThreadPoolExecutor(2) as caller, ExitStack() as on_exit:
        compaction = caller.submit(db.compact)
        gate.wait_for_job()
        on_exit.callback(gate.let_go)
        db._engine.compactor._merger._runner = through.runner
        restored = caller.submit(db.restore_in_place, checkpoint="then")
        assert restored.result(PATIENCE).restored_seq == 300
        assert compaction.result(PATIENCE).added, "it is done afterwards"
    assert_sound(db, rows)


def test_a_cancelled_job_ends_on_its_worker_too(
    open_db: OpenDB, cluster: DaskCluster, gate: Gate
) -> None:
    db = open_db(background=cluster.background, compaction_rate=8)
    rows = fill(db)
    compactor = db._engine.compactor
    compactor._merger._runner = Through(
        compactor._merger._runner, partial(telling_compaction, gate)
    )
    with ThreadPoolExecutor(1) as caller:
        compaction = caller.submit(db.compact)
        worker = gate.wait_for_job()
        gate.let_go()
        db.close()
        with pytest.raises(ClosedError):
            compaction.result(PATIENCE)
    assert gate.wait_for_job() == worker, "at its rate it would have taken an hour"
    gate.let_go()
    assert dict(open_db().scan()) == rows


def test_as_many_compactions_as_there_are_workers(open_db: OpenDB, cluster: DaskCluster) -> None:
    db = open_db(background=cluster.background)
    rows = fill(db)
    runner = db._engine._remote
    assert runner is not None
    assert runner.at_once == 1, "nobody was asked yet"
    db.compact()
    assert runner.at_once == 2
    assert_sound(db, rows)


def test_no_log_shows_the_credentials_of_a_job_that_failed(cluster: DaskCluster) -> None:
    runtime = Runtime(background=cluster.background, block_cache_capacity=0, clock=SystemClock())
    assert runtime.cluster is not None
    location = StoreLocation("s3://bucket/db", {"key": "me", "secret": "hunter2-secret"})
    runner = DaskRunner(runtime.cluster, location, RequestMeter(), lambda _: location.open())
    try:
        with pytest.raises(UnavailableError, match="ZeroDivisionError: planned") as failure:
            runner.run(failing_job, "a job", Purpose.COMPACTION)
    finally:
        runtime.close()
    assert "hunter2" not in str(failure.value)
    assert "planned" in cluster.output()
    assert "hunter2" not in cluster.output()


def test_the_cluster_comes_late(
    open_db: OpenDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a scheduler, nor workers, nor the right ones: writes go on, health says what is
    missing, and it heals by itself."""
    monkeypatch.setattr(cluster_module, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(lanes_module, "LAST_RETRY_SECONDS", 0.2)
    cluster, heard = DaskCluster(tmp_path), Heard()
    try:
        db = open_db(background=cluster.background, components=Components(listener=heard))
        rows = fill(db)
        with pytest.raises(UnavailableError, match="Timed out"):
            db.compact()
        [bad] = [check for check in db.health() if not check.ok]
        assert (bad.name, cluster.background[7:] in bad.detail) == ("compaction", True)
        monkeypatch.setattr(cluster_module, "ANSWER_SECONDS", 30.0)
        db.put(b"new", b"1")
        cluster.start()
        heard.wait_for_error("no worker is connected")
        wrong = cluster.start_worker(before=WITHOUT_SEERDB)
        heard.wait_for_error("No module named 'seerdb")
        cluster.end(wrong)
        cluster.start_worker()
        heard.wait_for(CompactionCompleted)
        db.compact()
        assert_sound(db, rows | {b"new": b"1"})
        db.close()
    finally:
        cluster.stop()


def test_attempts_to_connect_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "ANSWER_SECONDS", 0.2)
    runtime = Runtime(background="dask://127.0.0.1:1", block_cache_capacity=0, clock=SystemClock())
    cluster, before = runtime.cluster, set(threading.enumerate())
    assert cluster is not None
    for _ in range(3):
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 did not do the job"):
            cluster.submit(print, "never")
    [thread] = set(threading.enumerate()) - before  # one, not one for each attempt
    runtime.close()
    assert not thread.is_alive()
    with pytest.raises(ClosedError):
        cluster.submit(print, "never")


@pytest.mark.parametrize("settings", [{"store": "memory://bucket"}, {}])
def test_a_bucket_that_no_other_machine_can_reach(
    open_db: OpenDB, tmp_path: Path, settings: dict[str, str]
) -> None:
    store = None if settings else MemoryObjectStore()
    with pytest.raises(InvalidRequestError, match="Dask workers open the bucket by its location"):
        open_db(
            background="dask://127.0.0.1:1", components=Components(object_store=store), **settings
        )
    assert store is None or store.list("") == []
    assert not (tmp_path / "db").exists()


def test_without_dask(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "find_spec", lambda _: None)
    with pytest.raises(InvalidRequestError, match=r"pip install 'seerdb\[dask\]'"):
        open_db(background="dask://127.0.0.1:1")


def test_parts_of_one_compaction_are_merged_by_all_workers(
    open_db: OpenDB, cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "compression": "none",
        "memtable_capacity": 1 << 20,
        "wal_segment_size": 4 << 20,
    }
    db = open_db(**settings)
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "WINDOW_BLOCKS", 1)  # so that small tables come of it
        make_tables_small(db)
        for numbers in (range(3000), range(0, 3000, 5)):
            with db.batch() as batch:
                for number in numbers:
                    batch.put(b"%04d" % number, b"x" * 100)
            db.flush()
        db.compact()
    db.close()
    db = open_db(background=cluster.background, **settings)
    make_tables_small(db)
    rows = fill(db)
    merger = db._engine.compactor._merger
    met = tmp_path / "met"
    met.mkdir()
    merger._runner = through = Through(merger._runner, partial(meeting_compaction, met))
    db.compact()
    assert {int(path.name) for path in met.iterdir()} == cluster.pids()
    assert len(through.jobs) > 3
    assert db.statistics().runs == 1
    assert_sound(db, rows)


def make_tables_small(db: DB) -> None:
    planner = db._engine.compactor._planner
    planner._options = replace(planner._options, table_size=2048)
