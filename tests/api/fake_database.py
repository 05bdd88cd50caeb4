"""What the service needs of a database, over a dict: every failure is there on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from seerdb import NEEDS_IO, Batch, Entry, KeyVersion, NeedsIO, Transfer
from seerdb.errors import (
    AlreadyExistsError,
    BusyError,
    ConflictError,
    FencedError,
    HistoryError,
    InvalidRequestError,
    LostError,
    NotFoundError,
)
from seerdb_api.port import Sink, Submission

PUT, DELETE, DELETE_RANGE, MERGE, PUT_WITH_EXPIRY = 1, 2, 3, 4, 5


@dataclass
class Check:
    """A named condition of readiness."""

    name: str
    ok: bool
    detail: str
    is_warning: bool = False


@dataclass
class Report:
    """What a flush or a compaction did."""

    tables: int
    bytes: int


@dataclass
class Kept:
    """A checkpoint."""

    name: str
    seq: int
    time: float
    number: int
    expires: float | None


@dataclass
class Copied:
    """A backup in the background."""

    id: str
    to: str
    state: str


class Level(NamedTuple):
    """The tables of one level."""

    level: int
    tables: int
    bytes: int
    runs: int
    entries: int
    deletes: int
    range_deletes: int


class HeldBack(NamedTuple):
    """How writes were held back for one reason."""

    reason: str
    slowdowns: int
    slowed_seconds: float
    stops: int
    stopped_seconds: float
    refused: int


class Stalls(NamedTuple):
    """How writes were held back."""

    reasons: list[HeldBack]


class Job(NamedTuple):
    """A merge that runs."""

    kind: str
    input_bytes: int
    bytes_read: int
    bytes_written: int


class Requests(NamedTuple):
    """Requests of one purpose and operation."""

    purpose: str
    operation: str
    requests: int
    errors: int
    bytes_in: int
    bytes_out: int
    seconds: float
    dollars: float
    dollars_per_month: float


@dataclass
class FakeStatistics:
    """The numbers of the engine."""

    values: dict[str, float] = field(default_factory=lambda: {"visible_seq": 3, "wal_syncs": 2})
    stalls: Stalls = field(
        default_factory=lambda: Stalls([HeldBack("log", 5, 1.5, 2, 20.25, 1)]),
    )
    jobs: list[Job] = field(default_factory=lambda: [Job("request", 100, 50, 40)] * 2)
    levels: list[Level] = field(default_factory=lambda: [Level(0, 2, 4096, 1, 50, 6, 1)])
    get_tiers: dict[str, int] = field(default_factory=lambda: {"block_cache": 8, "bucket": 2})
    sampled_gets: dict[str, int] = field(default_factory=lambda: {"memtable": 4, "tables": 3})
    store_requests: list[Requests] = field(
        default_factory=lambda: [Requests("flush", "put", 5, 1, 0, 4096, 0.25, 0.5, 9.0)]
    )


class FakeCursor:
    """A place in a log that consists of what the test says."""

    def __init__(self, seq: int, log: list[bytes | Exception]) -> None:
        self.seq = seq
        self.closed = False
        self._log = log

    @property
    def has_news(self) -> bool:
        return bool(self._log)

    def greeting(self) -> bytes:
        return b"hello;"

    def heartbeat(self) -> bytes:
        return b"beat;"

    def read(self) -> bytes:
        following = self._log.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    def close(self) -> None:
        self.closed = True


def _do_nothing(_: object, patience: float | None = None) -> None:
    """Nothing takes long here."""


class FakeDatabase:
    """A dict of entries; merges append. Nothing expires: ``lifetimes_us`` says what would.

    ``cold``: keys whose reads need I/O; ``fetched``: which of them were read. ``failure``: raised
    by submissions; ``fate``: what commits end in instead of a seq. ``broken_at``: a key on which
    reads and scans raise ``failure``.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.lifetimes_us: dict[bytes, int] = {}
        self.visible_seq = 0
        self.epoch = 2
        self.is_fenced = False
        self.lost: set[tuple[int, int]] = set()
        self.takeover = {"epoch": 2, "seq": 0, "lost": {"from": 1, "to": 3}}
        self.cold: set[bytes] = set()
        self.fetched: set[bytes] = set()
        self.failure: Exception | None = None
        self.fate: Exception | None = None
        self.broken_at: bytes | None = None
        self.checks = [Check("wal", ok=True, detail="1 segment")]
        self.closed = False
        self.compacted: tuple[bytes | None, bytes | None] | None = None
        """The bounds of the last compaction."""
        self.scans_open = 0
        self.kept: dict[str, Kept] = {}
        self.instants: list[int | datetime] = []
        """What was asked for as of."""
        self.versions: list[KeyVersion] = []
        self.copied: list[Copied] = []
        self.durabilities: list[str | None] = []
        self.log: list[bytes | Exception] = []
        """What cursors read."""
        self.cursors: list[FakeCursor] = []
        self.numbers = FakeStatistics()

    def load(self, **items: str) -> None:
        """Put text keys and values."""
        for key, value in items.items():
            self.put(key.encode(), value.encode())

    def put(self, key: bytes, value: bytes) -> int:
        """Put one key, as another client would."""
        batch = Batch()
        batch.put(key, value)
        return self._apply(batch)

    def check_commit(self, epoch: int, seq: int) -> None:
        if (epoch, seq) in self.lost:
            raise LostError("lost, by plan")
        if epoch > self.epoch:
            raise FencedError("of a later epoch, by plan")

    def try_get_entry(self, key: bytes) -> Entry | NeedsIO | None:
        return NEEDS_IO if key in self.cold else self.get_entry(key)

    def get_entry(self, key: bytes, *, fill_cache: bool = True) -> Entry | None:
        self._trip(key)
        self.fetched |= self.cold & {key}
        return self.entries.get(key)

    def multi_get_entries(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: int | datetime | None = None
    ) -> list[Entry | None]:
        if as_of is not None:
            return [self._past(as_of).get(key) for key in keys]
        return [self.get_entry(key) for key in keys]

    def scan_entries(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        fill_cache: bool = True,
        as_of: int | datetime | None = None,
    ) -> Iterator[Entry]:
        entries = self.entries if as_of is None else self._past(as_of)
        chosen = [
            entry
            for key, entry in sorted(entries.items(), reverse=reverse)
            if (start is None or key >= start) and (end is None or key < end)
        ]
        self.scans_open += 1
        try:
            for entry in chosen[:limit]:
                self._trip(entry.key)
                yield entry._replace(value=b"") if keys_only else entry
        finally:
            self.scans_open -= 1

    def seq_at(self, as_of: int | datetime) -> int:
        self._past(as_of)
        return as_of if isinstance(as_of, int) else 0

    def history(self, key: bytes) -> list[KeyVersion]:
        return self.versions

    def _past(self, as_of: int | datetime) -> dict[bytes, Entry]:
        """What was there after the commit of a seq; at any time there was nothing."""
        self.instants.append(as_of)
        if as_of == 0:
            raise HistoryError("seq 0 is before what is kept")
        seq = as_of if isinstance(as_of, int) else 0
        return {key: entry for key, entry in self.entries.items() if entry.seq <= seq}

    def submit_all(
        self, submissions: Sequence[Submission], sink: Sink
    ) -> list[tuple[Any, Exception]]:
        if self.failure is not None:
            raise self.failure
        for batch, durability, expect, ticket in submissions:
            self.durabilities.append(durability)
            sink([(ticket, self._outcome(batch, expect))])
        return []

    def flush(self) -> Report:
        if self.failure is not None:
            raise self.failure
        return Report(tables=1, bytes=100)

    def compact(self, start: bytes | None = None, end: bytes | None = None) -> Report:
        if start is not None and end is not None and start >= end:
            raise InvalidRequestError("the start of a range must be before its end")
        self.compacted = start, end
        return Report(tables=2, bytes=200)

    def checkpoint(
        self, name: str | None = None, expires: float | None = None, *, flush: bool = True
    ) -> Kept:
        if name in self.kept:
            raise AlreadyExistsError(f"there is a checkpoint {name!r} already")
        made = Kept(name or "unnamed", self.visible_seq, 1.5, 7 if flush else 6, expires)
        self.kept[made.name] = made
        return made

    def checkpoints(self) -> list[Kept]:
        return list(self.kept.values())

    def drop_checkpoint(self, name: str) -> None:
        if self.kept.pop(name, None) is None:
            raise NotFoundError(f"there is no checkpoint {name!r}")

    def restore_in_place(
        self,
        as_of: int | datetime | None = None,
        *,
        checkpoint: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        if checkpoint is not None and checkpoint not in self.kept:
            raise NotFoundError(f"there is no checkpoint {checkpoint!r}")
        return {"as_of": as_of, "checkpoint": checkpoint, "dry_run": dry_run}

    def start_backup(
        self, to: str, *, label: str, keep: bool, full: bool, transfer: Transfer
    ) -> Copied:
        if any(each.state == "running" for each in self.copied):
            raise BusyError("another one runs", retry_after_seconds=7.0)
        wish = f"{to} {label} {keep} {full} {transfer.jobs} {transfer.rate}"
        self.copied.append(Copied(f"id{len(self.copied)}", wish, "running"))
        return self.copied[-1]

    def backups(self) -> list[Copied]:
        return self.copied

    def cancel_backup(self, backup: str) -> None:
        if backup not in {each.id for each in self.copied}:
            raise NotFoundError(f"there is no backup {backup!r}")
        for each in self.copied:
            each.state = "failed"

    def recovery_points(self, repository: str | None = None) -> dict[str, Any]:
        if repository == "nowhere":
            raise NotFoundError("there is neither a backup nor a database")
        return {"from": repository, "ranges": []}

    def stats(self) -> dict[str, Any]:
        return {"seq": self.visible_seq, "levels": [{"level": 0, "tables": 2}]}

    def health(self) -> list[Check]:
        return self.checks

    def statistics(self) -> FakeStatistics:
        return self.numbers

    def follow(self, seq: int) -> FakeCursor:
        if self.failure is not None:
            raise self.failure
        self.cursors.append(FakeCursor(seq, list(self.log)))
        return self.cursors[-1]

    begin_closing = _do_nothing

    def close(self) -> None:
        self.closed = True

    def _outcome(self, batch: Batch, expect: tuple[bytes, int] | None) -> int | Exception:
        if self.fate is not None:
            return self.fate
        if expect is not None:
            key, wanted = expect
            found = self.entries[key].seq if key in self.entries else 0
            if found != wanted:
                return ConflictError(f"expected {wanted}, found {found}")
        return self._apply(batch)

    def _apply(self, batch: Batch) -> int:
        seq = self.visible_seq + 1
        for kind, key, value in zip(batch.kinds, batch.keys, batch.values, strict=True):
            if kind == PUT:
                self.entries[key] = Entry(key, value, seq)
            elif kind == PUT_WITH_EXPIRY:
                self.lifetimes_us[key] = int.from_bytes(value[:8], "little")
                self.entries[key] = Entry(key, value[8:], seq)
            elif kind == MERGE:
                before = self.entries.get(key, Entry(key, b"", 0))
                self.entries[key] = Entry(key, before.value + value, seq)
            elif kind == DELETE:
                self.entries.pop(key, None)
            else:
                for covered in [k for k in self.entries if key <= k < value]:
                    del self.entries[covered]
        self.visible_seq = seq
        return seq

    def _trip(self, key: bytes) -> None:
        if key == self.broken_at and self.failure is not None:
            raise self.failure
