"""Backup and restore beside plain copying of the same objects, in the same run.

A database of ``mebibytes`` is made once. Each round then copies its objects plainly (read, write,
with as many threads; no checksum, no reading back) and backs them up, in turns one or the other
first; and the same of the repository and a restore; all into new places. Then a hundredth of the
keys, side by side, are written anew, and an incremental backup is taken.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from secrets import token_hex
from time import perf_counter, process_time
from typing import Any

from rich.console import Console
from rich.table import Table

import seerdb
from benchmarks.bulk import build, clear, count_of, pairs
from benchmarks.machine import describe_machine
from benchmarks.report import print_circumstances
from benchmarks.results import Results, Sample
from seerdb import DB, Transfer
from seerdb.storage.backup.places import open_store
from seerdb.storage.object_store.base import ObjectStore

COPIES = "backup"
BACKUP, RESTORE, INCREMENTAL = "backup", "restore", "incremental after 1 %"
GOALS = {BACKUP: 0.7, RESTORE: 0.7, INCREMENTAL: 0.03}
"""Speed as a share of plain copying at least; bytes as a share of all at most."""

JOBS = 8
CHANGED = 100
"""One key in so many."""


def measure_copies(
    work: Path,
    mebibytes: int,
    rounds: int,
    tag: str,
    options: dict[str, Any],
    *,
    elsewhere: str = "",
    progress: Callable[[str], None],
) -> Results:
    """Time copies into ``work``, or below the URL ``elsewhere``, of which ``options`` tell."""
    settings = {"mebibytes": mebibytes, "jobs": JOBS, "elsewhere": bool(elsewhere)}
    results = Results(COPIES, tag, describe_machine(work), settings)
    count = count_of(mebibytes)
    source = work / f"copies-{mebibytes}"
    build(source, mebibytes, progress)
    scratch = work / "copies-scratch"
    samples: list[Sample] = []
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        shutil.rmtree(scratch, ignore_errors=True)
        name = f"{tag}-{token_hex(4)}"
        root = f"{elsewhere}/{name}" if elsewhere else str(scratch)
        one = _Round(
            str(source / "bucket"), root, str(scratch), options, plain_first=number % 2 == 0
        )
        try:
            samples += one.measure(range(number % CHANGED, count, CHANGED))
        finally:
            if elsewhere:
                clear(elsewhere, options, name)
    shutil.rmtree(scratch, ignore_errors=True)
    results.add(samples)
    return results


class _Round:
    """One round: of the bucket ``source``, below ``root``, of which ``options`` tell, and back into
    the directory ``scratch``."""

    def __init__(
        self, source: str, root: str, scratch: str, options: dict[str, Any], *, plain_first: bool
    ) -> None:
        self._source = source
        self._plain_first = plain_first
        self._root = root
        self._scratch = scratch
        self._options = options

    def measure(self, changed: range) -> Iterator[Sample]:
        repository, new = f"{self._root}/repository", f"{self._scratch}/new"
        there = Transfer(jobs=JOBS, target_options=self._options)
        back = Transfer(jobs=JOBS, source_options=self._options)
        yield self._compared(
            BACKUP,
            partial(_copy_plainly, self._source, {}, f"{self._root}/plain", self._options),
            partial(seerdb.backup, self._source, repository, transfer=there),
        )
        yield self._compared(
            RESTORE,
            partial(_copy_plainly, repository, self._options, f"{self._scratch}/plain-back", {}),
            partial(seerdb.restore, repository, new, transfer=back),
        )
        with DB.open(new, min_free_disk=0) as db:
            first = db.backup(f"{self._root}/second", transfer=there)
            db.ingest(pairs(range(changed.start, changed.start + len(changed)), seed=1))
            more = db.backup(f"{self._root}/second", transfer=there)
        share = more.copied_bytes / first.bytes
        detail = {"copied": float(more.copied_bytes), "seconds": more.seconds}
        yield Sample(COPIES, INCREMENTAL, "seerdb", None, "of all", share, 1, detail)

    def _compared(
        self, case: str, plain: Callable[[], object], ours: Callable[[], object]
    ) -> Sample:
        """What comes second finds the disk in another state than what comes first."""
        if self._plain_first:
            plain_seconds, plain_cpu = _timed(plain)
        seconds, cpu = _timed(ours)
        if not self._plain_first:
            plain_seconds, plain_cpu = _timed(plain)
        detail = {
            "seconds": seconds,
            "plain_seconds": plain_seconds,
            "cpu": cpu,
            "plain_cpu": plain_cpu,
        }
        return Sample(COPIES, case, "seerdb", None, "of plain", plain_seconds / seconds, 1, detail)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and those of the processor; what was written before is on the disk."""
    os.sync()
    started, cpu = perf_counter(), process_time()
    work()
    return perf_counter() - started, process_time() - cpu


def _copy_plainly(source: str, of: dict[str, Any], to: str, options: dict[str, Any]) -> None:
    with open_store(source, of) as there, open_store(to, options) as here:
        names = [info.name for info in there.list("tables/")]
        with ThreadPoolExecutor(JOBS) as threads:
            list(threads.map(partial(_copy, there, here), names))


def _copy(source: ObjectStore, target: ObjectStore, name: str) -> None:
    target.put(name, source.get(name))


def missed(results: Results) -> list[str]:
    """The cases that miss their goals."""
    return [
        m.case
        for m in results.measurements
        if (m.value > GOALS[m.case] if m.case == INCREMENTAL else m.value < GOALS[m.case])
    ]


def print_copies(console: Console, results: Results) -> None:
    """What was measured, beside the goals."""
    table = Table(title=f"{results.settings['mebibytes']:,} MiB", title_justify="left")
    for name in ("case", "measured", "goal", "detail"):
        table.add_column(name)
    for found in results.measurements:
        detail = ", ".join(f"{name} {value:,.2f}" for name, value in found.detail.items())
        verdict = "MISS" if found.case in missed(results) else "PASS"
        sign = "<=" if found.case == INCREMENTAL else ">="
        goal = f"{sign} {GOALS[found.case]:g} {verdict}"
        table.add_row(found.case, f"{found.value:.3f} {found.unit}", goal, detail)
    console.print(table)
    print_circumstances(console, results)
