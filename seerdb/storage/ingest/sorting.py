"""Sorting more pairs than fit in memory: sorted runs on the local disk, merged as they are read.

A run is a dump (``dump.py``) whose keys ascend and are unique. Of equal keys the last one given
wins: within a run because they are gathered in a dict, among runs because the later run does.
Memory is bounded by :data:`SORT_MEMORY` while runs are made, and by :data:`MERGE_MEMORY` for what
is read ahead of them, apart from single entries that are larger. Nothing is synced: runs are of no
use to another process after a crash, which removes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from seerdb.errors import InvalidRequestError
from seerdb.options import MAX_KEY_SIZE, MAX_VALUE_SIZE
from seerdb.storage.batch import check_key, check_value
from seerdb.storage.entry import NO_TOMBSTONES
from seerdb.storage.ingest.dump import DumpDecoder, DumpEncoder
from seerdb.storage.local.files import File, FileSystem
from seerdb.storage.merge import EMPTY, Chunk, Piece, collapse, windows
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.sstable.format import UNASSIGNED_SEQ
from seerdb.storage.workers.pace import Pace

SORT_MEMORY = 64 << 20
"""Bytes of pairs gathered before they are written to a run, overheads counted."""

MERGE_MEMORY = 16 << 20
"""Bytes of chunks, one of each run, that a merge may hold; it merges two runs in any case."""

PAIR_OVERHEAD = 200
"""Bytes a gathered pair costs beside its key and value: two bytes objects, a place in a dict and
in the list that is sorted (measured with CPython 3.11)."""

_SUFFIX = ".run"


@dataclass(frozen=True)
class SortedRun:
    """A finished run. ``size`` is that of its file, ``largest`` that of its largest chunk there."""

    path: str
    entries: int
    size: int
    largest: int


class Scratch:
    """The files of one sort. Not thread-safe."""

    def __init__(self, files: FileSystem, stem: str) -> None:
        self.files = files
        self._stem = stem
        self.pair_bytes = 0
        """Keys and values of all pairs that came."""
        self._paths: list[str] = []

    def new_path(self) -> str:
        """A path for a run."""
        path = f"{self._stem}-{len(self._paths) + 1:06d}{_SUFFIX}"
        self._paths.append(path)
        return path

    def remove(self, runs: Iterable[SortedRun]) -> None:
        """Remove the files of runs."""
        for run in runs:
            self.files.remove(run.path)

    def clear(self) -> None:
        """Remove whatever is left."""
        for path in self._paths:
            self.files.remove(path)


class ScratchDirectory:
    """A directory for the files of sorts, which are of no use to a later process. Thread-safe."""

    def __init__(self, files: FileSystem, directory: str) -> None:
        """Removes what an earlier process left. Raises: ``DiskError``."""
        self._files = files
        self._directory = directory
        self._numbers = itertools.count(1)
        if files.exists(directory):
            for name in files.list(directory):
                if name.endswith(_SUFFIX):
                    files.remove(f"{directory}/{name}")

    @contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """Room for one sort; all of its files are gone afterwards."""
        self._files.make_directory(self._directory)
        scratch = Scratch(self._files, f"{self._directory}/{next(self._numbers):06d}")
        try:
            yield scratch
        finally:
            scratch.clear()


def sort(
    pairs: Iterable[tuple[bytes, bytes]], scratch: Scratch, before_write: Callable[[], None]
) -> list[SortedRun]:
    """Write all pairs, which may come in any order, to runs; oldest first.

    ``before_write`` is called before each run and may refuse it by raising. Raises:
    ``InvalidRequestError`` naming the pair that is none, counted from 1; ``DiskError``; whatever
    ``pairs`` raises.
    """
    runs: list[SortedRun] = []
    gathered: dict[bytes, bytes] = {}
    size = number = 0
    for number, pair in _numbered(pairs):
        try:
            key, value = pair
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"pair {number:,} cannot be ingested: it must be a key and a value, not "
                f"{type(pair).__name__} {pair!r:.100}"
            ) from error
        if (
            type(key) is not bytes
            or type(value) is not bytes
            or not 0 < len(key) <= MAX_KEY_SIZE
            or len(value) > MAX_VALUE_SIZE
        ):
            _refuse(number, key, value)
        gathered[key] = value
        size += len(key) + len(value) + PAIR_OVERHEAD
        if size > SORT_MEMORY:
            before_write()
            runs.append(_write_sorted(gathered, scratch))
            scratch.pair_bytes += size
            gathered, size = {}, 0
    scratch.pair_bytes += size - PAIR_OVERHEAD * number
    if gathered:
        before_write()
        runs.append(_write_sorted(gathered, scratch))
    return runs


def _numbered(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    try:
        return enumerate(pairs, 1)
    except TypeError as error:
        raise InvalidRequestError(
            f"what is ingested must be pairs of a key and a value, not {type(pairs).__name__}"
        ) from error


def _refuse(number: int, key: object, value: object) -> None:
    try:
        check_key(key)
        check_value(value)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"pair {number:,} cannot be ingested: {error}") from error


def _write_sorted(gathered: dict[bytes, bytes], scratch: Scratch) -> SortedRun:
    keys = sorted(gathered)
    chunk = Chunk(keys, [], list(map(gathered.__getitem__, keys)))
    return _write_run(scratch.files, scratch.new_path(), [chunk])


@dataclass(frozen=True)
class MergeJob:
    """Several runs, oldest first, that become one at ``path``."""

    runs: tuple[SortedRun, ...]
    path: str


def run_merge(job: MergeJob, files: FileSystem, store: ObjectStore, pace: Pace) -> SortedRun:
    """Write the merged run. The inputs stay."""
    return _write_run(files, job.path, merged(files, job.runs, pace))


def merge_groups(runs: list[SortedRun]) -> list[tuple[SortedRun, ...]]:
    """Neighbours that can be merged within :data:`MERGE_MEMORY`; two at least, if there are."""
    groups: list[tuple[SortedRun, ...]] = []
    group: list[SortedRun] = []
    size = 0
    for run in runs:
        if len(group) > 1 and size + run.largest > MERGE_MEMORY:
            groups.append(tuple(group))
            group, size = [], 0
        group.append(run)
        size += run.largest
    return [*groups, tuple(group)] if group else groups


def merged(files: FileSystem, runs: Iterable[SortedRun], pace: Pace) -> Iterator[Chunk]:
    """All pairs of ``runs``, given oldest first, with unique ascending keys; seqs unassigned.

    Raises: ``CorruptionError`` for a file that is not what was written.
    """
    with ExitStack() as opened:
        sources = []
        for run in runs:
            file = opened.enter_context(closing(files.open_read(run.path)))
            sources.append(_pieces(file, run.path))
        # Of equal keys the merge takes that of the first source.
        sources.reverse()
        for window in windows(sources, EMPTY):
            chunk = collapse(window, NO_TOMBSTONES)
            if chunk.keys:
                yield chunk
            pace()


def _pieces(file: File, path: str) -> Iterator[Piece[Chunk]]:
    for keys, values in DumpDecoder(_Sequential(file).read, path):
        yield Piece(Chunk(keys, [UNASSIGNED_SEQ] * len(keys), values), keys[-1] + b"\0")
    yield Piece(EMPTY, None)


class _Sequential:
    """A file read from its start to its end."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._offset = 0

    def read(self, size: int) -> bytes:
        data = self._file.read_at(self._offset, size)
        self._offset += len(data)
        return data


def _write_run(files: FileSystem, path: str, chunks: Iterable[Chunk]) -> SortedRun:
    encoder = DumpEncoder(compress=False)
    offset = largest = 0
    file = files.open(path, create=True)
    try:
        parts = itertools.chain(
            [encoder.start()],
            itertools.chain.from_iterable(_frames(encoder, chunk) for chunk in chunks),
        )
        for part in parts:
            file.write_at(offset, part)
            offset += len(part)
            largest = max(largest, len(part))
        file.write_at(offset, encoder.end())
    finally:
        file.close()
    return SortedRun(path, encoder.entries, offset, largest)


def _frames(encoder: DumpEncoder, chunk: Chunk) -> Iterator[bytes]:
    return encoder.chunks(chunk.keys, chunk.values)  # type: ignore[arg-type]
