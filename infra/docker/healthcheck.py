"""Exit 0 when the service in this container is ready: ``python healthcheck.py [URL]``."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

READY = "http://127.0.0.1:8000/readyz"
TIMEOUT_SECONDS = 3.0


def main(url: str = READY) -> int:
    """0 when ``url`` answers 200; else 1, with what it says, which names the failed check."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as reply:
            return 0 if reply.status == 200 else 1
    except urllib.error.HTTPError as refusal:
        print(refusal.read().decode(errors="replace"), file=sys.stderr)
    except OSError as failure:
        print(f"{url}: {failure}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
