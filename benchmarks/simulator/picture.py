"""The picture of a simulation: amplifications under each load beside the textbook's, and the
cost of a load that changes."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.plot import COLOURS
from benchmarks.results import Results
from benchmarks.simulator.loads import CHANGING, LOADS
from benchmarks.simulator.simulate import (
    COMPACTION,
    COST,
    RUNS,
    SAMPLE_EVERY,
    SPACE,
    SPACE_BOUND,
    WRITE,
)
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.adaptive import SHAPES

_PANELS = (
    (WRITE, "bytes written for each that came in"),
    (SPACE, "bytes stored for each that is live"),
    (RUNS, "runs a short scan reads"),
)
_BAR = 0.26
_OF = dict(zip(POLICIES, COLOURS, strict=False))


def draw(results: Results, file: Path) -> Path:
    """Draw beside the result ``file``; returns where it is."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    for column, (measure, title) in enumerate(_PANELS):
        _bars(figure.add_subplot(grid[0, column]), results, measure, title)
    _lines(figure.add_subplot(grid[1, :]), results)
    figure.suptitle("Compaction policies, simulated", fontsize=14, fontweight="bold")
    handles: list[Patch | Line2D] = [Patch(color=_OF[policy], label=policy) for policy in POLICIES]
    handles.append(Line2D([], [], color="black", linewidth=2.5, label="textbook"))
    handles.append(Line2D([], [], color="0.5", linewidth=1, label="most seen"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    path = file.with_suffix(".png")
    figure.savefig(path, dpi=110)
    return path


def _bars(axes: Axes, results: Results, measure: str, title: str) -> None:
    for row, load in enumerate(LOADS):
        for number, shape in enumerate(SHAPES):
            found = results.find(f"{load.name}: {measure}", shape, suite=COMPACTION)
            if found is None:
                continue
            y = row + (number - 1) * _BAR
            axes.barh(y, found.value, height=_BAR * 0.9, color=_OF[shape])
            axes.plot([found.value, found.detail["most"]], [y, y], color="0.5", linewidth=1)
            edge = [y - _BAR / 2, y + _BAR / 2]
            axes.plot([found.detail["textbook"]] * 2, edge, color="black", linewidth=2.5)
    if measure == SPACE:
        axes.axvline(SPACE_BOUND, color="black", linewidth=0.8, linestyle=":")
        axes.set_xlim(left=0.9)
    axes.set_yticks(range(len(LOADS)), [load.title for load in LOADS], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _lines(axes: Axes, results: Results) -> None:
    for policy in POLICIES:
        found = results.find(f"{CHANGING.name}: {COST}", policy, suite=COMPACTION)
        if found is not None:
            flushes = range(SAMPLE_EVERY, len(found.rounds) * SAMPLE_EVERY + 1, SAMPLE_EVERY)
            axes.plot(flushes, found.rounds, color=_OF[policy], linewidth=2)
    axes.set_title(
        "a load that changes: writes; lookups; writes and lookups; scans; writes", fontsize=10
    )
    axes.set_xlabel("flushes")
    axes.set_ylabel("blocks read and written, thousands")
    axes.grid(color="0.85", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
