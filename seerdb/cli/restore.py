"""``seerdb restore`` and ``seerdb recovery-points``: a database as it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from seerdb.cli.arguments import (
    DEFAULT_URL,
    Config,
    DataDir,
    Hex,
    Json,
    Store,
    Url,
    key_bytes,
)
from seerdb.cli.backup import Jobs, Rate, SourceOptions, TargetOptions, json_object, watched
from seerdb.cli.in_place import InPlaceWish, restore_in_place
from seerdb.cli.output import print_json, print_table
from seerdb.clock import when
from seerdb.errors import InvalidRequestError
from seerdb.storage.backup.places import Transfer, recovery_points
from seerdb.storage.backup.places import restore as restore_to
from seerdb.storage.backup.points import RecoveryPoints
from seerdb.storage.backup.restore import RestoreReport
from seerdb.storage.retention.timeline import instant_us

Source = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="REPOSITORY|DATA_DIR|STORE_URL",
        help="Backups, or the bucket of a database.",
    ),
]


From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="REPOSITORY|DATA_DIR|STORE_URL",
        help="Backups, or the bucket of a database.",
    ),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="DATA_DIR|STORE_URL", help="Where there is nothing yet."),
]
InPlace = Annotated[
    bool, typer.Option("--in-place", help="Change the database itself, and make no new one.")
]
At = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="As it was then: 2026-01-31T12:00:00Z, or seconds."),
]
Seq = Annotated[int | None, typer.Option(help="As it was after this commit.")]
Backup = Annotated[str | None, typer.Option(metavar="ID", help="As it was in this backup.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="With --in-place: as this checkpoint keeps it."),
]
Prefix = Annotated[str | None, typer.Option(help="Only keys that begin so.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def restore(  # noqa: PLR0913 - an argument for each option
    *,
    source: From = None,
    to: To = None,
    in_place: InPlace = False,
    at: At = None,
    seq: Seq = None,
    backup: Backup = None,
    checkpoint: Checkpoint = None,
    prefix: Prefix = None,
    as_hex: Hex = False,
    dry_run: DryRun = False,
    jobs: Jobs = 8,
    rate: Rate = 0,
    from_options: SourceOptions = "{}",
    to_options: TargetOptions = "{}",
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    data_dir: DataDir = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Make a new database of what backups hold, or the bucket of a database; by default as new as
    it can be.

    Where something is damaged, another way to the same commit is taken, and said. Run again after a
    failure, into the same place, it copies the rest.

    With --in-place a database goes back to what it was, within history_retention or at a
    checkpoint: that of a server, or with --data-dir of a directory. That is its next commit, and
    undone by restoring the checkpoint that it names."""
    seconds = None if at is None else seconds_of(at)
    if in_place:
        if any(each is not None for each in (source, to, backup, prefix)):
            raise InvalidRequestError("--in-place goes without --from, --to, --backup and --prefix")
        wish = InPlaceWish(seq, seconds, checkpoint, dry_run)
        restore_in_place(
            wish, url=url, data_dir=data_dir, store=store, config=config, as_json=as_json
        )
        return
    if source is None or to is None:
        raise InvalidRequestError("say where it is restored --from, and --to; or --in-place")
    if any(each is not None for each in (checkpoint, data_dir, store)):
        raise InvalidRequestError("--checkpoint, --data-dir and --store go with --in-place")
    with watched("copying") as watch:
        report = restore_to(
            source,
            to,
            at=seconds,
            seq=seq,
            backup=backup,
            prefix=None if prefix is None else key_bytes(prefix, as_hex=as_hex),
            dry_run=dry_run,
            transfer=Transfer(
                jobs=jobs,
                rate=rate,
                source_options=json_object(from_options),
                target_options=json_object(to_options),
                watch=watch,
            ),
        )
    if as_json:
        print_json(report)
    else:
        _print_report(report, dry_run=dry_run)


def _print_report(report: RestoreReport, *, dry_run: bool) -> None:
    for note in report.notes:
        print(f"note: {note}")
    verb = "would restore" if dry_run else "restored"
    print(
        f"{verb} seq {report.seq:,} of {when(report.time_us)} from {report.base}: "
        f"{report.objects:,} objects, {report.bytes:,} bytes, and {report.commits:,} commits of "
        "its log"
    )
    if report.database_id:
        print(f"it is a new database, {report.database_id}")


def list_points(
    *, source: Source, from_options: SourceOptions = "{}", as_json: Json = False
) -> None:
    """Show what can be restored: backups, ranges of commits, and where log is missing."""
    transfer = Transfer(source_options=json_object(from_options))
    points = recovery_points(source, transfer=transfer)
    if as_json:
        print_json(points)
        return
    _print_points(points)


def _print_points(points: RecoveryPoints) -> None:
    for problem in points.damaged:
        print(f"damaged: {problem}")
    if points.backups:
        rows = [
            (each.id, f"{each.seq:,}", when(each.time_us), each.label) for each in points.backups
        ]
        print_table(("backup", "seq", "time", "label"), rows)
    rows = [
        (
            f"{each.first_seq:,}",
            f"{each.last_seq:,}",
            when(each.first_time_us),
            when(each.last_time_us),
        )
        for each in points.ranges
    ]
    print_table(("every seq from", "to", "time from", "to"), rows)
    for gap in points.gaps:
        print(f"gap: between seq {gap.after_seq:,} and {gap.before_seq:,} log is missing")


def seconds_of(text: str) -> float:
    """Seconds since 1970, of a time in ISO 8601, which is UTC if it does not say, or of a number.
    Raises: ``InvalidRequestError``."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise InvalidRequestError(
                f"a time is like 2026-01-31T12:00:00Z, or seconds since 1970, not {text!r}"
            ) from error
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    instant_us(seconds, "the time")
    return seconds
