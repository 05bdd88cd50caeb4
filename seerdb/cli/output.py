"""What commands print: JSON for programs, columns for people, bars while they wait.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from seerdb.cli.arguments import escaped

if TYPE_CHECKING:
    from rich.progress import Progress

WIDE = 1000
"""Columns of a line that no terminal has to fit: nothing is folded."""


def write_bytes(data: bytes) -> None:
    """Write raw bytes to standard output, after what was printed so far."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    write_bytes(msgspec.json.encode(value) + b"\n")


def item(key: bytes, value: bytes) -> dict[str, Any]:
    """A key and a value as they are in JSON everywhere: text, or base64 what is not UTF-8."""
    return {**named("key", key), **named("value", value)}


def named(name: str, data: bytes) -> dict[str, Any]:
    """Bytes as a member of a JSON object."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": data}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings; numbers are right-aligned and get thousands separators."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    class Output(Console):
        """Leaves it to the command what becomes of a reader that went away."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    for name, is_number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Output(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE).print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "–"
    if not isinstance(value, int | float):
        text = "–" if value in (None, "", []) else str(value)
        return text if text.isprintable() else escaped(text.encode("utf-8", "surrogateescape"))
    return f"{value:,}" if isinstance(value, int) else decimal(value, 6)


def decimal(value: float, digits: int) -> str:
    """A number with so many significant digits, and all of those before the point, as people write
    it: never as a power of ten. Requires: it is finite."""
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """A bar on standard error, which only a terminal gets to see.

    ``unit``: ``bytes``, or how whatever is counted is called.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    count = progress.DownloadColumn() if unit == "bytes" else progress.MofNCompleteColumn()
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        count,
        progress.TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        yield bar
