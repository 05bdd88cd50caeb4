"""The picture of a sustained load: rate and memory of each tenth, and the goals beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Measurement
from benchmarks.sustained import TENTHS

_LEAST_RATE = 0.7


def draw_tenths(
    measured: list[Measurement], title: str, colours: tuple[str, ...], to: Path
) -> Path:
    """Draw ``measured``, each a line; returns ``to``."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    rates, memories = figure.subplots(1, 2)
    for one, colour in zip(measured, colours, strict=False):
        style = {"color": colour, "linewidth": 2, "marker": "o", "markersize": 4}
        first = _line(rates, one, "rate", 1e-3, style)
        rates.axhline(_LEAST_RATE * first, color=colour, linewidth=1, linestyle=":")
        _line(memories, one, "rss_mib", 1.0, style)
    _dress(rates, "entries/s, thousands (dotted: 70 % of the first tenth)")
    _dress(memories, "most memory in it, MiB, workers included")
    rates.legend(frameon=False)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    figure.savefig(to, dpi=110)
    return to


def _line(axes: Axes, one: Measurement, name: str, factor: float, style: dict[str, Any]) -> float:
    """Draw a value a tenth; returns the first."""
    values = [one.detail[f"{name}_{number:02}"] * factor for number in range(1, TENTHS + 1)]
    axes.plot(range(1, TENTHS + 1), values, label=one.case, **style)
    return values[0]


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("tenth of the load")
    axes.set_xticks(range(1, TENTHS + 1))
    axes.set_ylim(0, 1.1 * axes.dataLim.y1)
    axes.grid(color="0.85", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
