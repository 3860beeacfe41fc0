"""What the OpenAPI document says besides the requests: refusals by status, health, and msgspec's values."""

from typing import Any, Literal

import msgspec
from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class Error(BaseModel):
    """Why a request was refused: one of `labkit.errors`' codes, and one line that a person can act on."""

    code: str
    message: str


class Refusal(BaseModel):
    """The body of every refusal."""

    error: Error


class Health(BaseModel):
    """How the server is; `reason` says why an engine has failed."""

    status: Literal["ok", "stopping", "failed"]
    reason: str | None = None
    engine: str
    flush: str
    open_streams: int


_MEANING = {
    400: "The bytes are no HTTP/1.1 request, its address is too long, or its body is no JSON",
    403: "The request comes from a page of another origin",
    405: "Not a method of this address; `Allow` lists those that are",
    408: "The request did not arrive in time",
    413: "The body is too large",
    421: "The Host header names another machine",
    422: "A field is missing, unknown, of the wrong type or out of range",
    431: "The headers are too large",
    500: "The engine failed",
    503: "No place is free, or the server is stopping; `Retry-After` says when to ask again",
}


def refusals(*statuses: int) -> Responses:
    """Describe refusals, for the `responses` of an app or a route."""
    return {status: {"model": Refusal, "description": _MEANING[status]} for status in statuses}


EVERYWHERE = refusals(400, 403, 405, 408, 413, 421, 431)
"""What any address may answer."""

GENERATING = refusals(422, 500, 503)
"""What else an address may answer that asks the engine."""


def whole(kind: type, description: str) -> Responses:
    """Describe an answer that is one value of `kind` as JSON."""
    return {200: {"description": description, "content": {"application/json": {"schema": schema_of(kind)}}}}


def event_stream(kind: Any, description: str) -> Responses:
    """Describe an answer of server-sent events, each of which carries one of `kind` (OpenAPI 3.2, 4.14)."""
    text = {"type": "string"}
    data = {**text, "contentMediaType": "application/json", "contentSchema": schema_of(kind)}
    fields = {"event": text, "id": text, "data": data}
    event = {"type": "object", "required": [*fields], "properties": fields}
    return {200: {"description": description, "content": {"text/event-stream": {"itemSchema": event}}}}


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a msgspec value or a union of them, with the parts that it refers to in place."""
    (root,), parts = msgspec.json.schema_components([kind], ref_template="{name}")

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inlined(parts[node["$ref"]])
        if slots := node.get("prefixItems"):  # equal ones, as in `Stamps`; some tools cannot read them singly
            return {"type": "array", "items": slots[0], "minItems": len(slots), "maxItems": len(slots)}
        return {key: inlined(value) for key, value in node.items() if key != "discriminator"}

    schema: dict[str, Any] = inlined(root)
    return schema
