"""``seerdb promote``: make a standby, or a fresh data directory, the writer of a database."""

from __future__ import annotations

from typing import Any

import msgspec

from seerdb.cli.arguments import DEFAULT_URL, Config, DataDir, Json, Store, Url
from seerdb.cli.client import Client
from seerdb.cli.directory import demand_database
from seerdb.cli.output import print_json
from seerdb.cli.serve import load_settings
from seerdb.errors import InvalidRequestError
from seerdb.events import LogOvertaken
from seerdb.standby import promote as take_over
from seerdb.storage.opening.overtaken import in_words


def promote(
    *,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    data_dir: DataDir = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Make a standby the writer of its database now, and say what it took over and what is lost.

    With --data-dir and --store a directory on this machine takes the database over, to be served
    from then on. Whoever wrote before is shut out; if it keeps a lease, this waits for its end."""
    if data_dir is None and store is not None:
        raise InvalidRequestError("--store goes with --data-dir")
    report = _ask(url) if data_dir is None else _take_over(data_dir, store, config)
    if as_json:
        print_json(report)
        return
    for line in _lines(report):
        print(line)


def _ask(url: str) -> dict[str, Any]:
    with Client(url) as client:
        reply = client.request("POST", "/v1/admin/promote", reply_seconds=None)
    report: dict[str, Any] = msgspec.json.decode(reply.content)
    return report


def _take_over(data_dir: str, store: str | None, config: str | None) -> dict[str, Any]:
    settings = load_settings(config, data_dir=data_dir, store=store)
    demand_database(data_dir, settings.options)
    with take_over(data_dir, settings.options) as database:
        report: dict[str, Any] = msgspec.to_builtins(database.takeover)
    return report


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"writer of epoch {report['epoch']:,} from seq {report['seq']:,} on"]
    previous, lost = report["previous"], report["lost"]
    if previous is not None:
        where = f" at {previous['address']}" if previous["address"] else ""
        told = f"had reached seq {previous['seq']:,} when it last renewed its lease"
        lines.append(f"the writer before, of epoch {previous['epoch']:,}{where}, {told}")
    if lost is not None:
        lines.append(f"lost: seq {lost['from']:,} to {lost['to']:,}, and what came after that")
    elif previous is not None and previous["released"]:
        lines.append("nothing is lost: it was closed")
    else:
        lines.append("nothing is known to be lost")
    if report.get("own_log") is not None:
        own_log = msgspec.convert(report["own_log"], LogOvertaken)
        lines.append(f"the log that was here is put apart: {in_words(own_log)}")
    return lines
