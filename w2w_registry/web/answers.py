"""For the API's document: answers that no service has a type for, with their keys. A generated client reads them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Made(BaseModel):
    """A version that was recorded. `held`: why it waits for a second person, null when it does not."""

    identity: str
    version: int
    ref: str
    kind: str
    space: str
    operation: str
    operation_kind: str
    held: str | None
    warnings: list[str]


class Edited(Made):
    """A version moved along directions: from which, by how much, and how usual the result is for its space."""

    source: str = Field(alias="from")
    amounts: dict[str, float]
    typicality: float


class Mixed(Made):
    """A version mixed of others, with their shares."""

    sources: list[str] = Field(alias="from")
    weights: list[float]


class TracedInput(BaseModel):
    """What an operation was given; keys without a value are absent."""

    kind: str
    role: str
    name: str
    version_id: int | None = None
    digest: str | None = None


class TracedOperation(BaseModel):
    """One operation of a lineage."""

    operation_id: str
    kind: str
    agent: str
    started_at: str | None
    ended_at: str | None
    parameters: dict[str, Any]
    seed: int | None
    code_version: str
    models: dict[str, Any]
    inputs: list[TracedInput]


class TracedVersion(BaseModel):
    """One version of a lineage."""

    version_id: int
    ref: str
    kind: str
    state: str
    operation_id: str
    subjects: list[str]
    coordinates_digest: str | None
    space: str | None


class Traced(BaseModel):
    """A lineage; `edges` go from what was used to what was made, `cut` are those whose further relatives are left
    out."""

    start: str
    direction: str
    versions: list[TracedVersion]
    operations: list[TracedOperation]
    edges: list[list[str]]
    cut: list[str]
