"""Bugs planted on purpose, one for each rule that keeps data safe, and the test that must fail.

A suite that never failed proves nothing. Every mutant breaks one invariant the way a plausible
mistake would; ``test_mutants.py`` plants it and demands that its test notices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from seerdb.errors import AlreadyExistsError
from seerdb.ids import MAX_SEQ
from seerdb.storage import flush, flusher, garbage, merge, opening, recovery
from seerdb.storage.commit import Committer
from seerdb.storage.compaction import plan
from seerdb.storage.compaction.compactor import Compactor
from seerdb.storage.compaction.policy import leveled
from seerdb.storage.entry import DELETE
from seerdb.storage.flush import FlushJob, run_flush
from seerdb.storage.garbage import GarbageCollector
from seerdb.storage.home import Home
from seerdb.storage.layout import Layout, TableRun
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.version import Run
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.retrying import RetryingObjectStore
from seerdb.storage.outputs import TableOutputs
from seerdb.storage.publish import Publisher
from seerdb.storage.row_cache import RowCache
from seerdb.storage.ship import Shipper
from seerdb.storage.sstable import format as table_format
from seerdb.storage.sstable.builder import TableBuilder
from seerdb.storage.state import LiveState
from seerdb.storage.wal import frames, repair
from seerdb.storage.wal.format import encode_put
from seerdb.storage.wal.frames import FrameReader
from seerdb.storage.wal.reader import SegmentScan
from seerdb.storage.wal.segments import SegmentPool, segment_path
from seerdb.storage.wal.writer import LogWriter
from seerdb.storage.workers import Lane
from tests.crash import (
    test_disk_faults,
    test_every_operation,
    test_flush_order,
    test_ingest,
    test_seq_after_crash,
    test_shipped_log,
    test_store_faults,
    test_truncation,
    test_two_writers,
    test_wal_records,
)
from tests.model import test_configurations
from tests.regression import test_background, test_range_deletes, test_recovery
from tests.unit.storage.compaction import test_policies

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """``plant`` breaks the rule ``invariant`` of the design; ``test`` must fail then."""

    name: str
    invariant: str
    plant: Callable[[Patch], None]
    test: Callable[[], None]


def _no_sync(patch: Patch) -> None:
    def sync(log: Any) -> None:
        log._synced = log._position

    patch.setattr(LogWriter, "sync", sync)


def _acknowledge_first(patch: Patch) -> None:
    append = LogWriter.append
    late: dict[int, bytes] = {}

    def appending(log: LogWriter, records: bytes) -> None:
        before = late.pop(id(log), None)
        if before is not None:
            append(log, before)
        late[id(log)] = records

    patch.setattr(LogWriter, "append", appending)


def _go_on_after_a_failed_sync(patch: Patch) -> None:
    sync = LogWriter.sync

    def syncing(log: LogWriter) -> None:
        try:
            sync(log)
        except Exception:  # noqa: BLE001 - this is the mistake
            log._cause = None

    patch.setattr(LogWriter, "sync", syncing)


def _recover_part_of_a_batch(patch: Patch) -> None:
    take = FrameReader._take_record

    def taking(reader: Any, body: bytes, at: int) -> Any:
        outcome = take(reader, body, at)
        if not isinstance(outcome, int) and len(body) > at + 60:
            reader._last_seq += 1
            payload = encode_put(b"part", body[at + 50 :])
            reader.records.append((reader._last_seq, 0, payload))
        return outcome

    patch.setattr(FrameReader, "_take_record", taking)


def _restart_seqs(patch: Patch) -> None:
    init = LiveState.__init__
    patch.setattr(LiveState, "__init__", lambda live, state, seq: init(live, state, min(seq, 1)))


def _release_log_first(patch: Patch) -> None:
    def running(job: FlushJob, files: Any, store: Any, pace: Any) -> Any:
        result = run_flush(job, files, store, pace)
        for segment in job.segments:
            files.remove(segment_path(job.directory, segment))
        return result

    patch.setattr(flusher, "run_flush", running)
    patch.setattr(SegmentPool, "recycle", lambda pool, segment: None)


def _release_memtable_first(patch: Patch) -> None:
    flushed = Publisher.flushed

    def releasing(publisher: Any, memtable: Memtable, *rest: Any) -> None:
        live = publisher._live
        layout = live.current.layout
        live.release(memtable, Layout(layout.version, publisher._tables, layout.rows))
        flushed(publisher, memtable, *rest)

    patch.setattr(Publisher, "flushed", releasing)


class _Trusting:
    """Reads back what was written, whatever is there."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._written: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self._store.put(name, data)
        self._written[name] = data

    def get(self, name: str) -> bytes:
        self._store.get(name)
        return self._written[name]


