"""Bugs that escaped the peers, planted here; see ``mutants.py`` and the list in docs/testing.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seerdb import options
from seerdb.errors import ChecksumError, ConflictError, HistoryError, UnavailableError
from seerdb.ids import MAX_SEQ
from seerdb.storage.backup import copying, take
from seerdb.storage.backup import restore as restoring
from seerdb.storage.lease.keeper import LeaseKeeper
from seerdb.storage.manifest import fencing
from seerdb.storage.manifest import writer as manifest_writer
from seerdb.storage.object_store.retrying import RetryingObjectStore
from seerdb.storage.opening.lineage import Lineage
from seerdb.storage.replication import contents
from seerdb.storage.replication.feed import LogFeed
from seerdb.storage.retention import garbage
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.storage.workers.lanes import Lane
from tests.backup import test_restore
from tests.crash import (
    bugs,
    test_compaction,
    test_disk_faults,
    test_shipping,
    test_short_bodies,
    test_store_faults,
    test_two_writers,
    test_wal_records,
)
from tests.crash.bugs import Patch
from tests.crash.mutants import Noticed, with_patch
from tests.crash.past_mutants import collect_what_is_kept
from tests.db import test_checkpoints, test_lease, test_lineage, test_replica
from tests.regression import test_clock_steps, test_tombstones
from tests.unit import test_options
from tests.unit.storage.manifest import test_fencing
from tests.unit.storage.replication import test_feed


@dataclass(frozen=True)
class PeerBug:
    """``plant`` makes the mistake that is listed as ``bug``; ``test`` must fail then, as that of
    a ``Mutant``."""

    bug: str
    name: str
    plant: Callable[[Patch], None]
    test: Callable[[], None]
    error: Noticed | None = None


def collect_fences(patch: Patch) -> None:
    patch.setattr(garbage, "manifest_name", lambda number: "")


def take_any_length(patch: Patch) -> None:
    patch.setattr(copying, "_compare", lambda wanted, found: None)
    patch.setattr(take, "check_sizes", lambda store, needed: None)


def forget_branches(patch: Patch) -> None:
    patch.setattr(Lineage, "survived", lambda lineage, epoch: MAX_SEQ)


def give_up_at_the_first_failure(patch: Patch) -> None:
    def failing(lane: Any, slot: Any, error: BaseException) -> None:
        slot.error, lane.last_failure = error, error
        lane.failures += 1
        lane._closed = True

    patch.setattr(Lane, "_retry", failing)


def step_over_gaps(patch: Patch) -> None:
    patch.setattr(contents, "_without_gap", lambda records, seq: len(records))


def stream_what_is_not_synced(patch: Patch) -> None:
    patch.setattr(LogFeed, "synced", lambda feed: (feed.log.segment, feed.log.position))


def answer_for_successors(patch: Patch) -> None:
    def checking(lineage: Any, epoch: int, seq: int) -> None:
        if epoch <= lineage.epoch:
            check(lineage, epoch, seq)

    check = Lineage.check
    patch.setattr(Lineage, "check", checking)


def acknowledge_after_the_lease(patch: Patch) -> None:
    patch.setattr(LeaseKeeper, "confirm", lambda keeper: None)


def restore_from_the_newest_only(patch: Patch) -> None:
    ways = restoring.ways
    patch.setattr(restoring, "ways", lambda *what: list(ways(*what))[:1])


def pass_over_unknown_settings(patch: Patch) -> None:
    build = options.Options.build.__func__  # type: ignore[attr-defined]

    def building(cls: Any, values: Any) -> Any:
        return build(cls, {name: values[name] for name in values if name in options.SETTING_NAMES})

    patch.setattr(options.Options, "build", classmethod(building))


def collect_by_the_wall_clock(patch: Patch) -> None:
    patch.setattr(GarbageCollector, "_now", lambda collector: collector._clock.now())


def take_a_refusal_for_anothers(patch: Patch) -> None:
    def creating(store: Any, name: str, data: bytes) -> None:
        store._retry(lambda: store._inner.put_if_absent(name, data))

    patch.setattr(RetryingObjectStore, "put_if_absent", creating)


def believe_every_creation(patch: Patch) -> None:
    for module in (fencing, manifest_writer):
        patch.setattr(module, "in_history", lambda store, record: True)


PEER_BUGS = [
    PeerBug(
        "PB-01",
        "claims are collected",
        collect_fences,
        test_two_writers.test_the_fence_outlives_every_collection,
    ),
    PeerBug(
        "PB-01",
        "branches of the log are collected",
        bugs.collect_every_branch,
        test_lineage.test_it_is_known_after_many_takeovers_and_collections,
    ),
    PeerBug(
        "PB-02",
        "a body counts whatever its length",
        take_any_length,
        lambda: test_short_bodies.test_a_short_body_is_never_taken_for_an_object(
            test_short_bodies.backing_up
        ),
    ),
    PeerBug(
        "PB-03",
        "commits that were lost count as here",
        forget_branches,
        test_lineage.test_commits_of_a_former_writer_are_here_or_lost,
    ),
    PeerBug(
        "PB-03",
        "a ship does not look for a successor",
        bugs.ship_without_looking,
        test_two_writers.test_a_fenced_writer_is_never_told_that_its_write_is_in_the_bucket,
    ),
    PeerBug(
        "PB-04",
        "background work ends with its first failure",
        give_up_at_the_first_failure,
        test_store_faults.test_writes_go_on_while_the_bucket_is_away_and_nothing_is_lost,
        error=(UnavailableError, "outage, by plan"),
    ),
    PeerBug(
        "PB-05",
        "seqs start again after a crash in a compaction",
        bugs.restart_seqs,
        lambda: test_compaction.test_compaction_crash_no_data_loss("lazy_leveled"),
    ),
    PeerBug(
        "PB-06",
        "what is missing of the stream is stepped over",
        step_over_gaps,
        test_replica.test_a_live_gap_that_the_manifest_does_not_explain_ends_the_stream,
        error=(UnavailableError, "ended the stream"),
    ),
    PeerBug(
        "PB-07",
        "a write is acknowledged before it is synced",
        bugs.no_sync,
        lambda: test_wal_records.test_wal_sync_policy_guarantees("local", "data"),
    ),
    PeerBug(
        "PB-07",
        "followers have what its writer may yet lose",
        stream_what_is_not_synced,
        test_feed.test_what_is_not_durable_is_not_streamed_before_a_sync,
    ),
    PeerBug(
        "PB-08",
        "an overtaken node answers for its successor",
        answer_for_successors,
        lambda: test_lineage.test_a_writer_that_was_overtaken_does_not_answer_for_its_successor(
            knows=False
        ),
    ),
    PeerBug(
        "PB-08",
        "a pause between the sync and its acknowledgement is not noticed",
        acknowledge_after_the_lease,
        lambda: with_patch(
            lambda patch: (
                test_lease.test_a_process_that_stood_still_inside_of_a_write_does_not_acknowledge_it(
                    "local", patch
                )
            )
        ),
    ),
    PeerBug(
        "PB-09",
        "a restore knows one way only",
        restore_from_the_newest_only,
        test_restore.test_a_damaged_backup_falls_back_to_the_one_before_and_says_so,
        error=(ChecksumError, "checksum mismatch"),
    ),
    PeerBug(
        "PB-10",
        "settings that nobody knows are passed over",
        pass_over_unknown_settings,
        test_options.test_unknown_settings_are_named,
    ),
    PeerBug(
        "PB-12",
        "what a checkpoint or a copy under way needs is collected",
        collect_what_is_kept,
        test_checkpoints.test_what_a_checkpoint_shows_outlives_compactions_and_collections_until_it_is_dropped,
    ),
    PeerBug(
        "PB-13",
        "ages go by the wall clock",
        collect_by_the_wall_clock,
        lambda: test_clock_steps.test_the_past_stays_as_long_as_it_would_have_without_the_step(
            test_clock_steps.YEARS, writes=False
        ),
        error=(HistoryError, "cannot be restored from here"),
    ),
    PeerBug(
        "PB-14",
        "a name that is taken is overwritten",
        bugs.ignore_the_fence,
        test_shipping.test_other_bytes_under_the_name_of_ours_stop_shipping_for_good_and_loudly,
    ),
    PeerBug(
        "PB-15",
        "the disk tier is trusted",
        bugs.trust_checksums,
        test_disk_faults.test_a_damaged_disk_tier_is_never_served,
    ),
    PeerBug(
        "PB-16",
        "the refusal of a creation that happened counts as another's",
        take_a_refusal_for_anothers,
        lambda: test_store_faults.test_a_write_that_times_out_after_it_happened_happens_once(
            "wal/"
        ),
        error=(ConflictError, "with other bytes"),
    ),
    PeerBug(
        "PB-17",
        "a creation counts wherever it lands",
        believe_every_creation,
        test_fencing.test_an_opener_that_slept_does_not_claim_the_past,
    ),
    PeerBug(
        "PB-18",
        "a merge drops tombstones over older data",
        bugs.drop_tombstones_early,
        lambda: test_tombstones.test_a_merge_of_upper_levels_keeps_tombstones("delete"),
    ),
]
