"""The provenance graph as values, and its drawings: a tree for the terminal, DOT for Graphviz.

Versions are W3C PROV entities, operations activities. A version comes from exactly one operation; an operation
uses versions and outside things (photos, LoRA files by SHA-256, spaces, directions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from w2w_registry.records import Result


class Direction(StrEnum):
    """``UP``: from what it was made. ``DOWN``: what was made of it."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class Input:
    """One input of an operation. ``kind``: version, file, photo, space, direction or hub.

    ``version_id`` is set for versions of this registry, ``digest`` (SHA-256) for content; ``name`` is for people.
    """

    kind: str
    role: str
    name: str
    version_id: int | None = None
    digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What there is of it: keys without a value are absent."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, eq=False)
class OperationNode(Result):
    """One operation: PROV activity. Times are RFC 3339 texts."""

    operation_id: str
    kind: str
    agent: str
    started_at: str | None = None
    ended_at: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    code_version: str = ""
    models: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, eq=False)
class VersionNode(Result):
    """One version: PROV entity."""

    version_id: int
    ref: str
    kind: str
    state: str
    operation_id: str
    subjects: tuple[str, ...] = ()
    coordinates_digest: str | None = None
    space: str | None = None


@dataclass(frozen=True, eq=False)
class Traced(Result):
    """A lineage by names: ``edges`` go from what was used to what was made, ``cut`` are those whose further relatives
    are left out."""

    start: str
    direction: Direction
    versions: Sequence[VersionNode]
    operations: Sequence[OperationNode]
    edges: Sequence[list[str]]
    cut: Sequence[str]


@dataclass(frozen=True)
class Lineage:
    """What was found from ``start`` in one direction. ``cut``: versions whose further relatives were left out."""

    start: int
    direction: Direction
    versions: Mapping[int, VersionNode]
    operations: Mapping[str, OperationNode]
    cut: frozenset[int] = frozenset()

    def parents(self, version_id: int) -> tuple[int, ...]:
        """Versions the given one was made from, in the order of the operation's inputs."""
        operation = self.operations.get(self.versions[version_id].operation_id)
        if operation is None:
            return ()
        return tuple(
            i.version_id for i in operation.inputs if i.version_id in self.versions and i.version_id is not None
        )

    def children(self, version_id: int) -> tuple[int, ...]:
        """Versions made from the given one, by id."""
        return self._children().get(version_id, ())

    def _children(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, list[int]] = {}
        for child in sorted(self.versions):
            for parent in dict.fromkeys(self.parents(child)):
                found.setdefault(parent, []).append(child)
        return {parent: tuple(children) for parent, children in found.items()}

    def traced(self) -> Traced:
        """The same by names, nodes in the order of their ids."""
        return Traced(
            start=self.versions[self.start].ref,
            direction=self.direction,
            versions=[self.versions[i] for i in sorted(self.versions)],
            operations=[self.operations[i] for i in sorted(self.operations)],
            edges=[[self.versions[p].ref, self.versions[c].ref] for p, c in self.edges()],
            cut=sorted(self.versions[i].ref for i in self.cut),
        )

    def edges(self) -> Iterator[tuple[int, int]]:
        """(parent, child) pairs, by child."""
        for child in sorted(self.versions):
            for parent in dict.fromkeys(self.parents(child)):
                yield parent, child


