"""Plots of a run: how many times as fast SeerDB is as each peer, case by case.

One picture per number of entries and one for HTTP, beside the result file. Bars start at 1
on a logarithmic scale, so twice as fast and half as fast look alike; a black tick is a goal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.cases import COMPACT, INGEST_CASES, LOAD_CASES, READ_CASES, UNSCALED_CASES
from benchmarks.engines import OURS, PEERS, SLATEDB_ZSTD
from benchmarks.goals import judge
from benchmarks.report import entries_name, quantity, speed_ratio
from benchmarks.results import EMBEDDED, HTTP, Results
from benchmarks.served import PEER_CASES
from benchmarks.servers import SERVER_NAMES
from benchmarks.tenths import draw_tenths

COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind readers."""

_LABELS = {
    "put": "put",
    "batch_put": "batch put\n(1,000 a batch)",
    "get_hot": "get, hot\n(1 % of keys)",
    "get_uniform": "get, uniform",
    "get_missing": "get, missing",
    "multi_get": "multi get\n(100 keys)",
    "scan": "full scan",
    "scan_reverse": "reverse scan",
    "durable_put_1": "durable put,\n1 thread",
    "durable_put_16": "durable put,\n16 threads",
    COMPACT: "full merge,\none processor",
    "recovery": "recovery\n(records)",
    "http_put_1": "durable PUT,\n1 connection",
    "http_put_32": "durable PUT,\n32 connections",
    "http_put_128": "durable PUT,\n128 connections",
    "http_get_32": "GET,\n32 connections",
    "http_get_128": "GET,\n128 connections",
}
_BAR_INCHES = 0.17
_MANY_TIMES = 500
"""Range of ratios beyond which only powers of ten have room on the scale."""

_LABEL_SHARE = 0.2
"""Room for a label beyond the longest bar, as a part of the distance between the longest two."""

_GROUP_GAP = 1.0
"""Between two cases, in bars."""


@dataclass(frozen=True)
class _Bar:
    peer: str
    ratio: float
    label: str
    goal: float | None


@dataclass(frozen=True)
class _Group:
    """One case: SeerDB's own number, and a bar per peer."""

    title: str
    bars: tuple[_Bar, ...]


def plot_results(results: Results, file: Path) -> list[Path]:
    """Draw every picture that ``results`` has numbers for; returns where they are."""
    pictures = []
    for position, scale in enumerate(results.scales()):
        cases, peers = (*LOAD_CASES, *READ_CASES, COMPACT), (*PEERS, SLATEDB_ZSTD)
        groups = list(_groups(results, EMBEDDED, cases, peers, scale))
        if position == 0:
            groups += _groups(results, EMBEDDED, UNSCALED_CASES, PEERS, None)
        name = entries_name(scale)
        pictures.append((name, f"Embedded, {name} entries of 16 + 100 bytes", groups))
    http = list(_groups(results, HTTP, PEER_CASES, SERVER_NAMES, None))
    pictures.append(("http", "HTTP on loopback, values of 100 bytes", http))
    return [
        _draw(groups, f"{title}: SeerDB's rate over each peer's", results, _beside(file, name))
        for name, title, groups in pictures
        if groups
    ] + list(_sustained(results, file))


def _sustained(results: Results, file: Path) -> Iterator[Path]:
    for scale in results.scales():
        found = (results.find(case, OURS, suite=EMBEDDED, scale=scale) for case in INGEST_CASES)
        measured = [one for one in found if one is not None]
        if measured:
            name = f"sustained-{entries_name(scale)}"
            title = f"Sustained load, {entries_name(scale)} entries of 16 + 100 bytes"
            yield draw_tenths(measured, title, COLOURS, _beside(file, name))


def _beside(file: Path, name: str) -> Path:
    return file.with_name(f"{file.stem.removesuffix(f'-{name}')}-{name}.png")


def _groups(
    results: Results, suite: str, cases: Sequence[str], peers: Sequence[str], scale: int | None
) -> Iterator[_Group]:
    goals = {
        (v.case, v.against): v.bound
        for v in judge(results)
        if (v.suite, v.scale, v.stat) == (suite, scale, "value") and v.against
    }
    for case in cases:
        ours = results.find(case, OURS, suite=suite, scale=scale)
        if ours is None:
            continue
        bars = []
        for peer in peers:
            theirs = results.find(case, peer, suite=suite, scale=scale)
            if theirs is None or peer == OURS:
                continue
            ratio = speed_ratio(ours, theirs)
            label = f"{ratio:.2f}x  ({quantity(theirs.value, theirs.unit)})"
            bars.append(_Bar(peer, ratio, label, goals.get((case, peer))))
        if bars:
            yield _Group(f"{_LABELS[case]}\nSeerDB {quantity(ours.value, ours.unit)}", tuple(bars))


def _draw(groups: Sequence[_Group], title: str, results: Results, path: Path) -> Path:
    rows = sum(len(group.bars) + _GROUP_GAP for group in groups)
    figure = Figure(figsize=(10, 2.2 + rows * _BAR_INCHES), layout="constrained")
    axes = figure.add_subplot()
    peers = list(dict.fromkeys(bar.peer for group in groups for bar in group.bars))
    colours = dict(zip(peers, COLOURS, strict=False))
    _draw_bars(axes, groups, colours)
    _draw_scale(axes, [bar.ratio for group in groups for bar in group.bars])
    figure.suptitle(title, fontsize=14, fontweight="bold")
    machine = results.machine
    axes.set_title(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['python']}; {results.date}, "
        f"{results.tag}; in brackets the peer's own rate",
        fontsize=9,
    )
    _draw_legend(figure, colours)
    figure.savefig(path, dpi=110)
    return path


def _draw_bars(axes: Axes, groups: Sequence[_Group], colours: dict[str, str]) -> None:
    row = 0.0
    ticks: list[float] = []
    for group in groups:
        ticks.append(row + (len(group.bars) - 1) / 2)
        for bar in group.bars:
            axes.barh(row, bar.ratio - 1, left=1, height=0.9, color=colours[bar.peer])
            _label(axes, row, bar)
            if bar.goal is not None:
                axes.plot([bar.goal] * 2, [row - 0.5, row + 0.5], color="black", linewidth=2.5)
            row += 1
        row += _GROUP_GAP
    axes.set_yticks(ticks, [group.title for group in groups], fontsize=9)
    axes.set_ylim(row - _GROUP_GAP, -_GROUP_GAP)


def _label(axes: Axes, row: float, bar: _Bar) -> None:
    ahead = bar.ratio >= 1
    axes.annotate(
        bar.label,
        (max(bar.ratio, bar.goal or 0) if ahead else bar.ratio, row),
        xytext=(4 if ahead else -4, 0),
        textcoords="offset points",
        ha="left" if ahead else "right",
        va="center",
        fontsize=7.5,
    )


def _draw_scale(axes: Axes, ratios: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(0.5, *ratios), max(2.0, *ratios)
    room = (high / low) ** _LABEL_SHARE
    axes.set_xlim(low / room, high * room)
    steps = (1, 2, 5) if high / low < _MANY_TIMES else (1,)
    axes.xaxis.set_major_locator(LogLocator(10, subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(_times))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("times as fast as the peer (logarithmic; right of 1: SeerDB is faster)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _times(value: float, _position: Any) -> str:
    return f"{value:g}x"


def _draw_legend(figure: Figure, colours: dict[str, str]) -> None:
    handles: list[Any] = [Patch(color=colour, label=peer) for peer, colour in colours.items()]
    handles.append(Line2D([], [], color="black", linewidth=2.5, label="goal"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
