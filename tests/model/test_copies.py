"""All that a database can do and that can befall it, in random lists, beside a model.

Where the other models leave out what the one or the other cannot say, this one has all at once:
nodes that take over, deaths at any operation, a bucket that fails, clocks that step back, settings
that change between lives, snapshots and scans held over all of it, restores in place, the past,
checkpoints, backups and prunes, clones, a replica, repairs.
"""

from __future__ import annotations

import random

import pytest

from tests.model.copies import Copies

STEPS = 100


def run(seed: int) -> None:
    draw = random.Random(seed)
    verbs = draw.choices(list(Copies.VERBS), list(Copies.VERBS.values()), k=STEPS)
    copies, number = Copies(seed), 0
    try:
        for number, verb in enumerate(verbs):
            copies.step(verb, random.Random(f"{seed}.{number}"))
        copies.end()
    except Exception as error:
        error.add_note(f"seed {seed}, step {number} of {verbs[: number + 1]}")
        raise


@pytest.mark.parametrize("seed", range(12))
def test_whatever_befalls_a_database_it_and_all_its_copies_are_as_the_model_says(seed: int) -> None:
    run(seed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(8))
def test_whatever_befalls_very_many_databases(block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        run(seed)
