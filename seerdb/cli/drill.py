"""``seerdb drill``: proving that a backup brings back what was there."""

from __future__ import annotations

from typing import Annotated

import typer

from seerdb.cli.arguments import Json
from seerdb.cli.backup import Rate, SourceOptions, json_object, watched
from seerdb.cli.output import print_json
from seerdb.storage.backup.places import Transfer
from seerdb.storage.drill.places import drill as drill_with


def drill(
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="A URL or directory with backups.")
    ],
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="DATA_DIR|STORE_URL",
            help="The bucket of the database, which may be in use.",
        ),
    ],
    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Restore in a folder there; by default in the repository."
        ),
    ] = None,
    backup: Annotated[
        str | None, typer.Option(metavar="ID", help="This one; by default the newest.")
    ] = None,
    rate: Rate = 0,
    from_options: SourceOptions = "{}",
    store_options: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="What fsspec needs to know of the repository and of --scratch."
        ),
    ] = "{}",
    as_json: Json = False,
) -> None:
    """Restore a backup into a folder, compare it with what the database was then, and delete the
    folder.

    Exits 0 when it brings back what was there. When the database cannot tell any more what it was,
    which is said, the restored one is read all the same, every byte."""
    with watched("drilling") as watch:
        report = drill_with(
            source,
            repository,
            scratch=scratch,
            backup=backup,
            transfer=Transfer(
                rate=rate,
                source_options=json_object(from_options),
                target_options=json_object(store_options),
                watch=watch,
            ),
        )
    if as_json:
        print_json(report)
        return
    what = "is what the database was" if report.compared else "can be read"
    print(
        f"backup {report.backup} {what} after seq {report.seq:,}: {report.entries:,} keys, "
        f"restored and read in {report.seconds:.1f} seconds, {report.rpo_seconds:,.0f} seconds "
        "behind"
    )
    if report.note:
        print(f"note: {report.note}")
