"""What an error is over HTTP: one table from SeerDB's error classes to problem documents.

A problem document (RFC 9457, ``application/problem+json``) has ``type`` (a URN that names the
problem), ``title``, ``status``, ``detail`` and ``retryable``: whether the same request, sent
again unchanged and later, may succeed. Messages of 500 and above stay in the log: the reply
carries the request id to find them by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog

from seerdb import errors
from seerdb_api.reply import Header, Reply, seq_header, to_json

logger: structlog.stdlib.BoundLogger = structlog.get_logger("seerdb.http")

PROBLEM_JSON = b"application/problem+json"
RETRY_AFTER_SECONDS = 5
"""Asked of clients on 503, where the error itself does not say."""


class Problem(NamedTuple):
    """A kind of failure as clients see it."""

    status: int
    name: str
    title: str
    retryable: bool = False

    @property
    def type(self) -> str:
        """The URN clients compare."""
        return f"urn:seerdb:{self.name}"

    def document(self, detail: str) -> dict[str, Any]:
        """The members of the problem document."""
        return {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": detail,
            "retryable": self.retryable,
        }


PROBLEMS: dict[type[errors.SeerDBError], Problem] = {
    errors.SeerDBError: Problem(500, "internal", "Internal error"),
    errors.InvalidRequestError: Problem(400, "invalid-request", "The request is not valid"),
    errors.NotFoundError: Problem(404, "not-found", "No such thing"),
    errors.AlreadyExistsError: Problem(409, "already-exists", "It exists already"),
    errors.ConflictError: Problem(409, "conflict", "The state has changed"),
    errors.LockedError: Problem(409, "locked", "Another process holds the database"),
    errors.LostError: Problem(409, "lost", "The commit was lost with its writer"),
    errors.MergeError: Problem(409, "merge", "The operands of the key do not fold"),
    errors.HistoryError: Problem(410, "history", "That instant cannot be told"),
    errors.ReadOnlyError: Problem(409, "read-only", "This node takes no writes"),
    errors.BusyError: Problem(429, "busy", "Too much at once", retryable=True),
    errors.DiskError: Problem(500, "disk", "The local disk failed"),
    errors.DiskFullError: Problem(507, "disk-full", "The local disk is full", retryable=True),
    errors.UnavailableError: Problem(
        503, "unavailable", "The object store is not available", retryable=True
    ),
    errors.WorkerError: Problem(503, "worker", "The workers did not do the job", retryable=True),
    errors.ClosedError: Problem(503, "closed", "The database is closed", retryable=True),
    errors.FencedError: Problem(409, "fenced", "Another writer took over"),
    errors.PoisonedError: Problem(
        503, "poisoned", "Writes have stopped until a restart", retryable=True
    ),
    errors.CorruptionError: Problem(500, "corruption", "Stored data is damaged"),
    errors.ChecksumError: Problem(500, "checksum", "Stored data is damaged"),
    errors.TruncatedError: Problem(500, "truncated", "Stored data is cut short"),
    errors.UnsupportedFormatError: Problem(
        500, "unsupported-format", "Stored data has an unknown format"
    ),
    errors.InternalError: Problem(500, "internal", "Internal error"),
}
"""Every class of ``seerdb.errors``, the tree in ``docs/errors.md``."""

INVALID_REQUEST = PROBLEMS[errors.InvalidRequestError]
INTERNAL = PROBLEMS[errors.InternalError]
NO_SUCH_KEY = Problem(404, "no-such-key", "No such key")
NO_SUCH_PATH = Problem(404, "no-such-path", "No such path")
METHOD_NOT_ALLOWED = Problem(405, "method-not-allowed", "Method not allowed")
TOO_SLOW = Problem(408, "too-slow", "The request did not come to its end", retryable=True)
PRECONDITION_FAILED = Problem(412, "precondition-failed", "The precondition does not hold")
TOO_LARGE = Problem(413, "too-large", "The request body is too large")
TARGET_TOO_LONG = Problem(414, "target-too-long", "The path and query are too long")
RANGE_NOT_SATISFIABLE = Problem(416, "range-not-satisfiable", "The range is outside the value")
HEAD_TOO_LARGE = Problem(431, "head-too-large", "The header lines are too many or too long")
UNKNOWN_CODING = Problem(501, "unknown-coding", "The transfer coding is not known")
NOT_READY = Problem(503, "not-ready", "The database is not ready", retryable=True)
BEHIND = Problem(503, "behind", "This node does not have that commit yet", retryable=True)

OF_HTTP = (
    NO_SUCH_KEY,
    NO_SUCH_PATH,
    METHOD_NOT_ALLOWED,
    TOO_SLOW,
    PRECONDITION_FAILED,
    TOO_LARGE,
    TARGET_TOO_LONG,
    RANGE_NOT_SATISFIABLE,
    HEAD_TOO_LARGE,
    UNKNOWN_CODING,
    NOT_READY,
    BEHIND,
)
"""The problems that come from HTTP itself rather than from an error of the database."""


class RefusalError(Exception):
    """A request that HTTP itself answers with a problem; the database was not asked."""

    def __init__(
        self,
        problem: Problem,
        detail: str,
        headers: tuple[Header, ...] = (),
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """``members`` extend the document."""
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.headers = headers
        self.members = members or {}


def problem_reply(
    problem: Problem, detail: str, headers: tuple[Header, ...] = (), **members: Any
) -> Reply:
    """The problem as a reply; ``members`` extend the document. 503 carries Retry-After, of which
    ``headers`` may say how long."""
    body = to_json({**problem.document(detail), **members})
    sent = [(b"content-type", PROBLEM_JSON), (b"content-length", b"%d" % len(body)), *headers]
    says_when = any(name == b"retry-after" for name, _ in headers)
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE and not says_when:
        sent.append((b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
    return problem.status, sent, body


def problem_of(error: Exception) -> Problem:
    """The row of the table for ``error``: its class or the nearest base; else an internal error."""
    for kind in type(error).__mro__:
        if kind in PROBLEMS:
            return PROBLEMS[kind]
    return INTERNAL


def document_of(error: Exception, request_id: str) -> dict[str, Any]:
    """The problem document for ``error``, without what only the log should hold."""
    problem = problem_of(error)
    hidden = f"the log of the server tells more under request id {request_id}"
    shown = problem.status < HTTPStatus.INTERNAL_SERVER_ERROR
    return problem.document(str(error) if shown else hidden)


def reply_to(error: Exception, request_id: str, seq: int) -> Reply:
    """The reply to a request that ended in ``error``; logs what is the server's fault."""
    headers: tuple[Header, ...] = ((b"x-request-id", request_id.encode()), seq_header(seq))
    if isinstance(error, RefusalError):
        headers = (*error.headers, *headers)
        return problem_reply(error.problem, error.detail, headers, **error.members)
    log_failure(error, request_id)
    if isinstance(error, errors.BusyError):
        seconds = max(1, math.ceil(error.retry_after_seconds))
        headers = (*headers, (b"retry-after", b"%d" % seconds))
    members: dict[str, Any] = {}
    if isinstance(error, errors.ReadOnlyError) and error.primary is not None:
        headers = (*headers, (b"seerdb-primary", error.primary.encode()))
        members["primary"] = error.primary
    detail = document_of(error, request_id)["detail"]
    return problem_reply(problem_of(error), detail, headers, **members)


def log_failure(error: Exception, request_id: str) -> None:
    """Log ``error`` if the server is at fault: with its stack, unless waiting may cure it."""
    problem = problem_of(error)
    if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return
    if problem.retryable:
        logger.warning(
            "request refused", request_id=request_id, problem=problem.name, error=str(error)
        )
    else:
        logger.error("request failed", request_id=request_id, problem=problem.name, exc_info=error)
