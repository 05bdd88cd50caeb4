"""``python -m seerdb`` is the ``seerdb`` command."""

from __future__ import annotations

from seerdb.cli.main import main

if __name__ == "__main__":
    main()