def _trust_the_upload(patch: Patch) -> None:
    upload: Callable[..., Any] = flush.upload

    def uploading(store: ObjectStore, *rest: Any, **place: Any) -> Any:
        return upload(_Trusting(store), *rest, **place)

    patch.setattr(flush, "upload", uploading)


def _ignore_the_fence(patch: Patch) -> None:
    create = RetryingObjectStore.put_if_absent

    def creating(store: RetryingObjectStore, name: str, data: bytes) -> None:
        try:
            create(store, name, data)
        except AlreadyExistsError:
            store.put(name, data)

    patch.setattr(RetryingObjectStore, "put_if_absent", creating)


def _ship_without_looking(patch: Patch) -> None:
    patch.setattr(Shipper, "_check_epoch", lambda shipper: None)


def _confirm_ships_early(patch: Patch) -> None:
    check = Shipper._check_epoch

    def checking(shipper: Any) -> None:
        shipper._confirmed = shipper._shipped[2]
        check(shipper)

    patch.setattr(Shipper, "_check_epoch", checking)


def _take_over_without_a_word(patch: Patch) -> None:
    patch.setattr(opening, "begin_branch", lambda *where: None)


def _border_belongs_to_the_left(patch: Patch) -> None:
    init = TableRun.__init__

    def making(run: TableRun, *given: Any) -> None:
        init(run, *given)
        for position in range(1, run.count):
            if run.smallest[position] == run.largest[position - 1]:
                run.smallest[position] += b"\0"

    patch.setattr(TableRun, "__init__", making)


def _take_any_log_for_ours(patch: Patch) -> None:
    patch.setattr(
        opening,
        "Home",
        lambda home, database, *, complete=True: Home(home, database, complete=True),
    )


def _drop_tombstones_early(patch: Patch) -> None:
    patch.setattr(plan, "_older", lambda *where: False)


def _merge_less_than_overlaps(patch: Patch) -> None:
    whole = plan.overlapping

    def overlapping(run: Run, start: bytes, end: bytes) -> Run:
        found = whole(run, start, end)
        return Run(found.level, found.number, found.tables[:-1])

    patch.setattr(leveled, "overlapping", overlapping)


def _filter_without_deletes(patch: Patch) -> None:
    add = TableBuilder.add

    def adding(builder: Any, entries: Any) -> None:
        add(builder, entries)
        if len(entries):
            builder._hashes[-1] ^= (entries.kinds == DELETE) * np.uint64(0xFFFF)

    patch.setattr(TableBuilder, "add", adding)


def _hide_equal_seqs(patch: Patch) -> None:
    covered = merge._without_covered

    def hiding(chunk: Any, tombstones: Any, at: int) -> Any:
        kept = covered(chunk, tombstones, at)
        rows = [row for row in zip(*kept, strict=True) if tombstones.covering(row[0], at) < row[1]]
        return merge.Chunk(*map(list, zip(*rows, strict=True))) if rows else merge.EMPTY

    patch.setattr(merge, "_without_covered", hiding)


def _forget_to_replace_rows(patch: Patch) -> None:
    patch.setattr(RowCache, "advance", lambda rows, memtable: None)


def _collect_what_is_read(patch: Patch) -> None:
    run = GarbageCollector.run
    patch.setattr(GarbageCollector, "run", lambda collector, keep: run(collector, set))


def _collect_log_of_no_table(patch: Patch) -> None:
    is_past = garbage._is_past

    def deciding(name: str, state: ManifestState, *rest: Any) -> bool:
        return is_past(name, structs.replace(state, last_seq=MAX_SEQ), *rest)

    patch.setattr(garbage, "_is_past", deciding)


def _collect_every_branch(patch: Patch) -> None:
    patch.setattr(garbage, "_newest_branch", lambda objects, state: state.epoch + 1)


def _begin_anew_without_a_manifest(patch: Patch) -> None:
    patch.setattr(opening._Opening, "_check_belongs", lambda *what: None)


def _append_behind_a_torn_tail(patch: Patch) -> None:
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


