"""What is written reads back: every format, dtype, rank and alpha; the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.lora.loras import MODULES, make_tensors, st_file
from w2w_registry.errors import BadLora, StorageError, UsageError
from w2w_registry.lora import read_lora, write_lora
from w2w_registry.lora.tensorfile import round_to

FORMATS = ("peft", "diffusers", "kohya")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rank", [1, 4])
def test_round_trip(tmp_path: Path, fmt: str, dtype: str, rank: int) -> None:
    tensors = make_tensors(rank=rank)
    written = write_lora(tmp_path / "one", tensors, 27.0, fmt=fmt, dtype=dtype, base_model="acme/base", revision="r1")
    lora = read_lora(tmp_path / "one")
    assert (lora.format, lora.dtype, lora.alpha, lora.base_model) == (fmt, dtype, 27.0, "acme/base")
    assert lora.base_revision == (None if fmt == "kohya" else "r1")
    assert set(lora.files) == set(written)
    assert set(lora.tensors) == set(tensors)
    for key, array in tensors.items():
        np.testing.assert_array_equal(lora.tensors[key], round_to(array, dtype))
    assert lora.modules == MODULES


def test_formats_give_one_theta(tmp_path: Path) -> None:
    tensors = make_tensors(rank=2)
    for fmt in FORMATS:
        write_lora(tmp_path / fmt, tensors, 8.0, fmt=fmt)
    thetas = [read_lora(tmp_path / fmt).theta() for fmt in FORMATS]
    layouts = {read_lora(tmp_path / fmt).layout().digest for fmt in FORMATS}
    assert len(layouts) == 1
    assert all(np.array_equal(thetas[0], theta) for theta in thetas[1:])


@pytest.mark.parametrize("fmt", FORMATS)
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, fmt: str) -> None:
    tensors = make_tensors()
    first = write_lora(tmp_path / "a", tensors, 27.0, fmt=fmt, metadata={"z": "1", "a": "2"})
    again = write_lora(tmp_path / "b", dict(reversed(tensors.items())), 27.0, fmt=fmt, metadata={"a": "2", "z": "1"})
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert read_lora(tmp_path / "a").metadata["z"] == "1"


@pytest.mark.parametrize("fmt", FORMATS)
def test_different_ranks_and_alphas_survive(tmp_path: Path, fmt: str) -> None:
    tensors = make_tensors(rank=2) | make_tensors(seed=1, rank=4, modules=MODULES[:1])
    alphas = {m: 3.5 if m == MODULES[1] else 8.0 for m in MODULES}
    write_lora(tmp_path / "one", tensors, alphas, fmt=fmt)
    lora = read_lora(tmp_path / "one")
    assert dict(lora.alphas) == alphas
    assert lora.alpha is None
    assert lora.rank(MODULES[0]) == 4
    with pytest.raises(BadLora, match="different alphas"):
        lora.layout()


def test_a_lora_file_can_be_written_as_it_was_read(tmp_path: Path) -> None:
    write_lora(tmp_path / "a", make_tensors(), 27.0, base_model="acme/base")
    write_lora(tmp_path / "b.safetensors", read_lora(tmp_path / "a"), fmt="kohya")
    assert read_lora(tmp_path / "b.safetensors").alpha == 27.0
    assert read_lora(tmp_path / "b.safetensors").base_model == "acme/base"


def test_alpha_defaults_to_rank_and_says_so(tmp_path: Path) -> None:
    arrays = {f"unet.{m}.lora_{f}.weight": a for (m, f), a in make_tensors(rank=4).items()}
    lora = read_lora(st_file(tmp_path / "x.safetensors", arrays))
    assert (lora.alpha, lora.alpha_source) == (4.0, "default")
    write_lora(tmp_path / "y", make_tensors(rank=4))
    assert (read_lora(tmp_path / "y").alpha, read_lora(tmp_path / "y").alpha_source) == (4.0, "config")


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    write_lora(tmp_path / "one", make_tensors(rank=4), 8.0)
    path = tmp_path / "one" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": True}))
    # PEFT: scale = alpha / √r = 4, so as alpha / r with r = 4 the alpha is 16.
    assert read_lora(tmp_path / "one").alpha == 16.0


def test_adapter_names_in_keys(tmp_path: Path) -> None:
    arrays = {f"base_model.model.{m}.lora_{f}.identity1.weight": a for (m, f), a in make_tensors().items()}
    st_file(tmp_path / "one" / "adapter_model.safetensors", arrays)
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 27}))
    assert read_lora(tmp_path / "one").alpha == 27.0
    # The file alone finds the settings beside it.
    assert read_lora(tmp_path / "one" / "adapter_model.safetensors").alpha == 27.0


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("unet.{m}.lora.down.weight", "unet.{m}.lora.up.weight"),
        ("unet.{m}.lora_linear_layer.down.weight", "unet.{m}.lora_linear_layer.up.weight"),
        ("{m}.lora_A.weight", "{m}.lora_B.weight"),
    ],
)
def test_older_diffusers_names(tmp_path: Path, down: str, up: str) -> None:
    tensors = make_tensors()
    arrays = {(down if f == "A" else up).format(m=m): a for (m, f), a in tensors.items()}
    lora = read_lora(st_file(tmp_path / "x.safetensors", arrays))
    assert all(np.array_equal(lora.tensors[key], array) for key, array in tensors.items())


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_processor_era_names(tmp_path: Path, prefix: str) -> None:
    block = "mid_block.attentions.0.transformer_blocks.0.attn1"
    arrays = {}
    for projection in ("to_q", "to_k", "to_v", "to_out"):
        arrays[f"{prefix}{block}.processor.{projection}_lora.down.weight"] = np.ones((1, 8), np.float32)
        arrays[f"{prefix}{block}.processor.{projection}_lora.up.weight"] = np.ones((8, 1), np.float32)
    lora = read_lora(st_file(tmp_path / "x.safetensors", arrays))
    assert set(lora.modules) == {f"{block}.{p}" for p in ("to_q", "to_k", "to_v", "to_out.0")}


def test_text_encoder_is_reported_not_read(tmp_path: Path) -> None:
    arrays = {f"unet.{m}.lora_{f}.weight": a for (m, f), a in make_tensors().items()}
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    arrays |= {
        f"{name}.lora_A.weight": np.ones((1, 4), np.float32),
        f"{name}.lora_B.weight": np.ones((4, 1), np.float32),
    }
    lora = read_lora(st_file(tmp_path / "x.safetensors", arrays))
    assert lora.ignored == (name,)
    assert set(lora.modules) == set(MODULES)


def test_convolution_factors(tmp_path: Path) -> None:
    module = "down_blocks.0.resnets.0.conv1"
    tensors = {(module, "A"): np.ones((2, 4, 3, 3), np.float32), (module, "B"): np.ones((8, 2, 1, 1), np.float32)}
    for fmt in FORMATS:
        write_lora(tmp_path / fmt, tensors, 1.0, fmt=fmt)
        assert read_lora(tmp_path / fmt).shapes == {k: v.shape for k, v in tensors.items()}


def test_arrays_are_read_only(tmp_path: Path) -> None:
    write_lora(tmp_path / "one", make_tensors())
    lora = read_lora(tmp_path / "one")
    with pytest.raises(ValueError, match="read-only"):
        lora.tensors[(MODULES[0], "A")][0, 0] = 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-6e4, 6e4, width=32)))
def test_rounding_is_what_torch_does(values: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    as_torch = torch.from_numpy(values)
    for dtype, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        np.testing.assert_array_equal(round_to(values, dtype), as_torch.to(kind).float().numpy())


def test_bf16_file_is_what_torch_reads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    tensors = make_tensors()
    (file,) = write_lora(tmp_path / "x.safetensors", tensors, fmt="diffusers", dtype="bf16")
    loaded = load_file(file)
    for (module, factor), array in tensors.items():
        tensor = loaded[f"unet.{module}.lora_{factor}.weight"]
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, torch.from_numpy(array).to(torch.bfloat16))


def test_peft_form_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder"):
        write_lora(tmp_path / "x.safetensors", make_tensors(), fmt="peft")


def test_values_too_large_for_the_dtype(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors[(MODULES[0], "A")][0, 0] = 1e6
    with pytest.raises(BadLora, match="too large for fp16"):
        write_lora(tmp_path / "one", tensors, dtype="fp16")
    assert not (tmp_path / "one").exists()


def test_kohya_cannot_carry_every_module(tmp_path: Path) -> None:
    tensors = make_tensors(modules=("transformer.layers.0.to_q",))
    with pytest.raises(BadLora, match="kohya"):
        write_lora(tmp_path / "x.safetensors", tensors, fmt="kohya")


def test_a_failed_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lora(tmp_path / "one", make_tensors())
    before = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_lora(tmp_path / "one", make_tensors(seed=1))
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == before
