"""A simulation as tables: measured, and in brackets the textbook's value."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.results import Measurement, Results
from benchmarks.simulator.loads import CHANGING, LOADS
from benchmarks.simulator.simulate import ASKED, COMPACTION, COST, RUNS, SPACE, WRITE
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.adaptive import SHAPES

_MEASURES = {
    WRITE: "write amplification",
    SPACE: "space amplification",
    RUNS: "runs",
    ASKED: "tables asked for a stored key",
}


def print_simulation(console: Console, results: Results) -> None:
    """Print what was measured, and whether space stayed in its bound."""
    table = Table(title=f"compaction, {results.settings['flushes']} flushes", title_justify="left")
    for name in ("load", "", *SHAPES):
        table.add_column(name, justify="left" if name in ("load", "") else "right")
    for load in LOADS:
        for measure, words in _MEASURES.items():
            found = (
                results.find(f"{load.name}: {measure}", shape, suite=COMPACTION) for shape in SHAPES
            )
            title = load.title if measure == WRITE else ""
            table.add_row(title, words, *(_cell(each, measure) for each in found))
        table.add_section()
    console.print(table)
    for policy in POLICIES:
        cost = results.find(f"{CHANGING.name}: {COST}", policy, suite=COMPACTION)
        if cost is not None:
            console.print(f"{CHANGING.title}, {policy}: {cost.value:.0f}k blocks")
    for goal in results.goals:
        measured = f"{goal['measured']:.3f} {goal['sign']} {goal['bound']}"
        console.print(f"{goal['verdict']} {goal['case']} {measured}")


def _cell(found: Measurement | None, measure: str) -> str:
    if found is None:
        return ""
    text = f"{found.value:.2f}"
    if "textbook" in found.detail:
        text += f" ({'at most ' if measure == SPACE else ''}{found.detail['textbook']:.2f})"
    return text
