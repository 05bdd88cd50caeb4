"""Which backups to keep, and which objects of a repository nobody needs then. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from seerdb.errors import InvalidRequestError
from seerdb.storage.backup.descriptor import Descriptor
from seerdb.storage.object_store.names import (
    parse_blob_name,
    parse_table_name,
    parse_wal_name,
)
from seerdb.storage.value import SECOND_US


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Backups stay that are among the newest ``count``, or were made less than ``seconds`` before
    the newest, or to be kept; and in any case the newest, and the newest that is whole.

    So no clock of who prunes makes anything old, nor do weeks without a backup. Restic's
    ``--keep-within`` counts like that.
    """

    count: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.count is None and self.seconds is None:
            raise InvalidRequestError("say how many backups to keep, or for how long, or both")
        count: object = self.count
        seconds: object = self.seconds
        if count is not None and (type(count) is not int or count < 1):
            raise InvalidRequestError(f"at least one backup is kept, not {count!r}")
        if seconds is not None and not (isinstance(seconds, int | float) and seconds >= 0):
            raise InvalidRequestError(f"backups are kept for 0 s or more, not {seconds!r}")

    def outdated(
        self, backups: Sequence[Descriptor], whole: Sequence[Descriptor], now_us: int
    ) -> list[Descriptor]:
        """Of all backups, the newest last, those that need not stay. ``whole``: those of them of
        which nothing is missing. ``now_us`` is for the case that the newest is from the future."""
        newest = [*whole[-1:], *backups[-(self.count or 1) :]]
        ids = {each.id for each in newest}
        now_us = min(now_us, newest[0].created_us)
        return [
            each
            for each in backups
            if not (each.keep or each.id in ids or self._is_young(each, now_us))
        ]

    def _is_young(self, backup: Descriptor, now_us: int) -> bool:
        return self.seconds is not None and now_us - backup.created_us <= self.seconds * SECOND_US


def is_whole(backup: Descriptor, sizes: Mapping[str, int]) -> bool:
    """Whether all that it needs is there, and as long as it is to be."""
    return all(sizes.get(each.name) == each.size for each in backup.objects)


def unneeded(names: Iterable[str], left: Sequence[Descriptor]) -> list[str]:
    """Of the objects of a repository, those that no backup of ``left``, one at least, needs, nor
    anybody who restores a commit after the oldest of them."""
    needed = {each.name for backup in left for each in backup.objects}
    oldest = min(backup.record.last_seq for backup in left)
    parsed = {name: place for name in names if (place := parse_wal_name(name))}
    log = [place for place in parsed.values() if oldest < place[2] and place[1] <= place[2]]
    lowest = min((epoch for epoch, _, _ in log), default=None)
    gone = []
    for name in names:
        if name in parsed:
            epoch, first, last = parsed[name]
            # A branch says what of lower epochs is void; see ``shipping/shipped.py``.
            over = (lowest is None or epoch <= lowest) if last < first else last <= oldest
        else:
            over = parse_table_name(name) is not None or parse_blob_name(name) is not None
        if over and name not in needed:
            gone.append(name)
    return gone
