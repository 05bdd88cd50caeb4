"""One list of operations under many configurations: the answers must be the same, seqs included.

No setting of sizes, caches, filters, compression, durability or threads may change what is
read, and neither may a crash, a machine that is lost, or a bucket that takes no tables.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import pytest

from seerdb.storage.object_store.location import StoreLocation
from tests.fixtures.stores import S3Server
from tests.model.configurations import AXES, CONFIGURATIONS, NAMED, pairs_of, pairwise_choices
from tests.model.play import ByDatabase, check
from tests.model.script import VERBS, Step, script_of

LENGTH = 360


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_changes_no_answer(name: str) -> None:
    script = script_of(0, LENGTH)
    check(script, partial(ByDatabase, CONFIGURATIONS[name], script.keys))


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_changes_no_answer_for_many_scripts(name: str) -> None:
    for seed in range(1, 30):
        script = script_of(seed, LENGTH)
        check(script, partial(ByDatabase, CONFIGURATIONS[name], script.keys))


def test_a_directory_as_bucket_changes_no_answer(tmp_path: Path) -> None:
    script = script_of(0, LENGTH)
    buckets = iter(range(1000))

    def opening() -> ByDatabase:
        location = StoreLocation(str(tmp_path / str(next(buckets))))
        return ByDatabase(NAMED["small tables in the bucket"], script.keys, location)

    check(script, opening)


@pytest.mark.integration
def test_an_s3_bucket_changes_no_answer(moto_server: S3Server) -> None:
    script = script_of(0, LENGTH // 6)

    def opening() -> ByDatabase:
        location = StoreLocation(moto_server.create_bucket(), moto_server.options)
        return ByDatabase(NAMED["all in memory"], script.keys, location)

    check(script, opening)


def test_the_configurations_are_many_and_hold_every_pair_of_values() -> None:
    choices = pairwise_choices()
    pairs = set().union(*map(pairs_of, choices))
    for one, other in combinations(AXES, 2):
        found = {(a[1], b[1]) for a, b in pairs if (a[0], b[0]) == (one, other)}
        assert len(found) == len(AXES[one]) * len(AXES[other])
    assert len(CONFIGURATIONS) == len(choices) + len(NAMED) >= 30


def test_a_script_does_everything_there_is_to_do() -> None:
    script = script_of(0, LENGTH)
    assert {step.verb for step in script.steps} == set(VERBS)
    kinds = {kind for step in script.steps for kind, _, _ in step.operations}
    assert kinds == {"put", "delete", "delete_range", "put_ttl", "merge"}


class Forgetful(ByDatabase):
    """Ignores deletes."""

    def do(self, number: int, step: Step) -> list[object]:
        kept = [("put", b"x", b"") if each[0] == "delete" else each for each in step.operations]
        return super().do(number, step._replace(operations=tuple(kept)))


def test_a_difference_is_told_with_its_seed_and_the_least_that_shows_it() -> None:
    script = script_of(5, LENGTH)
    with pytest.raises(AssertionError) as caught:
        check(script, partial(Forgetful, NAMED["all in memory"], script.keys))
    told = str(caught.value).splitlines()
    assert told[0].startswith("seed 5, at step ")
    assert len(told) <= 6
    assert any("delete" in line for line in told)
