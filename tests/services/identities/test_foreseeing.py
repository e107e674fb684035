"""A dry run says what the run then says, whatever lies in the folder and is registered already."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.lora.loras import st_file
from w2w_registry.services.identities import foreseeing, intake
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.identities.outcome import lists
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.settings import Settings

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
FILES = ("ann", "Ann", "bob", "x/ann", "y/ann", "y/sample", "x/sample", "café")
KINDS = ("lora", "lora", "lora", "fp16", "alpha", "zero", "loha", "broken", "embedding", "empty", "more")


def tensors(kind: str, model: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(model)
    down, up = rng.normal(size=(2, 12)).astype(np.float32), rng.normal(size=(12, 2)).astype(np.float32)
    match kind:
        case "fp16":
            down, up = down.astype(np.float16), up.astype(np.float16)
        case "zero":
            up = up * 0
        case "loha":
            ends = zip(("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a"), (down, up, down, up), strict=True)
            return {f"{STEM}.{end}": array for end, array in ends}
        case "broken":
            return {f"{STEM}.lora_down.weight": down}
        case "embedding":
            return {"emb_params": down}
    alpha = {f"{STEM}.alpha": np.asarray(3, np.float32)} if kind == "alpha" else {}
    more = {"global_step": np.asarray(3, np.float32)} if kind == "more" else {}
    return {f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up, **alpha, **more}


Folder = dict[str, tuple[str, int]]
FOLDERS = st.dictionaries(st.sampled_from(FILES), st.tuples(st.sampled_from(KINDS), st.integers(0, 3)), min_size=1)


def write(folder: Path, content: Folder) -> Path:
    for name, (kind, model) in content.items():
        path = folder / f"{name}.safetensors"
        st_file(path, tensors(kind, model))
        if kind == "empty":
            path.write_bytes(b"")
        if model == 1:
            path.with_suffix(".json").write_text("{")
    return folder


def foreseen(registry: Registry, request: AddRequest) -> dict[str, Any]:
    plan = intake.plan(registry, intake.survey(request), fit=True)
    return by_path(foreseeing.asked(registry, request, plan).to_json())


def done(registry: Registry, request: AddRequest) -> dict[str, Any]:
    found = intake.perform(registry, request, intake.plan(registry, intake.survey(request), fit=True))
    told = {**lists(found.items, found.skipped), "spaces": list(found.spaces), "fitted": list(found.fitted)}
    return by_path({**told, "unmatched_labels": list(found.unmatched)})


def by_path(told: dict[str, Any]) -> dict[str, Any]:
    """What is said, in no order."""
    files = {
        (name, row["path"]): {**row, "warnings": sorted(row.get("warnings", ()))}
        for name in ("added", "existing", "failed", "skipped")
        for row in told[name]
    }
    return {"files": files, **{name: told[name] for name in ("counts", "spaces", "fitted", "unmatched_labels")}}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that was just made, to be copied: making one takes as long as the rest of an example."""
    folder = tmp_path_factory.mktemp("bare")
    init_registry(at(folder))
    return folder


def at(folder: Path) -> Settings:
    return Settings(folder / "home", f"sqlite:///{folder}/home/catalog.db", "tester", str(folder / "artifacts"))


@example(
    first={"Ann": ("lora", 3), "bob": ("lora", 0), "ann": ("lora", 0), "y/ann": ("lora", 1)},
    second={"ann": ("zero", 0), "Ann": ("lora", 0), "y/ann": ("alpha", 3)},
    mood=False,
    kind=None,
)  # two newcomers, whose own name is taken, come upon one other
@settings(
    max_examples=int(os.environ.get("W2W_FORESEEN", "12")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=FOLDERS, second=FOLDERS, mood=st.booleans(), kind=st.sampled_from([None, "style"]))
def test_a_dry_run_says_what_the_run_says(
    tmp_path_factory: pytest.TempPathFactory, bare: Path, first: Folder, second: Folder, mood: bool, kind: str | None
) -> None:
    """``W2W_FORESEEN``: how many examples."""
    tmp_path = shutil.copytree(bare, tmp_path_factory.mktemp("word"), dirs_exist_ok=True)
    table = tmp_path / "labels.csv"
    table.write_text("name,mood\nann,1\nnobody,2\n")
    with open_registry(at(tmp_path)) as registry:
        for name, content in (("in", first), ("in", second), ("other", second)):
            folder = write(tmp_path / name, content)
            request = AddRequest(
                [str(folder)], labels_csv=table if mood else None, labels={"seen": 1.0} if mood else {}, kind=kind
            )
            plan = foreseen(registry, request)
            assert json.loads(json.dumps(plan["counts"])) == plan["counts"]
            assert plan == done(registry, request)