def _seal_what_is_not_durable(patch: Patch) -> None:
    seal: Callable[..., Any] = repair.seal_recovered
    patch.setattr(recovery, "seal_recovered", lambda files, *rest: seal(_LateSync(files), *rest))


def _any_damage_is_a_torn_tail(patch: Patch) -> None:
    patch.setattr(FrameReader, "_survey", lambda reader, start: 0)


def _trust_checksums(patch: Patch) -> None:
    patch.setattr(table_format, "_check_crc", lambda part, *, name, offset: None)


def _trust_the_log(patch: Patch) -> None:
    class Anything(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    patch.setattr(frames, "crc32c", lambda *data: Anything())


def _silent_workers(patch: Patch) -> None:
    patch.setattr(Lane, "_retry", lambda lane, error: None)


def _publish_in_two_steps(patch: Patch) -> None:
    def compacted(publisher: Any, inputs: Any, outputs: Any) -> None:
        state = publisher._manifest.commit(add=outputs, remove=inputs, reason="compaction")
        rows = publisher._live.current.layout.rows
        publisher._live.replace_layout(Layout(state.version, publisher._tables, rows))

    patch.setattr(Publisher, "compacted", compacted)


def _note_removal_late(patch: Patch) -> None:
    removed = TableOutputs.removed
    account = Compactor._account
    patch.setattr(TableOutputs, "removed", lambda outputs, tables: None)

    def accounting(compactor: Any, merged: Any) -> None:
        removed(compactor._outputs, [table.id for table in merged.plan.tables])
        account(compactor, merged)

    patch.setattr(Compactor, "_account", accounting)


def _give_the_seq_of_a_failed_ingest_away(patch: Patch) -> None:
    patch.setattr(Committer, "_skip_seq", lambda committer: None)


def _leave_an_ingest_in_doubt(patch: Patch) -> None:
    patch.setattr(Publisher, "_settle", lambda publisher: None)


def with_patch(test: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test(patch)


def crashes() -> None:
    test_every_operation.test_a_crash_at_every_operation("plain")


MUTANTS = [
    Mutant("sync is skipped", "I1", _no_sync, crashes),
    Mutant("a write is acknowledged before it is appended", "I1", _acknowledge_first, crashes),
    Mutant(
        "writes go on after a failed sync",
        "I1",
        _go_on_after_a_failed_sync,
        lambda: test_disk_faults.test_a_failed_sync_poisons_the_database_until_it_is_opened_again(
            "local"
        ),
    ),
    Mutant(
        "part of a torn batch is recovered",
        "I2",
        _recover_part_of_a_batch,
        test_wal_records.test_wal_batch_partial_write,
    ),
    Mutant(
        "seqs start again after a crash",
        "I3",
        _restart_seqs,
        lambda: test_seq_after_crash.test_post_crash_lsn_strictly_higher("kill"),
    ),
    Mutant("the log is released before the manifest's edit", "I4", _release_log_first, crashes),
    Mutant(
        "the memtable is released before the manifest's edit",
        "I5",
        _release_memtable_first,
        lambda: test_flush_order.test_a_failed_flush_stays_readable_and_is_made_good(
            "put_if_absent"
        ),
    ),
    Mutant(
        "an upload is not read back",
        "I5",
        _trust_the_upload,
        test_flush_order.test_a_table_that_reads_back_differently_is_not_used,
    ),
    Mutant(
        "an edit and its layout are published in two steps",
        "I5",
        _publish_in_two_steps,
        test_background.test_a_flush_and_a_merge_that_finish_together_both_stay_visible,
    ),
    Mutant(
        "a taken manifest number is overwritten",
        "I6",
        _ignore_the_fence,
        test_two_writers.test_the_older_writer_is_fenced_and_leaves_the_bucket_alone,
    ),
    Mutant(
        "a ship does not look for a successor",
        "I6",
        _ship_without_looking,
        test_two_writers.test_a_fenced_writer_is_never_told_that_its_write_is_in_the_bucket,
    ),
    Mutant(
        "a ship counts before it has looked for a successor",
        "I6",
        _confirm_ships_early,
        test_two_writers.test_whoever_waits_behind_a_fenced_ship_is_refused_too,
    ),
    Mutant(
        "a takeover does not say how far it goes",
        "I6",
        _take_over_without_a_word,
        test_two_writers.test_what_a_fenced_writer_shipped_too_late_does_not_come_back,
    ),
    Mutant(
        "the key between two tables belongs to the left one",
        "I7",
        _border_belongs_to_the_left,
        test_range_deletes.test_a_key_at_the_border_of_two_tables_under_a_range_delete_is_found,
    ),
    Mutant(
        "a new machine counts as complete before it has the shipped log",
        "I4",
        _take_any_log_for_ours,
        test_recovery.test_a_new_machine_that_dies_while_it_takes_over_loses_nothing,
    ),
    Mutant(
        "a merge that is not at the bottom drops tombstones",
        "I7",
        _drop_tombstones_early,
        lambda: test_configurations.test_a_configuration_changes_no_answer("small tables"),
    ),
    Mutant(
        "a table goes down past an older one that it overlaps",
        "I7",
        _merge_less_than_overlaps,
        lambda: test_policies.test_merges_change_no_answer_and_come_to_an_end(policy="leveled"),
    ),
    Mutant(
        "filters leave deletes out",
        "I7",
        _filter_without_deletes,
        lambda: test_configurations.test_a_configuration_changes_no_answer("tiny"),
    ),
    Mutant(
        "a range delete hides puts of its own batch",
        "I7",
        _hide_equal_seqs,
        test_range_deletes.test_a_put_after_a_range_delete_in_one_batch_stays,
    ),
    Mutant(
        "a flush leaves old rows in the row cache",
        "I5",
        _forget_to_replace_rows,
        lambda: test_configurations.test_a_configuration_changes_no_answer("large blocks"),
    ),
    Mutant(
        "the seq of an ingest of unknown outcome goes to the next write",
        "I3",
        _give_the_seq_of_a_failed_ingest_away,
        lambda: test_ingest.test_a_death_with_an_unknown_outcome_loses_no_write_made_since(
            happens=True, level="memory"
        ),
    ),
    Mutant(
        "an edit of unknown outcome is published over",
        "I5",
        _leave_an_ingest_in_doubt,
        lambda: (
            test_ingest.test_an_outcome_that_was_unknown_is_found_out_before_anything_else_is_published(
                happens=True, then="flush"
            )
        ),
    ),
    Mutant(
        "the collector ignores what is read or was just removed",
        "I8",
        _collect_what_is_read,
        test_background.test_a_snapshot_reads_what_was_merged_and_collected_meanwhile,
    ),
    Mutant(
        "the collector takes shipped log that no table holds",
        "I4",
        _collect_log_of_no_table,
        test_shipped_log.test_what_no_table_holds_stays_however_old_it_is,
    ),
    Mutant(
        "the collector takes every branch of the shipped log",
        "I8",
        _collect_every_branch,
        test_shipped_log.test_takeovers_do_not_make_the_bucket_grow_nor_bring_back_what_they_voided,
    ),
    Mutant(
        "removed tables are noted after the edit",
        "I8",
        _note_removal_late,
        lambda: with_patch(
            test_background.test_what_a_merge_replaced_is_kept_for_the_grace_period_from_the_start
        ),
    ),
    Mutant(
        "a bucket without a manifest counts as empty",
        "I8",
        _begin_anew_without_a_manifest,
        test_store_faults.test_tables_without_a_manifest_are_refused,
    ),
    Mutant(
        "what follows a torn tail is written behind it",
        "I9",
        _append_behind_a_torn_tail,
        test_wal_records.test_partial_wal_record_crash,
    ),
    Mutant(
        "a recovered log is sealed before it is durable",
        "I9",
        _seal_what_is_not_durable,
        test_recovery.test_a_recovered_log_is_durable_before_its_seal_says_so,
    ),
    Mutant(
        "corruption counts as a torn tail",
        "I9",
        _any_damage_is_a_torn_tail,
        test_wal_records.test_wal_record_crc_corruption,
    ),
    Mutant(
        "the checksums of tables are trusted",
        "I10",
        _trust_checksums,
        test_disk_faults.test_a_damaged_disk_tier_is_never_served,
    ),
    Mutant(
        "the checksums of the log are trusted",
        "I10",
        _trust_the_log,
        test_truncation.test_a_flipped_bit_in_the_log_is_found,
    ),
    Mutant(
        "a background failure is swallowed",
        "I11",
        _silent_workers,
        test_background.test_an_inline_flush_that_fails_is_told_and_does_not_wait_for_ever,
    ),
]
