"""Every error of the library has its place in HTTP, and the documents say which."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from structlog.typing import EventDict

from seerdb import errors
from seerdb.errors import BusyError, CorruptionError, SeerDBError
from seerdb_api.errors import OF_HTTP, PROBLEMS, Problem, problem_of
from tests.api.client import Client
from tests.api.fake_database import FakeDatabase

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, SeerDBError)
]
PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
KNOWN_STATUSES = {400, 404, 405, 408, 409, 410, 412, 413, 414, 416, 429, 431, 500, 501, 503, 507}


def _instance(kind: type[SeerDBError]) -> SeerDBError:
    if issubclass(kind, BusyError):
        return kind("hidden words", retry_after_seconds=0.2)
    if issubclass(kind, CorruptionError):
        return kind("hidden words", name="hidden/name", offset=3)
    return kind("hidden words")


def test_the_table_has_every_class_and_no_other() -> None:
    assert set(PROBLEMS) == set(CLASSES)


def test_a_class_of_tomorrow_counts_as_its_nearest_base() -> None:
    class LateError(errors.DiskFullError):
        pass

    assert problem_of(LateError("x")) is PROBLEMS[errors.DiskFullError]


def test_names_are_unique_and_statuses_are_those_of_the_contract() -> None:
    problems = {*PROBLEMS.values(), *OF_HTTP}
    assert len({problem.name for problem in problems}) == len(problems)
    assert {problem.status for problem in problems} <= KNOWN_STATUSES


@pytest.mark.parametrize("kind", CLASSES)
def test_what_a_client_gets(
    kind: type[SeerDBError], client: Client, db: FakeDatabase, logs: list[EventDict]
) -> None:
    db.fate = _instance(kind)
    problem = PROBLEMS[kind]
    answer = client.put("/v1/kv/a", b"1")
    document = answer.problem(problem.status, problem.name)
    assert document["retryable"] is problem.retryable
    assert document["title"] == problem.title
    assert ("retry-after" in answer.headers) == (problem.status in (429, 503))
    assert ("hidden" in document["detail"]) == (problem.status < 500)
    assert bool(logs) == (problem.status >= 500)
    for entry in logs:
        assert entry["request_id"] == answer.headers["x-request-id"]
        assert entry["log_level"] == ("warning" if problem.retryable else "error")


@pytest.mark.parametrize("kind", CLASSES)
def test_the_document_names_the_reply_to_each_error(kind: type[SeerDBError]) -> None:
    problem = PROBLEMS[kind]
    assert _row(kind.__name__).endswith(_cells(problem))


@pytest.mark.parametrize("problem", OF_HTTP, ids=lambda problem: problem.name)
def test_the_document_names_the_problems_of_http(problem: Problem) -> None:
    assert _row(problem.type).startswith(f"| {problem.status} | `{problem.type}` |")


def _cells(problem: Problem) -> str:
    return f"| {problem.status} | `{problem.type}` | {'yes' if problem.retryable else 'no'} |"


def _row(name: str) -> str:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    [row] = [line for line in lines if line.startswith("|") and f"`{name}`" in line]
    return row
