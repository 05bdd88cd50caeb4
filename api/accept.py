"""What a client would rather have (RFC 9110, section 12.5.1), of media types that it names."""

from __future__ import annotations

import re

_WEIGHT = re.compile(rb"q=([01](\.[0-9]{0,3})?)")


def prefers(header: bytes, one: bytes, other: bytes) -> bool:
    """Whether an ``Accept`` names the media type ``one`` with a weight above 0, and ``other`` with
    none above that. Wildcards name nothing."""
    weights = {one: 0.0, other: 0.0}
    for each in header.lower().split(b","):
        name, *parameters = (part.strip() for part in each.split(b";"))
        if name in weights:
            weights[name] = _weight(parameters)
    return 0 < weights[one] >= weights[other]


def _weight(parameters: list[bytes]) -> float:
    found = [match[1] for part in parameters if (match := _WEIGHT.fullmatch(part))]
    return float(found[0]) if found else 1.0
