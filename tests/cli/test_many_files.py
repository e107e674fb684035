"""Folders of hundreds and thousands of files of every kind: each is accounted for, and the dry run keeps its word.

The whole ten thousand: ``pytest -m soak -s tests/cli/test_many_files.py``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run
from tests.lora.loras import st_file
from tests.services.identities.folder import ATTENTION, rand, transformer_lora
from tests.services.world import BASE, World, make_world
from w2w_registry.lora import write_lora

SEEN = (".safetensors", ".bin", ".pt", ".zip", ".gguf")


def person(world: World, where: Path, i: int, form: int) -> None:
    """A LoRA of somebody, in one of six forms: three formats, two roundings, other factors."""
    tensors = world.layout.unflatten(world.theta(i))
    if form == 5:
        tensors = {k: v * np.float32(3.0 if k[1] == "A" else 1 / 3.0) for k, v in tensors.items()}
    fmt = ("kohya", "diffusers", "diffusers", "kohya", "diffusers", "kohya")[form]
    dtype = {3: "fp16", 4: "bf16"}.get(form, "fp32")
    write_lora(where, tensors, world.layout.alpha, fmt=fmt, dtype=dtype, base_model=BASE)  # type: ignore[arg-type]


def transformer(where: Path, i: int) -> None:
    write_lora(where, transformer_lora(i), 1.0, fmt="diffusers", base_model="acme/flux")


def loha(where: Path, i: int) -> None:
    tensors = {
        f"{ATTENTION}.hada_w{n}_{x}": rand(*((16, 2) if x == "a" else (2, 12)), seed=10 * i + n)
        for n in (1, 2)
        for x in "ab"
    }
    st_file(where, tensors)


def dora(where: Path, i: int) -> None:
    pair = {f"{ATTENTION}.lora_down.weight": rand(2, 12, seed=i), f"{ATTENTION}.lora_up.weight": rand(16, 2, seed=i)}
    st_file(where, {**pair, f"{ATTENTION}.dora_scale": rand(16, 1, seed=i)})


def text(where: Path, i: int) -> None:
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    st_file(where, {f"{stem}.lora_down.weight": rand(2, 12, seed=i), f"{stem}.lora_up.weight": rand(16, 2, seed=i)})


def embedding(where: Path, i: int) -> None:
    st_file(where, {"emb_params": rand(1, 12, seed=i)})


def language(where: Path, i: int) -> None:
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    st_file(where, {f"{stem}.lora_A.weight": rand(2, 12, seed=i), f"{stem}.lora_B.weight": rand(16, 2, seed=i)})


def broken(where: Path, i: int) -> None:
    where.write_bytes((b"", b"no", bytes(64), b"<!DOCTYPE html><html>")[i % 4])


def foreign(where: Path, i: int) -> None:
    where.with_suffix(SEEN[1 + i % 4]).write_bytes(b"x")


OTHERS: tuple[Callable[[Path, int], None], ...] = (loha, dora, text, embedding, language, broken, foreign)


def make_many(root: Path, count: int) -> int:
    """``count`` files under ``root``, in folders of a hundred, the same names in each: of ten, six people (one of them
    there before, in another form), one transformer's, three of other kinds. Returns how many people are there again."""
    people = make_world(count)
    again = 0
    for i in range(count):
        folder = root / f"set{i // 100:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        where, place = folder / f"file{i % 100:02d}.safetensors", i % 10
        if place < 5:
            person(people, where, i, i % 2)
        elif place == 5:  # the fifth before it again
            person(people, where, i - 5, 2 + (i // 10) % 4)
            again += 1
        elif place == 6:
            transformer(where, i)
        else:
            OTHERS[(3 * (i // 10) + place) % len(OTHERS)](where, i)
    return again


def check(run: Run, root: Path, again: int, count: int) -> str:
    """Add everything under ``root``; returns what it cost."""
    began = time.process_time()
    planned = json.loads(run("add", root, "--dry-run", "--json")[1])
    foretold = time.process_time()
    code, out, _ = run("add", root, "--yes", "--json")
    cost = f"{count} files: dry run {foretold - began:.0f} CPU s, run {time.process_time() - foretold:.0f} CPU s"
    done = json.loads(out)
    assert code == 5  # some could not be used
    listed = Counter(one["file"] for name in ("added", "existing", "failed", "skipped") for one in done[name])
    there = {str(path) for path in root.rglob("*") if path.suffix in SEEN}
    assert (set(listed), max(listed.values()), len(there)) == (there, 1, count), "each file in one list, once"
    assert done["counts"] == planned["counts"]
    for name in done["counts"]:
        mine, foreseen = ({(r["file"], r.get("reason")) for r in rows[name]} for rows in (done, planned))
        assert mine == foreseen if name in ("failed", "skipped") else {f for f, _ in mine} == {f for f, _ in foreseen}
    assert done["counts"]["existing"] == again
    assert done["spaces"] == planned["spaces"]
    assert len(done["spaces"]) == 2
    names = [one["identity"] for one in done["added"]]
    assert len(set(names)) == len(names), "nobody is a version of a stranger"
    code, out, err = run("add", root, "--yes")
    assert len((out + err).splitlines()) < 40, "what a person reads fits a screen"
    assert f"0 added, {done['counts']['added'] + again} already there" in err
    return f"{cost}; {done['counts']}"


def test_a_few_hundred(run: Run, tmp_path: Path) -> None:
    count = 300
    check(run, tmp_path / "in", make_many(tmp_path / "in", count), count)


@pytest.mark.soak
def test_ten_thousand(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 10_000
    cost = check(run, tmp_path / "in", make_many(tmp_path / "in", count), count)
    with capsys.disabled():
        print(f"\n{cost}")
