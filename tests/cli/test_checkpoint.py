"""Checkpoints on the command line."""

from __future__ import annotations

import pytest

from seerdb.cli import checkpoint
from tests.cli.conftest import Commands


def test_checkpoints_are_made_listed_and_dropped(seerdb: Commands) -> None:
    seerdb("put", "a", "1")
    made = seerdb("checkpoint", "create", "one", "--json").json
    assert (made["name"], made["expires"]) == ("one", None)
    assert seerdb("checkpoint", "create", "two", "--expires", "60", "--no-flush").text == (
        f"checkpoint two shows everything up to seq {made['seq']:,}\n"
    )
    listed = seerdb("checkpoint", "list", "--json").json
    assert [each["name"] for each in listed] == ["one", "two"]
    shown = seerdb("checkpoint", "list").text
    assert "one" in shown
    assert "never" in shown
    assert "exists already" in seerdb("checkpoint", "create", "one", expect=4).err
    seerdb("checkpoint", "drop", "one")
    seerdb("checkpoint", "drop", "one", expect=3)
    assert [each["name"] for each in seerdb("checkpoint", "list", "--json").json] == ["two"]


def test_a_name_that_a_url_would_cut_drops_no_other_checkpoint(seerdb: Commands) -> None:
    seerdb("checkpoint", "create", "nightly")
    for name in ("nightly#2", "nightly?", "nightly%", ".."):
        seerdb("checkpoint", "drop", name, expect=2)
    seerdb("checkpoint", "drop", "old/../nightly", expect=3)
    seerdb("checkpoint", "drop", "nightly")


def test_checkpoints_of_times_that_no_calendar_has_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One such time, which a manifest may hold, made a traceback of the whole list."""
    row = {"name": "odd", "seq": 7, "time": 1e12, "expires": 1e30}
    monkeypatch.setattr(checkpoint, "_ask", lambda *_: {"checkpoints": [row]})
    checkpoint.list_all()
    assert "1,000,000,000,000 s since 1970" in capsys.readouterr().out
