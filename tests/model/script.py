"""One random list of operations, as data, and what the model answers to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from seerdb.testing.model import Contents, Model, Operation


def time_of(number: int) -> float:
    """Seconds after the start, of a step: some lifetimes end between flushes, some between lives.
    Never at the turn of a second, as the clock of a database may be microseconds ahead."""
    return 0.05 + 0.4 * number


ALPHABET = (b"\x00", b"a", b"b", b"\xff")


class Step(NamedTuple):
    """``commit`` and ``ingest`` with operations; ``flush``, ``compact``, ``reopen``, ``snapshot``
    (take one), ``release`` (read the oldest one and close it), ``scan`` without."""

    verb: str
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Script:
    """What is done, to which keys; ``seed`` is where it came from."""

    seed: int
    keys: tuple[bytes, ...]
    steps: tuple[Step, ...]


VERBS = {"commit": 76, "ingest": 3, "flush": 5, "compact": 1, "reopen": 3, "snapshot": 4}
VERBS |= {"release": 4, "scan": 4}


def script_of(seed: int, length: int) -> Script:
    """So many random steps, after an old run too large to be merged with the small ones above.

    The keys are few, so that they meet, and some the prefix of others.
    """
    draw = random.Random(seed)
    keys = sorted({b"".join(draw.choices(ALPHABET, k=n % 4 + 1)) for n in range(60)})
    ballast = [
        Step("commit", tuple(("put", b"ballast %03d" % n, draw.randbytes(200)) for n in rows))
        for rows in (range(start, start + 8) for start in range(0, 160, 8))
    ]
    return Script(seed, tuple(keys), (*ballast, *(_step(draw, keys) for _ in range(length))))


def _step(draw: random.Random, keys: list[bytes]) -> Step:
    [verb] = draw.choices(list(VERBS), list(VERBS.values()))
    if verb == "ingest":
        pairs = {draw.choice(keys): draw.randbytes(30) for _ in range(draw.choice([1, 4, 20]))}
        return Step(verb, tuple(("put", key, value) for key, value in pairs.items()))
    if verb == "commit":
        count = draw.choice([1, 1, 1, 1, 2, 8])
        return Step(verb, tuple(_operation(draw, keys) for _ in range(count)))
    return Step(verb)


def _operation(draw: random.Random, keys: list[bytes]) -> Operation:
    kinds = {"put": 8, "delete": 3, "delete_range": 1, "put_ttl": 2, "merge": 4}
    [kind] = draw.choices(list(kinds), list(kinds.values()))
    if kind == "delete_range":
        start = draw.randrange(len(keys) - 1)
        end = min(len(keys) - 1, start + draw.choice([1, 1, 2, 3, 20]))
        return kind, keys[start], keys[end]
    if kind == "delete":
        return kind, draw.choice(keys), b""
    size = draw.choice([0, 1, 5, 60, 400] if kind != "merge" else [0, 1, 2])
    return kind, draw.choice(keys), draw.randbytes(3) * size


class Reader(NamedTuple):
    """What a script asks: of the newest state or of a snapshot."""

    get: Callable[[bytes], bytes | None]
    multi_get: Callable[[list[bytes]], list[bytes | None]]
    scan: Callable[..., Any]


def ask(reader: Reader, keys: Sequence[bytes], number: int, step: Step) -> list[object]:
    """The answers after the step ``number``: what it was about always, all of it now and then."""
    answers: list[object] = [reader.get(key) for _, key, _ in step.operations[:3]]
    answers.append(reader.get(keys[number % len(keys)]))
    if number % 7 == 0 or step.verb in ("release", "reopen"):
        answers.append(reader.multi_get(list(keys)))
    if step.verb in ("scan", "release"):
        start, end = keys[number % 11], keys[-1 - number % 7]
        answers.append(list(reader.scan(start, end)))
        answers.append(list(reader.scan(start, end, reverse=True, limit=9)))
        answers.append(list(reader.scan(reverse=number % 2 == 0)))
    return answers


@dataclass
class ByModel:
    """Carries a script out on the model."""

    keys: Sequence[bytes]
    time: float = 0.0
    snapshots: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = Model(lambda: self.time)

    def do(self, number: int, step: Step) -> list[object]:
        """The answers to one step."""
        self.time = time_of(number)
        model, at, now = self.model, self.model.seq, self.time
        if step.operations:
            model.attempt(step.operations)
            at = model.seq
            model.acknowledge(at, "local")
        elif step.verb == "snapshot":
            self.snapshots.append((at, now))
        elif step.verb == "reopen":
            self.snapshots.clear()
        elif step.verb == "release" and self.snapshots:
            at, now = self.snapshots.pop(0)
        return [at, *ask(self._reader(at, now), self.keys, number, step)]

    def _reader(self, at: int, now: float) -> Reader:
        contents: Contents = self.model.contents(at, now)

        def get(key: bytes) -> bytes | None:
            return contents[key].value if key in contents else None

        def scan(*bounds: bytes, **how: Any) -> list[tuple[bytes, bytes]]:
            return self.model.scan(*bounds, at=at, now=now, **how)

        return Reader(get, lambda keys: [get(key) for key in keys], scan)
