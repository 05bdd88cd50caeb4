"""``seerdb restore --in-place``: the database of a server, or in a directory, goes back."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from seerdb.cli.arguments import DEFAULT_URL
from seerdb.cli.client import Client, with_query
from seerdb.cli.directory import demand_database, open_directory
from seerdb.cli.output import print_json, progress_bar
from seerdb.cli.serve import load_settings
from seerdb.errors import InvalidRequestError


class InPlaceWish(NamedTuple):
    """To which seq, time in seconds since 1970, or checkpoint; one of them is given."""

    seq: int | None
    at: float | None
    checkpoint: str | None
    dry_run: bool

    @property
    def as_of(self) -> int | datetime | None:
        """The instant, unless it is a checkpoint."""
        return self.seq if self.at is None else datetime.fromtimestamp(self.at, UTC)


def restore_in_place(
    wish: InPlaceWish,
    *,
    url: str,
    data_dir: str | None,
    store: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Have it done, and say what was."""
    if sum(each is not None for each in wish[:3]) != 1:
        raise InvalidRequestError("say --seq, --at or --checkpoint, and only one of them")
    if data_dir is None and store is not None:
        raise InvalidRequestError("--store goes with --data-dir")
    with progress_bar("steps") as bar:
        bar.add_task("restoring", total=None)
        report = _ask(wish, url) if data_dir is None else _open(wish, data_dir, store, config)
    if as_json:
        print_json(report)
        return
    restored, replaced = f"{report['restored_seq']:,}", f"{report['replaced_seq']:,}"
    if wish.dry_run:
        print(
            f"would restore seq {restored} in the place of {replaced}: {report['tables_added']:,} "
            f"tables come, {report['tables_removed']:,} go, and {report['commits']:,} commits of "
            "the log become tables"
        )
        return
    name = report["checkpoint"]
    print(f"seq {report['seq']:,} is what seq {restored} was")
    print(f"checkpoint {name} keeps what it replaced, up to seq {replaced}")
    where = _options_of(url=url, data_dir=data_dir, store=store, config=config)
    undo = shlex.join(["seerdb", "restore", "--in-place", "--checkpoint", name, *where])
    print(f"to undo it: {undo}")


def _options_of(
    *, url: str, data_dir: str | None, store: str | None, config: str | None
) -> list[str]:
    """What names this database to another command, so that it does not go to another one."""
    if data_dir is None:
        is_implied = url == os.environ.get("SEERDB_URL", DEFAULT_URL)
        return [] if is_implied else ["--url", url]
    options = (("--data-dir", data_dir), ("--store", store), ("--config", config))
    return [word for name, value in options if value is not None for word in (name, value)]


def _ask(wish: InPlaceWish, url: str) -> dict[str, Any]:
    as_of = wish.as_of
    query = {
        "as_of": as_of.isoformat() if isinstance(as_of, datetime) else as_of,
        "checkpoint": wish.checkpoint,
        "dry_run": "true" if wish.dry_run else None,
    }
    with Client(url) as client:
        reply = client.request("POST", with_query("/v1/admin/restore", query), reply_seconds=None)
    report: dict[str, Any] = msgspec.json.decode(reply.content)
    return report


def _open(
    wish: InPlaceWish, data_dir: str, store: str | None, config: str | None
) -> dict[str, Any]:
    settings = load_settings(config, data_dir=data_dir, store=store)
    demand_database(data_dir, settings.options)
    with open_directory(data_dir, settings.options) as db:
        made = db.restore_in_place(wish.as_of, checkpoint=wish.checkpoint, dry_run=wish.dry_run)
    report: dict[str, Any] = msgspec.to_builtins(made)
    return report
