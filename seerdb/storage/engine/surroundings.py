"""The surroundings of the write path in an open database: see :class:`CommitEnv`."""

from __future__ import annotations

from collections.abc import Callable

from seerdb.events import Listener, MemtableSealed, Poisoned
from seerdb.storage.engine.background import Background
from seerdb.storage.engine.shipping import Shipping
from seerdb.storage.memtable import Memtable
from seerdb.storage.read.reads import Reads
from seerdb.storage.read.state import LiveState
from seerdb.storage.wal.backlog import Place
from seerdb.storage.workers.threads import Workers
from seerdb.storage.write.admission import Admission
from seerdb.storage.write.poison import in_words
from seerdb.storage.write.request import Ticket


class Surroundings:
    """What is written has consequences: it is flushed, shipped, told, and held back."""

    def __init__(
        self,
        live: LiveState,
        reads: Reads,
        admission: Admission,
        shipping: Shipping,
        background: Background,
        workers: Workers,
        listener: Listener,
    ) -> None:
        self._live = live
        self._shipping = shipping
        self._background = background
        self._workers = workers
        self._listener = listener
        self._hold_back = admission.hold_back
        self.admit = admission.admit
        self.begin = admission.begin
        self.check_disk = admission.check_disk
        self.current_seq = reads.seq_of
        self.call_later = workers.timer.call_later

    def hold_back(self, appended: int, before_waiting: Callable[[], None]) -> int:
        self._shipping.wrote(self._live.visible_seq + 1, appended)
        return self._hold_back(appended, before_waiting)

    def tend_log(self) -> None:
        self._background.log.wake()

    def sealed(self, memtable: Memtable, place: Place) -> None:
        event = MemtableSealed(memtable.segments[-1], memtable.last_seq, memtable.size)
        try:
            self._listener(event)
        finally:  # sealed it is, whatever a listener raises
            self._shipping.sealed(place)
            self._background.flush.wake()

    def poisoned(self, cause: BaseException) -> None:
        self._listener(Poisoned(in_words(cause)))

    def ship(self, tickets: list[Ticket], place: Place) -> None:
        self._shipping.shipper.enqueue(tickets, place)
        wake = self._background.ship.wake
        if self._workers.is_inline:
            # On another thread: the caller holds the commit mutex, which shipping takes.
            self._workers.submit_lane(wake)
        else:
            wake()
