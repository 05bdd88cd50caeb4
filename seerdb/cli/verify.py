"""``seerdb verify`` and ``seerdb wal-verify``: is everything as it was written?"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from seerdb.cli.arguments import Config, Json, Store, Target
from seerdb.cli.output import print_json, print_table, progress_bar
from seerdb.cli.target import find
from seerdb.errors import NotFoundError
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.retention.loans import Holds
from seerdb.storage.verify import LocalLog, VerifyReport, verify_database
from seerdb.storage.wal.reader import Condition
from seerdb.storage.wal.verify import SegmentReport, verify_segments
from seerdb.storage.workers.threads import check_threads

DAMAGED = 1
"""The exit code."""


def verify(
    target: Target, *, store: Store = None, config: Config = None, as_json: Json = False
) -> None:
    """Check every byte of manifest, tables and log, and what must hold among them.

    Changes nothing, and may run beside a server. Prints what is wrong and where. Exits 0 when
    all is sound, 1 when something is damaged."""
    place = find(target, store, config)
    report = VerifyReport()
    log = LocalLog(OsFileSystem(), place.wal) if place.wal is not None else None
    holds = Holds()
    with place.open(holds) as bucket, check_threads() as threads, progress_bar("objects") as bar:
        task = bar.add_task("")
        verify_database(
            bucket,
            report,
            log=log,
            holds=holds,
            threads=threads,
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
    if as_json:
        print_json({"ok": report.ok, **msgspec.structs.asdict(report)})
    else:
        _print_report(report)
    if not report.ok:
        raise typer.Exit(DAMAGED)


def wal_verify(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", help="Segments of a log.")],
    *,
    as_json: Json = False,
) -> None:
    """Check segment files of a write-ahead log, wherever they are.

    A torn tail is no damage: the next open cuts it off, and nothing acknowledged was in it."""
    system = OsFileSystem()
    for file in files:
        if not system.exists(file):
            raise NotFoundError(f"{file} is not there")
    reports = verify_segments(system, files)
    if as_json:
        print_json([report._asdict() for report in reports])
    else:
        for report in reports:
            print(_segment_line(report))
    if any(report.condition is Condition.CORRUPT for report in reports):
        raise typer.Exit(DAMAGED)


def _print_report(report: VerifyReport) -> None:
    for problem in report.problems:
        print(f"damaged: {problem}")
    for note in report.notes:
        print(f"note: {note}")
    if report.unreferenced:
        print(
            f"note: unreferenced objects in the bucket: {len(report.unreferenced):,}, the first is "
            f"{report.unreferenced[0]}; they are new, or wait for the collector"
        )
    print_table(
        ("checked", "count"),
        [
            ("manifest objects", report.manifests),
            ("tables", report.tables),
            ("entries in tables", report.entries),
            ("bytes of tables", report.bytes),
            ("blobs", report.blobs),
            ("values in blobs", report.values),
            ("bytes of blobs", report.blob_bytes),
            ("log segments", report.segments),
            ("shipped log objects", report.shipped),
            ("commits in logs", report.records),
            ("newest seq", report.last_seq),
        ],
    )
    print("sound" if report.ok else f"damaged; problems: {len(report.problems):,}")


def _segment_line(report: SegmentReport) -> str:
    if report.condition is not Condition.SOUND:
        return f"{report.condition.value}: {report.problem}"
    end = "sealed" if report.sealed else "open"
    return (
        f"sound: {report.path}: segment {report.segment} of epoch {report.epoch}, {end}, "
        f"{report.records:,} records, seq {report.first_seq:,} to {report.last_seq:,}"
    )
