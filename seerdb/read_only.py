"""What those who may not write refuse, in one place: everything of ``DB`` that is the writer's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn


class ReadOnly(ABC):
    """The base of handles on a database that another process writes. A server asks them what it
    asks a ``DB``; these methods answer by naming who is to be asked."""

    @abstractmethod
    def refuse(self) -> NoReturn:
        """Raises ``ReadOnlyError``, which names the writer if it is known."""

    def _refused(self, *_arguments: Any, **_named: Any) -> NoReturn:
        """Raises ``ReadOnlyError``: the process that has the database open for writing does it."""
        self.refuse()

    submit = submit_all = flush = compact = _refused
    # The log is followed at the primary, or in the bucket; the past is the primary's to tell.
    follow = seq_at = history = restore_in_place = _refused
    checkpoint = checkpoints = drop_checkpoint = _refused
    start_backup = backups = cancel_backup = recovery_points = _refused

    def begin_closing(self, patience: float | None = None) -> None:  # noqa: B027 - all have it
        """See :meth:`seerdb.DB.begin_closing`. Does nothing where nothing takes long."""

    @property
    def is_fenced(self) -> bool:
        """Never: it writes nothing."""
        return False

    @property
    def takeover(self) -> NoReturn:
        """Raises ``ReadOnlyError``: it took nothing over, and must not seem to have."""
        self.refuse()
