"""A connection to a Dask scheduler: made when it is first needed, and anew after it was lost.

The only module that knows Dask. Dask starts calls somewhere, sometimes twice, and brings back
what they return, sometimes not; nothing more is asked of it, see docs/adr. Every wait here is
bounded: a scheduler that does not answer is as good as none.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from seerdb.errors import ClosedError, InvalidRequestError, SeerDBError, WorkerError

MOST_AT_ONCE = 8
"""Jobs of one database that run on a cluster beside each other."""
ANSWER_SECONDS = 5.0
"""How long the scheduler may take to answer."""
GOODBYE_SECONDS = 1.0
"""How long disconnecting may take; one that does not answer is left without."""
CHECK_SECONDS = 5.0
"""How often it is asked, while a call runs, whether there still are workers."""

StartThread = Callable[[Callable[[], None], str], threading.Thread]


class Cluster:
    """The workers behind the scheduler at ``host:port``. Thread-safe.

    Opening one makes no request. Raises: ``InvalidRequestError`` when Dask is not installed.
    """

    def __init__(self, address: str, start_thread: StartThread) -> None:
        if find_spec("distributed") is None:
            raise InvalidRequestError(
                "background work on a Dask cluster needs more packages: pip install 'seerdb[dask]'"
            )
        # Now, as loading them takes a third of a second in which nothing else should go on.
        import distributed
        from tornado.ioloop import IOLoop

        self.address = address
        self.threads = 0
        """Of all workers, when the scheduler was last asked."""
        self._open_client: Callable[..., Any] = distributed.Client
        self._open_loop: Callable[..., Any] = IOLoop
        self._start_thread = start_thread
        # Guarded by the lock:
        self._lock = threading.Lock()
        self._loop: Any = None
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._closed = False

    def submit(self, function: Callable[..., Any], argument: object) -> Call:
        """Have ``function(argument)`` called by a worker, once or more often.

        Both must be picklable. Raises: ``WorkerError`` when the scheduler cannot
        be reached or has no workers, ``ClosedError``.
        """
        client = self._connected()
        try:
            self.check(client)
            # As a file, of which neither logs nor the dashboard show the bytes. Not pure: the same
            # call again is another call, not the answer of the last one.
            sealed = BytesIO(pickle.dumps(_Evaluated(function, argument)))
            future = client.submit(pickle.load, sealed, pure=False)
        except SeerDBError:
            raise
        except Exception as error:
            self._drop(client)
            raise self.failure(error) from error
        return Call(self, client, future)

    def check(self, client: Any) -> None:
        """Raise ``WorkerError`` unless the scheduler answers and has workers."""
        try:
            # Dask reconnects by itself, but to a scheduler that may have forgotten our calls.
            workers = client.nthreads(callback_timeout=ANSWER_SECONDS)
        except (Exception, CancelledError) as error:
            self._drop(client)
            raise self.failure(error) from error
        self.threads = sum(workers.values())
        if not workers:
            raise WorkerError(
                f"no worker is connected to the Dask scheduler at {self.address}; start one there"
            )

    def failure(self, error: BaseException) -> WorkerError:
        """What to raise when the cluster has failed with ``error``."""
        return WorkerError(
            f"the Dask cluster at {self.address} did not do the job, which runs again later: "
            f"{type(error).__name__}: {error}"
        )

    def close(self) -> None:
        """Disconnect: what still runs there runs for nobody. Idempotent."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            thread, self._thread = self._thread, None
        self._disconnect(client)
        if thread is not None:
            self._loop.add_callback(self._loop.stop)
            thread.join()

    def _connected(self) -> Any:
        with self._lock:
            if self._closed:
                raise ClosedError("the runtime is closed; close it after its databases")
            stale = self._client
            if stale is not None and stale.status == "running":
                return stale
            self._client = None
            self._disconnect(stale)
            try:
                self._client = self._open_client(
                    self.address,
                    loop=self._running_loop(),
                    timeout=ANSWER_SECONDS,
                    set_as_default=False,
                    direct_to_workers=False,
                    name="seerdb",
                )
            except Exception as error:
                raise self.failure(error) from error
            return self._client

    def _running_loop(self) -> Any:
        """One loop for all clients: each that cannot connect would leave a thread of its own."""
        if self._thread is None:
            self._loop = self._open_loop(make_current=False)
            ready = threading.Event()
            self._loop.add_callback(ready.set)
            self._thread = self._start_thread(self._serve_loop, "seerdb-dask")
            ready.wait()
        return self._loop

    def _serve_loop(self) -> None:
        self._loop.start()
        self._loop.close(all_fds=True)

    def _drop(self, client: Any) -> None:
        with self._lock:
            if self._client is client:
                self._client = None
        self._disconnect(client)

    def _disconnect(self, client: Any) -> None:
        if client is not None:
            with suppress(Exception, CancelledError):
                client.close(timeout=GOODBYE_SECONDS)


def watch_call() -> Callable[[], bool]:
    """On a worker, in a call: what tells, in any thread, whether nobody waits for that any more,
    because it was cancelled or because who asked for it is gone. Elsewhere: no. Asks nobody, so
    it costs next to nothing.

    Dask stops no call that runs, but the worker is told, and notes it as the state of the task.
    """
    worker: Any = sys.modules.get("distributed.worker")
    key = getattr(worker.thread_state, "key", None) if worker else None
    if key is None:
        return lambda: False
    tasks = worker.get_worker().state.tasks

    def is_forgotten() -> bool:
        task = tasks.get(key)
        return task is None or task.state == "cancelled"

    return is_forgotten


class _Evaluated:
    """Unpickled it is what the call returns.

    So the call travels as bytes, in which nothing is looked up before it is a worker's turn to
    make it: a worker on which a module is missing would not survive being sent a function.
    """

    def __init__(self, function: Callable[..., Any], argument: object) -> None:
        self._function = function
        self._argument = argument

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object]]:
        return self._function, (self._argument,)


class Call:
    """A call under way. Keep it: the cluster forgets a call that nobody waits for."""

    def __init__(self, cluster: Cluster, client: Any, future: Any) -> None:
        self._cluster = cluster
        self._client = client
        self._future = future
        self._cancelled = False
        self._woken = threading.Event()
        future.add_done_callback(lambda _: self._woken.set())

    def result(self) -> Any:
        """Wait for what the call returns; to be called once.

        Raises: a ``SeerDBError`` that the call raised, ``ClosedError`` after :meth:`cancel`,
        ``WorkerError`` for all else: the call may then have been made, or still be.
        """
        try:
            while not self._future.done():
                self._woken.wait(CHECK_SECONDS)
                if self._cancelled:
                    raise ClosedError("the job elsewhere was cancelled; it does not count")
                if not self._future.done():
                    self._cluster.check(self._client)
            return self._future.result(timeout=ANSWER_SECONDS)
        except SeerDBError:
            raise
        except (Exception, CancelledError) as error:
            raise self._cluster.failure(error) from error
        finally:
            # Asks the scheduler to forget the call without waiting for its answer.
            self._future.release()

    def cancel(self) -> None:
        """Have :meth:`result` return at once. A worker that has begun is told, and may look
        (:func:`watch_call`)."""
        self._cancelled = True
        self._woken.set()
