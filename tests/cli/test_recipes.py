"""CONTRIBUTING's recipes, followed: what each says is enough makes a new one work everywhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run
from tests.cli.walk import commands
from w2w_registry.cli import app, sections
from w2w_registry.cli.options import OneOf
from w2w_registry.index import factory, kinds
from w2w_registry.index.exact import ExactIndex
from w2w_registry.lora import WRITTEN, formats, write_lora
from w2w_registry.lora.adapter import read_adapter
from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.formats.part import Part, Written
from w2w_registry.lora.targets import Target
from w2w_registry.services.audit import queries

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_every_recipe_names_three_places_at_most() -> None:
    recipes = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(("| a ", "| an "))]
    assert len(recipes) == 5
    for line in recipes:
        places = set(re.findall(r"`([a-z0-9_]+/[\w/.-]+\.\w+)`", line.split("|")[2]))
        assert 1 <= len(places) <= 3, line


def test_a_format_is_a_module_and_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toy = ModuleType("toy")
    spelling = re.compile(r"toy/(?P<module>[\w.]+)/(?P<role>[AB])")

    def key_of(key: str) -> Key | None:
        match = spelling.fullmatch(key)
        return None if match is None else Key("unet", (Target(match["module"]),), match["role"], match["module"])

    def write(parts: Sequence[Part]) -> dict[str, Written]:
        return {"": Written({f"toy/{module}/{role}": a for (module, role), a in parts[0].tensors.items()})}

    vars(toy).update(NAME="toy", key_of=key_of, FILE="toy.safetensors", write=write)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, toy))
    monkeypatch.setitem(WRITTEN, "toy", toy)
    module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    a, b = np.ones((2, 8), np.float32), np.full((8, 2), 3, np.float32)
    save_file({f"toy/{module}/A": a, f"toy/{module}/B": b}, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    assert (adapter.format, adapter.exact) == ("toy", True)
    assert [change.module for change in adapter.changes] == [module]
    np.testing.assert_allclose(adapter.changes[0].delta(), b @ a)
    write_lora(tmp_path / "again", {(module, "A"): a, (module, "B"): b}, fmt="toy")
    assert (tmp_path / "again" / "toy.safetensors").read_bytes()
    np.testing.assert_allclose(read_adapter(tmp_path / "again").changes[0].delta(), b @ a)


def test_what_is_written_is_offered_by_every_command_that_writes() -> None:
    written = set(WRITTEN)
    for name, further in (("export", {"coordinates", "original"}), ("push", set())):
        (option,) = [one for one in dict(commands())[name].params if "--format" in one.opts]
        assert isinstance(option.type, OneOf)
        assert set(option.type.choice().choices) == written | further


def test_an_engine_is_a_class_and_a_line(
    monkeypatch: pytest.MonkeyPatch, filled: Run, loras: Path, tmp_path: Path
) -> None:
    class Toy(ExactIndex):
        kind = "toy"

    module = ModuleType("toy")
    module.Toy = Toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "w2w_registry.index.toy", module)
    monkeypatch.setitem(kinds.FOLDER_KINDS, "toy", "toy:Toy")
    monkeypatch.setattr(factory, "KINDS", ("auto", *kinds.FOLDER_KINDS, *kinds.PLACED_KINDS))
    before = json.loads(filled("search", "p0001", "--json")[1])
    assert filled("config", "set", "index.kind", "toy")[0] == 0
    assert json.loads(filled("search", "p0001", "--json")[1])["results"] == before["results"]
    kept = [folder.name for folder in (tmp_path / "home" / "index").glob("*-toy")]
    assert len(kept) == 1
    assert kept[0] in {engine.folder.name for engine in factory.kept_engines({}, tmp_path / "home" / "index")}  # type: ignore[attr-defined]


def test_a_command_is_a_module_and_a_line(monkeypatch: pytest.MonkeyPatch, filled: Run) -> None:
    @click.command()
    def wave() -> None:
        """Wave."""
        click.echo("hello")

    module = ModuleType("wave")
    module.wave = wave  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"{app.__package__}.wave", module)
    monkeypatch.setitem(sections.SECTIONS, "Keep", {**sections.SECTIONS["Keep"], "wave": "Wave."})
    monkeypatch.setitem(sections.COMMANDS, "wave", "Wave.")
    assert filled("wave")[:2] == (0, "hello\n")
    assert filled("--help")[1].rpartition("Keep:")[2].count("Wave.") == 1
    assert "wave" in dict(commands())
    assert "Did you mean 'wave'" in filled("wawe")[2]


def test_a_question_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch, filled: Run) -> None:
    def nobody(registry: object, filters: queries.Filters) -> queries.Rows:
        return [{"who": filters.actor or "nobody"}]

    question = queries.Question(nobody, "Who is nobody", ("who",), frozenset({"actor"}))
    monkeypatch.setattr(queries, "QUESTIONS", {**queries.QUESTIONS, "nobody": question})
    assert json.loads(filled("audit", "query", "nobody", "--by", "bob", "--json")[1]) == [{"who": "bob"}]
    assert "who" in filled("audit", "query", "nobody")[1]
    assert filled("audit", "query", "nobody", "--days", "3")[0] != 0
    assert re.search(r"nobody +Who is nobody \(--by\)", filled("audit", "query", "--help")[1])
