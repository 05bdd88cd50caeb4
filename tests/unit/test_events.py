"""Events: frozen records that a log can hold as they are."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import msgspec
import pytest

from seerdb import events
from seerdb.events import Event, LostCommits, ignore

KINDS: list[type[Event]] = [
    cls
    for _, cls in inspect.getmembers(events, inspect.isclass)
    if issubclass(cls, Event) and cls is not Event
]
SAMPLES: dict[Any, Any] = {
    int: 7,
    bool: True,
    float: 0.5,
    str: "text",
    str | None: None,
    list[int]: [1, 2],
    list[str]: ["a"],
    list[LostCommits]: [LostCommits(1, 8, 9)],
}


def sample(kind: type[Event]) -> Event:
    hints = get_type_hints(kind)
    return kind(**{name: SAMPLES[hints[name]] for name in kind.__struct_fields__})


def test_there_is_an_event_for_what_matters() -> None:
    assert {kind.__name__ for kind in KINDS} >= {
        "Recovered",
        "MemtableSealed",
        "FlushCompleted",
        "CompactionCompleted",
        "GarbageCollected",
        "WorkFailed",
        "WriteStalled",
        "WriteResumed",
        "Fenced",
        "Poisoned",
    }
    assert all(kind.__doc__ for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_frozen(kind: type[Event]) -> None:
    event = sample(kind)
    with pytest.raises(AttributeError):
        setattr(event, kind.__struct_fields__[0], 1)
    assert event == sample(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_goes_through_json_under_its_name(kind: type[Event]) -> None:
    event = sample(kind)
    data = msgspec.json.encode(event)
    assert msgspec.json.decode(data)["type"] == kind.__name__
    assert msgspec.json.decode(data, type=kind) == event


def test_who_does_not_listen_hears_nothing() -> None:
    for kind in KINDS:
        ignore(sample(kind))
