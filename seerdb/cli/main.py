"""The ``seerdb`` command: its subcommands, and what its exit codes mean."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import seerdb
from seerdb.cli import (
    admin,
    backup,
    bench,
    checkpoint,
    clone,
    digest,
    drill,
    history,
    inspect,
    keys,
    promote,
    repair,
    restore,
    serve,
    transfer,
    verify,
)
from seerdb.errors import (
    AlreadyExistsError,
    BusyError,
    ConflictError,
    CorruptionError,
    DiskFullError,
    FencedError,
    HistoryError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    SeerDBError,
    UnavailableError,
)

EXIT_CODES: dict[type[Exception], int] = {
    SeerDBError: 1,
    OSError: 1,
    InvalidRequestError: 2,
    NotFoundError: 3,
    HistoryError: 3,
    FileNotFoundError: 3,
    ConflictError: 4,
    AlreadyExistsError: 4,
    FencedError: 4,
    UnavailableError: 5,
    CorruptionError: 6,
    BusyError: 7,
    DiskFullError: 7,
}
"""By the class of the error, or the nearest base that is listed."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN_PIPE = 141
NOT_TEXT = "surrogates not allowed"
"""What Python says of an argument that is not UTF-8, where it is used as text."""
SHOWN = 60
"""How many characters up to the wrong one are shown of it."""

_EPILOG = (
    "Exit codes: 0 done, or sound; 1 failed, or damaged; 2 wrong command line; 3 not there; "
    "4 conflict, or locked; 5 server or store not reachable; 6 stored bytes are damaged; "
    "7 busy, or disk full; 8 repaired, but something is lost or in doubt; 130 interrupted; "
    "141 the reader of the output went away; 129 or 143 ended by SIGHUP or SIGTERM."
)


class Commands(TyperGroup):
    """The subcommands; turns errors into a line on standard error and an exit code."""

    def make_context(self, *args: Any, **named: Any) -> Any:
        """What to run; or print the help or the version, where that is asked for."""
        with _told():
            return super().make_context(*args, **named)

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand that was asked for."""
        with _told():
            return super().invoke(ctx)


@contextmanager
def _told() -> Iterator[None]:
    """Errors in here, and in what is printed by its end, become a line and an exit code."""
    try:
        try:
            yield
        except SystemExit as exit_:  # with which rich ends where it prints help
            if isinstance(exit_.__context__, BrokenPipeError):
                raise exit_.__context__ from exit_
            raise
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        _forget_output()
        raise typer.Exit(BROKEN_PIPE) from error
    except UnicodeEncodeError as error:
        if error.reason != NOT_TEXT:
            raise
        shown = ascii(error.object[: error.end][-SHOWN:])
        print(f"seerdb: what is no key or value must be UTF-8, unlike {shown}", file=sys.stderr)
        raise typer.Exit(EXIT_CODES[InvalidRequestError]) from error
    except (SeerDBError, OSError) as error:
        lines = [str(error), *_notes(error)]
        print("seerdb:", "; ".join(lines).replace("\n", " "), file=sys.stderr)
        _forget_unprintable()
        raise typer.Exit(exit_code(error)) from error


def _notes(error: Exception) -> list[str]:
    """What an error says besides, without tracebacks of worker processes, unless it is a bug."""
    notes: list[str] = getattr(error, "__notes__", [])
    return [note for note in notes if "\n" not in note or isinstance(error, InternalError)]


def exit_code(error: Exception) -> int:
    """What a command exits with when it ends in ``error``."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return EXIT_CODES[DiskFullError]
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def _forget_unprintable() -> None:
    """Forget what is left of an output that takes nothing more."""
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()


def _forget_output() -> None:
    """Nobody reads it any more; else the interpreter would stumble over it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


app = typer.Typer(
    cls=Commands,
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    serve.serve,
    keys.get,
    keys.put,
    keys.delete,
    keys.scan,
    history.history,
    transfer.load,
    transfer.dump,
    admin.stats,
    admin.flush,
    admin.compact,
    promote.promote,
    digest.digest,
    verify.verify,
    verify.wal_verify,
    repair.repair,
    drill.drill,
    bench.bench,
):
    app.command()(command)
app.add_typer(checkpoint.app, name="checkpoint")
app.command()(restore.restore)
app.command("recovery-points")(restore.list_points)
app.add_typer(backup.app, name="backup")
app.add_typer(clone.app, name="clone")
app.add_typer(inspect.app, name="inspect")


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        print(f"seerdb {seerdb.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """SeerDB: a key-value database that lives in a bucket."""


def _keep_streams() -> None:
    """Open what this process was started without of standard input, output and error, so that no
    file of a database gets the number to which others print. To read the first and to write the
    second fails; what would go to the third is nobody's business."""
    streams = (
        ("stdin", "r", os.O_WRONLY),
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    )
    for name, mode, flags in streams:
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)  # gets the lowest number that is free
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - it has no name
            setattr(sys, name, os.fdopen(descriptor, mode))


def main() -> None:
    """Run the command line of this process; never returns."""
    _keep_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a table has dashes that not each locale has
        sys.stdout.reconfigure(errors="backslashreplace")
    app()
