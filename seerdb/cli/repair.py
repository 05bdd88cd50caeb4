"""``seerdb repair``: a database whose manifest is lost or damaged, rebuilt somewhere else."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from seerdb.cli.arguments import Config, Json, Store, escaped
from seerdb.cli.output import named, print_json, print_table, progress_bar
from seerdb.cli.target import find, new_bucket, open_bucket
from seerdb.clock import SystemClock
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.repair.finds import Means
from seerdb.storage.repair.rebuild import repair as rebuild
from seerdb.storage.repair.report import Doubt, Loss, RepairReport
from seerdb.storage.retention.loans import Holds
from seerdb.storage.verify import LocalLog
from seerdb.storage.workers.threads import check_threads

IN_DOUBT = 8
"""The exit code."""

_PLACE = "DATA_DIR|STORE_URL"


def repair(
    source: Annotated[
        str, typer.Option("--from", metavar=_PLACE, help="The damaged database. Stop its server.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--to", metavar=_PLACE, help="Where nothing is: a bucket, or a new data directory."
        ),
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")
    ] = False,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Rebuild a database from its tables and its shipped log, with what is left of its manifest.

    The source is not changed. Says what was left out, what is lost, and which keys are in doubt.
    Exits 0 when nothing is, 8 when the database was rebuilt but something is. What was cut short
    can be run again."""
    place = find(source, store, config)
    log = LocalLog(OsFileSystem(), place.wal) if place.wal is not None else None
    holds = Holds()
    with (
        place.open(holds) as bucket,
        open_bucket(new_bucket(target, config)) as new,
        check_threads() as threads,
        progress_bar("objects") as bar,
    ):
        task = bar.add_task("")
        means = Means(
            clock=SystemClock(),
            random_bytes=os.urandom,
            threads=threads,
            log=log,
            holds=holds,
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
        report = rebuild(bucket, new, means, dry_run=dry_run)
    if as_json:
        print_json(_as_json(report))
    else:
        _print_report(report)
    if not report.ok:
        raise typer.Exit(IN_DOUBT)


def _as_json(report: RepairReport) -> dict[str, Any]:
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    return {
        "ok": report.ok,
        **fields,
        "lost": [
            {
                "name": loss.name,
                "problem": loss.problem,
                **_keys(loss),
                "min_seq": loss.min_seq or None,
                "max_seq": loss.max_seq or None,
            }
            for loss in report.lost
        ],
        "doubts": [
            {"name": doubt.name, "because": doubt.because, **_keys(doubt)}
            for doubt in report.doubts
        ],
    }


def _keys(about: Loss | Doubt) -> dict[str, Any]:
    if about.smallest is None or about.largest is None:
        return {"smallest": None, "largest": None}
    return {**named("smallest", about.smallest), **named("largest", about.largest)}


def _print_report(report: RepairReport) -> None:
    for loss in report.lost:
        print(f"lost: {loss.name}{_held(loss)}: {loss.problem}")
    for doubt in report.doubts:
        print(f"in doubt: {doubt.name}{_range(doubt)}: {doubt.because}")
    for line in report.left_out:
        print(f"left out: {line}")
    for note in report.notes:
        print(f"note: {note}")
    print_table(
        ("of the new database", "value"),
        [
            ("database id", report.database_id),
            (
                "chosen by the manifest",
                {"none": "no", "part": "in part"}.get(report.manifest, "yes"),
            ),
            ("tables", f"{len(report.tables):,}"),
            ("blobs", f"{len(report.blobs):,}"),
            ("shipped log objects", f"{len(report.shipped):,}"),
            ("bytes", f"{report.bytes:,}"),
            ("tables reach seq", f"{report.last_seq:,}"),
            ("shipped log reaches seq", f"{report.log_last_seq:,}"),
        ],
    )
    done = "would be repaired" if report.dry_run else "repaired"
    found = f"{done}; lost: {len(report.lost):,}, in doubt: {len(report.doubts):,}"
    print(done if report.ok else found)


def _held(loss: Loss) -> str:
    seqs = f", seq {loss.min_seq:,} to {loss.max_seq:,}" if loss.max_seq else ""
    return f"{_range(loss)}{seqs}"


def _range(about: Loss | Doubt) -> str:
    if about.smallest is None or about.largest is None:
        return ""
    return f", keys {escaped(about.smallest)} to {escaped(about.largest)}"
