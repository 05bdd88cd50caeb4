"""Every error that SeerDB raises, named by what the caller must do.

::

    SeerDBError
      InvalidRequestError        fix the argument or the setting
      NotFoundError              the named object is not there (a missing key is None)
      AlreadyExistsError         an object of that name is already there
      ConflictError              re-read and try again (a precondition did not hold)
        LockedError              another process holds the data directory; stop it or use another
        LostError                forget it: the commit was lost with its writer; read, write anew
      MergeError                 put or delete the key: its operands do not fold
      HistoryError               ask for another instant: it says which can be told
      ReadOnlyError              go to the primary
      BusyError                  slow down; carries retry_after_seconds
      DiskError                  the local disk failed; look at the cause
        DiskFullError            free space on the local disk
      UnavailableError           retry with backoff; the cause is the object store
        WorkerError              the same; the cause is what background jobs run on
      ClosedError                open the database again
        FencedError              another writer took over; do not retry here
        PoisonedError            restart and read the first cause
      CorruptionError            restore; carries name, offset, expected, found and a hint
        ChecksumError            the bytes are not the bytes that were written
        TruncatedError           fewer bytes than promised
        UnsupportedFormatError   not ours, or from a future version
      InternalError              report a bug

No error of fsspec, botocore or the operating system crosses the two ports
(``storage/local/os_files.py``, ``storage/object_store/``): it is chained as the cause.
"""

from __future__ import annotations

from functools import partial

import msgspec

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises where bytes are not what they are taken for: text may be none, and nesting
too deep."""


class SeerDBError(Exception):
    """The root: catching it catches all that SeerDB raises on purpose."""


class InvalidRequestError(SeerDBError):
    """An argument or a setting is wrong; nothing was changed."""


class NotFoundError(SeerDBError):
    """The named thing is not there. A missing key is ``None``, never this."""


class AlreadyExistsError(SeerDBError):
    """A put-if-absent found the name taken."""


class ConflictError(SeerDBError):
    """A precondition did not hold; nothing was changed. Read again and decide again."""


class LockedError(ConflictError):
    """Another process has the data directory open."""


class LostError(ConflictError):
    """A commit that the caller relies on was lost: a later writer took over without it."""


class MergeError(SeerDBError):
    """The operands of a key cannot be folded: they do not fit its value, or the merge operator
    failed. Nothing is lost; a put or a delete of the key begins anew."""


class HistoryError(SeerDBError):
    """The instant that was asked for cannot be told: it is before what is kept, after the end, or
    in a gap of the log. Says which can."""


class ReadOnlyError(SeerDBError):
    """This node does not take writes. ``primary`` is the URL of the one that does, if known."""

    def __init__(self, message: str, *, primary: str | None = None) -> None:
        super().__init__(message)
        self.primary = primary

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), primary=self.primary), (str(self),)


class BusyError(SeerDBError):
    """The database cannot take this now without exceeding its budget.

    ``retry_after_seconds`` is when it makes sense to try again.
    """

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[object, ...]:
        again = partial(type(self), retry_after_seconds=self.retry_after_seconds)
        return again, (str(self),)


class DiskError(SeerDBError):
    """The local disk or file system refused an operation; the cause is chained."""


class DiskFullError(DiskError):
    """No space is left on the local disk."""


class UnavailableError(SeerDBError):
    """The object store cannot be reached or refuses; the cause is chained."""


class WorkerError(UnavailableError):
    """A job was not done, as its worker process or the Dask cluster failed; it runs again by
    itself. The object store may be well."""


class ClosedError(SeerDBError):
    """The handle is closed."""


class FencedError(ClosedError):
    """A writer with a higher epoch owns the database, or may; this one writes no more.

    A write that was under way may have reached the bucket in time to be part of the database.
    """


class PoisonedError(ClosedError):
    """A write or sync failed in a way that cannot be repeated safely.

    Reads go on. The first cause is chained; reopening recovers what was acknowledged.
    """


class CorruptionError(SeerDBError):
    """Stored bytes are not what was written there.

    ``name`` is the file or object, ``offset`` the byte position in it (``None`` for the
    whole), ``expected`` and ``found`` say what differs, ``hint`` what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        name: str = "",
        offset: int | None = None,
        expected: object = None,
        found: object = None,
        hint: str = "",
    ) -> None:
        where = f"{name}" + (f" at byte {offset}" if offset is not None else "")
        what = f": expected {expected!r}, found {found!r}" if expected is not None else ""
        then = f" ({hint})" if hint else ""
        super().__init__(f"{where + ': ' if where else ''}{message}{what}{then}")
        self.reason = message
        self.name = name
        self.offset = offset
        self.expected = expected
        self.found = found
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_corruption, (
            type(self),
            self.reason,
            self.name,
            self.offset,
            self.expected,
            self.found,
            self.hint,
        )


def _rebuild_corruption(
    kind: type[CorruptionError],
    message: str,
    name: str,
    offset: int | None,
    expected: object,
    found: object,
    hint: str,
) -> CorruptionError:
    return kind(message, name=name, offset=offset, expected=expected, found=found, hint=hint)


class ChecksumError(CorruptionError):
    """A checksum does not match its bytes."""


class TruncatedError(CorruptionError):
    """Fewer bytes are there than the format or the request promised."""


class UnsupportedFormatError(CorruptionError):
    """The bytes are not SeerDB's, or of a format version this release cannot read."""


class InternalError(SeerDBError):
    """An invariant of SeerDB itself does not hold. Please report it."""
