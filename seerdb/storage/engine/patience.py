"""How long a close waits for a bucket that does not answer.

Such a bucket takes half a minute to fail a request, and each is tried five times. Whoever closes
may have less time than that: who is told to stop is killed when it takes too long.
"""

from __future__ import annotations

import threading
from functools import partial

from seerdb.events import Listener, WorkFailed
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.runtime import Runtime

ASK_AGAIN_SECONDS = 5.0


class Patience:
    """Of one close with its bucket. Thread-safe."""

    def __init__(self, stores: Stores, runtime: Runtime, listener: Listener, *, owns: bool) -> None:
        """``owns``: the runtime has no other database, whose jobs would be cut off, too."""
        self._stores = stores
        self._workers = runtime.workers
        self._listener = listener
        self._owns_runtime = owns
        self._ended = threading.Event()

    def begin(self, seconds: float) -> None:
        """From ``seconds`` from now until :meth:`end`: ask the bucket now and then, and once it
        does not answer, have all requests fail and nothing wait for them."""
        self._workers.start_thread(partial(self._run, seconds), "seerdb-patience")

    def end(self) -> None:
        """It is closed."""
        self._ended.set()

    def _run(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            if not self._stores.answers():
                why = "the bucket does not answer; what is not flushed stays in the local log"
                self._listener(WorkFailed("close", why, 1, 0.0))
                self._stores.close()
                if self._owns_runtime:
                    self._workers.processes.cut_off()
                return
            seconds = ASK_AGAIN_SECONDS