def tree(lineage: Lineage) -> list[str]:
    """Lines of a tree for the terminal. A version met again is named and marked ``↑``, not drawn twice; a weight space
    is named where it is first met."""
    children = lineage._children()
    out: list[str] = []
    drawn: set[int] = set()
    spaces: set[str | None] = set()
    # An explicit stack: chains of edits can be deeper than Python's recursion allows.
    stack: list[tuple[int | None, str, str, str]] = [(lineage.start, "", "", "")]
    while stack:
        node, prefix, branch, text = stack.pop()
        if node is None:
            out.append(f"{prefix}{branch}{text}")
            continue
        again = node in drawn
        out.append(f"{prefix}{branch}{_label(lineage, node)}{'  ↑' if again else ''}")
        if again:
            continue
        drawn.add(node)
        indent = prefix + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        below: list[tuple[int | None, str]] = []
        if lineage.direction is Direction.UP:
            operation = lineage.operations.get(lineage.versions[node].operation_id)
            for item in operation.inputs if operation else ():
                if item.kind == "space":
                    # Everything in a tree lives in the same one or two: each is named once.
                    if item.digest in spaces:
                        continue
                    spaces.add(item.digest)
                known = item.version_id in lineage.versions
                below.append((item.version_id if known else None, "" if known else _outside(item)))
        else:
            below = [(child, "") for child in children.get(node, ())]
        if node in lineage.cut:
            below.append((None, "…"))
        last = len(below) - 1
        for i in range(last, -1, -1):
            stack.append((below[i][0], indent, "└─ " if i == last else "├─ ", below[i][1]))
    return out


def _label(lineage: Lineage, version_id: int) -> str:
    version = lineage.versions[version_id]
    operation = lineage.operations.get(version.operation_id)
    text = version.ref
    if version.state != "active":
        text += f" ({version.state})"
    if version.subjects:
        text += f" [{', '.join(version.subjects)}]"
    if operation is not None:
        text += f"  ← {' '.join([operation.kind, *_details(operation)])}"
    return text


def _details(operation: OperationNode) -> list[str]:
    """What a person wants to know of an operation's parameters: at most three, in few words."""
    parameters = operation.parameters
    amounts, weights, config = (parameters.get(name) for name in ("amounts", "weights", "config"))
    if isinstance(amounts, Mapping):
        moved = ", ".join(f"{name} {amount:+.4g}" for name, amount in amounts.items())
        kept = parameters.get("keep")
        return [moved] + ([f"keeping {', '.join(kept)}"] if kept else [])
    if isinstance(weights, (list, tuple)):
        return [" : ".join(f"{weight:.4g}" for weight in weights)]
    if isinstance(config, Mapping):
        return [f"{config['steps']} steps, seed {operation.seed}"] if "steps" in config else []
    if operation.seed is not None:
        return [f"seed {operation.seed}"]
    plain = [(k, v) for k, v in sorted(parameters.items()) if isinstance(v, (str, int, float))]
    return [", ".join(f"{k}={_short(v)}" for k, v in plain[:3])] if plain else []


def _outside(item: Input) -> str:
    digest = f" {item.digest[:12]}" if item.digest else ""
    return f"{item.kind} {item.name}{digest}"


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def dot(lineage: Lineage) -> str:
    """Graphviz: boxes are versions, ellipses operations, notes outside inputs; arrows run the way time does."""
    out = ["digraph lineage {", "  rankdir=LR;", '  node [fontname="sans-serif"];']
    for version in (lineage.versions[i] for i in sorted(lineage.versions)):
        style = ' style="bold"' if version.version_id == lineage.start else ""
        colour = "" if version.state == "active" else ' color="red"'
        label = "\n".join((version.ref, *version.subjects))
        out.append(f"  v{version.version_id} [shape=box label={_quote(label)}{style}{colour}];")
    for operation in (lineage.operations[i] for i in sorted(lineage.operations)):
        out.append(f"  {_dot_id(operation.operation_id)} [shape=ellipse label={_quote(operation.kind)}];")
        for number, item in enumerate(operation.inputs):
            if item.version_id in lineage.versions:
                source = f"v{item.version_id}"
            else:
                source = f"{_dot_id(operation.operation_id)}_{number}"
                out.append(f"  {source} [shape=note label={_quote(_outside(item))}];")
            out.append(f"  {source} -> {_dot_id(operation.operation_id)} [label={_quote(item.role)}];")
    for version in (lineage.versions[i] for i in sorted(lineage.versions)):
        if version.operation_id in lineage.operations:
            out.append(f"  {_dot_id(version.operation_id)} -> v{version.version_id};")
    return "\n".join([*out, "}"]) + "\n"


def _dot_id(operation_id: str) -> str:
    return "o" + operation_id.replace("-", "")


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
