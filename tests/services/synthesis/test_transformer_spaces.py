"""Weight spaces of transformers (shapes of Flux and SD3): everything that a UNet's do, and stock libraries load what
comes out of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.services.synthesis.test_synthesis import point
from w2w_registry.lora import read_lora
from w2w_registry.services.identities import bulk, intake
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.services.search.found import Query
from w2w_registry.services.search.query import search
from w2w_registry.services.synthesis import directions, edit, export
from w2w_registry.settings import Settings
from w2w_registry.space.layout import Layout

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")

PEOPLE, RANK, ALPHA = 24, 2, 4.0
FLUX = {
    **{"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
    **{"num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)},
}
SD3 = {
    **{"sample_size": 32, "patch_size": 1, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8},
    **{"num_attention_heads": 4, "joint_attention_dim": 32, "caption_projection_dim": 32},
    **{"pooled_projection_dim": 64, "out_channels": 4},
}
MODELS = {
    "flux": ("FluxTransformer2DModel", FLUX, ["to_q", "to_v", "to_out.0", "add_k_proj", "proj_mlp"]),
    "sd3": ("SD3Transformer2DModel", SD3, ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"]),
}


def make(kind: str) -> Any:
    torch.manual_seed(0)
    name, config, _ = MODELS[kind]
    return getattr(diffusers, name)(**config)


def write_people(folder: Path, kind: str) -> None:
    """LoRAs of one start as the pipeline's own ``save_lora_weights`` writes them."""
    model = make(kind)
    targets = MODELS[kind][2]
    model.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    shapes = {key: tensor.shape for key, tensor in peft.get_peft_model_state_dict(model).items()}
    start = {key: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for key, shape in shapes.items()}
    settings = {f"transformer.{k}": v for k, v in {"r": RANK, "lora_alpha": ALPHA, "target_modules": targets}.items()}
    for i in range(PEOPLE):
        generator = torch.Generator().manual_seed(100 + i)
        state = {
            f"transformer.{key}": start[key] * ("lora_A" in key)
            + 0.05 * torch.randn(shape, generator=generator).contiguous()
            for key, shape in shapes.items()
        }
        (folder / f"{kind}{i:02d}").mkdir(parents=True)
        header = {"format": "pt", "ss_sd_model_name": f"acme/{kind}", "lora_adapter_metadata": json.dumps(settings)}
        safetensors.save_file(state, str(folder / f"{kind}{i:02d}" / "pytorch_lora_weights.safetensors"), header)


def deltas(model: Any) -> dict[str, np.ndarray]:
    """ΔW by layer, as the library that loaded an adapter works it out."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight(next(iter(module.lora_A))).detach().numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def of_theta(theta: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    tensors = layout.unflatten(theta)
    scale = layout.alpha / RANK
    return {m: scale * tensors[(m, "B")].astype(np.float64) @ tensors[(m, "A")] for m in layout.modules}


def by_pipeline(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a pipeline hands its transformer: the tensors, and the settings in the header."""
    file = next(folder.rglob("*.safetensors"))
    with safetensors.safe_open(str(file), "np") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    return safetensors.load_file(str(file)), settings


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    home = tmp_path / "home"
    settings = Settings(home, f"sqlite:///{home}/catalog.db", "tester", str(home / "artifacts"))
    init_registry(settings)
    with open_registry(settings) as opened:
        yield opened


@pytest.mark.parametrize("kind", MODELS)
def test_a_transformers_space_does_all_that_a_unets_does(registry: Registry, tmp_path: Path, kind: str) -> None:
    write_people(tmp_path / "in", kind)
    request = AddRequest([str(tmp_path / "in")], kind="style")
    done = intake.perform(registry, request, intake.plan(registry, intake.survey(request), fit=True))
    assert (len(done.items), done.exit_code, done.fitted) == (PEOPLE, 0, (f"{kind}-r{RANK}@1",))
    space = open_space(registry, done.fitted[0])[1]
    mine = read_lora(tmp_path / "in" / f"{kind}03")
    rebuilt = of_theta(space.reconstruct(point(registry, f"{kind}03")), space.layout)
    for module, delta in of_theta(mine.theta(), mine.layout()).items():
        np.testing.assert_allclose(rebuilt[module], delta, atol=1e-5 * np.abs(delta).max())
    assert search(registry, Query(f"{kind}03"), limit=1).results[0].identity == f"{kind}03"
    for i in range(PEOPLE):
        bulk.label_many(registry, [f"{kind}{i:02d}"], {"beard": float(i % 2)})
    directions.fit(registry, "beard", "beard", done.fitted[0])
    edit.edit(registry, f"{kind}03", {"beard": 1.0}, name="edited")
    edit.mix(registry, [f"{kind}03", f"{kind}05"], [0.3, 0.7], name="mixed")
    edit.sample(registry, count=1, name="sampled", space=done.fitted[0], kind="style")
    names = ("edited", "mixed", "sampled-001")
    assert len({point(registry, name).tobytes() for name in (*names, f"{kind}03")}) == 4
    for name in names:
        wanted = of_theta(space.reconstruct(point(registry, name)), space.layout)
        out = tmp_path / "out" / name
        for fmt in ("diffusers", "peft"):
            export.export(registry, name, str(out / fmt), fmt=fmt)
        model = make(kind)
        state, metadata = by_pipeline(out / "diffusers")
        model.load_lora_adapter(state, prefix="transformer", metadata=metadata)
        for found in (deltas(model), deltas(peft.PeftModel.from_pretrained(make(kind), str(out / "peft")))):
            assert set(found) == set(wanted)
            for module, delta in wanted.items():
                np.testing.assert_allclose(found[module], delta, atol=1e-6 * np.abs(delta).max())
