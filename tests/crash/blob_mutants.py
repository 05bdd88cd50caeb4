"""Bugs planted on purpose among large values; see ``mutants.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seerdb.errors import CorruptionError
from seerdb.storage.blob import reader, resolve, verify, writer
from seerdb.storage.blob.format import open_value
from seerdb.storage.blob.writer import BlobWriter
from seerdb.storage.compaction import plan
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import table_name
from seerdb.storage.object_store.upload import upload
from seerdb.storage.pieces import Body
from seerdb.storage.pointer import BlobPointer, count_by_blob
from seerdb.storage.retention import garbage
from seerdb.storage.sstable import builder
from seerdb.storage.value import Merge, pointer_in
from tests.crash import test_blob_damage, test_every_operation
from tests.crash.mutants import Mutant
from tests.db import test_blob_space, test_blobs
from tests.model import test_configurations

Patch = pytest.MonkeyPatch


def _name_the_last_blob_but_do_not_upload_it(patch: Patch) -> None:
    late: list[tuple[ObjectStore, str, Body, int]] = []

    def uploading(store: ObjectStore, name: str, data: Body, checksum: int) -> None:
        while late:
            upload(*late.pop())
        late.append((store, name, data, checksum))

    patch.setattr(writer, "upload", uploading)


def _trust_the_upload(patch: Patch) -> None:
    patch.setattr(writer, "upload", lambda store, name, data, _: store.put(name, data))


def _keep_only_tables(patch: Patch) -> None:
    patch.setattr(TableMeta, "objects", property(lambda meta: [table_name(meta.id)]))


def _collect_what_is_being_made(patch: Patch) -> None:
    patch.setattr(garbage, "_table_with", lambda name: None)


def _trust_values(patch: Patch) -> None:
    def opening(stored: bytes, place: Any) -> bytes:
        return open_value(stored, place._replace(crc=_Anything()))

    patch.setattr(reader, "open_value", opening)
    patch.setattr(verify, "open_value", opening)


class _Anything(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _forget_to_count(patch: Patch) -> None:
    def counting(pointers: bytes) -> Any:
        return {blob: (n, size - n) for blob, (n, size) in count_by_blob(pointers).items()}

    patch.setattr(builder, "count_by_blob", counting)


def _fold_onto_a_pointer(patch: Patch) -> None:
    def without_bases(value: Any) -> BlobPointer | None:
        return None if isinstance(value, Merge) else pointer_in(value)

    patch.setattr(resolve, "pointer_in", without_bases)


def _never_rewrite(patch: Patch) -> None:
    patch.setattr(plan, "find_dying", lambda version, tables: frozenset())


def _separate_above_the_threshold_only(patch: Patch) -> None:
    begin = BlobWriter.__init__

    def beginning(blobs: Any, *place: Any, threshold: int, **rest: Any) -> None:
        begin(blobs, *place, threshold=threshold + 1 if threshold else 0, **rest)

    patch.setattr(BlobWriter, "__init__", beginning)


def crashes() -> None:
    test_every_operation.test_a_crash_at_every_operation("blobs")


def plays(name: str) -> Callable[[], None]:
    return lambda: test_configurations.test_a_configuration_changes_no_answer(name)


BLOB_MUTANTS = [
    Mutant(
        "the manifest names a blob that comes with the next one",
        "I5",
        _name_the_last_blob_but_do_not_upload_it,
        crashes,
        error=(CorruptionError, "but it is gone"),
    ),
    Mutant(
        "a blob is not read back",
        "I5",
        _trust_the_upload,
        lambda: test_blob_damage.test_a_blob_that_was_not_stored_as_it_was_sent_is_made_again(
            "get"
        ),
    ),
    Mutant(
        "the collector takes blobs that only a snapshot points into",
        "I8",
        _keep_only_tables,
        test_blob_space.test_a_snapshot_reads_blobs_that_everybody_else_has_left,
    ),
    Mutant(
        "the collector takes blobs that are being made",
        "I8",
        _collect_what_is_being_made,
        test_blob_space.test_a_blob_that_no_manifest_names_yet_is_not_collected,
    ),
    Mutant(
        "values are not held against their pointers",
        "I10",
        _trust_values,
        test_blob_damage.test_another_blob_under_the_name_is_never_served,
    ),
    Mutant(
        "the manifest miscounts what is live",
        "I8",
        _forget_to_count,
        lambda: test_blobs.test_value_at_vlog_threshold_boundary("zstd"),
    ),
    Mutant(
        "operands are folded onto a pointer", "I5", _fold_onto_a_pointer, plays("blobs that die")
    ),
    Mutant(
        "what is mostly dead is never rewritten",
        "I8",
        _never_rewrite,
        test_blob_space.test_what_is_mostly_dead_is_rewritten_and_its_space_taken_back,
    ),
    Mutant(
        "a value of just the threshold stays in the table",
        "I5",
        _separate_above_the_threshold_only,
        lambda: test_blobs.test_value_at_vlog_threshold_boundary("zstd"),
    ),
]
