"""What of a log is lost that another writer has overtaken.

A data directory whose home does not continue the manifest any more has a log that ended when
another home took over. Up to where that one went on, the log is part of the database; what it holds
above that is in no other place, and its seqs are used anew. Both are told for ever: by the epoch in
the header of each segment, and by the branches in the bucket (``lineage.py``). So this is exact,
whatever became of the writer, its lease and its bucket meanwhile.

Nothing is changed here, and nothing is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from seerdb.events import LogOvertaken, LostCommits
from seerdb.ids import MAX_SEQ
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.opening.lineage import Lineage
from seerdb.storage.shipping.shipped import list_shipped, newest_shipped
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.home import load_home
from seerdb.storage.wal.reader import Condition, classify, header_of, scan_segment
from seerdb.storage.wal.segments import list_segments, segment_path

Run = tuple[int, int]
"""Seqs that follow each other, both ends inclusive."""


class Held(NamedTuple):
    """What one segment holds: ``first_seq`` is where it begins by its header, ``runs`` are the seqs
    of its records, ascending, as far as they can be read; ``sound``: there never were others."""

    epoch: int
    first_seq: int
    runs: list[Run]
    sound: bool


def lost_of(held: Iterable[Held], survived: Callable[[int], int]) -> list[LostCommits]:
    """What of the log of one home is not in the database, by epoch, then by seq. Pure.

    ``survived`` is the newest seq up to which commits of an epoch are in it, which later epochs
    only raise. A seq that two epochs hold is one commit, which recovery wrote anew: it is told
    once, as one of the later.
    """
    of_epoch: dict[int, list[Run]] = {}
    for each in held:
        of_epoch.setdefault(each.epoch, []).extend(each.runs)
    lost: list[LostCommits] = []
    later: list[Run] = []
    for epoch in sorted(of_epoch, reverse=True):
        runs = list(_joined(of_epoch[epoch]))
        beyond = survived(epoch) + 1
        found = (part for first, last in runs for part in _without(max(first, beyond), last, later))
        lost[:0] = [LostCommits(epoch, *part) for part in found]
        later = list(_joined(later + runs))
    return lost


def is_whole(held: Iterable[Held], survived: Callable[[int], int]) -> bool:
    """Whether nothing can have been in the log above what survived and was not read. Pure."""
    reach = 0
    for each in held:
        if not each.sound or each.first_seq > max(reach, survived(each.epoch)) + 1:
            return False
        reach = max([reach, *(last for _, last in each.runs)])
    return True


def _joined(runs: list[Run]) -> Iterator[Run]:
    """The same seqs, ascending, in as few runs as there can be."""
    start = end = 0
    for first, last in sorted(runs):
        if start and first <= end + 1:
            end = max(end, last)
            continue
        if start:
            yield start, end
        start, end = first, last
    if start:
        yield start, end


def _without(first: int, last: int, others: list[Run]) -> Iterator[Run]:
    """What is left of ``first`` to ``last`` without the ``others``, which ascend."""
    for start, end in others:
        if first < start and first <= last:
            yield first, min(last, start - 1)
        first = max(first, end + 1)
    if first <= last:
        yield first, last


def find_overtaken(
    files: FileSystem,
    directory: str,
    store: ObjectStore,
    state: ManifestState | None,
    reach: int | None = None,
) -> LogOvertaken | None:
    """What of the log in ``directory`` is not in the database of ``state``; ``None`` where that log
    continues it, belongs to another one, holds nothing, or only copies from the bucket.

    ``reach`` is where the owner of ``state`` went on; by default where one who opens it now would.
    Raises: ``DiskError``, ``UnavailableError``, ``CorruptionError`` of the directory's identity.
    """
    if not files.exists(directory):
        return None
    home = load_home(files, directory)
    if state is None or (home is not None and not home.complete):
        return None
    if home is not None and (home.home == state.home or home.database_id != state.database_id):
        return None
    if not list_segments(files, directory):
        return None
    if reach is None:
        # Who has claimed, and did not come to go on, goes on nowhere above what is in the bucket.
        reach = max(state.last_seq, newest_shipped(list_shipped(store)))
    most, lineage = reach, Lineage(store, state.epoch)

    def survived(epoch: int) -> int:
        return min(lineage.survived(epoch), most)

    held = _read(files, directory, survived)
    return LogOvertaken(
        directory=directory,
        last_seq=max((last for each in held for _, last in each.runs), default=0),
        lost=lost_of(held, survived),
        whole=is_whole(held, survived),
    )


def in_words(log: LogOvertaken) -> str:
    """What is lost of it, as a sentence."""
    count = sum(each.last - each.first + 1 for each in log.lost)
    found = f"of the writes up to seq {log.last_seq:,} in {log.directory}, "
    if not count:
        return found + ("none is lost" if log.whole else "none that can be read is lost")
    found += f"{'' if log.whole else 'at least '}{count:,} {'is' if count == 1 else 'are'} lost: "
    return found + ", ".join(map(_range_in_words, log.lost))


def _range_in_words(lost: LostCommits) -> str:
    upto = f" to {lost.last:,}" if lost.last > lost.first else ""
    return f"seq {lost.first:,}{upto} of epoch {lost.epoch:,}"


def _read(files: FileSystem, directory: str, survived: Callable[[int], int]) -> list[Held]:
    segments = list_segments(files, directory)
    headers = [header_of(files, segment_path(directory, each)) for each in segments]
    held = []
    for segment, header, following in zip(segments, headers, [*headers[1:], None], strict=True):
        if header is None:
            held.append(Held(0, 0, [], sound=False))
            continue
        end = following.first_seq - 1 if following is not None else MAX_SEQ
        if header.first_seq <= end <= survived(header.epoch):
            # All of it is in the database: a takeover, which waits for this, need not read it.
            held.append(Held(header.epoch, header.first_seq, [(header.first_seq, end)], sound=True))
        else:
            is_last = segment == segments[-1]
            held.append(_read_one(files, directory, segment, is_last=is_last))
    return held


def _read_one(files: FileSystem, directory: str, segment: int, *, is_last: bool) -> Held:
    runs: list[Run] = []

    def take(records: Sequence[Record]) -> None:
        first, last = records[0][0], records[-1][0]
        if last - first + 1 == len(records):
            runs.append((first, last))
        else:
            runs.extend((seq, seq) for seq, _, _ in records)

    scan = scan_segment(files, directory, segment, salvage=True, take=take)
    is_sound = classify(scan, is_last=is_last) is not Condition.CORRUPT
    return Held(scan.header.epoch, scan.header.first_seq, list(_joined(runs)), is_sound)
