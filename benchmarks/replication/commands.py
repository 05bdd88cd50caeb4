"""``python -m benchmarks followers …``: the part of the command line that is about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.goals import judge
from benchmarks.machine import describe_machine, source_version
from benchmarks.replication.bucket import DIRECTORY
from benchmarks.replication.plan import CASES, Plan, measure_plan
from benchmarks.results import Results

_QUICK_SECONDS, _QUICK_MEBIBYTES = 3.0, 32

Cases = Annotated[list[str] | None, typer.Argument(help=f"Any of {', '.join(CASES)}; or all.")]
Rounds = Annotated[int, typer.Option(min=1, help="Medians are taken over so many rounds.")]
Seconds = Annotated[float, typer.Option(min=1, help="Length of each load.")]
IdleSeconds = Annotated[float, typer.Option(min=1, help="How long to watch servers idle.")]
Mebibytes = Annotated[int, typer.Option(min=4, help="Size of the database of first_read.")]
Store = Annotated[str, typer.Option(help="Where buckets are: directory, minio, or a URL.")]
StoreOptions = Annotated[str, typer.Option(help="For a URL, as JSON.")]


def table_of(text: str) -> dict[str, Any]:
    """The table that ``text`` is in JSON. Raises: ``BadParameter``."""
    try:
        table = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise typer.BadParameter(f"{text!r} is not a table of names and values in JSON")
    return table


def add_followers(
    app: typer.Typer, console: Console, default_work: Path, show: Callable[[Results, Path], None]
) -> None:
    """Give ``app`` the command; ``show`` prints what was saved."""

    @app.command()
    def followers(  # noqa: PLR0913 - one for each flag
        cases: Cases = None,
        *,
        rounds: Rounds = 3,
        seconds: Seconds = 20.0,
        idle_seconds: IdleSeconds = 60.0,
        mebibytes: Mebibytes = 1_024,
        store: Store = DIRECTORY,
        store_options: StoreOptions = "{}",
        quick: Annotated[bool, typer.Option("--quick", help="A try, in a minute.")] = False,
        work: Annotated[Path, typer.Option(help="Where databases are made.")] = default_work,
        tag: Annotated[str, typer.Option(help="Part of the result's file name.")] = "",
    ) -> None:
        """Lag, cost of shipping, idle requests, failover and first read, on real processes."""
        chosen = tuple(cases or CASES)
        if unknown := sorted(set(chosen) - set(CASES)):
            raise typer.BadParameter(f"unknown case {', '.join(unknown)}; known are {CASES}")
        plan = Plan(chosen, rounds, seconds, idle_seconds, mebibytes, store)
        if quick:
            plan = Plan(chosen, 1, _QUICK_SECONDS, _QUICK_SECONDS, _QUICK_MEBIBYTES, store)
        settings = asdict(plan) | {"store_options": table_of(store_options), "quick": quick}
        work.mkdir(parents=True, exist_ok=True)
        kind = "-".join(["followers", *(cases or ())])
        results = Results(kind, tag or source_version(), describe_machine(work), settings)
        with console.status("starting") as status:
            measure_plan(plan, results, work, status.update)
        # Keys to the bucket are nobody's business.
        results.settings.pop("store_options")
        results.goals = [verdict.to_json() for verdict in judge(results)]
        show(results, results.save())
        if results.failed:
            raise typer.Exit(1)
