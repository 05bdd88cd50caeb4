"""Find out, before the first write, whether a store does what the engine relies on.

Seven requests on one object below ``probe/``, which is deleted again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from seerdb.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
)
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import probe_name

_FIRST = b"seerdb probe: first writer"
_SECOND = b"seerdb probe: second writer"
_OFFSET, _LENGTH = 14, 9


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store was seen to do. ``str`` is the verdict for people."""

    create_if_absent: bool
    """A second put-if-absent of a name is refused and changes nothing."""
    ranged_reads: bool
    """A range is exactly that part of the object."""
    list_after_write: bool
    """A listing shows an object, with its size, as soon as it is written."""
    delete: bool
    """A deleted object is gone from the next listing."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what the store cannot do, in words."""
        return tuple(
            field.name.replace("_", " ") for field in fields(self) if not getattr(self, field.name)
        )

    def __str__(self) -> str:
        return ", ".join(
            f"{field.name.replace('_', ' ')}: {'yes' if getattr(self, field.name) else 'NO'}"
            for field in fields(self)
        )


def probe(store: ObjectStore, random_hex: str) -> Capabilities:
    """Try everything once on the object ``probe/<random_hex>``. What a probe that is cut off
    leaves behind, the garbage collector takes.

    Raises ``UnavailableError`` when the store does not answer: then nothing is known. Two
    writers at the very same moment cannot be tested here; a store that looks before it
    writes passes.
    """
    name = probe_name(random_hex)
    refuses = _refuses_second(store, name)
    content = _content(store, name)
    ranged_reads = _reads_range(store, name, content)
    listed = [(info.name, info.size) for info in store.list(name)]
    store.delete([name])
    return Capabilities(
        create_if_absent=refuses and content == _FIRST,
        ranged_reads=ranged_reads,
        list_after_write=listed == [(name, len(content))],
        delete=store.list(name) == [],
    )


def require(capabilities: Capabilities, url: str) -> None:
    """Raise ``InvalidRequestError`` unless the store can do everything."""
    if capabilities.missing:
        raise InvalidRequestError(
            f"the store {url} cannot be used safely ({capabilities}); use one with conditional "
            "writes (If-None-Match), or a directory"
        )


def _refuses_second(store: ObjectStore, name: str) -> bool:
    try:
        store.put_if_absent(name, _FIRST)
    except InvalidRequestError:
        store.put(name, _FIRST)
        return False
    try:
        store.put_if_absent(name, _SECOND)
    except AlreadyExistsError:
        return True
    return False


def _content(store: ObjectStore, name: str) -> bytes:
    try:
        return store.get(name)
    except NotFoundError:
        return b""


def _reads_range(store: ObjectStore, name: str, content: bytes) -> bool:
    try:
        return store.get_range(name, _OFFSET, _LENGTH) == content[_OFFSET:][:_LENGTH]
    except (NotFoundError, CorruptionError):
        return False
