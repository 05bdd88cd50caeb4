"""Bugs to be planted on purpose: each breaks one rule the way a plausible mistake would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from seerdb import clock
from seerdb.errors import AlreadyExistsError
from seerdb.ids import MAX_SEQ
from seerdb.storage import merge
from seerdb.storage.compaction import plan
from seerdb.storage.compaction.compactor import Compactor
from seerdb.storage.compaction.policy import leveled
from seerdb.storage.entry import DELETE
from seerdb.storage.flush import flusher
from seerdb.storage.flush import run as flush
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.flush.run import FlushJob, run_flush
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.version import Run, Version
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.envelope import Envelope
from seerdb.storage.object_store.names import PROBE_PREFIX, parse_wal_name
from seerdb.storage.object_store.retrying import RetryingObjectStore
from seerdb.storage.opening import log as opening_log
from seerdb.storage.opening import recovery
from seerdb.storage.opening import steps as opening
from seerdb.storage.pieces import Body
from seerdb.storage.read.layout import Layout, TableRun
from seerdb.storage.read.state import LiveState
from seerdb.storage.retention import garbage
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.storage.retention.outputs import TableOutputs
from seerdb.storage.retention.timeline import Needed
from seerdb.storage.shipping.shipper import Shipper
from seerdb.storage.sstable import format as table_format
from seerdb.storage.sstable.builder import TableBuilder
from seerdb.storage.status import health
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.wal import frames, repair
from seerdb.storage.wal.backlog import Backlog
from seerdb.storage.wal.format import encode_put
from seerdb.storage.wal.frames import FrameReader
from seerdb.storage.wal.home import Home
from seerdb.storage.wal.reader import SegmentScan
from seerdb.storage.wal.segments import SegmentPool, segment_path
from seerdb.storage.wal.writer import LogWriter
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.write.commit import Committer

Patch = pytest.MonkeyPatch


def no_sync(patch: Patch) -> None:
    def sync(log: Any) -> None:
        log._synced = log._position

    patch.setattr(LogWriter, "sync", sync)


def sync_nothing_beside(patch: Patch) -> None:
    patch.setattr(Committer, "sync_beside", lambda committer: committer._flight.written)


def take_what_is_appended_for_synced(patch: Patch) -> None:
    def syncing(committer: Committer) -> int:
        sync(committer)
        return MAX_SEQ

    sync = Committer.sync_beside
    patch.setattr(Committer, "sync_beside", syncing)


def acknowledge_first(patch: Patch) -> None:
    append = LogWriter.append
    late: dict[int, bytes] = {}

    def appending(log: LogWriter, records: bytes) -> None:
        before = late.pop(id(log), None)
        if before is not None:
            append(log, before)
        late[id(log)] = records

    patch.setattr(LogWriter, "append", appending)


def go_on_after_a_failed_sync(patch: Patch) -> None:
    sync = LogWriter.sync

    def syncing(log: LogWriter) -> None:
        try:
            sync(log)
        except Exception:  # noqa: BLE001 - this is the mistake
            log._cause = None

    patch.setattr(LogWriter, "sync", syncing)


def recover_part_of_a_batch(patch: Patch) -> None:
    take = FrameReader._take_record

    def taking(reader: Any, body: bytes, at: int) -> Any:
        outcome = take(reader, body, at)
        if not isinstance(outcome, int) and len(body) > at + 60:
            reader._last_seq += 1
            payload = encode_put(b"part", body[at + 50 :])
            reader.records.append((reader._last_seq, 0, payload))
        return outcome

    patch.setattr(FrameReader, "_take_record", taking)


def restart_seqs(patch: Patch) -> None:
    init = LiveState.__init__
    patch.setattr(LiveState, "__init__", lambda live, state, seq: init(live, state, min(seq, 1)))


def release_log_first(patch: Patch) -> None:
    def running(job: FlushJob, files: Any, store: Any, pace: Any) -> Any:
        result = run_flush(job, files, store, pace)
        for segment in job.segments:
            files.remove(segment_path(job.directory, segment))
        return result

    patch.setattr(flusher, "run_flush", running)
    patch.setattr(SegmentPool, "recycle", lambda pool, segment: None)


def release_memtable_first(patch: Patch) -> None:
    flushed = Publisher.flushed

    def releasing(publisher: Any, memtable: Memtable, *rest: Any, **how: Any) -> None:
        live = publisher._live
        layout = live.current.layout
        live.release(memtable, Layout(layout.version, publisher._tables, layout.rows))
        flushed(publisher, memtable, *rest, **how)

    patch.setattr(Publisher, "flushed", releasing)


class _Trusting:
    """Reads back what was written, whatever is there."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._written: dict[str, Checksum] = {}

    def put(self, name: str, data: Body) -> None:
        self._store.put(name, data)
        self._written[name] = Checksum.of(data)

    def checksum(self, name: str) -> Checksum:
        self._store.checksum(name)
        return self._written[name]


def trust_the_upload(patch: Patch) -> None:
    upload: Callable[..., Any] = flush.upload

    def uploading(store: ObjectStore, *rest: Any, **place: Any) -> Any:
        return upload(_Trusting(store), *rest, **place)

    patch.setattr(flush, "upload", uploading)


