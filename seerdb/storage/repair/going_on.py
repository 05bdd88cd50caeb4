"""Where the log of a rebuilt database goes on, and which one: the local log, or the shipped one.

The tables that were chosen are *held* to tell all up to a seq. Records may say that tables once
told more: all up to there is *known* to have been in tables. What is in no table now may have been
undone by what came later, or be lost with a table.

An ingest was shown when all before it was in tables, and its seq is in no log. Where the manifest
alone knew that seq, it is the first one above all tables begun before that no log has, or higher:
all up to there is known, too, but held only as far as others tell it.

=============================================  ====================  =========================
the first of these that holds                  tables count up to    after that counts
=============================================  ====================  =========================
the local log begins there, or before          held                  the local log
the shipped log goes on there until the local  held                  the shipped log, then the
log does, and that is better                                         local one
the shipped log goes on there, and that is     held                  the shipped log
better (see ``_Ends.is_better``)
the local log begins above that                known, or right       the local log
                                               before it begins
any other                                      known, or right       the shipped log
                                               before that goes on
=============================================  ====================  =========================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.names import parse_table_name, table_name
from seerdb.storage.repair.arrange import Arrangement
from seerdb.storage.repair.beyond import Part
from seerdb.storage.repair.finds import Finds
from seerdb.storage.repair.report import Doubt, Loss, RepairReport
from seerdb.storage.wal.home import Home


class _Ends(NamedTuple):
    """Up to which seq tables and logs tell all."""

    told: int
    """What tables and records say by themselves."""
    ingested: int
    """The lowest seq that the last ingest of unknown seq may have; 0: there is none."""
    held: int
    known: int
    local: Part | None
    """First and last seq of the local log, and"""
    is_whole: bool
    """whether it has all in between."""
    reach: int
    """Where the shipped log ends that goes on after ``held``."""
    above: int
    """Where the logs end that go on after ``known``."""
    may_be_lost: bool
    """Whether a table had what comes after ``held``."""

    @property
    def local_goes_on(self) -> bool:
        """Whether the local log leaves no gap behind the tables."""
        return self.local is not None and self.local[0] <= self.held + 1

    @property
    def shipped_is_better(self) -> bool:
        """Whether the shipped log goes on behind the tables, and that is better."""
        return self.reach > self.held and self.is_better(self.reach)

    @property
    def both_go_on(self) -> bool:
        """Whether the shipped log goes on behind the tables up to the local one, and that is
        better."""
        if self.local is None or not self.is_whole or self.reach + 1 < self.local[0]:
            return False
        return self.is_better(max(self.reach, self.local[1]))

    def is_better(self, reach: int) -> bool:
        """Whether logs up to there reach what records know of, or save more of what a table may
        have lost than going on above that."""
        saves_more = self.may_be_lost and reach - self.held > self.above - self.known
        return reach >= self.known or saves_more


def go_on(
    found: Finds,
    made: Arrangement,
    report: RepairReport,
    home: Home | None,
    parts: Sequence[Part],
) -> tuple[int, str]:
    """Up to where the tables count as complete, and the home whose local log goes on there; the
    report says what is lost by that. ``parts``: those of the local log of ``home``.

    No ingest of unknown seq is left above there.
    """
    ends = _ends(found, made, report, parts)
    owner = home.home if home else found.evidence.home
    last_seq = ends.held
    if ends.local_goes_on:
        _note_gap(report, ends, parts)
    elif ends.both_go_on:
        assert ends.local is not None, "it goes on"
        _tell_rest(report, max(ends.reach, ends.local[1]), found.log.last_seq)
    elif ends.shipped_is_better:
        _tell_unused(found, report, ends)
        owner = "" if home else owner
    else:
        last_seq = _go_on_above(found, report, ends)
    logged = _logged(found, parts)
    _tell_passed(report, logged, ends.told, min(last_seq, ends.ingested))
    _lower(found, made, report, logged, last_seq)
    return last_seq, owner


def _lower(
    found: Finds, made: Arrangement, report: RepairReport, logged: Sequence[Part], last_seq: int
) -> None:
    """Have no ingest of unknown seq be above ``last_seq``, where the tables end; say where the log
    tells commits again that may be older."""
    because = (
        "an ingest made it, and the manifest alone knew when: the log tells commits again that may "
        "be older, and these hide its values"
    )
    for table in _ingests(found, made):
        if _unlogged(table.max_seq, logged) > last_seq + 1:
            name = table_name(table.id)
            report.doubts.append(Doubt(name, because, table.smallest, table.largest))
        if table.max_seq > last_seq:
            lower = replace(table, min_seq=last_seq, max_seq=last_seq)
            made.tables[made.tables.index(table)] = lower


def _ends(found: Finds, made: Arrangement, report: RepairReport, parts: Sequence[Part]) -> _Ends:
    shipped, held = found.log, _held(found, made, report, parts)
    ingests = _ingests(found, made)
    logged = _logged(found, parts)
    ingested = max((_unlogged(table.max_seq, logged) for table in ingests), default=0)
    recorded = max(held, found.evidence.last_seq)
    known = max(recorded, ingested)
    local = (parts[0][0], parts[-1][1]) if parts else None
    return _Ends(
        max(_told(found, made), found.evidence.last_seq),
        ingested,
        held,
        known,
        local,
        is_whole=len(parts) == 1,
        reach=shipped.reach(held),
        above=max(shipped.reach(known), local[1] if local else 0),
        may_be_lost=_may_be_lost(found, held) or ingested > recorded + 1,
    )


def _ingests(found: Finds, made: Arrangement) -> list[TableMeta]:
    """The tables that were chosen of which only a manifest knew the seq."""
    unknown = {table.meta.id for table in found.survey.tables if not table.has_seq}
    return [table for table in made.tables if table.id in unknown]


def _logged(found: Finds, parts: Sequence[Part]) -> list[Part]:
    """What either log has, or had where it is damaged; ascending."""
    return sorted([*found.log.parts, *parts])


def _unlogged(seq: int, logged: Sequence[Part]) -> int:
    """The first seq from this one on that no log has. ``logged``: ascending."""
    for first, last in logged:
        if first <= seq <= last:
            seq = last + 1
    return seq


def _tell_unused(found: Finds, report: RepairReport, ends: _Ends) -> None:
    """Say what no log tells that goes on behind the tables."""
    last = found.log.last_seq
    if ends.local is not None:
        report.notes.append(
            f"the local log is not used: it begins at seq {ends.local[0]}, the tables end at "
            f"{ends.held}; the shipped log goes on from there"
        )
        last = max(last, ends.local[1])
    _tell_rest(report, ends.reach, last)


def _go_on_above(found: Finds, report: RepairReport, ends: _Ends) -> int:
    """Where a log goes on above all that was in tables, by what records know; say what is in
    none."""
    shipped, known = found.log, ends.known
    if report.manifest == "part" and ends.told > ends.held:
        report.notes.append(
            f"no table that is left has the commits from seq {ends.held + 1:,} to {ends.told:,}: "
            "later ones have undone what they did, or they are lost"
        )
    begins = ends.local[0] if ends.local else shipped.begins_after(known)
    if begins is not None:
        _tell_gap(report, known, begins)
        known = max(known, begins - 1)
    if ends.local is None:
        _tell_rest(report, shipped.reach(known), shipped.last_seq)
    return known


def _held(found: Finds, made: Arrangement, report: RepairReport, parts: Sequence[Part]) -> int:
    """Up to where the tables that were chosen are known to tell all."""
    evidence = found.evidence
    held = max(_told(found, made), min(1, len(made.tables)))  # no table has a lower seq
    held = max(held, evidence.restored_seq)  # no log counts that a restore in place left behind
    if report.manifest == "whole" and not _may_be_lost(found, 0):
        held = max(held, evidence.last_seq)
    if len(parts) > 1 and parts[-2][1] <= held:
        # What is in no log there, ingests or restores in place took, with all before in tables.
        held = max(held, parts[-1][0] - 1)
    return held


def _told(found: Finds, made: Arrangement) -> int:
    """The last seq of the tables that were chosen, or of what they have left out; but of an ingest
    whose seq is not known that of those begun before it."""
    unknown = {table.id for table in _ingests(found, made)}
    return max((table.max_seq - (table.id in unknown) for table in made.tables), default=0)


def _may_be_lost(found: Finds, after: int) -> bool:
    """Whether a table that is damaged or gone may have held commits after a seq."""
    state = found.evidence.state
    sound = {table.meta.id for table in found.survey.tables}
    named = state.version.tables if state else []
    damaged = [loss.max_seq for loss in found.survey.damaged if parse_table_name(loss.name)]
    return any(not seq or seq > after for seq in damaged) or any(
        table.max_seq > after for table in named if table.id not in sound
    )


def _tell_rest(report: RepairReport, reach: int, last: int) -> None:
    """Say that of a log which has commits up to ``last`` those after ``reach`` are not used."""
    if last > reach:
        problem = "the log that goes on where the tables end stops before these commits"
        report.lost.append(Loss("the log", problem, min_seq=reach + 1, max_seq=last))


def _tell_gap(report: RepairReport, known: int, begins: int) -> None:
    """Say that something is lost where nothing else says so, and the log goes on further on."""
    if begins > known + 1 and report.ok:
        problem = "no table and no log that is left has these commits"
        report.lost.append(Loss("the log", problem, min_seq=known + 1, max_seq=begins - 1))


def _note_gap(report: RepairReport, ends: _Ends, parts: Sequence[Part]) -> None:
    """Say that the local log is refused behind a gap that an ingest has left in it."""
    if ends.ingested > ends.held and any(last + 1 == ends.ingested for _, last in parts[:-1]):
        report.notes.append(
            f"the local log has no seq {ends.ingested:,}, which an ingest took, and no table is "
            "left that has all before it: open it with recovery='salvage' to go on with what comes "
            "after, too"
        )


def _tell_passed(report: RepairReport, logged: Sequence[Part], told: int, upto: int) -> None:
    """Say which commits above all that is told count as being in tables because of an ingest,
    though a log has them."""
    passed = [(max(first, told + 1), min(last, upto)) for first, last in logged]
    passed = [(first, last) for first, last in passed if first <= last]
    if passed:
        problem = (
            "the log goes on behind an ingest, and no table is left that has these commits, which "
            "were made before it"
        )
        first, last = min(each for each, _ in passed), max(each for _, each in passed)
        report.lost.append(Loss("the log", problem, min_seq=first, max_seq=last))
