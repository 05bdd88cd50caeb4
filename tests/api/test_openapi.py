"""The OpenAPI document is valid, complete and served."""

from __future__ import annotations

from typing import Any

import openapi_spec_validator
import pytest
from jsonschema_rs import Draft202012Validator

from tests.api.client import Client

ROUTES = {
    ("get", "/v1/kv/{key}"),
    ("head", "/v1/kv/{key}"),
    ("put", "/v1/kv/{key}"),
    ("delete", "/v1/kv/{key}"),
    ("get", "/v1/kv"),
    ("delete", "/v1/kv"),
    ("post", "/v1/batch"),
    ("post", "/v1/mget"),
    ("post", "/v1/admin/flush"),
    ("post", "/v1/admin/compact"),
    ("get", "/v1/replication/log"),
    ("get", "/v1/admin/status"),
    ("post", "/v1/admin/checkpoints"),
    ("get", "/v1/admin/checkpoints"),
    ("delete", "/v1/admin/checkpoints/{name}"),
    ("get", "/v1/history/{key}"),
    ("post", "/v1/admin/backups"),
    ("get", "/v1/admin/backups"),
    ("get", "/v1/admin/backups/{id}"),
    ("delete", "/v1/admin/backups/{id}"),
    ("get", "/v1/admin/recovery-points"),
    ("post", "/v1/admin/restore"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("post", "/v1/admin/promote"),
    ("get", "/metrics"),
    ("get", "/version"),
}


@pytest.fixture
def document(client: Client) -> Any:
    return client.get("/openapi.json").json


def _operations(document: Any) -> dict[tuple[str, str], Any]:
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_is_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "SeerDB"
    assert document["info"]["version"]
    openapi_spec_validator.validate(document)


def test_every_row_of_the_contract_is_there_and_no_other(document: Any) -> None:
    assert set(_operations(document)) == ROUTES


def test_every_operation_is_explained(document: Any) -> None:
    described = {tag["name"] for tag in document["tags"]}
    for operation in _operations(document).values():
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= described
        for parameter in operation.get("parameters", []):
            assert parameter["description"]


def test_every_failure_is_a_problem_with_examples(document: Any) -> None:
    for (method, path), operation in _operations(document).items():
        failures = {code: r for code, r in operation["responses"].items() if code >= "400"}
        assert "422" not in failures, f"{method} {path} documents a reply it never gives"
        for code, response in failures.items():
            content = response["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for example in content["examples"].values():
                assert example["value"]["status"] == int(code)


def test_each_operation_may_refuse_what_it_does_not_know(document: Any, client: Client) -> None:
    """Also those for machines, which take no parameter at all."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "400" in operation["responses"], (method, path)
    for path in ("/livez", "/readyz", "/metrics", "/version"):
        client.get(f"{path}?unknown=1").problem(400, "invalid-request")


def test_examples_fit_their_schemas(document: Any) -> None:
    examples = [
        (schema, example)
        for schema in document["components"]["schemas"].values()
        for example in schema.get("examples", [])
    ] + [
        (media["schema"], media["example"])
        for operation in _operations(document).values()
        for reply in operation["responses"].values()
        for media in reply.get("content", {}).values()
        if "example" in media
    ]
    assert len(examples) >= 8
    for schema, example in examples:
        Draft202012Validator({**schema, "components": document["components"]}).validate(example)


def test_one_form_of_a_key_is_demanded(document: Any) -> None:
    schema = {"$ref": "#/components/schemas/Put", "components": document["components"]}
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"op": "put", "key": "a", "value_base64": ""})
    assert not validator.is_valid({"op": "put", "key": "a"})
    assert not validator.is_valid({"op": "put", "key": "a", "key_base64": "", "value": ""})


def test_the_pages_for_people(client: Client) -> None:
    assert b"/openapi.json" in client.get("/docs").body
