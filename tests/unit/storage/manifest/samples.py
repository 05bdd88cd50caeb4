"""Small tables, records and writers for tests of the manifest."""

from __future__ import annotations

import random

from seerdb.clock import Clock
from seerdb.ids import Epoch, SegmentId, SeqNo, table_id
from seerdb.storage.manifest.edit import Checkpoint, Claim, Edit, ManifestRecord
from seerdb.storage.manifest.fencing import Claimant
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.testing.clock import FakeClock

DATABASE = "d" * 32
CAPABILITIES = {"put_if_absent": True, "ranges": True}


def table(
    counter: int,
    *,
    epoch: int = 1,
    level: int = 0,
    run: int | None = None,
    keys: tuple[bytes, bytes] = (b"a", b"z"),
    max_seq: int | None = None,
    range_deletes: int = 0,
) -> TableMeta:
    """A table; unless told otherwise a run of its own that covers all keys."""
    return TableMeta(
        id=table_id(Epoch(epoch), counter),
        level=level,
        run=counter if run is None else run,
        size=1000 + counter,
        checksum=0xC0FFEE,
        entries=10,
        deletes=1,
        range_deletes=range_deletes,
        smallest=keys[0],
        largest=keys[1],
        min_seq=1,
        max_seq=counter if max_seq is None else max_seq,
        tail_offset=900,
    )


def claimant(home: str = "home-a") -> Claimant:
    """Who opens the database in these tests."""
    return Claimant(database_id=DATABASE, home=home, store="fp", capabilities=CAPABILITIES)


def open_writer(
    store: ObjectStore, *, home: str = "home-a", clock: Clock | None = None, seed: int = 0
) -> ManifestWriter:
    """Load and claim, as opening a database for writing does."""
    return ManifestWriter.claim(
        store,
        load(store),
        claimant=claimant(home),
        clock=clock or FakeClock(),
        random_bytes=random.Random(seed).randbytes,
    )


def claim_record(number: int = 1, epoch: int = 1, previous: str = "") -> Claim:
    """A claim that may follow ``previous``."""
    return Claim(
        number=number,
        epoch=Epoch(epoch),
        write_id=f"{number:032x}",
        previous=previous,
        checkpoint=0,
        last_seq=SeqNo(0),
        time_us=1_700_000_000_000_000 + number,
        database_id=DATABASE,
        home="home-a",
        store="fp",
        capabilities=CAPABILITIES,
    )


def edit_record(*add: TableMeta, number: int = 2) -> Edit:
    """An edit of the first epoch that follows ``number - 1``."""
    return Edit(
        number=number,
        epoch=Epoch(1),
        write_id=f"{number:032x}",
        previous=f"{number - 1:032x}",
        checkpoint=0,
        last_seq=SeqNo(max((each.max_seq for each in add), default=0)),
        time_us=1_700_000_000_000_000 + number,
        add=list(add),
        remove=[],
        log_start=SegmentId(0),
        reason="flush",
    )


def checkpoint_record(*tables: TableMeta, number: int = 3) -> Checkpoint:
    """The first checkpoint, after one claim and edits that added ``tables``."""
    return Checkpoint(
        number=number,
        epoch=Epoch(1),
        write_id=f"{number:032x}",
        previous=f"{number - 1:032x}",
        checkpoint=number,
        last_seq=SeqNo(max((each.max_seq for each in tables), default=0)),
        time_us=1_700_000_000_000_000 + number,
        checkpoint_before=0,
        database_id=DATABASE,
        home="home-a",
        store="fp",
        capabilities=CAPABILITIES,
        log_start=SegmentId(0),
        claims=[1],
        tables=list(tables),
    )


def every_kind() -> list[ManifestRecord]:
    """One record of each kind; together a manifest."""
    awkward = table(7, keys=(b"\x00\xff", b'"\\\xfe' * 3), range_deletes=2)
    return [claim_record(), edit_record(awkward), checkpoint_record(awkward)]
