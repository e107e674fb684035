"""Pictures are drawn with what a LoRA changes of the text encoder, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.lora.loras import st_file
from tests.services import studio
from tests.services.synthesis.test_synthesis import registry, template  # noqa: F401
from w2w_registry.catalog.resolve import default_space
from w2w_registry.diffusion.pipeline import load_model
from w2w_registry.lora import read_lora
from w2w_registry.services.identities import ingest
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis import generate


def pixels(registry: Registry, ref: str, out: Path, **more: object) -> tuple[np.ndarray, list[str]]:  # noqa: F811
    request = generate.GenerateRequest(ref, str(out), seeds=(1,), steps=2, engine=studio.ENGINE, **more)  # type: ignore[arg-type]
    made = generate.generate(registry, request)
    return np.asarray(Image.open(made["files"][0])), [text for text in made["warnings"] if "text encoder" in text]


@pytest.mark.parametrize("kind", ["fits", "does not fit"])
def test_a_text_encoders_share_is_drawn_with(
    registry: Registry,  # noqa: F811
    template: Path,  # noqa: F811
    tmp_path: Path,
    kind: str,
) -> None:
    lora = read_lora(template / "loras" / "p00")
    with registry.catalog.read() as session:
        pipeline = default_space(session).base_model  # type: ignore[union-attr]
    model = load_model(Path(pipeline), device="cpu")
    name, layer = next((n, m) for n, m in model.pipe.text_encoder.named_modules() if n.endswith("self_attn.v_proj"))
    width = layer.weight.shape[0] + (kind != "fits")
    rng = np.random.default_rng(0)
    state = {f"unet.{m}.lora_{x}.weight": array for (m, x), array in lora.tensors.items()}
    state |= {f"unet.{m}.alpha": np.asarray(a, np.float32) for m, a in lora.alphas.items()}
    state |= {
        f"text_encoder.{name}.lora_A.weight": 3 * rng.normal(size=(2, width)).astype(np.float32),
        f"text_encoder.{name}.lora_B.weight": 3 * rng.normal(size=(width, 2)).astype(np.float32),
    }
    file = st_file(tmp_path / "spoken.safetensors", state)
    (item,) = ingest.add(registry, ingest.AddRequest([str(file)], base_model=pipeline)).items
    assert item.status == "added", item
    silent, _ = pixels(registry, "p00", tmp_path / "a")
    spoken, told = pixels(registry, "spoken", tmp_path / "b")
    again, _ = pixels(registry, "spoken", tmp_path / "c", from_coordinates=True)
    # Its coordinates say nothing of the encoder, which is as it was: what differs is the mark of each picture.
    marks = apart(again, silent)
    assert marks < 1
    if kind == "fits":
        assert not told
        assert apart(spoken, silent) > 2 * marks + 0.2
    else:
        assert "drawn without what the LoRA changes of the text encoder (1 layers)" in told[0]
        assert apart(spoken, silent) <= 2 * marks + 0.2


def apart(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - two).mean())
