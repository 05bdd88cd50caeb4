"""The command line: ``python -m benchmarks`` and the name of what to run; see ``--help``."""

from __future__ import annotations

import compileall
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import copies, embedded, served
from benchmarks.cases import (
    CASES,
    COMPACT,
    COMPACT_PROCESS,
    COST_IDLE,
    DURABLE_CASES,
    IDLE_SECONDS,
    SCALED_CASES,
)
from benchmarks.cold import COLD, SMALL_KEYS, Place, measure_cold, missed, print_cold
from benchmarks.engines import ENGINES, OURS, PEERS, RECODED
from benchmarks.eviction.replay import EVICTION, print_replays, replay_all
from benchmarks.goals import GIGABYTE, LARGE, SUSTAINED, judge
from benchmarks.machine import describe_machine, source_version
from benchmarks.plot import plot_results
from benchmarks.replication.commands import add_followers, table_of
from benchmarks.replication.report import draw_replication, is_replication, print_replication
from benchmarks.report import print_report
from benchmarks.results import EMBEDDED, HTTP, Results
from benchmarks.servers import SERVER_NAMES
from benchmarks.simulator.picture import draw
from benchmarks.simulator.report import print_simulation
from benchmarks.simulator.simulate import COMPACTION, simulate

WORK = Path(__file__).parent / "work"
"""Where databases are made and deleted; has to be on the disk that is to be measured."""

_MERGING = ",".join((OURS, "rocksdict", "slatedb", *RECODED))
_MERGED, _GIGABYTE, _SUSTAINED = str(LARGE), str(GIGABYTE), str(SUSTAINED)
_ALL_ENGINES = ",".join(ENGINES)
_PEERS = ",".join((OURS, *PEERS))
_ALL_CASES = ",".join(CASES)
_ALL_SERVERS = ",".join(SERVER_NAMES)
_QUICK_SHARE = 100
_QUICK_PAIRS = 20_000
_QUICK_INGEST_MIB = 64
_QUICK_IDLE_SECONDS = 2.0
_TABLE_WIDTH = 140

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console(width=max(Console().width, _TABLE_WIDTH))

Entries = Annotated[str, typer.Option(help="Numbers of entries, separated by commas.")]
Rounds = Annotated[int, typer.Option(min=1, help="Medians are taken over so many rounds.")]
Engines = Annotated[str, typer.Option(help=f"Any of {_ALL_ENGINES}.")]
Cases = Annotated[str, typer.Option(help=f"Any of {_ALL_CASES}.")]
Background = Annotated[str, typer.Option(help="Where it flushes and merges: thread, process.")]
Servers = Annotated[str, typer.Option(help=f"Any of {_ALL_SERVERS}.")]
Seconds = Annotated[float, typer.Option(min=1, help="Length of each HTTP load.")]
IdleSeconds = Annotated[float, typer.Option(min=1, help="How long to watch it idle.")]
IngestMib = Annotated[int, typer.Option(min=1, help="Size of the large load, in MiB.")]
Quick = Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes; for a try.")]
Work = Annotated[Path, typer.Option(help="Where databases are made; on the disk to measure.")]
Tag = Annotated[str, typer.Option(help="Part of the result's file name; default: the commit.")]

Plan = embedded.Plan | served.Plan


@app.callback()
def compiled() -> None:
    """SeerDB beside its peers, in one run."""
    # As an installer does. Where Python is told to keep no bytecode, each process that is measured
    # would compile a checkout again: a fifth of a second, beside a load for a new worker.
    for package in ("seerdb", "seerdb_api", "benchmarks"):
        for path in import_module(package).__path__:
            compileall.compile_dir(path, quiet=1)


@app.command("embedded")
def embedded_command(
    *,
    entries: Entries = "200000,2000000",
    rounds: Rounds = 3,
    engines: Engines = _PEERS,
    cases: Cases = _ALL_CASES,
    quick: Quick = False,
    work: Work = WORK,
    tag: Tag = "",
) -> None:
    """Engines called from Python, each round in a fresh process."""
    with _refusals_explained():
        plan = embedded.Plan(_numbers(entries), rounds, _words(engines), _words(cases))
    _measure(EMBEDDED, [plan], work, tag, quick=quick)


