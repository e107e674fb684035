"""Every part of an adapter comes out of the registry as it went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.lora.loras import st_file
from tests.services.identities.folder import ATTENTION, rand
from tests.services.world import BASE, World
from w2w_registry.errors import UsageError
from w2w_registry.lora import read_adapter
from w2w_registry.services.identities import intake
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.export import export


def run_add(registry: Registry, path: Path, **options: object) -> None:
    request = AddRequest([str(path)], kind="style", **options)  # type: ignore[arg-type]
    done = intake.perform(registry, request, intake.plan(registry, intake.survey(request), fit=True))
    assert done.exit_code == 0


def test_a_text_encoders_share_comes_out_as_it_went_in(registry: Registry, tmp_path: Path, world: World) -> None:
    """Placed in a space, and in none; with embeddings kept beside."""
    run_add(registry, world.write(tmp_path / "fit", range(20)))
    text = {
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": rand(2, 12),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_B.weight": rand(16, 2, seed=1),
    }
    for name, further in (("placed", {}), ("words", {"clip_l": rand(1, 12)})):
        unet = world.layout.unflatten(world.theta(30 if further else 31))
        state = {f"unet.{m}.lora_{x}.weight": a for (m, x), a in unet.items()}
        st_file(tmp_path / f"{name}.safetensors", {**state, **text, **further})
        run_add(registry, tmp_path / f"{name}.safetensors", base_model=BASE)
        for fmt in ("diffusers", "kohya", "original"):
            out = tmp_path / name / f"{fmt}.safetensors"
            done = export(registry, name, str(out), fmt=fmt)
            back = read_adapter(out)
            (share,) = [c for c in back.changes if c.part == "text_encoder"]
            wanted = text[next(k for k in text if "lora_B" in k)] @ text[next(k for k in text if "lora_A" in k)]
            np.testing.assert_allclose(share.delta(), wanted, rtol=1e-6)
            assert bool(back.unread) == (fmt == "original" and bool(further))
            assert any("have no place in this form" in w for w in done["warnings"]) == (
                bool(further) and fmt != "original"
            )
        export(registry, name, str(tmp_path / name / "peft"))
        assert (tmp_path / name / "peft" / "text_encoder" / "adapter_config.json").exists()


def test_a_lora_in_no_space_is_written_in_any_form_another_kind_as_it_came(registry: Registry, tmp_path: Path) -> None:
    pair = {f"{ATTENTION}.lora_down.weight": rand(2, 12), f"{ATTENTION}.lora_up.weight": rand(16, 2)}
    run_add(registry, st_file(tmp_path / "plain.safetensors", pair))
    run_add(registry, st_file(tmp_path / "dora.safetensors", {**pair, f"{ATTENTION}.dora_scale": rand(16, 1)}))
    export(registry, "plain", str(tmp_path / "out"), fmt="peft")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    assert export(registry, "dora", str(tmp_path / "dora"))["format"] == "original"
    with pytest.raises(UsageError, match="a DoRA file"):
        export(registry, "dora", str(tmp_path / "kohya"), fmt="kohya")
    with pytest.raises(UsageError, match="no weight space"):
        export(registry, "plain", str(tmp_path / "points"), fmt="coordinates")


def test_another_text_encoders_share_makes_another_model(registry: Registry, tmp_path: Path, world: World) -> None:
    """The same denoiser with two text encoders' shares, with none, and a re-saved one: three models; dry run and run
    say the same."""
    run_add(registry, world.write(tmp_path / "fit", range(20)))
    unet = {f"unet.{m}.lora_{x}.weight": a for (m, x), a in world.layout.unflatten(world.theta(30)).items()}

    def text(seed: int) -> dict[str, np.ndarray]:
        stem = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
        return {f"{stem}.lora_A.weight": rand(2, 12, seed=seed), f"{stem}.lora_B.weight": rand(16, 2, seed=seed)}

    for name, more in (("a", text(1)), ("b", text(2)), ("c", {}), ("d", text(1))):
        st_file(tmp_path / "in" / f"{name}.safetensors", {**unet, **more}, {"saved": name})
    request = AddRequest([str(tmp_path / "in")], kind="style", base_model=BASE)
    planned = intake.plan(registry, intake.survey(request), fit=True)
    assert (planned.added, planned.existing) == (3, 1)
    done = intake.perform(registry, request, planned)
    statuses = {Path(item.path).stem: item.status for item in done.items}
    assert statuses == {"a": "added", "b": "added", "c": "added", "d": "existing"}
    again = intake.perform(registry, request, intake.plan(registry, intake.survey(request), fit=True))
    assert {item.status for item in again.items} == {"existing"}
