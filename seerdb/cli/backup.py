"""``seerdb backup``: copies of a database in a repository, and the care of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from seerdb.cli.arguments import DEFAULT_URL, Json, Url
from seerdb.cli.client import Client
from seerdb.cli.output import print_json, print_table, progress_bar
from seerdb.clock import SystemClock, when
from seerdb.errors import MALFORMED, InvalidRequestError, SeerDBError
from seerdb.storage.backup.check import BackupCheck
from seerdb.storage.backup.copying import Progress
from seerdb.storage.backup.places import (
    Transfer,
    prune_backups,
    recovery_points,
    verify_backups,
)
from seerdb.storage.backup.places import backup as back_up
from seerdb.storage.backup.prune import PruneReport

if TYPE_CHECKING:
    from rich import progress as rich

app = typer.Typer(
    no_args_is_help=True, help="Back a database up into a repository, and care for what is there."
)

DAMAGED = 1
"""The exit code."""
POLL_SECONDS = 0.5
"""Between two questions how far a server is."""

_TARGET = "/v1/admin/backups"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="DATA_DIR|STORE_URL",
        help="Instead of a server: the bucket of a database, which may be in use.",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, max=64, help="Objects to copy at once.")]
Rate = Annotated[int, typer.Option(min=0, help="The most bytes a second; 0: no limit.")]
StoreOptions = Annotated[
    str, typer.Option("--store-options", metavar="JSON", help="What fsspec needs to know of it.")
]
TargetOptions = Annotated[
    str, typer.Option("--to-options", metavar="JSON", help="What fsspec needs to know of --to.")
]
SourceOptions = Annotated[
    str, typer.Option("--from-options", metavar="JSON", help="What fsspec needs to know of --from.")
]
Repository = Annotated[
    str, typer.Argument(metavar="REPOSITORY", help="A URL or directory with backups.")
]
BackupId = Annotated[
    str | None, typer.Option("--backup", metavar="ID", help="Only this one; by default all.")
]


@app.callback(invoke_without_command=True)
def backup(  # noqa: PLR0913 - an argument for each option
    context: typer.Context,
    *,
    source: From = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="The repository; a directory or URL.")
    ] = None,
    label: Annotated[str, typer.Option(help="For people.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="No prune ever deletes it.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Read what is there already, and repair it.")
    ] = False,
    jobs: Jobs = 8,
    rate: Rate = 0,
    from_options: SourceOptions = "{}",
    to_options: TargetOptions = "{}",
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Copy what a repository lacks of a database, while writes go on, and prove it.

    Through a server everything committed so far; with --from what is in the bucket: tables and
    shipped log. Run again after a failure it copies the rest."""
    if context.invoked_subcommand is not None:
        return
    if to is None:
        raise InvalidRequestError("say where --to")
    wish: dict[str, Any] = {"label": label, "keep": keep, "full": full}
    target_options = json_object(to_options)
    if source is None:
        how = {"jobs": jobs, "rate": rate, "store_options": target_options}
        report = _through_server(url, {"to": to, **wish, **how})
    else:
        with watched("copying") as watch:
            transfer = Transfer(
                jobs=jobs,
                rate=rate,
                source_options=json_object(from_options),
                target_options=target_options,
                watch=watch,
            )
            report = msgspec.to_builtins(back_up(source, to, **wish, transfer=transfer))
    if as_json:
        print_json(report)
        return
    for note in report["notes"]:
        print(f"note: {note}")
    print(
        f"backup {report['id']} holds everything up to seq {report['seq']:,}: "
        f"{report['objects']:,} objects, {report['bytes']:,} bytes; copied "
        f"{report['copied_objects']:,} objects, {report['copied_bytes']:,} bytes"
    )


def _through_server(url: str, wish: dict[str, Any]) -> dict[str, Any]:
    """Have a server do it, and wait for the end."""
    if not wish["to"].startswith("/") and "://" not in wish["to"]:
        raise InvalidRequestError("a directory of the server is named by its whole path")
    clock = SystemClock()
    with Client(url) as client, progress_bar("bytes") as bar:
        task = bar.add_task("copying", total=None)
        body = msgspec.json.encode(wish)
        reply = client.request("POST", _TARGET, content=body, reply_seconds=None)
        status: dict[str, Any] = msgspec.json.decode(reply.content)
        while status["state"] == "running":
            bar.update(task, completed=status["bytes"], total=status["total_bytes"] or None)
            clock.sleep(POLL_SECONDS)
            status = msgspec.json.decode(client.request("GET", f"{_TARGET}/{status['id']}").content)
    if status["state"] == "failed":
        raise SeerDBError(f"the backup failed: {status['error']}")
    report: dict[str, Any] = status["report"]
    return report