@app.command("http")
def http_command(
    *,
    rounds: Rounds = 3,
    seconds: Seconds = 5.0,
    servers: Servers = _ALL_SERVERS,
    ingest_mib: IngestMib = 2_048,
    quick: Quick = False,
    work: Work = WORK,
    tag: Tag = "",
) -> None:
    """Servers on loopback under the load of wrk."""
    with _refusals_explained():
        plan = served.Plan(rounds, seconds, ingest_mib=ingest_mib, servers=_words(servers))
    _measure(HTTP, [plan], work, tag, quick=quick)


@app.command()
def run(*, quick: Quick = False, work: Work = WORK, tag: Tag = "") -> None:
    """Both suites, with fewer engines and shorter rounds: about twenty minutes."""
    plans: list[Plan] = [
        embedded.Plan((200_000,)),
        embedded.Plan((2_000_000,), engines=(OURS, "rocksdict"), cases=SCALED_CASES),
        served.Plan(seconds=3.0),
    ]
    _measure("run", plans, work, tag, quick=quick)


@app.command("lone-put")
def lone_put(*, rounds: Rounds = 3, work: Work = WORK, tag: Tag = "") -> None:
    """One durable put at a time, beside a bare write and fdatasync of 4 KiB."""
    plan = embedded.Plan(rounds=rounds, cases=DURABLE_CASES[:1])
    _measure("lone-put", [plan], work, tag)


@app.command()
def compact(
    *,
    entries: Entries = _MERGED,
    rounds: Rounds = 3,
    engines: Engines = _MERGING,
    quick: Quick = False,
    work: Work = WORK,
    tag: Tag = "",
) -> None:
    """Full merges of four runs on one processor, beside RocksDB's and SlateDB's."""
    with _refusals_explained():
        plan = embedded.Plan(_numbers(entries), rounds, _words(engines), (COMPACT,))
    _measure("compact", [plan], work, tag, quick=quick)


@app.command("merge-memory")
def merge_memory(
    *, entries: Entries = _GIGABYTE, quick: Quick = False, work: Work = WORK, tag: Tag = ""
) -> None:
    """The memory of a worker process that merges a gigabyte."""
    with _refusals_explained():
        plans = _ours_alone((COMPACT_PROCESS,), entries)
    _measure("merge-memory", plans, work, tag, quick=quick)


@app.command()
def ingest(
    *,
    entries: Entries = _SUSTAINED,
    rounds: Rounds = 3,
    background: Background = "thread,process",
    quick: Quick = False,
    work: Work = WORK,
    tag: Tag = "",
) -> None:
    """A sustained load: rates, amplifications, memory and requests; minutes."""
    with _refusals_explained():
        cases = [f"ingest_{where}" for where in _words(background)]
        plans = _ours_alone(cases, entries, rounds=rounds)
    _measure("ingest", plans, work, tag, quick=quick)


@app.command()
def costs(
    *,
    entries: Entries = _GIGABYTE,
    seconds: IdleSeconds = IDLE_SECONDS,
    quick: Quick = False,
    work: Work = WORK,
    tag: Tag = "",
) -> None:
    """Requests to the store and dollars: of each gigabyte that comes in, and of a month idle."""
    with _refusals_explained():
        plans = _ours_alone(("ingest_thread", COST_IDLE), entries, seconds)
    _measure("costs", plans, work, tag, quick=quick)


@app.command("simulate")
def simulate_command(
    *,
    flushes: Annotated[int, typer.Option(min=40, help="How many each tree takes in.")] = 1_000,
    seed: int = 1,
    tag: Tag = "",
) -> None:
    """The compaction policies on simulated trees, beside the textbook: about a minute."""
    with console.status("starting") as status:
        results = simulate(flushes, seed, tag or source_version(), status.update)
    _show(results, results.save())


@app.command("evict")
def evict_command(
    *,
    reads: Annotated[int, typer.Option(min=10_000, help="Of each trace.")] = 200_000,
    rounds: Rounds = 3,
    tag: Tag = "",
) -> None:
    """Policies of eviction on traces of reads: about two minutes."""
    with console.status("starting") as status:
        results = replay_all(reads, rounds, tag or source_version(), status.update)
    _show(results, results.save())


