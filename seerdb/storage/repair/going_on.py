"""Where the log of a rebuilt database goes on, and which one: the local log, or the shipped one.

The tables that were chosen are *held* to tell all up to a seq. Records may say that tables once
told more: all up to there is *known* to have been in tables. What is in no table now may have been
undone by what came later, or be lost with a table.

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

from seerdb.storage.object_store.names import parse_table_name
from seerdb.storage.repair.arrange import Arrangement
from seerdb.storage.repair.beyond import Part
from seerdb.storage.repair.finds import Finds
from seerdb.storage.repair.report import Loss, RepairReport
from seerdb.storage.wal.home import Home


class _Ends(NamedTuple):
    """Up to which seq tables and logs tell all. ``local``: first and last seq of the local log,
    ``is_whole``: which has all in between;
    ``reach``: where the shipped log ends that goes on after ``held``, ``above``: where the logs end
    that go on after ``known``; ``may_be_lost``: whether a table had what comes after ``held``."""

    held: int
    known: int
    local: Part | None
    is_whole: bool
    reach: int
    above: int
    may_be_lost: bool

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
    report says what is lost by that. ``parts``: those of the local log of ``home``."""
    ends = _ends(found, made, report, parts)
    owner = home.home if home else found.evidence.home
    if ends.local_goes_on:
        return ends.held, owner
    if ends.both_go_on:
        assert ends.local is not None, "it goes on"
        _tell_rest(report, max(ends.reach, ends.local[1]), found.log.last_seq)
        return ends.held, owner
    if ends.shipped_is_better:
        _tell_unused(found, report, ends)
        return ends.held, "" if home else owner
    return _go_on_above(found, report, ends), owner


def _ends(found: Finds, made: Arrangement, report: RepairReport, parts: Sequence[Part]) -> _Ends:
    shipped, held = found.log, _held(found, made, report, parts)
    known = max(held, found.evidence.last_seq)
    local = (parts[0][0], parts[-1][1]) if parts else None
    return _Ends(
        held,
        known,
        local,
        is_whole=len(parts) == 1,
        reach=shipped.reach(held),
        above=max(shipped.reach(known), local[1] if local else 0),
        may_be_lost=_may_be_lost(found, held),
    )


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
    if report.manifest == "part" and known > ends.held:
        report.notes.append(
            f"no table that is left has the commits from seq {ends.held + 1:,} to {known:,}: later "
            "ones have undone what they did, or they are lost"
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
    held = max((table.max_seq for table in made.tables), default=0)
    held = max(held, evidence.restored_seq)  # no log counts that a restore in place left behind
    if report.manifest == "whole" and not _may_be_lost(found, 0):
        held = max(held, evidence.last_seq)
    if len(parts) > 1 and parts[-2][1] <= held:
        # What is in no log there, ingests or restores in place took, with all before in tables.
        held = max(held, parts[-1][0] - 1)
    return held


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
