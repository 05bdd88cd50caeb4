"""A run on the terminal: one table per suite, each peer's number beside ours and its goal."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.cases import BARE, CASES, TREE_CASES, WHOLE_CASES
from benchmarks.engines import ENGINES, OURS
from benchmarks.goals import Verdict, judge
from benchmarks.results import EMBEDDED, HTTP, Measurement, Results
from benchmarks.served import OWN_CASES, PEER_CASES
from benchmarks.servers import SERVER_NAMES

_ROWS = {EMBEDDED: (*CASES, *TREE_CASES), HTTP: (*PEER_CASES, *OWN_CASES)}
_COLUMNS = {EMBEDDED: (*ENGINES, BARE), HTTP: SERVER_NAMES}
_QUIET_LOAD = 0.5
_UNIT_NAMES = {"ops/s": "/s", "req/s": "/s"}


def print_report(console: Console, results: Results) -> None:
    """Print everything ``results`` holds."""
    verdicts = list(judge(results))
    for suite in (EMBEDDED, HTTP):
        if any(m.suite == suite for m in results.measurements):
            console.print(_suite_table(results, suite, verdicts))
    if any(m.case in TREE_CASES for m in results.measurements):
        console.print(_tree_table(results))
    if verdicts:
        console.print(goal_table(verdicts))
    print_circumstances(console, results)


def print_circumstances(console: Console, results: Results) -> None:
    """What else a reader has to know: whether the machine was busy, what is absent, what failed."""
    if (load := results.machine.get("load_average", 0.0)) > _QUIET_LOAD:
        console.print(
            f"The machine was busy when this began (load average {load}): do not trust the rates; "
            "what the file has as cpu_us_per_operation is nearer to the truth."
        )
    for name, reason in results.absent.items():
        console.print(Text(f"absent: {name}: {reason}"))
    for name, reason in results.failed.items():
        console.print(Text(f"FAILED: {name}: {reason}", style="bold red"))


def _suite_table(results: Results, suite: str, verdicts: list[Verdict]) -> Table:
    present = {m.engine for m in results.measurements if m.suite == suite}
    columns = [name for name in _COLUMNS[suite] if name in present]
    table = Table(title=f"{suite}: rate; p50/p99; SeerDB's rate over it", title_justify="left")
    table.add_column("case", no_wrap=True)
    for name in columns:
        table.add_column(re.sub("[_ ]", "\n", name), justify="right", no_wrap=True)
    for scale in (*results.scales(), None):
        for case in _cases(results, suite, scale):
            place = [v for v in verdicts if (v.suite, v.case, v.scale) == (suite, case, scale)]
            ours = results.find(case, OURS, suite=suite, scale=scale)
            row = []
            for name in columns:
                shown = results.find(case, name, suite=suite, scale=scale)
                row.append(Text("-") if shown is None else _cell(shown, ours, place, columns))
            table.add_row(case if scale is None else f"{case} {entries_name(scale)}", *row)
        table.add_section()
    return table


def _tree_table(results: Results) -> Table:
    """Everything else that was seen of a tree as a whole."""
    measured = [m for m in results.measurements if m.case in TREE_CASES]
    engines = list(dict.fromkeys(m.engine for m in measured))
    table = Table(title="trees: what else was seen", title_justify="left")
    table.add_column("case")
    table.add_column("", no_wrap=True)
    for engine in engines:
        table.add_column(engine, justify="right")
    for case in dict.fromkeys((m.case, m.scale) for m in measured):
        details = {m.engine: m.detail for m in measured if (m.case, m.scale) == case}
        title = case[0] if case[1] is None else f"{case[0]} {entries_name(case[1])}"
        for name in dict.fromkeys(name for detail in details.values() for name in detail):
            values = (details.get(engine, {}).get(name) for engine in engines)
            table.add_row(title, name, *("" if v is None else f"{v:,.4g}" for v in values))
            title = ""
        table.add_section()
    return table


def _cases(results: Results, suite: str, scale: int | None) -> list[str]:
    found = {m.case for m in results.measurements if (m.suite, m.scale) == (suite, scale)}
    return [case for case in _ROWS[suite] if case in found]


def _cell(
    shown: Measurement, ours: Measurement | None, verdicts: list[Verdict], columns: list[str]
) -> Text:
    """A number, how ours compares with it, and what that means for the goals of its case."""
    text = Text(quantity(shown.value, shown.unit))
    if shown.case in WHOLE_CASES and shown.scale and shown.operations < shown.scale:
        text.append(f" of {entries_name(shown.operations)}", "dim")
    if "p50_us" in shown.detail:
        text.append(f"\n{latencies(shown.detail['p50_us'], shown.detail['p99_us'])}", "dim")
    if "flushes" in shown.detail:
        counts = (f"{shown.detail[name]:.0f} {name}" for name in ("flushes", "compactions"))
        text.append("\n" + "\n".join(counts), "dim")
    if shown.engine not in (OURS, BARE) and ours is not None:
        text.append(f"\n{speed_ratio(ours, shown):.2f}x")
    for verdict in verdicts:
        peer = verdict.against if verdict.against in columns else OURS
        if peer != shown.engine:
            continue
        if verdict.stat == "value" and peer != OURS:
            text.append(f" {verdict.word}", _style(verdict))
        else:
            text.append(f"\n{_stat_words(verdict)} {verdict.word}", _style(verdict))
    return text


def _stat_words(verdict: Verdict) -> str:
    """The measured number of a goal that is not on the rate over a peer's."""
    if verdict.unit != "x":
        return "" if verdict.stat == "value" else f"{verdict.measured:.3g} {verdict.unit}"
    name = "rate" if verdict.stat == "value" else verdict.stat.removesuffix("_us")
    return f"{name} {verdict.measured:.2f}x"


