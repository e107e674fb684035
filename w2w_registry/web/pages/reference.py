"""The API for people: what its document says, as a page. Everything on it is read from that document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi.responses import HTMLResponse

from w2w_registry.web.site import Desk, Look, page_router

router = page_router()
Schema = Mapping[str, Any]
TYPES: Final = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
VALUES: Final = {"string": "…", "integer": 1, "number": 1.0, "boolean": True, "array": ["…"], "object": {}}
"""What stands in an example for a value of each type."""


@router.get("/api")
def api(desk: Look) -> HTMLResponse:
    """Every operation of the API."""
    return desk.page("api.html", operations=operations(desk.request.app.openapi(), _address(desk)))


def _address(desk: Desk) -> str:
    return str(desk.request.base_url).rstrip("/")


def operations(document: Schema, address: str = "") -> list[dict[str, Any]]:
    """Every operation of an OpenAPI document, in its order: ``method``, ``path``, ``says``, ``fields`` (what may be
    asked), ``keys`` (of the answer), ``command`` (with curl, at ``address``)."""
    schemas = document.get("components", {}).get("schemas", {})
    return [
        _operation(method.upper(), path, said, schemas, address)
        for path, methods in document["paths"].items()
        for method, said in methods.items()
    ]


def _operation(method: str, path: str, said: Schema, schemas: Schema, address: str) -> dict[str, Any]:
    fields = [
        _field(one["name"], one["schema"], one["in"], one["required"], one.get("description", ""))
        for one in said.get("parameters", [])
    ]
    content: Schema = said.get("requestBody", {}).get("content", {})
    kind = next(iter(content), "")
    asked = _followed(content[kind].get("schema", {}), schemas) if kind else {}
    wanted = asked.get("required", [])
    for name, schema in asked.get("properties", {}).items():
        fields.append(_field(name, schema, "body", name in wanted, ""))
    answer = next(one for status, one in said["responses"].items() if status.startswith("2"))
    example = {name: _example(schema) for name, schema in asked.get("properties", {}).items() if name in wanted}
    return {
        "method": method,
        "path": path,
        "anchor": f"{method.lower()}-{path.strip('/').replace('/', '-').replace('{', '').replace('}', '')}",
        "says": " ".join(said.get("description", said["summary"]).split()),
        "fields": fields,
        "keys": _keys(answer.get("content", {}).get("application/json", {}).get("schema", {}), schemas),
        "command": _command(method, address + path, kind, example),
    }


def _field(name: str, schema: Schema, place: str, required: bool, says: str) -> dict[str, Any]:
    default = schema.get("default")
    return {
        "name": name,
        "place": place,
        "type": said_type(schema),
        "required": required,
        "default": None if default in (None, "", [], {}) else json.dumps(default).strip('"'),
        "says": says,
    }


def said_type(schema: Schema) -> str:
    """A type in words: ``text``, ``list of text``, ``weights, behaviour or both``, ``whole number from 1 to 500``."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(said_type(one) for one in schema["anyOf"] if one.get("type") != "null"))
    if "enum" in schema:
        *most, last = schema["enum"]
        return f"{', '.join(most)} or {last}" if most else str(last)
    if schema.get("type") == "array":
        return f"list of {said_type(schema.get('items', {}))}"
    if schema.get("type") == "object":
        of = schema.get("additionalProperties")
        return f"names to {said_type(of)}" if isinstance(of, Mapping) else "names to values"
    bounds = [f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([TYPES.get(schema.get("type", ""), "value"), *bounds])


def _followed(schema: Schema, schemas: Schema) -> Schema:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Schema = schemas[name] if name else schema
    return found


def _keys(schema: Schema, schemas: Schema) -> list[str]:
    """The keys of an answer, those of a list's rows after its name: ``identities[].name``."""
    schema = _followed(schema, schemas)
    if "anyOf" in schema:
        return list(dict.fromkeys(key for one in schema["anyOf"] for key in _keys(one, schemas)))
    if schema.get("type") == "array":
        return [f"[].{key}" for key in _keys(schema.get("items", {}), schemas)]
    return list(schema.get("properties", {}))


def _example(schema: Schema) -> Any:
    if "anyOf" in schema:
        return _example(schema["anyOf"][0])
    return VALUES.get(schema.get("type", ""), "…")


def _command(method: str, address: str, kind: str, example: Mapping[str, Any]) -> str:
    words = ['curl -H "Authorization: Bearer $W2W_TOKEN"']
    if kind == "application/json":
        words.append(f"--json '{json.dumps(example, ensure_ascii=False)}'")
    elif kind:
        words.append(f"-H 'Content-Type: {kind}' --data-binary @FILE")
    elif method != "GET":
        words.append(f"-X {method}")
    return " ".join([*words, f"'{address.replace('{', '').replace('}', '')}'"])
