"""``seerdb clone``: writable branches of a database that borrow its tables."""

from __future__ import annotations

from typing import Annotated

import typer

from seerdb.cli.arguments import Json
from seerdb.cli.backup import Jobs, Rate, StoreOptions, json_object, watched
from seerdb.cli.output import print_json, print_table
from seerdb.cli.restore import seconds_of
from seerdb.clock import when, when_second
from seerdb.errors import InvalidRequestError
from seerdb.storage.backup.places import Transfer
from seerdb.storage.clone.drop import DropReport
from seerdb.storage.clone.places import clone as make
from seerdb.storage.clone.places import clones, drop_clone, forget_clone

app = typer.Typer(
    no_args_is_help=True, help="Make writable branches of a database, and care for them."
)

Place = Annotated[str, typer.Argument(metavar="DATA_DIR|STORE_URL")]


@app.callback(invoke_without_command=True)
def clone(  # noqa: PLR0913 - an argument for each option
    context: typer.Context,
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATA_DIR|STORE_URL",
            help="The bucket of a database, which may be in use.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DATA_DIR|STORE_URL", help="Where there is nothing yet."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="As it was then: 2026-01-31T12:00:00Z, or seconds."),
    ] = None,
    seq: Annotated[int | None, typer.Option(help="As it was after this commit.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="As it was in this checkpoint.")
    ] = None,
    jobs: Jobs = 8,
    rate: Rate = 0,
    store_options: StoreOptions = "{}",
    as_json: Json = False,
) -> None:
    """Make a database that begins as another one is, or was, and goes its own way.

    Copies no tables: it reads those of the other one, which keeps them, until its own have replaced
    them. By default it shows the newest commit in the bucket."""
    if context.invoked_subcommand is not None:
        return
    if source is None or to is None:
        raise InvalidRequestError("say --from where, and --to where")
    with watched("copying") as watch:
        report = make(
            source,
            to,
            at=None if at is None else seconds_of(at),
            seq=seq,
            checkpoint=checkpoint,
            transfer=Transfer(
                jobs=jobs, rate=rate, target_options=json_object(store_options), watch=watch
            ),
        )
    if as_json:
        print_json(report)
        return
    print(
        f"cloned seq {report.seq:,} of {when(report.time_us)}: borrows {report.borrowed_objects:,} "
        f"objects, {report.borrowed_bytes:,} bytes; copied {report.copied_objects:,}, "
        f"{report.copied_bytes:,} bytes, and {report.commits:,} commits of the log"
    )
    print(f"it is a new database, {report.database_id}")


@app.command("list")
def list_all(source: Place, *, store_options: StoreOptions = "{}", as_json: Json = False) -> None:
    """Show which clones borrow from a database."""
    found = clones(source, store_options=json_object(store_options))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.database_id,
            each.url,
            when_second(each.time),
            f"{each.seq:,}",
            f"{each.objects:,}",
        )
        for each in found
    ]
    print_table(("clone", "where", "made", "seq", "objects kept"), rows)


@app.command("drop")
def drop_one(
    place: Place,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said.")] = False,
    store_options: StoreOptions = "{}",
    as_json: Json = False,
) -> None:
    """Delete a clone: what lies in its own bucket, and what others keep for it.

    Says what it would do, and does it with --yes."""
    report = drop_clone(place, dry_run=not yes, store_options=json_object(store_options))
    if as_json:
        print_json(report)
    else:
        _print_drop(report)


def _print_drop(report: DropReport) -> None:
    verb = "would delete" if report.dry_run else "deleted"
    print(f"{verb} {report.objects:,} objects, {report.bytes:,} bytes of {report.database_id}")
    for url in report.lenders:
        print(f"what it has borrowed stays in {url}")
    if report.others:
        print(f"{report.others:,} objects there are no database's, and stay")
    if report.dry_run:
        print("nothing was deleted; --yes does it")


@app.command()
def forget(
    source: Place,
    clone_id: Annotated[str, typer.Argument(metavar="CLONE")],
    *,
    store_options: StoreOptions = "{}",
) -> None:
    """Keep nothing any more for a clone whose bucket is gone. One that is not gone is lost then."""
    forget_clone(source, clone_id, store_options=json_object(store_options))
