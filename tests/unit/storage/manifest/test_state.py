"""Which record may follow which, and what the state is then."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from seerdb.errors import CorruptionError, InternalError
from seerdb.ids import Epoch, SegmentId, SeqNo
from seerdb.storage.manifest.edit import ManifestRecord
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import apply, restore
from seerdb.storage.object_store.names import manifest_name
from tests.unit.storage.manifest.samples import (
    DATABASE,
    checkpoint_record,
    claim_record,
    edit_record,
    table,
)

CLAIMED = ManifestState().after(claim_record())
EDITED = CLAIMED.after(edit_record(table(1)))


def refused(state: ManifestState, record: ManifestRecord, **changes: Any) -> str:
    """Why ``record`` with ``changes`` may not follow; the object must be named."""
    with pytest.raises(InternalError):
        state.after(replace(record, **changes))
    with pytest.raises(CorruptionError) as caught:
        apply(state, replace(record, **changes))
    assert caught.value.name == manifest_name(changes.get("number", record.number))
    return str(caught.value)


def test_the_first_claim_makes_the_database() -> None:
    assert (CLAIMED.number, CLAIMED.epoch, CLAIMED.claims) == (1, 1, (1,))
    assert (CLAIMED.database_id, CLAIMED.home, CLAIMED.store) == (DATABASE, "home-a", "fp")
    assert CLAIMED.version.tables == []


def test_an_edit_changes_the_version() -> None:
    assert EDITED.version.tables == [table(1)]
    assert (EDITED.number, EDITED.last_seq, EDITED.epoch) == (2, 1, 1)
    assert EDITED.claims == CLAIMED.claims


def test_a_checkpoint_changes_nothing_but_itself() -> None:
    state = EDITED.after(checkpoint_record(table(1)))
    assert (state.checkpoint, state.checkpoint_before) == (3, 0)
    assert state.version == EDITED.version
    assert state == restore(checkpoint_record(table(1)))


def test_a_claim_of_the_same_home_keeps_the_log_and_another_one_starts_it_anew() -> None:
    state = replace(EDITED, log_start=SegmentId(9))
    claim = replace(claim_record(3, 2, EDITED.write_id), last_seq=SeqNo(1))
    assert state.after(claim).log_start == 9
    assert state.after(replace(claim, home="home-b")).log_start == 0
    assert state.after(claim).claims == (1, 3)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_numbers_are_contiguous(number: int) -> None:
    assert "number" in refused(EDITED, edit_record(number=3), number=number)


def test_a_record_continues_the_write_before_it() -> None:
    assert "previous write id" in refused(EDITED, edit_record(number=3), previous="f" * 32)


def test_only_a_claim_raises_the_epoch_and_by_one() -> None:
    record = replace(edit_record(number=3), last_seq=SeqNo(1))
    assert EDITED.after(record).epoch == 1
    assert "epoch" in refused(EDITED, record, epoch=Epoch(2))
    assert "epoch" in refused(replace(EDITED, epoch=Epoch(2)), record)
    claim = replace(claim_record(3, 2, EDITED.write_id), last_seq=SeqNo(1))
    assert EDITED.after(claim).epoch == 2
    assert "epoch" in refused(EDITED, claim, epoch=Epoch(1))
    assert "epoch" in refused(EDITED, claim, epoch=Epoch(3))


def test_seq_log_and_time_do_not_fall() -> None:
    record = edit_record(table(2), number=3)
    state = replace(EDITED, log_start=SegmentId(5))
    assert "last seq" in refused(state, record, add=[], last_seq=SeqNo(0), log_start=SegmentId(5))
    assert "log start" in refused(state, record, log_start=SegmentId(4))
    assert "time" in refused(state, record, time_us=state.time_us, log_start=SegmentId(5))


def test_only_an_edit_raises_the_last_seq() -> None:
    claim = replace(claim_record(3, 2, EDITED.write_id), last_seq=SeqNo(2))
    assert "last seq" in refused(EDITED, claim)
    assert "last seq" in refused(EDITED, checkpoint_record(table(1)), last_seq=SeqNo(2))


def test_tables_do_not_reach_past_the_last_seq() -> None:
    assert "reach seq 2" in refused(EDITED, edit_record(table(2), number=3), last_seq=SeqNo(1))


def test_an_edit_that_breaks_the_version_is_damage() -> None:
    record = replace(edit_record(number=3), last_seq=SeqNo(1))
    assert "not there" in refused(EDITED, record, remove=[table(5).id])
    assert "twice" in refused(EDITED, record, add=[table(1)])


def test_a_claim_of_another_database_does_not_fit() -> None:
    claim = replace(claim_record(3, 2, EDITED.write_id), last_seq=SeqNo(1))
    assert "claims database" in refused(EDITED, claim, database_id="e" * 32)


def test_a_record_names_the_newest_checkpoint() -> None:
    assert "checkpoint" in refused(EDITED, edit_record(table(2), number=3), checkpoint=1)
    assert "checkpoint" in refused(EDITED, checkpoint_record(table(1)), checkpoint=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": []},
        {"tables": [table(2)]},
        {"log_start": SegmentId(1)},
        {"claims": []},
        {"home": "home-b"},
        {"database_id": "e" * 32},
        {"checkpoint_before": 1},
        {"capabilities": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_says_what_the_records_before_it_say(changes: dict[str, Any]) -> None:
    assert "differs" in refused(EDITED, checkpoint_record(table(1)), **changes)


def test_a_checkpoint_alone_must_be_consistent() -> None:
    record = checkpoint_record(table(1), table(1))
    with pytest.raises(CorruptionError, match="twice") as caught:
        restore(record)
    assert caught.value.name == manifest_name(record.number)
    with pytest.raises(CorruptionError, match="newest"):
        restore(replace(checkpoint_record(), checkpoint=1))


def test_a_database_begins_with_a_claim() -> None:
    assert "must be" in refused(ManifestState(), edit_record(table(1), number=1), previous="")
