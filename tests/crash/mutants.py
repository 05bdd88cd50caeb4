"""Bugs planted on purpose, one for each rule that keeps data safe, and the test that must fail.

A suite that never failed proves nothing. Every mutant breaks one invariant the way a plausible
mistake would; ``test_mutants.py`` plants it and demands that its test notices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from seerdb.errors import (
    ChecksumError,
    ClosedError,
    CorruptionError,
    InternalError,
    SeerDBError,
)
from tests.crash import (
    bugs,
    test_blob_damage,
    test_compaction,
    test_disk_faults,
    test_every_operation,
    test_flush_order,
    test_ingest,
    test_pipeline,
    test_seq_after_crash,
    test_shipped_log,
    test_shipping,
    test_store_faults,
    test_truncation,
    test_two_writers,
    test_wal_records,
)
from tests.crash.bugs import Patch
from tests.model import test_configurations
from tests.regression import (
    test_background,
    test_flush_watermark,
    test_range_deletes,
    test_recovery,
    test_tombstones,
)
from tests.unit.storage.compaction import test_policies
from tests.unit.storage.retention import test_checkpoints

Noticed = tuple[type[SeerDBError], str]


@dataclass(frozen=True)
class Mutant:
    """``plant`` breaks the rule ``invariant`` of the design; ``test`` must fail then, by what it
    asserts, or where the database itself notices by that ``error``, with these words in it."""

    name: str
    invariant: str
    plant: Callable[[Patch], None]
    test: Callable[[], None]
    error: Noticed | None = None


def with_patch(test: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test(patch)


def crashes() -> None:
    test_every_operation.test_a_crash_at_every_operation("plain")


def crashes_in_flight() -> None:
    test_pipeline.test_a_crash_at_every_operation_while_commits_are_in_flight("none")


MUTANTS = [
    Mutant(
        "sync is skipped",
        "I1",
        bugs.no_sync,
        crashes,
        error=(ChecksumError, "a frame header is damaged"),
    ),
    Mutant("what is in flight is not synced", "I1", bugs.sync_nothing_beside, crashes_in_flight),
    Mutant(
        "what is appended during a sync is told with it",
        "I1",
        bugs.take_what_is_appended_for_synced,
        crashes_in_flight,
    ),
    Mutant(
        "a write is acknowledged before it is appended",
        "I1",
        bugs.acknowledge_first,
        crashes,
        error=(ChecksumError, "no record is where the log goes on"),
    ),
    Mutant(
        "writes go on after a failed sync",
        "I1",
        bugs.go_on_after_a_failed_sync,
        lambda: test_disk_faults.test_a_failed_sync_poisons_the_database_until_it_is_opened_again(
            "local"
        ),
    ),
    Mutant(
        "part of a torn batch is recovered",
        "I2",
        bugs.recover_part_of_a_batch,
        test_wal_records.test_wal_batch_partial_write,
    ),
    Mutant(
        "seqs start again after a crash",
        "I3",
        bugs.restart_seqs,
        lambda: test_seq_after_crash.test_post_crash_lsn_strictly_higher("kill"),
    ),
    Mutant("the log is released before the manifest's edit", "I4", bugs.release_log_first, crashes),
    Mutant(
        "the memtable is released before the manifest's edit",
        "I5",
        bugs.release_memtable_first,
        lambda: test_flush_order.test_a_failed_flush_stays_readable_and_is_made_good(
            "put_if_absent"
        ),
    ),
    Mutant(
        "an upload is not read back",
        "I5",
        bugs.trust_the_upload,
        test_flush_order.test_a_table_that_reads_back_differently_is_not_used,
    ),
    Mutant(
        "an edit and its layout are published in two steps",
        "I5",
        bugs.publish_in_two_steps,
        test_background.test_a_flush_and_a_merge_that_finish_together_both_stay_visible,
    ),
    Mutant(
        "a taken manifest number is overwritten",
        "I6",
        bugs.ignore_the_fence,
        test_two_writers.test_the_older_writer_is_fenced_and_leaves_the_bucket_alone,
    ),
    Mutant(
        "a ship does not look for a successor",
        "I6",
        bugs.ship_without_looking,
        test_two_writers.test_a_fenced_writer_is_never_told_that_its_write_is_in_the_bucket,
    ),
    Mutant(
        "a ship counts before it has looked for a successor",
        "I6",
        bugs.confirm_ships_early,
        test_two_writers.test_whoever_waits_behind_a_fenced_ship_is_refused_too,
    ),
    Mutant(
        "what is shipped was not synced",
        "I3",
        bugs.ship_without_a_sync,
        test_shipping.test_a_shipped_write_is_never_lost_by_a_power_failure,
    ),
    Mutant(
        "what a disk has lost of the shipped log is not looked for",
        "I3",
        bugs.believe_the_disk,
        test_shipping.test_a_disk_that_lost_what_was_shipped_gets_it_back,
    ),
    Mutant(
        "a flushed segment is let go of though it is not shipped",
        "I4",
        bugs.keep_nothing_for_shipping,
        test_shipping.test_a_segment_is_kept_until_it_is_shipped_though_tables_hold_it,
    ),
    Mutant(
        "what is shipped behind a hole in the log counts as safe",
        "I4",
        bugs.count_what_is_behind_a_hole,
        lambda: (
            test_truncation.test_nothing_is_acknowledged_after_a_salvage_that_a_new_machine_would_not_find(
                ship_interval=1.0
            )
        ),
    ),
    Mutant(
        "a ship tried again goes further than the first",
        "I4",
        bugs.forget_attempts,
        test_shipping.test_an_attempt_that_nobody_heard_of_is_repeated_as_it_was,
    ),
    Mutant(
        "a takeover does not say how far it goes",
        "I6",
        bugs.take_over_without_a_word,
        test_two_writers.test_what_a_fenced_writer_shipped_too_late_does_not_come_back,
    ),
    Mutant(
        "the key between two tables belongs to the left one",
        "I7",
        bugs.border_belongs_to_the_left,
        test_range_deletes.test_a_key_at_the_border_of_two_tables_under_a_range_delete_is_found,
    ),
    Mutant(
        "a new machine counts as complete before it has the shipped log",
        "I4",
        bugs.take_any_log_for_ours,
        test_recovery.test_a_new_machine_that_dies_while_it_takes_over_loses_nothing,
    ),
    Mutant(
        "a merge that is not at the bottom drops tombstones",
        "I7",
        bugs.drop_tombstones_early,
        lambda: test_configurations.test_a_configuration_changes_no_answer("small tables"),
    ),
    Mutant(
        "a table goes down past an older one that it overlaps",
        "I7",
        bugs.merge_less_than_overlaps,
        lambda: test_policies.test_merges_change_no_answer_and_come_to_an_end(policy="leveled"),
        error=(InternalError, "would break the order"),
    ),
    Mutant(
        "filters leave deletes out",
        "I7",
        bugs.filter_without_deletes,
        lambda: test_configurations.test_a_configuration_changes_no_answer("tiny"),
    ),
    Mutant(
        "a range delete hides puts of its own batch",
        "I7",
        bugs.hide_equal_seqs,
        test_range_deletes.test_a_put_after_a_range_delete_in_one_batch_stays,
    ),
    Mutant(
        "a flush leaves old rows in the row cache",
        "I5",
        bugs.forget_to_replace_rows,
        lambda: test_configurations.test_a_configuration_changes_no_answer("large blocks"),
    ),
    Mutant(
        "the seq of an ingest of unknown outcome goes to the next write",
        "I3",
        bugs.give_the_seq_of_a_failed_ingest_away,
        lambda: test_ingest.test_a_death_with_an_unknown_outcome_loses_no_write_made_since(
            happens=True, level="memory"
        ),
    ),
    Mutant(
        "an edit of unknown outcome is published over",
        "I5",
        bugs.leave_an_ingest_in_doubt,
        lambda: (
            test_ingest.test_an_outcome_that_was_unknown_is_found_out_before_anything_else_is_published(
                happens=True, then="flush"
            )
        ),
        error=(InternalError, "of level 0 overlap"),
    ),
    Mutant(
        "the collector ignores what is read or was just removed",
        "I8",
        bugs.collect_what_is_read,
        test_background.test_a_snapshot_reads_what_was_merged_and_collected_meanwhile,
        error=(CorruptionError, "this table, but it is gone"),
    ),
    Mutant(
        "the collector takes shipped log that no table holds",
        "I4",
        bugs.collect_log_of_no_table,
        test_shipped_log.test_what_no_table_holds_stays_however_old_it_is,
    ),
    Mutant(
        "the collector takes every branch of the shipped log",
        "I8",
        bugs.collect_every_branch,
        test_shipped_log.test_takeovers_do_not_make_the_bucket_grow_nor_bring_back_what_they_voided,
    ),
    Mutant(
        "a merge is shown by two edits",
        "I5",
        bugs.show_a_merge_by_two_edits,
        lambda: test_compaction.test_compaction_output_atomic("tiered"),
    ),
    Mutant(
        "a merge takes sealed memtables for flushed",
        "I4",
        bugs.take_sealed_memtables_for_flushed,
        test_flush_watermark.test_a_merge_beside_sealed_memtables_leaves_them_alone,
    ),
    Mutant(
        "what is older is told by the numbers of tables",
        "I7",
        bugs.tell_age_by_the_number_of_a_table,
        lambda: (
            test_tombstones.test_older_is_told_by_seq_and_place_and_not_by_the_number_of_a_table(
                "delete"
            )
        ),
    ),
    Mutant(
        "tables do not reach as far as their range deletes",
        "I7",
        bugs.leave_range_deletes_out_of_bounds,
        lambda: test_tombstones.test_a_table_reaches_as_far_as_its_range_deletes([b"m"]),
    ),
    Mutant(
        "removed tables are noted after the edit",
        "I8",
        bugs.note_removal_late,
        lambda: with_patch(
            test_background.test_what_a_merge_replaced_is_kept_for_the_grace_period_from_the_start
        ),
    ),
    Mutant(
        "a bucket without a manifest counts as empty",
        "I8",
        bugs.begin_anew_without_a_manifest,
        test_store_faults.test_tables_without_a_manifest_are_refused,
    ),
    Mutant(
        "what follows a torn tail is written behind it",
        "I9",
        bugs.append_behind_a_torn_tail,
        test_wal_records.test_partial_wal_record_crash,
        error=(ChecksumError, "a frame header is damaged"),
    ),
    Mutant(
        "a recovered log is sealed before it is durable",
        "I9",
        bugs.seal_what_is_not_durable,
        test_recovery.test_a_recovered_log_is_durable_before_its_seal_says_so,
        error=(ChecksumError, "the checksum of a record does not match"),
    ),
    Mutant(
        "corruption counts as a torn tail",
        "I9",
        bugs.any_damage_is_a_torn_tail,
        test_wal_records.test_wal_record_crc_corruption,
    ),
    Mutant(
        "the checksums of tables are trusted",
        "I10",
        bugs.trust_checksums,
        test_disk_faults.test_a_damaged_disk_tier_is_never_served,
    ),
    Mutant(
        "the checksums of the log are trusted",
        "I10",
        bugs.trust_the_log,
        test_truncation.test_a_flipped_bit_in_the_log_is_found,
    ),
    Mutant(
        "the clock of commits goes back with the wall clock",
        "I3",
        bugs.follow_the_wall_clock,
        lambda: test_seq_after_crash.test_timestamps_never_go_back_though_the_clock_does(
            flushed=False
        ),
    ),
    Mutant(
        "the collector trusts what it remembers of the manifest",
        "I8",
        bugs.collect_by_the_writers_memory,
        test_shipped_log.test_with_a_damaged_manifest_it_stays,
    ),
    Mutant(
        "the collector does not look whether all is there that is named",
        "I8",
        bugs.collect_while_something_is_missing,
        test_blob_damage.test_nothing_is_collected_while_a_blob_is_missing,
    ),
    Mutant(
        "damaged bytes are not kept",
        "I9",
        bugs.throw_damaged_log_away,
        lambda: test_truncation.test_a_log_with_a_flipped_bit_is_opened_by_the_mode_that_allows_it(
            "salvage"
        ),
    ),
    Mutant(
        "the checksums of the manifest are trusted",
        "I10",
        bugs.trust_the_manifest,
        test_checkpoints.test_a_record_survives_its_encoding_and_damage_is_told,
    ),
    Mutant(
        "what fails is healthy",
        "I11",
        bugs.always_well,
        test_store_faults.test_writes_go_on_while_the_bucket_is_away_and_nothing_is_lost,
    ),
    Mutant(
        "a background failure is swallowed",
        "I11",
        bugs.silent_workers,
        test_background.test_an_inline_flush_that_fails_is_told_and_does_not_wait_for_ever,
        error=(ClosedError, "before the flush was done"),
    ),
]
