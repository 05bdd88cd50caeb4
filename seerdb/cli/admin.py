"""``seerdb stats``, ``flush`` and ``compact``: what an operator asks a server for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from seerdb.cli.arguments import DEFAULT_URL, Hex, Json, Url
from seerdb.cli.client import Client, with_query
from seerdb.cli.keys import End, Start, range_query
from seerdb.cli.output import print_json, print_table, progress_bar
from seerdb.cli.summary import summary
from seerdb.errors import SeerDBError

POLL_SECONDS = 0.5


def stats(*, as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Show a summary, then every number: levels, memtables, log, caches, requests and costs."""
    report = _ask("GET", "/v1/admin/status", url)
    if as_json:
        print_json(report)
        return
    print_table(("summary", ""), summary(report))
    print()
    rows = _flat(report)
    tables = {name: value for name, value in rows.items() if _is_table(value)}
    print_table(("name", "value"), [row for row in rows.items() if row[0] not in tables])
    for name, entries in tables.items():
        print(f"\n{name}")
        print_table(tuple(entries[0]), [tuple(entry.values()) for entry in entries])


def flush(*, as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Bring everything committed so far into tables in the bucket, and wait for it."""
    report = _ask("POST", "/v1/admin/flush", url)
    if as_json:
        print_json(report)
        return
    print(f"flushed up to seq {report['last_seq']:,}")
    _print_names("new table", report["tables"])


def compact(
    *,
    start: Start = None,
    end: End = None,
    as_hex: Hex = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Flush, then merge all tables, or what they hold of a range of keys; and wait for it."""
    query = range_query(None, start, end, as_hex=as_hex)
    with _showing_merges(url):
        report = _ask("POST", with_query("/v1/admin/compact", query), url)
    if as_json:
        print_json(report)
        return
    print(f"tables merged: {len(report['removed']):,}, made: {len(report['added']):,}")
    _print_names("new table", report["added"])


@contextmanager
def _showing_merges(url: str) -> Iterator[None]:
    """Meanwhile a terminal sees how far the merges are that the server was asked for."""
    over = threading.Event()
    with progress_bar("bytes") as bar:
        task = bar.add_task("merging", total=None)

        def watch() -> None:
            # Whoever waits for the merge is told, if the server does not answer.
            with suppress(SeerDBError), Client(url) as client:
                while not over.wait(POLL_SECONDS):
                    status = msgspec.json.decode(client.request("GET", "/v1/admin/status").content)
                    jobs = [job for job in status["jobs"] if job["kind"] == "request"]
                    done, total = (
                        sum(job[name] for job in jobs) for name in ("bytes_read", "input_bytes")
                    )
                    bar.update(task, completed=done, total=total or None)

        if not bar.disable:
            threading.Thread(target=watch, name="seerdb progress", daemon=True).start()
        try:
            yield
        finally:
            over.set()


def _ask(method: str, target: str, url: str) -> dict[str, Any]:
    with Client(url) as client:
        reply = client.request(method, target, reply_seconds=None)
    report: dict[str, Any] = msgspec.json.decode(reply.content)
    return report


def _print_names(what: str, names: list[str]) -> None:
    for name in names:
        print(f"{what} {name}")


def _flat(report: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested members by dotted names."""
    rows: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = value
    return rows


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
