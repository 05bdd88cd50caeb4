"""A run on followers and failover: its table, and its picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.goals import Verdict, judge
from benchmarks.replication.lag import BUCKET, LIVE
from benchmarks.report import goal_table, print_circumstances, quantity
from benchmarks.results import REPLICATION, Results

_PASSED, _MISSED, _LAGS = "#009E73", "#D55E00", ("#0072B2", "#56B4E9", "#E69F00", "#CC79A7")
"""Of Okabe and Ito's palette."""
_PERCENTILES = ("p50_ms", "p90_ms", "p99_ms", "max_ms")


def is_replication(results: Results) -> bool:
    """Whether this is such a run."""
    return any(m.suite == REPLICATION for m in results.measurements)


def print_replication(console: Console, results: Results) -> None:
    """Everything that was measured, and the goals."""
    table = Table(title="followers, shipping, failover", title_justify="left")
    for name in ("case", "median", "rounds", "what else was seen"):
        table.add_column(name)
    for found in results.measurements:
        rounds = " ".join(f"{value:.3g}" for value in found.rounds)
        detail = ", ".join(f"{name} {value:,.4g}" for name, value in found.detail.items())
        table.add_row(found.case, quantity(found.value, found.unit), rounds, detail)
    console.print(table)
    if verdicts := list(judge(results)):
        console.print(goal_table(verdicts))
    print_circumstances(console, results)


def draw_replication(results: Results, file: Path) -> Path:
    """Draw goals, and lags if there are any, beside the result file; returns where."""
    verdicts = list(judge(results))
    lags = [m for m in results.measurements if m.case in (LIVE, BUCKET)]
    figure = Figure(figsize=(10, 2.0 + 0.35 * len(verdicts)), layout="constrained")
    panels = figure.subplots(1, 2 if lags else 1, squeeze=False)[0]
    _draw_goals(panels[0], verdicts)
    if lags:
        _draw_lags(panels[1], {m.case: [m.detail[p] for p in _PERCENTILES] for m in lags})
    machine = results.machine
    figure.suptitle("Followers, shipping, failover", fontsize=14, fontweight="bold")
    figure.supxlabel(
        f"{machine['cpu']}, {machine['cores']} cores; {results.date}, {results.tag}; "
        f"bucket: {results.settings['store']}",
        fontsize=9,
    )
    path = file.with_suffix(".png")
    figure.savefig(path, dpi=110)
    return path


def _draw_goals(axes: Axes, verdicts: list[Verdict]) -> None:
    """Each as a part of its bound; goals of nothing at all have a bar where they are missed."""
    for row, verdict in enumerate(verdicts):
        share = verdict.measured / verdict.bound if verdict.bound else verdict.measured
        axes.barh(row, min(share, 2.0), color=_PASSED if verdict.passed else _MISSED)
        label = f"{quantity(verdict.measured, verdict.unit)} ({verdict.sign} {verdict.bound:g})"
        axes.annotate(label, (0.02, row), va="center", fontsize=8)
    names = [f"{v.case}" + ("" if v.stat == "value" else f", {v.stat}") for v in verdicts]
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1.5)
    axes.set_title("measured, as a part of the bound", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lags(axes: Axes, lags: dict[str, list[float]]) -> None:
    width = 0.2
    for position, percentile in enumerate(_PERCENTILES):
        at = [row + (position - 1.5) * width for row in range(len(lags))]
        values = [of_case[position] for of_case in lags.values()]
        bars = axes.bar(at, values, width, color=_LAGS[position], label=percentile[:-3])
        axes.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(lags)), list(lags), fontsize=9)
    axes.set_title("lag in ms, from acknowledged to shown (logarithmic)", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
