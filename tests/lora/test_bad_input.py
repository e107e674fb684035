"""Every bad file gives BadLora with one line that names what is wrong; nothing is executed or allocated."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lora.loras import MODULES, make_tensors, raw_file, st_file
from w2w_registry.errors import BadLora
from w2w_registry.lora import read_adapter, read_lora, write_lora
from w2w_registry.services.recording.likeness import of_adapter

M = MODULES[0]
A, B = f"unet.{M}.lora_A.weight", f"unet.{M}.lora_B.weight"


def entry(shape: list[int], start: int, dtype: str = "F32") -> dict[str, Any]:
    size = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}


def refused(path: Path) -> str:
    with pytest.raises(BadLora) as caught:
        read_lora(path)
    reason: str = caught.value.fields["reason"]
    assert caught.value.fields["path"]
    assert "\n" not in reason
    assert len(reason) < 300
    return reason


def changed(path: Path, **changes: np.ndarray | None) -> Path:
    arrays: dict[str, np.ndarray] = {f"unet.{m}.lora_{f}.weight": a for (m, f), a in make_tensors().items()}
    for name, value in changes.items():
        key = {"a": A, "b": B}.get(name, name)
        if value is None:
            del arrays[key]
        else:
            arrays[key] = value
    return st_file(path, arrays)


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.safetensors") == "no such file or folder"
    assert "too long" in refused(tmp_path / ("x" * 10_000))
    assert "null" in refused(Path(f"{tmp_path}/a\0b"))
    assert "holds no LoRA" in refused(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in refused(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "not a regular file" in refused(tmp_path / "pipe.safetensors")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed(tmp_path / "x.safetensors")
    real = os.open

    def deny(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied")
        return real(file, *args, **kwargs)

    monkeypatch.setattr("os.open", deny)
    assert "no permission" in refused(path)


def test_unicode_names_are_fine(tmp_path: Path) -> None:
    path = changed(tmp_path / "Zoë – 名前.safetensors")
    assert read_lora(path).path == path


def test_empty_and_truncated_at_every_length(tmp_path: Path) -> None:
    whole = changed(tmp_path / "x.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"")
    assert "empty" in refused(cut)
    for length in [*range(1, 400, 7), *range(400, len(whole), 97), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        assert refused(cut)


def test_huge_header_claim(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 100 * 2**30) + b"{}")
    assert "header claims 107374182400 bytes" in refused(path)
    path.write_bytes(struct.pack("<Q", 2**64 - 1) + b"{}")
    assert "header claims" in refused(path)
    huge = tmp_path / "sparse.safetensors"
    with open(huge, "wb") as stream:
        stream.write(struct.pack("<Q", 2 * 10**9))
        stream.truncate(3 * 10**9)
    assert "more than" in refused(huge)


def test_huge_tensor_claim(tmp_path: Path) -> None:
    table = {A: {"dtype": "F32", "shape": [1, 2**40], "data_offsets": [0, 2**42]}}
    assert "truncated" in refused(raw_file(tmp_path / "x.safetensors", table))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"not json", "not valid JSON"),
        (b"[1]", "not a table"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 50_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"x": 1, "x": 2}', "not valid JSON"),
        (b"{}", "holds no tensors"),
        (b'{"__metadata__": {"a": 1}}', "metadata"),
        (b'{"__metadata__": {"format": "pt"}}', "holds no tensors"),
        (b'{"x": 1}', "broken header entry"),
        (b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}', "broken shape"),
        (b'{"x": {"dtype": "F32", "shape": [true], "data_offsets": [0, 0]}}', "broken shape"),
        (b'{"x": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 0]}}', "broken shape"),
        (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', "truncated"),
        (b'{"x": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}', "dtype C64"),
        (b'{"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}', "dtype F4"),
        (b'{"a\\nb": 1}', "broken header entry for a\ufffdb"),
        (b'{"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}', "dtype"),
    ],
)
def test_broken_headers(tmp_path: Path, header: bytes, words: str) -> None:
    assert words in refused(raw_file(tmp_path / "x.safetensors", header, b""))


def test_offsets(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    both = {A: entry([1, 4], 0), B: entry([4, 1], 16)}
    assert read_lora(raw_file(path, both, bytes(32))).layout().dim == 8
    assert "overlapping" in refused(raw_file(path, both | {B: entry([4, 1], 8)}, bytes(32)))
    assert "belong to no tensor" in refused(raw_file(path, both | {B: entry([4, 1], 20)}, bytes(36)))
    assert "at the end" in refused(raw_file(path, both, bytes(40)))
    assert "has shape (1, 5) but 16 bytes" in refused(
        raw_file(path, both | {A: entry([1, 4], 0) | {"shape": [1, 5]}}, bytes(32))
    )


def test_names_of_ten_thousand_characters(tmp_path: Path) -> None:
    assert refused(st_file(tmp_path / "x.safetensors", {"x" * 10_000: np.zeros(1, np.float32)}))
    name = "unet.down_blocks." + "y" * 10_000
    arrays = {f"{name}.lora_A.weight": np.zeros((1, 2), np.float32)}
    assert "no B" in refused(st_file(tmp_path / "y.safetensors", arrays))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint64"])
def test_factors_are_floats(tmp_path: Path, dtype: str) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    pair = {f"{stem}.lora_down.weight": np.ones((2, 4), dtype), f"{stem}.lora_up.weight": np.ones((4, 2), np.float32)}
    path = st_file(tmp_path / "x.safetensors", pair)
    assert f"lora_down.weight holds {dtype} numbers" in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, value: float) -> None:
    bad = np.ones((1, 16), np.float32)
    bad[0, 3] = value
    assert "NaN or Inf" in refused(changed(tmp_path / "x.safetensors", a=bad))


def test_shapes_and_missing_factors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert "has its A but no B" in refused(changed(path, b=None))
    assert "has its B but no A" in refused(changed(path, a=None))
    assert "do not make a LoRA" in refused(changed(path, a=np.ones((2, 16), np.float32)))
    assert "do not make a LoRA" in refused(changed(path, a=np.ones(16, np.float32)))
    assert "do not make a LoRA" in refused(changed(path, a=np.ones((1, 0), np.float32)))
    assert "do not make a LoRA" in refused(
        changed(path, a=np.ones((1, 2, 3, 3), np.float32), b=np.ones((4, 1, 3, 3), np.float32))
    )


def test_not_a_lora(tmp_path: Path) -> None:
    weights = {"conv_in.weight": np.zeros((4, 4, 3, 3), np.float32), "conv_in.bias": np.zeros(4, np.float32)}
    assert refused(st_file(tmp_path / "x.safetensors", weights)).startswith("not a LoRA")
    assert "replaced weights beside" in refused(
        changed(tmp_path / "y.safetensors", **{"unet.conv_in.weight": np.zeros(4, np.float32)})
    )
    (tmp_path / "notes.txt").write_text("hello, this is not a LoRA at all")
    assert refused(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (f"unet.{M}.lora_magnitude_vector", "a LoRA with DoRA beside"),
        ("unet.weird", "not a LoRA tensor"),
        ("something.lora_A.weight", "no B"),
        ("unet.conv_in.diff", "whole differences"),
        ("unet.conv_in.diff_b", "biases"),
        ("unet.norm.w_norm", "norms"),
        ("unet.conv_in.oft_blocks", "OFT"),
    ],
)
def test_other_adapters_are_refused_by_name(tmp_path: Path, key: str, kind: str) -> None:
    assert kind in refused(changed(tmp_path / "x.safetensors", **{key: np.ones((1, 1), np.float32)}))


class Boom:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (str(Boom.target),)

    target: Path


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "lora.ckpt", "lora.safetensors", "lora.pkl"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    Boom.target = tmp_path / "executed"
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Boom()))
    assert "pickle" in refused(folder / name)
    assert "pickle" in refused(folder)
    assert not Boom.target.exists()


def test_torch_zip_is_told_as_pickle(tmp_path: Path) -> None:
    for name, word in (("archive/data.pkl", "pickle"), ("a" * 90 + "/data.pkl", "pickle"), ("a.txt", "a zip archive")):
        with zipfile.ZipFile(tmp_path / "x.safetensors", "w") as packed:
            packed.writestr(name, b"\x80\x02")
        assert word in refused(tmp_path / "x.safetensors")


def test_text_encoder_only(tmp_path: Path) -> None:
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    arrays = {
        f"{name}.lora_down.weight": np.ones((1, 4), np.float32),
        f"{name}.lora_up.weight": np.ones((4, 1), np.float32),
    }
    assert "only the text encoder" in refused(st_file(tmp_path / "x.safetensors", arrays))


def test_mixed_formats_and_adapters(tmp_path: Path) -> None:
    extra = {f"base_model.model.{MODULES[1]}.x.lora_A.weight": np.ones((1, 4), np.float32)}
    assert "mixes key names" in refused(changed(tmp_path / "x.safetensors", **extra))
    arrays = {
        f"base_model.model.{m}.lora_{f}.{name}.weight": a
        for (m, f), a in make_tensors().items()
        for name in ("one", "two")
    }
    assert "several adapters (one, two)" in refused(st_file(tmp_path / "y.safetensors", arrays))


def test_two_spellings_of_one_factor(tmp_path: Path) -> None:
    extra = {f"unet.{M}.lora.down.weight": np.ones((1, 16), np.float32)}
    assert "two tensors for" in refused(changed(tmp_path / "x.safetensors", **extra))


def test_alpha_tensors(tmp_path: Path) -> None:
    assert "positive" in refused(changed(tmp_path / "x.safetensors", **{f"unet.{M}.alpha": np.zeros(1, np.float32)}))
    assert "positive" in refused(changed(tmp_path / "x.safetensors", **{f"unet.{M}.alpha": np.ones(2, np.float32)}))


def test_alphas_of_layers_that_a_tool_took_out(tmp_path: Path) -> None:
    stray = {"unet.conv_in.alpha": np.ones((), np.float32)}
    read = read_adapter(changed(tmp_path / "x.safetensors", **stray))
    assert read.remarks[0] == "it gives an alpha and no factors for 1 layer, which it leaves unchanged"
    assert {c.module for c in read.changes} == set(MODULES)
    assert "alphas and no factors" in refused(st_file(tmp_path / "y.safetensors", stray))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("decoder.conv_in.weight", "a VAE"),
        ("first_stage_model.decoder.conv_in.weight", "a whole checkpoint"),
        ("model.diffusion_model.conv_in.weight", "a UNet or transformer by itself"),
        ("decoder.mid.attn_1.q.weight", "a VAE"),
        ("320.0.linear.0.weight", "a hypernetwork"),
        ("lllite_unet_input_blocks_4_1_to_q.conditioning1.0.weight", "a ControlNet-LLLite"),
        ("down_blocks.0.motion_modules.0.proj_in.weight", "a motion module"),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "an image encoder"),
        ("model.1.sub.0.RDB1.conv1.0.weight", "an upscaler"),
        ("some.layer.weight", "its tensors are model weights"),
    ],
)
def test_other_models_by_their_names(tmp_path: Path, name: str, what: str) -> None:
    assert f"not a LoRA: {what} (" in refused(st_file(tmp_path / "x.safetensors", {name: np.ones(2, np.float32)}))


def test_a_tar_under_another_name_is_an_archive(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x")
    with tarfile.open(tmp_path / "x.safetensors", "w") as archive:
        archive.add(tmp_path / "in.txt", "lora.safetensors")
    assert "an archive" in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x1f\x8b\x08\x08name", "an archive"),
        (b"\x89PNG\r\n\x1a\n", "a picture or a film"),
        (b"\0\0\0 ftypisom", "a picture or a film"),
        (bytes(64), "begins with zeros only, as a download that was not finished does"),
    ],
)
def test_other_files_under_a_models_name(tmp_path: Path, start: bytes, what: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(start + bytes(600))
    assert what in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ['{"error": "unauthorized"}', "Access denied\n", "Not Found, sorry"])
def test_a_text_where_a_model_should_be(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text(text)
    assert f"a text, not a model (a download that was refused?): it begins with {text.strip()}" in refused(path)


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a table"),
        ({"peft_type": "LOHA", "r": 1, "lora_alpha": 1}, "LOHA adapter"),
        ({"r": 1, "lora_alpha": 1, "use_dora": True}, "DoRA"),
        ({"r": 1, "lora_alpha": 1, "modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"r": 1, "lora_alpha": 1, "init_lora_weights": "pissa_niter_4"}, "base weights"),
        ({"r": 1, "lora_alpha": 1, "kasa_config": {"beta": 1e-4}}, "KaSA"),
        ({"r": 1, "lora_alpha": 1, "use_bdlora": {"a": 1}}, "block-diagonal"),
        ({"r": 4, "lora_alpha": 1}, "rank 4"),
        ({"r": 1, "lora_alpha": "27"}, "lora_alpha"),
        ({"r": 1, "lora_alpha": -1}, "lora_alpha"),
        ({"r": 1, "lora_alpha": float("nan")}, "lora_alpha"),
        ({"r": 1, "lora_alpha": 1, "alpha_pattern": {"(?=a)+$": 3}}, "not safe to try"),
        ({"r": 1, "lora_alpha": 1, "alpha_pattern": {r"(a)\1": 3}}, "not safe to try"),
        ({"r": 1, "lora_alpha": 1, "alpha_pattern": {"[": 3}}, "not safe to try"),
        ({"r": 1, "lora_alpha": 1, "alpha_pattern": {"to_q": "x"}}, "not a positive number"),
        ({"r": 1, "lora_alpha": 1, "rank_pattern": [1]}, "not a table"),
    ],
)
def test_settings_that_cannot_be_right(tmp_path: Path, settings_: Any, words: str) -> None:
    write_lora(tmp_path / "one", make_tensors())
    text = settings_ if isinstance(settings_, str) else json.dumps(settings_)
    (tmp_path / "one" / "adapter_config.json").write_text(text)
    assert words in refused(tmp_path / "one")


def test_two_alphas_that_disagree(tmp_path: Path) -> None:
    arrays = {f"base_model.model.{m}.lora_{f}.weight": a for (m, f), a in make_tensors().items()}
    arrays[f"base_model.model.{M}.alpha"] = np.asarray(3.0, np.float32)
    st_file(tmp_path / "one" / "adapter_model.safetensors", arrays)
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 27}))
    assert "two alphas" in refused(tmp_path / "one")


def test_folder_with_several(tmp_path: Path) -> None:
    changed(tmp_path / "a.safetensors")
    st_file(tmp_path / "vae.safetensors", {"decoder.weight": np.ones(3, np.float32)})
    assert read_lora(tmp_path).files == (tmp_path / "a.safetensors",)
    changed(tmp_path / "b.safetensors")
    assert "2 LoRA files" in refused(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    """Any damage to the header is refused or read; it is never another exception."""
    path = tmp_path / "x.safetensors"
    if not path.exists():
        changed(path)
    whole = bytearray(path.read_bytes())
    header = int.from_bytes(whole[:8], "little") + 8
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, header - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        whole[place] = value
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(bytes(whole))
    with contextlib.suppress(BadLora):
        read_lora(damaged)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x4B50])
def test_a_header_may_be_as_long_as_a_pickles_first_bytes_say(tmp_path: Path, length: int) -> None:
    arrays = {f"unet.{m}.lora_{f}.weight": a for (m, f), a in make_tensors(modules=MODULES[:2]).items()}
    data = st_file(tmp_path / "x.safetensors", arrays).read_bytes()
    have = int.from_bytes(data[:8], "little")
    padded = length.to_bytes(8, "little") + data[8 : 8 + have] + b" " * (length - have) + data[8 + have :]
    (tmp_path / "y.safetensors").write_bytes(padded)
    assert len(read_lora(tmp_path / "y.safetensors").alphas) == 2


def test_a_zip_with_a_model_in_a_folder_is_an_archive_not_a_pickle(tmp_path: Path) -> None:
    for name, what in [
        ("ann/ann.safetensors", "a zip archive"),
        ("ann/data.pkl", "a pickle"),
        ("ann/version", "a pickle"),
    ]:
        with zipfile.ZipFile(tmp_path / "x.safetensors", "w") as archive:
            archive.writestr(name, b"x" * 600)
        assert what in refused(tmp_path / "x.safetensors")


ROLES = [
    *(("lora_down.weight", "lora_up.weight", more) for more in ("alpha", "lora_mid.weight", "dora_scale", "scalar")),
    *(
        ("lokr_w1", *right)
        for right in [("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"), ("lokr_w2_a", "lokr_w2_b", "lokr_t2")]
    ),
    ("lokr_w1_a", "lokr_w1_b", "lokr_w2"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    *(("diff", "diff_b"), ("w_norm", "b_norm"), ("oft_blocks", "alpha"), ("lora_embedding_A", "lora_embedding_B")),
]
STEMS = [
    *(
        "lora_unet_mid_block_attentions_0_proj_in.",
        "lora_unet_single_blocks_0_linear1.",
        "lora_unet_layers_0_attention_qkv.",
    ),
    *("diffusion_model.double_blocks.0.img_attn.qkv.", "diffusion_model.final_layer.adaLN_modulation.1."),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.",
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_odd_shapes_are_read_or_refused_and_never_stop_a_folder(tmp_path: Path, data: st.DataObject) -> None:
    """Nothing else than BadLora comes out, and what is read has a ΔW of every layer that is said to be exact."""
    side = st.sampled_from([0, 1, 2, 4, 6, 12])
    rank, width, rows = data.draw(side), data.draw(side), data.draw(side)
    usual = {"_b": (rank, width), "down.weight": (rank, width), "_A": (rank, width), "alpha": (), "scalar": ()}
    state = {}
    for role in data.draw(st.sampled_from(ROLES)):
        shape = next((shape for ending, shape in usual.items() if role.endswith(ending)), (rows, rank))
        if data.draw(st.integers(0, 3)) == 0:
            shape = tuple(data.draw(st.lists(side, max_size=5)))
        state[data.draw(st.shared(st.sampled_from(STEMS), key="stem")) + role] = np.ones(shape, np.float32)
    path = st_file(tmp_path / "x.safetensors", state)
    try:
        adapter = read_adapter(path)
    except BadLora:
        return
    for change in adapter.changes:
        delta = change.delta()
        assert delta is None or delta.size
    assert of_adapter(adapter).sketch is None or len(adapter.changes)
