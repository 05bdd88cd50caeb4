"""Each test twice: where records are found one by one, as there are few, and in columns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seerdb.storage.wal import sound


@pytest.fixture(scope="module", autouse=True, params=[sound.FEWEST, 1])
def fewest(request: pytest.FixtureRequest) -> Iterator[int]:
    """Frames that are worth being looked at together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sound, "FEWEST", request.param)
        yield request.param