@app.command("cold")
def cold_command(
    *,
    keys: Annotated[int, typer.Option(min=2_000, help="How many to store.")] = SMALL_KEYS,
    store: Annotated[str, typer.Option(help="Where the bucket is; default: beside the log.")] = "",
    store_options: Annotated[str, typer.Option(help="For the bucket, as JSON.")] = "{}",
    work: Work = WORK,
    tag: Tag = "",
) -> None:
    """Requests of cold reads, counted; the databases are kept in WORK for the next time."""
    settings: dict[str, Any] = {"store": f"{store}/{keys}"} if store else {}
    settings |= {"store_options": table_of(store_options)} if store else {}
    place = Place(work / f"cold-{keys}", settings)
    with console.status("starting") as status:
        small = Place(work / f"cold-few-{min(keys, SMALL_KEYS)}", {})
        results = measure_cold(place, small, keys, tag or source_version(), status.update)
    _show(results, results.save())
    if missed(results):
        raise typer.Exit(1)


@app.command("backup")
def backup_command(
    *,
    mebibytes: Annotated[int, typer.Option(min=4, help="Size of the database.")] = 1_024,
    rounds: Rounds = 3,
    elsewhere: Annotated[str, typer.Option(help="A URL for the copies; default: WORK.")] = "",
    store_options: Annotated[str, typer.Option(help="For that, as JSON.")] = "{}",
    work: Work = WORK,
    tag: Tag = "",
) -> None:
    """Backup and restore beside plain copying of the same objects: minutes."""
    with console.status("starting") as status:
        results = copies.measure_copies(
            work,
            mebibytes,
            rounds,
            tag or source_version(),
            table_of(store_options),
            elsewhere=elsewhere,
            progress=status.update,
        )
    _show(results, results.save())
    if copies.missed(results):
        raise typer.Exit(1)


@app.command()
def plot(file: Annotated[Path, typer.Argument(help="A result file.")]) -> None:
    """Print a saved result again and draw its plots beside it."""
    _show(Results.load(file), file)


def _ours_alone(
    cases: Iterable[str], entries: str, idle_seconds: float = IDLE_SECONDS, rounds: int = 1
) -> list[Plan]:
    """A fresh process for each round of each of ``cases``."""
    sizes = _numbers(entries)
    return [
        embedded.Plan(sizes, rounds, (OURS,), (case,), idle_seconds=idle_seconds) for case in cases
    ]


def _measure(kind: str, plans: list[Plan], work: Path, tag: str, *, quick: bool = False) -> None:
    plans = [_quick(plan) for plan in plans] if quick else plans
    work.mkdir(parents=True, exist_ok=True)
    settings = {"plans": [asdict(plan) for plan in plans], "quick": quick}
    results = Results(kind, tag or source_version(), describe_machine(work), settings)
    with console.status("starting") as status:
        for plan in plans:
            if isinstance(plan, embedded.Plan):
                embedded.measure_embedded(plan, results, work, status.update)
            else:
                served.measure_http(plan, results, work, status.update)
    results.goals = [verdict.to_json() for verdict in judge(results)]
    _show(results, results.save())
    if results.failed:
        raise typer.Exit(1)


def _show(results: Results, file: Path) -> None:
    if results.kind == COMPACTION:
        print_simulation(console, results)
        console.print(f"written: {file.name}\nwritten: {draw(results, file).name}")
        return
    if results.kind == COLD:
        print_cold(console, results)
        console.print(f"written: {file.name}")
        return
    if results.kind == copies.COPIES:
        copies.print_copies(console, results)
        console.print(f"written: {file.name}")
        return
    if results.kind == EVICTION:
        print_replays(console, results)
        console.print(f"written: {file.name}")
        return
    if is_replication(results):
        print_replication(console, results)
        console.print(f"written: {file.name}\nwritten: {draw_replication(results, file).name}")
        return
    print_report(console, results)
    for path in [file, *plot_results(results, file)]:
        console.print(f"written: {path.name}")


def _quick(plan: Plan) -> Plan:
    """The same in seconds: proves that everything runs, and nothing about speed."""
    if isinstance(plan, embedded.Plan):
        least = embedded.LEAST_ENTRIES
        entries = tuple(max(least, number // _QUICK_SHARE) for number in plan.entries)
        return replace(plan, entries=entries, rounds=1, idle_seconds=_QUICK_IDLE_SECONDS)
    return replace(plan, rounds=1, seconds=1.0, pairs=_QUICK_PAIRS, ingest_mib=_QUICK_INGEST_MIB)


@contextmanager
def _refusals_explained() -> Iterator[None]:
    """Tell of a wrong option as the command line tells of others."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ValueError(f"{text!r} names nothing")
    return words


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word.replace("_", "")) for word in _words(text))


add_followers(app, console, WORK, _show)

if __name__ == "__main__":
    app()