@app.command("list")
def list_all(
    repository: Repository, *, store_options: StoreOptions = "{}", as_json: Json = False
) -> None:
    """Show the backups in a repository, oldest first; with --json those that are damaged are told
    on standard error."""
    transfer = Transfer(source_options=json_object(store_options))
    points = recovery_points(repository, transfer=transfer)
    for problem in points.damaged:
        print(f"damaged: {problem}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(points.backups)
        return
    rows = [
        (
            each.id,
            f"{each.seq:,}",
            when(each.time_us),
            each.label,
            each.keep,
            each.objects,
            each.bytes,
        )
        for each in points.backups
    ]
    print_table(("backup", "seq", "time", "label", "kept", "objects", "bytes"), rows)


@app.command()
def verify(
    repository: Repository,
    *,
    backup: BackupId = None,
    jobs: Jobs = 8,
    rate: Rate = 0,
    store_options: StoreOptions = "{}",
    as_json: Json = False,
) -> None:
    """Read every byte that backups need. Exits 0 when all is sound, 1 when something is damaged."""
    with watched("reading") as watch:
        transfer = Transfer(
            jobs=jobs, rate=rate, source_options=json_object(store_options), watch=watch
        )
        check = verify_backups(repository, backup=backup, transfer=transfer)
    if as_json:
        print_json({"ok": check.ok, **msgspec.structs.asdict(check)})
    else:
        _print_check(check)
    if not check.ok:
        raise typer.Exit(DAMAGED)


def _print_check(check: BackupCheck) -> None:
    wrong = [f"backup {each.id}: {problem}" for each in check.backups for problem in each.problems]
    for problem in (*check.problems, *wrong):
        print(f"damaged: {problem}")
    rows = [
        (
            each.id,
            f"{each.seq:,}",
            each.objects,
            each.bytes,
            "damaged" if each.problems else "sound",
        )
        for each in check.backups
    ]
    print_table(("backup", "seq", "objects", "bytes", ""), rows)
    print("sound" if check.ok else f"damaged; problems: {len(check.problems) + len(wrong):,}")


@app.command()
def prune(
    repository: Repository,
    *,
    keep_last: Annotated[
        int | None, typer.Option(metavar="N", help="Keep the newest so many.")
    ] = None,
    keep_for: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Keep those made so long before the newest, or later: 30d, 12h, 90m, 60s.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said.")] = False,
    store_options: StoreOptions = "{}",
    as_json: Json = False,
) -> None:
    """Delete backups that are not to be kept, and what only they need.

    Says what it would do, and does it with --yes. A backup that was made with --keep stays, and so
    do the newest one and the newest from which nothing is missing."""
    report = prune_backups(
        repository,
        count=keep_last,
        seconds=None if keep_for is None else duration(keep_for),
        dry_run=not yes,
        transfer=Transfer(source_options=json_object(store_options)),
    )
    if as_json:
        print_json(report)
    else:
        _print_prune(report)


def _print_prune(report: PruneReport) -> None:
    verb = "would delete" if report.dry_run else "deleted"
    for backup in report.pruned:
        print(f"{verb} backup {backup}")
    print(
        f"{verb} {len(report.pruned):,} backups and {report.objects:,} objects, {report.bytes:,} "
        f"bytes; {len(report.kept):,} backups stay"
    )
    if report.dry_run and (report.pruned or report.objects):
        print("nothing was deleted; --yes does it")


def duration(text: str) -> float:
    """Seconds, of a number with a unit. Raises: ``InvalidRequestError``."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)", text)
    if found is None:
        raise InvalidRequestError(f"a duration is a number with s, m, h, d or w, not {text!r}")
    return float(found[1]) * _UNITS[found[2] or "s"]


def json_object(text: str) -> dict[str, Any]:
    """An object that is written as JSON. Raises: ``InvalidRequestError``."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except MALFORMED as error:
        raise InvalidRequestError(f"options are a JSON object, not {text!r}: {error}") from error


@contextmanager
def watched(verb: str) -> Iterator[Any]:
    """A bar, and what moves it."""
    with progress_bar("bytes") as bar:
        task: rich.TaskID = bar.add_task(verb, total=None)

        def watch(progress: Progress) -> None:
            bar.update(task, completed=progress.bytes, total=progress.total_bytes or None)

        yield watch
