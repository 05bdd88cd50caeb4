"""Bugs in keeping states and the past, planted on purpose; see ``mutants.py``."""

from __future__ import annotations

from seerdb.storage.past import log
from seerdb.storage.retention import garbage
from seerdb.storage.retention.kept import Kept
from seerdb.storage.retention.timeline import Mark, Needed, Timeline
from tests.crash import test_checkpoints
from tests.crash.bugs import Patch
from tests.crash.mutants import Mutant
from tests.db import test_checkpoints as test_keeping
from tests.unit.storage.past import test_history
from tests.unit.storage.retention import test_checkpoints as test_holds
from tests.unit.storage.retention import test_timeline


def collect_what_is_kept(patch: Patch) -> None:
    patch.setattr(garbage, "list_kept", lambda store: [])


def trust_every_hold(patch: Patch) -> None:
    """The manifest that was read before the hold was put decides."""
    patch.setattr(Kept, "objects", property(lambda kept: set()))


def expire_by_the_clock_of_the_collector(patch: Patch) -> None:
    patch.setattr(garbage, "has_expired", lambda info, kept, now: kept.lifetime > 0)


def forget_the_past(patch: Patch) -> None:
    def needed(timeline: Timeline, since_us: int) -> Needed:
        return Needed(timeline.state.number, timeline.state.last_seq, frozenset())

    patch.setattr(Timeline, "needed", needed)


def begin_with_any_tables(patch: Patch) -> None:
    def never(timeline: Timeline, first: Mark, last: Mark) -> bool:
        return False

    patch.setattr(Timeline, "may_expire", never)


def step_over_gaps(patch: Patch) -> None:
    patch.setattr(log, "_following", lambda records, seq: [r for r in records if r[0] > seq])
    patch.setattr(
        log._Untried, "take", lambda untried, seq: untried._ahead.pop() if untried._ahead else None
    )


PAST_MUTANTS = [
    Mutant(
        "what is kept is collected",
        "I8",
        collect_what_is_kept,
        test_holds.test_what_is_held_stays_until_it_is_let_go_of,
    ),
    Mutant(
        "a hold counts whatever the manifest says by then",
        "I8",
        trust_every_hold,
        test_holds.test_a_state_that_the_manifest_has_left_meanwhile_is_not_held,
    ),
    Mutant(
        "lifetimes go by the collector's clock",
        "I8",
        expire_by_the_clock_of_the_collector,
        test_holds.test_no_clock_but_the_stores_makes_anything_expire,
    ),
    Mutant(
        "a checkpoint keeps nothing",
        "I8",
        collect_what_is_kept,
        test_checkpoints.test_a_death_at_any_request_leaves_only_complete_checkpoints,
    ),
    Mutant(
        "a checkpoint outlives no compaction",
        "I8",
        collect_what_is_kept,
        test_keeping.test_what_a_checkpoint_shows_outlives_compactions_and_collections_until_it_is_dropped,
    ),
    Mutant(
        "the past is forgotten at once",
        "I8",
        forget_the_past,
        test_timeline.test_what_is_older_than_the_retention_goes,
    ),
    Mutant(
        "an instant begins with tables of later",
        "I7",
        begin_with_any_tables,
        test_history.test_tables_from_which_a_merge_has_dropped_what_expired_later_are_not_begun_with,
    ),
    Mutant(
        "a gap in the log is stepped over",
        "I9",
        step_over_gaps,
        test_history.test_a_gap_is_named,
    ),
]
