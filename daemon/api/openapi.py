"""Pure: the OpenAPI 3.1 document of the operator API, made from its endpoints' types."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from daemon.api.endpoints import JSON, LEDGER_SEQ, PREFIX, Endpoint
from daemon.runtime.http.errors import PROBLEM_JSON, Problem

REFERENCE = "#/components/schemas/{name}"
SECURITY = "operatorToken"
DESCRIPTION = (
    "Amounts are exact JSON numbers in major units. Times are RFC 3339. A list has a `nextCursor`, null on its last "
    "page, which is the `cursor` of the next one. Each request needs `Authorization: Bearer TOKEN`."
)
# What can be answered to every call, with the reasons.
COMMON_ERRORS = {
    400: "a parameter is wrong, or the request is not complete",
    401: "there is no token, or no valid one",
    403: "the token lacks the scope",
    408: "the request was not complete in time",
    429: "too many wrong tokens from this address",
    500: "an error of this program; its log contains the details",
    503: "the database cannot be used now, or too much is asked at the same time: try again",
}
BODY_ERRORS = {413: "the body is too large", 415: "the body is not JSON"}
CHOICE_ERRORS = {406: "the reply has none of the media types that the client accepts"}
LEDGER_SEQ_HEADER = {
    "description": "The journal's last entry in the snapshot that the reply was read from.",
    "schema": {"type": "integer", "minimum": 0},
}
Schema = dict[str, Any]


class Schemas:
    """The JSON schemas of types, with those that have a name under it in `components`."""

    def __init__(self, types: Iterable[Any]) -> None:
        types = list(types)
        roots, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
        self.components: dict[str, Schema] = _exact(components)
        self._roots = list(zip(types, _exact(list(roots)), strict=True))

    def of(self, type_: Any) -> Schema:
        """The schema of one of the types, or a reference to it."""
        return next(schema for known, schema in self._roots if known is type_ or known == type_)


def fields(parameters: type[Any]) -> dict[str, Schema]:
    """Field -> its schema, of a Struct of parameters."""
    _, components = msgspec.json.schema_components([parameters], ref_template="{name}")
    components = _exact(components)
    found: dict[str, Schema] = components[parameters.__name__]["properties"]
    return {name: {**components.get(schema.get("$ref", ""), {}), **schema} for name, schema in found.items()}


def accepts_text(schema: Schema) -> bool:
    """Whether a field's value may be a text."""
    if "anyOf" in schema:
        return any(accepts_text(each) for each in schema["anyOf"])
    return "enum" in schema or schema.get("type") == "string"


def expected(schema: Schema) -> str:
    """What a field's value must be, for an error's text."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "anyOf" in schema:
        return expected(schema["anyOf"][0])
    return str(schema.get("description") or schema.get("type", "another value"))


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """The OpenAPI document of these endpoints."""
    endpoints = list(endpoints)
    replies = [type_ for endpoint in endpoints for type_ in endpoint.replies.values()]
    schemas = Schemas([*(endpoint.parameters for endpoint in endpoints), *replies, Problem])
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    parameters = {endpoint.parameters.__name__ for endpoint in endpoints}  # their fields stand where they are used
    used = {name: schema for name, schema in schemas.components.items() if name not in parameters}
    return {
        "openapi": "3.1.0",
        "info": {"title": "donationd, the operator API", "version": version, "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": used,
            "securitySchemes": {SECURITY: {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    whole = schemas.components[endpoint.parameters.__name__]
    in_path = {name for name in whole["properties"] if f"{{{name}}}" in endpoint.path}
    others = {name: schema for name, schema in whole["properties"].items() if name not in in_path}
    required = [name for name in whole.get("required", ()) if name not in in_path]
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "description": endpoint.description,
        "security": [{SECURITY: [str(endpoint.scope)]}],
        "parameters": [_parameter(name, "path", whole["properties"][name], is_required=True) for name in in_path],
        "responses": _responses(endpoint, schemas, has_body=endpoint.method != "GET" and bool(others)),
    }
    if endpoint.method == "GET":
        operation["parameters"] += [
            _parameter(name, "query", schema, is_required=name in required) for name, schema in others.items()
        ]
    elif others:
        body = {"type": "object", "properties": others, "required": required, "additionalProperties": False}
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    return operation


def _parameter(name: str, where: str, schema: Schema, *, is_required: bool) -> Schema:
    return {"name": name, "in": where, "required": is_required, "schema": schema}


def _responses(endpoint: Endpoint, schemas: Schemas, *, has_body: bool) -> dict[str, Any]:
    errors = COMMON_ERRORS | (BODY_ERRORS if has_body else {})
    errors |= (CHOICE_ERRORS if len(endpoint.replies) > 1 else {}) | dict(endpoint.errors)
    content = {media_type: {"schema": schemas.of(type_)} for media_type, type_ in endpoint.replies.items()}
    problem = {PROBLEM_JSON: {"schema": schemas.of(Problem)}}
    created = {"201": {"description": "there was none before", "content": content}} if endpoint.method == "PUT" else {}
    headers = {"headers": {LEDGER_SEQ: LEDGER_SEQ_HEADER}} if endpoint.has_ledger_seq else {}
    return {
        "200": {"description": "done", "content": content, **headers},
        **created,
        **{str(status): {"description": why, "content": problem} for status, why in sorted(errors.items())},
    }


def _exact(schema: Any) -> Any:
    """The schema, in which an exact decimal is what it is in JSON: a number."""
    if isinstance(schema, Mapping):
        changed = {name: _exact(each) for name, each in schema.items()}
        if changed.get("format") == "decimal":
            changed |= {"type": "number"}
        return changed
    return [_exact(each) for each in schema] if isinstance(schema, list | tuple) else schema