def ignore_the_fence(patch: Patch) -> None:
    create = RetryingObjectStore.put_if_absent

    def creating(store: RetryingObjectStore, name: str, data: bytes) -> None:
        try:
            create(store, name, data)
        except AlreadyExistsError:
            if name.startswith(PROBE_PREFIX):  # or no database would be opened on such a store
                raise
            store.put(name, data)

    patch.setattr(RetryingObjectStore, "put_if_absent", creating)


def ship_without_looking(patch: Patch) -> None:
    patch.setattr(Shipper, "_check_epoch", lambda shipper: None)


def confirm_ships_early(patch: Patch) -> None:
    check = Shipper._check_epoch

    def checking(shipper: Any) -> None:
        shipper._confirmed = shipper._backlog.shipped_seq
        check(shipper)

    patch.setattr(Shipper, "_check_epoch", checking)


def ship_without_a_sync(patch: Patch) -> None:
    patch.setattr(Committer, "position", lambda committer, wait: committer.place())


def believe_the_disk(patch: Patch) -> None:
    patch.setattr(opening_log, "newest_shipped", lambda listed: 0)


def count_what_is_behind_a_hole(patch: Patch) -> None:
    patch.setattr(Shipper, "_has_hole", False)


def keep_nothing_for_shipping(patch: Patch) -> None:
    patch.setattr(Backlog, "needed_from", MAX_SEQ)


def forget_attempts(patch: Patch) -> None:
    def putting(shipper: Any, stretch: Any) -> None:
        shipper._attempt = None
        ship(shipper, stretch)

    ship = Shipper._ship_stretch
    patch.setattr(Shipper, "_ship_stretch", putting)


def take_over_without_a_word(patch: Patch) -> None:
    patch.setattr(opening, "begin_branch", lambda *where: None)


def border_belongs_to_the_left(patch: Patch) -> None:
    init = TableRun.__init__

    def making(run: TableRun, *given: Any) -> None:
        init(run, *given)
        for position in range(1, run.count):
            if run.smallest[position] == run.largest[position - 1]:
                run.smallest[position] += b"\0"

    patch.setattr(TableRun, "__init__", making)


def take_any_log_for_ours(patch: Patch) -> None:
    patch.setattr(
        opening,
        "Home",
        lambda home, database, *, complete=True: Home(home, database, complete=True),
    )
    # It would take what is missing for lost by this disk, and get it back.
    patch.setattr(opening_log.OpeningLog, "_complete", lambda *given: None)


def drop_tombstones_early(patch: Patch) -> None:
    patch.setattr(plan, "_older", lambda *where: False)


def merge_less_than_overlaps(patch: Patch) -> None:
    whole = plan.overlapping

    def overlapping(run: Run, start: bytes, end: bytes) -> Run:
        found = whole(run, start, end)
        return Run(found.level, found.number, found.tables[:-1])

    patch.setattr(leveled, "overlapping", overlapping)


def filter_without_deletes(patch: Patch) -> None:
    add = TableBuilder.add

    def adding(builder: Any, entries: Any) -> None:
        add(builder, entries)
        if len(entries):
            builder._hashes[-1] ^= (entries.kinds == DELETE) * np.uint64(0xFFFF)

    patch.setattr(TableBuilder, "add", adding)


def hide_equal_seqs(patch: Patch) -> None:
    covered = merge._without_covered

    def hiding(chunk: Any, tombstones: Any, at: int) -> Any:
        kept = covered(chunk, tombstones, at)
        rows = [row for row in zip(*kept, strict=True) if tombstones.covering(row[0], at) < row[1]]
        return merge.Chunk(*map(list, zip(*rows, strict=True))) if rows else merge.EMPTY

    patch.setattr(merge, "_without_covered", hiding)


def forget_to_replace_rows(patch: Patch) -> None:
    patch.setattr(RowCache, "advance", lambda rows, memtable: None)


def collect_what_is_read(patch: Patch) -> None:
    run = GarbageCollector.run
    patch.setattr(GarbageCollector, "run", lambda collector, keep: run(collector, set))


def collect_log_of_no_table(patch: Patch) -> None:
    is_past = garbage._is_past

    def deciding(name: str, state: ManifestState, *rest: Any) -> bool:
        return is_past(name, structs.replace(state, last_seq=MAX_SEQ), *rest)

    patch.setattr(garbage, "_is_past", deciding)


def collect_every_branch(patch: Patch) -> None:
    is_past = garbage._is_past

    def deciding(name: str, *rest: Any) -> bool:
        place = parse_wal_name(name)
        return is_past(name, *rest) or (place is not None and place[2] < place[1])

    patch.setattr(garbage, "_is_past", deciding)


def begin_anew_without_a_manifest(patch: Patch) -> None:
    patch.setattr(opening._Opening, "_check_belongs", lambda *what: None)


