"""Commits that clients rely on: named by epoch and seq, here or lost."""

from __future__ import annotations

import pytest

from tests.api.client import Client
from tests.api.fake_database import FakeDatabase
from tests.api.test_replication import READS


def test_every_reply_to_a_write_names_the_epoch_beside_the_seq(client: Client) -> None:
    for method, target in (
        ("PUT", "/v1/kv/a"),
        ("DELETE", "/v1/kv/a"),
        ("PUT", "/v1/kv/a?durability=local"),
        ("DELETE", "/v1/kv?prefix=a"),
    ):
        assert client.request(method, target).headers["seerdb-epoch"] == "2"


def test_a_read_after_a_commit_that_is_here_is_answered(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    headers = {"seerdb_epoch": "1", "seerdb_min_seq": "1"}
    assert client.get("/v1/kv/a", **headers).body == b"1"


@pytest.mark.parametrize(("method", "path", "body"), READS)
@pytest.mark.parametrize(("epoch", "problem"), [("1", "lost"), ("3", "fenced")])
def test_a_read_after_a_commit_that_is_not_here_is_told_so(
    method: str, path: str, body: bytes, epoch: str, problem: str, client: Client, db: FakeDatabase
) -> None:
    """PB-03 and PB-08. Every read: one that ignored the epoch would show another history."""
    db.load(**{f"k{number}": "1" for number in range(9)})
    for seq in ("7", "77"):
        db.lost.add((1, int(seq)))
        headers = {"seerdb-epoch": epoch, "seerdb-min-seq": seq}
        answer = client.request(method, path, body, headers=headers)
        assert answer.status == 409
        if method != "HEAD":
            answer.problem(409, problem)


@pytest.mark.parametrize(
    "headers",
    [
        {"seerdb_epoch": "1"},
        {"seerdb_epoch": "x", "seerdb_min_seq": "7"},
        {"seerdb_epoch": "1", "seerdb_min_seq": "-7"},
        {"seerdb_epoch": "1" * 20, "seerdb_min_seq": "7"},
    ],
)
def test_half_a_name_is_a_bad_request(client: Client, headers: dict[str, str]) -> None:
    client.get("/v1/kv/a", **headers).problem(400, "invalid-request")