def goal_table(verdicts: list[Verdict]) -> Table:
    """Each goal, beside what was measured."""
    table = Table(title="goals", title_justify="left")
    for name in ("case", "against", "measured", "goal", ""):
        table.add_column(name, justify="right" if name == "measured" else "left")
    for v in verdicts:
        scale = "" if v.scale is None else f" {entries_name(v.scale)}"
        stat = "" if v.stat == "value" else f", {v.stat}"
        table.add_row(
            f"{v.case}{scale}{stat}",
            v.against or "",
            quantity(v.measured, v.unit),
            f"{v.sign} {quantity(v.bound, v.unit)}",
            Text(v.word, _style(v)),
        )
    return table


def _style(verdict: Verdict) -> str:
    return "green" if verdict.passed else "bold red"


def speed_ratio(ours: Measurement, theirs: Measurement) -> float:
    """How many times as fast ours is: above 1 is better, for rates and for times alike."""
    if ours.unit == "ms":
        return theirs.value / ours.value
    return ours.value / theirs.value


def entries_name(scale: int) -> str:
    """``200k``, ``2M``."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if scale >= size:
            return f"{scale / size:g}{letter}"
    return str(scale)


def quantity(value: float, unit: str) -> str:
    """A number of about three digits with its unit: ``1.23 M/s``, ``45 k/s``, ``4.56 ms``."""
    if unit == "x":
        return f"{value:.2f}x"
    name = _UNIT_NAMES.get(unit, f" {unit}")
    if value >= 1e6:
        return f"{value / 1e6:.2f} M{name}"
    if value >= 1e4:
        return f"{value / 1e3:.0f} k{name}"
    return f"{value:,.0f}{name}" if value >= 100 else f"{value:.3g}{name}"


def latencies(p50_us: float, p99_us: float) -> str:
    """A median and a 99th percentile in a unit that suits the median: ``98/210 us``."""
    if p50_us < 1_000:
        return f"{p50_us:.0f}/{p99_us:.0f} us"
    return f"{p50_us / 1e3:.1f}/{p99_us / 1e3:.1f} ms"