def append_behind_a_torn_tail(patch: Patch) -> None:
    def sealing(files: Any, directory: str, scan: SegmentScan) -> Any:
        end = scan.end + scan.torn_bytes
        return repair.seal_recovered(
            files, directory, replace(scan, end=end, damages=(), partial=0)
        )

    patch.setattr(recovery, "seal_recovered", sealing)


class _LateSync:
    """A disk on which the first sync of each file that is opened does nothing."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def open(self, path: str, **how: Any) -> Any:
        file = self._files.open(path, **how)
        sync = file.sync

        def syncing(*, metadata: bool) -> None:
            file.sync = sync

        file.sync = syncing
        return file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


def seal_what_is_not_durable(patch: Patch) -> None:
    seal: Callable[..., Any] = repair.seal_recovered
    patch.setattr(recovery, "seal_recovered", lambda files, *rest: seal(_LateSync(files), *rest))


def any_damage_is_a_torn_tail(patch: Patch) -> None:
    patch.setattr(FrameReader, "_survey", lambda reader, start: 0)


def trust_checksums(patch: Patch) -> None:
    patch.setattr(table_format, "_check_crc", lambda part, **place: None)


def trust_the_log(patch: Patch) -> None:
    class Anything(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    patch.setattr(frames, "crc32c", lambda *data: Anything())


def silent_workers(patch: Patch) -> None:
    patch.setattr(Lane, "_retry", lambda lane, slot, error: None)


def publish_in_two_steps(patch: Patch) -> None:
    def compacted(publisher: Any, inputs: Any, outputs: Any) -> None:
        state = publisher._manifest.commit(add=outputs, remove=inputs, reason="compaction")
        rows = publisher._live.current.layout.rows
        publisher._live.replace_layout(Layout(state.version, publisher._tables, rows))

    patch.setattr(Publisher, "compacted", compacted)


def show_a_merge_by_two_edits(patch: Patch) -> None:
    compacted = Publisher.compacted

    def twice(publisher: Any, inputs: Any, outputs: Any) -> None:
        publisher._manifest.commit(remove=inputs, reason="compaction")
        compacted(publisher, (), outputs)

    patch.setattr(Publisher, "compacted", twice)


def take_sealed_memtables_for_flushed(patch: Patch) -> None:
    compacted = Publisher.compacted

    def counting(publisher: Any, inputs: Any, outputs: Any) -> None:
        compacted(publisher, inputs, outputs)
        reached = publisher._live.visible_seq
        publisher._manifest.commit(last_seq=reached, reason="compaction")

    patch.setattr(Publisher, "compacted", counting)


def tell_age_by_the_number_of_a_table(patch: Patch) -> None:
    def older(version: Version, inputs: Any, target: Any) -> bool:
        taken = {table.id for run in inputs for table in run.tables}
        return any(table.id < max(taken) and table.id not in taken for table in version.tables)

    patch.setattr(plan, "_older", older)


def leave_range_deletes_out_of_bounds(patch: Patch) -> None:
    properties = TableBuilder._properties

    def narrowed(builder: Any, *rest: Any) -> Any:
        found = properties(builder, *rest)
        if not found.entries:
            return found
        return structs.replace(found, smallest=builder._separators[0], largest=builder._last)

    patch.setattr(TableBuilder, "_properties", narrowed)


def note_removal_late(patch: Patch) -> None:
    removed = TableOutputs.removed
    account = Compactor._account
    patch.setattr(TableOutputs, "removed", lambda outputs, tables: None)

    def accounting(compactor: Any, merged: Any) -> None:
        removed(compactor._outputs, merged.plan.tables)
        account(compactor, merged)

    patch.setattr(Compactor, "_account", accounting)


def give_the_seq_of_a_failed_ingest_away(patch: Patch) -> None:
    patch.setattr(Committer, "_skip_seq", lambda committer: None)


def leave_an_ingest_in_doubt(patch: Patch) -> None:
    patch.setattr(Publisher, "_settle", lambda publisher: None)


def follow_the_wall_clock(patch: Patch) -> None:
    forward = clock.ForwardClock
    patch.setattr(forward, "now_us", lambda each: each.wall_ns() // 1000)


def collect_by_the_writers_memory(patch: Patch) -> None:
    patch.setattr(GarbageCollector, "_trusted_state", lambda collector: collector._writer.state)
    patch.setattr(
        GarbageCollector,
        "_past",
        lambda collector, state: Needed(state.number, state.last_seq, frozenset()),
    )


def collect_while_something_is_missing(patch: Patch) -> None:
    patch.setattr(garbage, "find_missing", lambda listed, version, loans: "")


def throw_damaged_log_away(patch: Patch) -> None:
    def discarding(files: Any, directory: str, target: str, segments: list[int]) -> list[str]:
        for segment in segments:
            files.remove(segment_path(directory, segment))
        return []

    patch.setattr(opening_log, "quarantine", discarding)


def trust_the_manifest(patch: Patch) -> None:
    patch.setattr(Envelope, "_check_body", lambda envelope, name, data, length: None)


def always_well(patch: Patch) -> None:
    check = health.HealthCheck
    patch.setattr(health, "HealthCheck", lambda name, ok, detail: check(name, True, detail))
