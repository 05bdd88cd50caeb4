"""``seerdb checkpoint``: keeping the database of a server as it is now, under a name."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from seerdb.cli.arguments import DEFAULT_URL, Json, Url
from seerdb.cli.client import Client, quoted, with_query
from seerdb.cli.output import print_json, print_table
from seerdb.clock import when_second

app = typer.Typer(no_args_is_help=True, help="Keep states of the database under names.")

_TARGET = "/v1/admin/checkpoints"

Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.command()
def create(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="By default the time and the seq.")
    ] = None,
    *,
    expires: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="Let go of it then; by default it stays."),
    ] = None,
    flush: Annotated[
        bool, typer.Option(help="Show all that was committed, not only what tables hold.")
    ] = True,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Keep the database as it is now."""
    query = {"name": name, "expires": expires, "flush": None if flush else "false"}
    made = _ask("POST", with_query(_TARGET, query), url)
    if as_json:
        print_json(made)
        return
    print(f"checkpoint {made['name']} shows everything up to seq {made['seq']:,}")


@app.command("list")
def list_all(*, as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Show what is kept."""
    found = _ask("GET", _TARGET, url)["checkpoints"]
    if as_json:
        print_json(found)
        return
    rows = [
        (each["name"], f"{each['seq']:,}", _when(each["time"]), _when(each["expires"]))
        for each in found
    ]
    print_table(("name", "seq", "made", "expires"), rows)


@app.command()
def drop(name: Name, *, url: Url = DEFAULT_URL) -> None:
    """Keep it no longer; what only it kept is deleted later."""
    with Client(url) as client:
        client.request("DELETE", f"{_TARGET}/{quoted(name.encode())}", reply_seconds=None)


def _when(seconds: float | None) -> str:
    return "never" if seconds is None else when_second(seconds)


def _ask(method: str, target: str, url: str) -> dict[str, Any]:
    with Client(url) as client:
        reply = client.request(method, target, reply_seconds=None)
    report: dict[str, Any] = msgspec.json.decode(reply.content)
    return report
