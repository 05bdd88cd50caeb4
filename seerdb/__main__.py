"""The ``seerdb`` command, also as ``python -m seerdb``.

A worker process imports the script again that started its parent, and so this: it takes along
nothing that the parent's jobs do not need.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

BY_SIGNAL = 128
"""Added to the number of the signal that ended a command, which makes its exit code."""


def main() -> None:
    """Run the command line of this process; never returns."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _end)
    try:
        from seerdb.cli.main import main as run

        run()
    except KeyboardInterrupt:  # while it was loaded; what runs tells by itself
        sys.exit(BY_SIGNAL + signal.SIGINT)


def _end(number: int, _frame: object) -> NoReturn:
    """Let go of what the command holds elsewhere, such as the lock of a repository, as Ctrl-C does.
    A second signal ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(BY_SIGNAL + number)


if __name__ == "__main__":
    main()
