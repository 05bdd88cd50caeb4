"""The part of ``DB`` that is about other states than the newest: checkpoints."""

from __future__ import annotations

from seerdb.storage.checkpoints import Checkpoint
from seerdb.storage.engine import Engine


class Past:
    """What :class:`~seerdb.db.DB` inherits; not to be used by itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def checkpoint(
        self, name: str | None = None, expires: float | None = None, *, flush: bool = True
    ) -> Checkpoint:
        """Keep the database as it is now, under ``name`` (default: the time and the seq), for
        ``expires`` seconds or until it is dropped. Flushes first; without ``flush`` it shows what
        the tables hold by now. Costs a few requests and copies nothing.

        Raises ``InvalidRequestError``, ``AlreadyExistsError``, ``BusyError``; after
        ``UnavailableError`` it may be there or not.
        """
        self._engine.check_open()
        return self._engine.checkpoints.create(name, expires, flush=flush)

    def checkpoints(self) -> list[Checkpoint]:
        """What is kept, by name."""
        self._engine.check_open()
        return self._engine.checkpoints.all()

    def drop_checkpoint(self, name: str) -> None:
        """Keep a checkpoint no longer. Raises ``NotFoundError``."""
        self._engine.check_open()
        self._engine.checkpoints.drop(name)
