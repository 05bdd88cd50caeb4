"""The ``seerdb`` command, also as ``python -m seerdb``.

A worker process imports the script again that started its parent, and so this: it takes along
nothing that the parent's jobs do not need.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; never returns."""
    from seerdb.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
