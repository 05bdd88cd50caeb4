"""The bytes of manifest records that releases have written. These files stay for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from seerdb.storage.manifest.edit import ManifestRecord, decode_record, encode_record
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import apply
from tests.unit.storage.manifest.samples import claim_record, edit_record, every_kind, table

GOLDEN = Path(__file__).parent / "golden"


def golden(record: ManifestRecord) -> Path:
    """The file of a record's kind, in format version 1."""
    return GOLDEN / f"manifest_{type(record).__name__.lower()}_v1.bin"


@pytest.mark.parametrize("record", every_kind(), ids=lambda record: golden(record).stem)
def test_a_record_is_written_and_read_as_ever(record: ManifestRecord) -> None:
    file = golden(record)
    assert decode_record(file.name, file.read_bytes()) == record
    assert encode_record(record) == file.read_bytes()


def test_a_table_that_moves_is_removed_and_added_by_one_edit() -> None:
    flushed = table(7, keys=(b"a", b"m"))
    moved = replace(flushed, level=7, run=3)
    edit = replace(edit_record(moved, number=3), remove=[flushed.id], reason="compaction")
    file = GOLDEN / "manifest_edit_move_v1.bin"
    assert decode_record(file.name, file.read_bytes()) == edit
    assert encode_record(edit) == file.read_bytes()
    state = ManifestState()
    for record in (claim_record(), edit_record(flushed), edit):
        state = apply(state, record)
    assert state.version.tables == [moved]


def test_the_golden_records_together_are_a_manifest() -> None:
    state = ManifestState()
    for record in every_kind():
        state = apply(state, decode_record("golden", golden(record).read_bytes()))
    assert state.checkpoint == state.number == 3
