"""Reading on in the manifest as its writer adds to it, by guessing the next object's name.

Looking for news is one GET of a name that is not there yet. The collector may have removed what a
follower missed while it slept, which looks like no news: so from time to time, and whenever
something does not fit, the manifest is loaded as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.storage.manifest.edit import INGEST, RESTORE, Edit, ManifestRecord
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import apply, load, read_record
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import MANIFEST_PREFIX
from seerdb.storage.replication.compare import Flush


class ManifestTail:
    """The newest state that is known. One thread at a time."""

    def __init__(self, store: ObjectStore, merges_with: Callable[[str], object]) -> None:
        """``merges_with`` is told the merge operator of a database that had none, before anything
        is known that was merged; what it raises ends the look. Raises: ``NotFoundError`` where
        there is no database, and as :meth:`reload`."""
        self._store = store
        self._merges_with = merges_with
        state = load(store)
        if state is None:
            raise NotFoundError(
                "there is no database to follow: the bucket holds no manifest; start its writer "
                "first, or set another store"
            )
        self.state: ManifestState = state
        self.restored = 0
        """Number of the last record that may have put an earlier state back: one that has, or that
        was loaded with others which were not looked at."""
        self.flushes: list[Flush] = []
        """Those that were read, until somebody takes them."""

    def advance(self) -> bool:
        """Read what was added; whether there was anything. Raises: as :meth:`reload`."""
        before = self.state.number
        try:
            while True:
                following = read_record(self._store, self.state.number + 1)
                before = self.state.last_seq
                self._continue_with(apply(self.state, following))
                self._note(following, before)
        except NotFoundError:
            return self.state.number > before
        except CorruptionError:
            return self.reload()

    def _note(self, record: ManifestRecord, before: int) -> None:
        if not isinstance(record, Edit):
            return
        if record.reason == RESTORE:
            self.restored = record.number
        elif record.reason != INGEST and record.last_seq > before:
            self.flushes += [Flush(before, record.last_seq, table) for table in record.add]

    def _continue_with(self, state: ManifestState) -> None:
        if state.merge_operator != self.state.merge_operator:
            self._merges_with(state.merge_operator)
        self.state = state

    def reload(self) -> bool:
        """Load the newest state anew; whether it is another one.

        Raises: ``CorruptionError`` when the manifest is damaged, or is not what was followed so
        far; ``UnavailableError``.
        """
        state, ours = load(self._store), self.state
        if state is None or state.database_id != ours.database_id or state.number < ours.number:
            found = f"{state.number} of database {state.database_id}" if state else "nothing"
            raise CorruptionError(
                "the manifest is not the one that was followed so far",
                name=MANIFEST_PREFIX,
                expected=f"number {ours.number} of database {ours.database_id}",
                found=found,
                hint="was the bucket replaced? restart the replica",
            )
        self._continue_with(state)
        if state.number > ours.number:
            self.restored = state.number
        return state.number > ours.number
