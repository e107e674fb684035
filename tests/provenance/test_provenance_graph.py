"""Drawings and PROV of a small lineage with every shape in it: import, edit, mix, a photo, a diamond."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

from prov.model import ProvDocument

from w2w_registry.provenance import prov
from w2w_registry.provenance.graph import Direction, Input, Lineage, OperationNode, VersionNode, dot, tree
from w2w_registry.provenance.svg import svg


def version(i: int, ref: str, operation: str, **more: object) -> VersionNode:
    return VersionNode(i, ref, "person", **{"state": "active", **more}, operation_id=operation)  # type: ignore[arg-type]


def used(i: int, ref: str, role: str = "source") -> Input:
    return Input("version", role, ref, version_id=i)


VERSIONS = {
    1: version(1, "acme/a@1", "op-1", subjects=("s1",), coordinates_digest="aa" * 32, space="faces@1"),
    2: version(2, "acme/b@1", "op-2", subjects=("s2", "s3")),
    3: version(3, "acme/a@2", "op-3", state="blocked"),
    4: version(4, 'mix "q"@1', "op-4"),
}
LORA = Input("file", "model", "a.safetensors", digest="ab" * 32)
PHOTO = Input("photo", "photo", "b.png", digest="cd" * 32)
OPERATIONS = {
    "op-1": OperationNode("op-1", "import", "curator", inputs=(LORA,)),
    "op-2": OperationNode("op-2", "invert", "p0007 / lab", seed=7, inputs=(PHOTO,)),
    "op-3": OperationNode(
        "op-3", "edit", "curator", "2026-03-01T00:00:00.000000Z", "2026-03-01T00:00:01.000000Z", {"beard": 1.5},
        code_version="1.0", models={"base": "rev-1"}, inputs=(used(1, "acme/a@1"),),
    ),
    "op-4": OperationNode(
        "op-4", "mix", "curator", inputs=(used(1, "acme/a@1"), used(3, "acme/a@2"), used(2, "acme/b@1"))
    ),
}  # fmt: skip
UP = Lineage(4, Direction.UP, VERSIONS, OPERATIONS)
DOWN = Lineage(1, Direction.DOWN, {i: VERSIONS[i] for i in (1, 3, 4)}, {o: OPERATIONS[o] for o in ("op-3", "op-4")})


def test_the_tree_goes_up() -> None:
    assert tree(UP) == [
        'mix "q"@1  ← mix',
        "├─ acme/a@1 [s1]  ← import",
        "│  └─ file a.safetensors abababababab",
        "├─ acme/a@2 (blocked)  ← edit beard=1.5",
        "│  └─ acme/a@1 [s1]  ← import  ↑",
        "└─ acme/b@1 [s2, s3]  ← invert seed 7",
        "   └─ photo b.png cdcdcdcdcdcd",
    ]


def test_the_tree_goes_down_and_says_where_it_was_cut() -> None:
    assert tree(DOWN) == [
        "acme/a@1 [s1]",
        "├─ acme/a@2 (blocked)  ← edit beard=1.5",
        '│  └─ mix "q"@1  ← mix',
        '└─ mix "q"@1  ← mix  ↑',
    ]
    cut = Lineage(1, Direction.DOWN, {i: VERSIONS[i] for i in (1, 3)}, OPERATIONS, frozenset({3}))
    assert tree(cut)[-1] == "   └─ …"


def test_parameters_are_told_in_few_words() -> None:
    config = {"steps": 40, "samples": 8, "betas": [0.9, 0.99]}
    told = {
        "edit beard +1.5, hat -0.4": {"amounts": {"beard": 1.5, "hat": -0.4}, "asked": {"hat": "off"}, "keep": []},
        "edit beard +1.5 keeping hat, skin": {"amounts": {"beard": 1.5}, "keep": ["hat", "skin"]},
        "mix 0.3 : 0.7": {"weights": [0.3, 0.7]},
        "invert 40 steps, seed 7": {"config": config, "prompt": "photo of sks person"},
        "sample seed 7": {"shape": "unmixed", "count": 3},
        "import format=peft, gauge=as-is": {"format": "peft", "gauge": "as-is", "lost": None},
        "import": {},
    }
    for line, parameters in told.items():
        kind, seed = line.split()[0], 7 if "seed" in line else None
        node = OperationNode("op", kind, "c", parameters=parameters, seed=seed)
        assert tree(Lineage(1, Direction.UP, {1: version(1, "x@1", "op")}, {"op": node})) == [f"x@1  ← {line}"]


def test_a_space_is_named_once_in_a_tree() -> None:
    faces, pets = (Input("space", "space", name, digest=name * 8) for name in ("faces@1", "pets@1"))
    versions = {i: version(i, f"x@{i}", f"op-{i}") for i in (1, 2, 3)}
    operations = {
        "op-1": OperationNode("op-1", "sample", "c", inputs=(faces,)),
        "op-2": OperationNode("op-2", "sample", "c", inputs=(pets,)),
        "op-3": OperationNode("op-3", "mix", "c", inputs=(used(1, "x@1"), used(2, "x@2"), faces)),
    }
    lines = "\n".join(tree(Lineage(3, Direction.UP, versions, operations)))
    assert (lines.count("space faces@1"), lines.count("space pets@1")) == (1, 1)


def test_a_chain_deeper_than_recursion_allows_is_drawn() -> None:
    count = 3000
    versions = {i: version(i, f"x@{i}", f"op-{i}") for i in range(1, count + 1)}
    operations = {
        f"op-{i}": OperationNode(f"op-{i}", "edit", "c", inputs=(used(i - 1, f"x@{i - 1}"),) if i > 1 else ())
        for i in range(1, count + 1)
    }
    assert len(tree(Lineage(count, Direction.UP, versions, operations))) == count


def test_neighbours_and_json() -> None:
    assert UP.parents(4) == (1, 3, 2)
    assert UP.children(1) == (3, 4)
    assert UP.children(4) == ()
    data = json.loads(json.dumps(UP.traced().to_json()))
    assert data["edges"] == [
        ["acme/a@1", "acme/a@2"],
        *([p, 'mix "q"@1'] for p in ("acme/a@1", "acme/a@2", "acme/b@1")),
    ]
    assert [v["ref"] for v in data["versions"]] == ["acme/a@1", "acme/b@1", "acme/a@2", 'mix "q"@1']
    assert data["operations"][0]["inputs"] == [
        {"kind": "file", "role": "model", "name": "a.safetensors", "digest": "ab" * 32}
    ]


def test_dot_quotes_and_joins() -> None:
    text = dot(UP)
    assert text.startswith("digraph lineage {")
    assert text.endswith("}\n")
    assert 'label="mix \\"q\\"@1"' in text
    assert "v1 -> oop3 [" in text
    assert "oop4 -> v4;" in text
    assert 'color="red"' in text
    declared = set(re.findall(r"^  (\w+) \[shape", text, re.M))
    for a, b in re.findall(r"^  (\w+) -> (\w+)", text, re.M):
        assert {a, b} <= declared


def test_the_picture_is_well_formed_and_flows_to_the_right() -> None:
    root = ElementTree.fromstring(svg(UP))
    space = "{http://www.w3.org/2000/svg}"
    boxes = {g.find(f"{space}title").text.split(",")[0]: g.find(f"{space}rect") for g in root.iter(f"{space}g")}  # type: ignore[union-attr]
    assert set(boxes) == {"acme/a@1", "acme/b@1", "acme/a@2", 'mix "q"@1'}
    x = {name: int(box.get("x")) for name, box in boxes.items()}
    assert x["acme/a@1"] < x["acme/a@2"] < x['mix "q"@1']
    places = [(box.get("x"), box.get("y")) for box in boxes.values()]
    assert len(set(places)) == 4
    assert len(list(root.iter(f"{space}path"))) == len(list(UP.edges()))
    assert boxes["acme/a@2"].get("class") == "gone"
    odd = Lineage(1, Direction.UP, {1: version(1, "<&>" * 20, "op-1")}, {})
    ElementTree.fromstring(svg(odd))


def test_the_prov_library_reads_it() -> None:
    text = json.dumps(prov.document(UP))
    document = ProvDocument.deserialize(content=text, format="json")
    entities = {str(r.identifier) for r in document.get_records() if r.get_type().localpart == "Entity"}
    assert {"w2w:version-1", "w2w:version-4", "w2w:file-" + "ab" * 32, "w2w:photo-" + "cd" * 32} <= entities
    kinds = [r.get_type().localpart for r in document.get_records()]
    assert kinds.count("Activity") == 4
    assert kinds.count("Usage") == 6
    assert kinds.count("Generation") == 4
    assert kinds.count("Derivation") == 6
    assert kinds.count("Agent") == 2
    edit = document.get_record("w2w:operation-op-3")[0]
    assert edit.get_startTime().isoformat().startswith("2026-03-01T00:00:00")
    # and writes it back to the same document
    again = ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document


def test_prov_survives_names_of_any_kind() -> None:
    odd = OperationNode("op-1", "import", 'ö/😀 "x"', inputs=(Input("hub", "source", "owner/répo@1"),))
    lineage = Lineage(1, Direction.UP, {1: VERSIONS[1]}, {"op-1": odd})
    ProvDocument.deserialize(content=json.dumps(prov.document(lineage)), format="json")
