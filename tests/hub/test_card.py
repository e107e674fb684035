"""Model cards: what they say, and that nothing from outside gets out of its place."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.hub.local_hub.server import _card_errors
from w2w_registry.hub.card import (
    GATE_FIELDS,
    CardFacts,
    ConsentFacts,
    Preview,
    SpaceFacts,
    front_matter,
    literal,
    model_card,
    plain,
    removed_card,
    space_card,
)

FACTS = CardFacts(
    repo_id="acme/alice",
    name="acme/alice",
    number=3,
    kind="person",
    base_model="acme/base",
    base_revision="v1",
    space="faces@1",
    space_digest="ab" * 32,
    components=1000,
    operation="edit",
    made_from=("acme/alice@2",),
    residual=0.123,
    instance_prompt="a photo of sks person",
    previews=(Preview("previews/1.png", "sks person, smiling"),),
    likeness=True,
    consent=ConsentFacts("granted", ("research",), None, ("advertising",), True, "2027-01-01"),
)


def parse(card: str) -> tuple[dict[str, Any], str]:
    _, block, body = card.split("---\n", 2)
    return yaml.safe_load(block), body


def test_the_fields_the_hub_reads() -> None:
    meta, body = parse(model_card(FACTS))
    assert meta["base_model"] == "acme/base"
    assert meta["base_model_relation"] == "adapter"
    assert meta["library_name"] == "diffusers"
    assert meta["instance_prompt"] == "a photo of sks person"
    assert meta["widget"] == [{"text": "sks person, smiling", "output": {"url": "previews/1.png"}}]
    assert meta["extra_gated_fields"] == dict(GATE_FIELDS)
    assert {"w2w-registry", "lora", "w2w-registry:person"} <= set(meta["tags"])
    assert _card_errors(meta) == []
    assert 'load_lora_weights("acme/alice", weight_name="pytorch_lora_weights.safetensors")' in body
    assert "<Gallery />" in body
    assert "12.3%" in body
    assert "2027-01-01" in body.replace("\\", "")


def test_a_product_has_no_gate_and_no_consent_table() -> None:
    meta, body = parse(model_card(replace(FACTS, kind="product", likeness=False, consent=None)))
    assert "extra_gated_prompt" not in meta
    assert "Consent" not in body


def test_a_base_model_that_is_a_folder_is_not_claimed_as_a_hub_model() -> None:
    meta, body = parse(model_card(replace(FACTS, base_model="/models/base")))
    assert "base_model" not in meta
    assert "/models/base" in body


def test_coordinates_only_says_how_to_get_the_model() -> None:
    meta, body = parse(model_card(replace(FACTS, weights=False)))
    assert meta["library_name"] == "w2w-registry"
    assert "w2w-reg pull acme/alice" in body
    assert "diffusers" not in body


HOSTILE = [
    '"\n---\n<script>alert(1)</script>',
    "x\nlicense: mit",
    "!!python/object/apply:os.system ['x']",
    "`; rm -rf /`",
    "](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "&lt;script&gt;",
    "a | b\n| c",
    "```\n# not code",
    "\u2028\u202e\x85\x00\x1b[31m",
    "*&anchor *anchor",
    "$$\\href{javascript:x}{y}$$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    facts = replace(
        FACTS,
        name=text,
        base_model=text,
        base_revision=text,
        operation=text,
        space=text,
        made_from=(text,),
        instance_prompt=text,
        tags=(text,),
        license=text,
        previews=(Preview("previews/1.png", text),),
        consent=ConsentFacts(text, (text,), (text,), (text,), False, text),
    )
    card = model_card(facts)
    meta, body = parse(card)
    assert meta["instance_prompt"] == text
    assert set(meta) <= {
        "library_name", "license", "license_name", "instance_prompt", "tags", "widget",
        "extra_gated_prompt", "extra_gated_fields",
    }  # fmt: skip
    assert body.count("```") == 4
    body = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert re.findall(r"<(?!Gallery />)", body) == []
    assert re.search(r"(?<!\\)\]\\?\(", body) is None


@given(st.text())
def test_any_text_survives_yaml(text: str) -> None:
    written = {"instance_prompt": text, "tags": [text, "b"], "widget": [{"text": text, "output": {"url": text}}]}
    block = front_matter(written).removeprefix("---\n").removesuffix("---\n")
    read = yaml.safe_load(block)
    assert read == written


@given(st.text())
def test_plain_text_is_one_harmless_line(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown
    assert "<" not in shown
    assert re.search(r"(?<!\\)(?:\\\\)*[`\[\]|*]", shown) is None


@given(st.text())
def test_a_literal_is_python_and_cannot_close_the_fence(text: str) -> None:
    shown = literal(text)
    assert "`" not in shown
    assert "\n" not in shown
    assert eval(shown) == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_the_same_facts_give_the_same_card() -> None:
    assert model_card(FACTS) == model_card(replace(FACTS))


def test_a_space_card() -> None:
    facts = SpaceFacts(
        "acme/faces",
        "faces@1",
        "cd" * 32,
        "acme/base",
        None,
        99648,
        12,
        1,
        27.0,
        1000,
        [0.05] * 12,
        plot="spectrum.svg",
    )
    meta, body = parse(space_card(facts))
    assert _card_errors(meta) == []
    assert "w2w-space" in meta["tags"]
    assert "99,648" in body
    assert "| variance in the first 10 | 50.0% |" in body
    assert "w2w-reg space import faces hf://acme/faces" in body
    assert "![explained variance per component](spectrum.svg)" in body


def test_a_removed_card_names_nobody() -> None:
    meta, body = parse(removed_card())
    assert _card_errors(meta) == []
    assert "alice" not in body
