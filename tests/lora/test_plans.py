"""What is remembered of a header never changes what a file says: read after others like it, or by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lora.loras import MODULES, make_tensors, st_file
from w2w_registry.errors import BadLora
from w2w_registry.lora import header, plans, read, read_adapter, read_lora, write, write_lora
from w2w_registry.lora.adapter import Adapter
from w2w_registry.lora.header import BrokenHeader, tables_of
from w2w_registry.lora.read import LoraFile


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    header._remembered.cache_clear()
    plans.SPELLINGS.clear()
    read._PLAIN.clear()


def plain(value: Any) -> Any:
    """A value to compare: arrays by dtype, shape and bytes."""
    if isinstance(value, np.ndarray):
        assert not value.flags.writeable
        return value.dtype.str, value.shape, value.tobytes()
    if hasattr(value, "items"):
        return [(key, plain(one)) for key, one in value.items()]
    if isinstance(value, tuple):
        return tuple(plain(one) for one in value)
    if hasattr(value, "__dataclass_fields__"):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    return value


def said(path: Path) -> tuple[Any, Any]:
    """All that is read of a file, or why it is refused."""

    def tried(how: Any) -> Any:
        try:
            found: LoraFile | Adapter = how(path)
        except BadLora as error:
            return str(error)
        return plain(found)

    return tried(read_adapter), tried(read_lora)


def alike(first: Path, second: Path) -> None:
    """``second`` says the same after ``first``, twice, as by itself."""
    forget()
    alone = said(second)
    forget()
    said(first), said(first)
    assert said(second) == alone
    assert said(second) == alone


@pytest.mark.parametrize("fmt", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rank", [1, 3])
def test_every_format_and_dtype(tmp_path: Path, fmt: Any, dtype: Any, rank: int) -> None:
    for i in range(2):
        write_lora(
            tmp_path / str(i),
            make_tensors(i, rank),
            27.0,
            fmt=fmt,
            dtype=dtype,
            base_model="own/base",
            metadata={"seed": str(i)},
        )
    alike(tmp_path / "0", tmp_path / "1")
    assert len(plans.SPELLINGS) == 1  # the second was read by what the first left


@pytest.mark.parametrize("fmt", ["peft", "diffusers", "kohya"])
def test_another_alpha_is_another_model(tmp_path: Path, fmt: Any) -> None:
    for i, alpha in enumerate((27.0, 13.0)):
        write_lora(tmp_path / str(i), make_tensors(1), alpha, fmt=fmt)
    alike(tmp_path / "0", tmp_path / "1")
    assert read_lora(tmp_path / "1").alpha == 13.0


def _loha(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    shapes = {"hada_w1_a": (16, 2), "hada_w1_b": (2, 16), "hada_w2_a": (16, 2), "hada_w2_b": (2, 16)}
    found = {f"{name}.{role}": rng.normal(size=shape).astype(np.float16) for role, shape in shapes.items()}
    return {**found, f"{name}.alpha": np.array(2.0 + seed, np.float32)}


def _with_text(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    module = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    names = [f"unet.{MODULES[0]}", module]
    shapes = {"lora_A": (1, 8), "lora_B": (8, 1)}
    return {
        f"{name}.{role}.weight": rng.normal(size=shape).astype(np.float32)
        for name in names
        for role, shape in shapes.items()
    }


def _convolution(seed: int) -> dict[str, np.ndarray]:
    """Linear layers kept as 1×1 convolutions, and a scalar beside."""
    rng = np.random.default_rng(seed)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    return {
        f"{name}.lora_down.weight": rng.normal(size=(2, 8, 1, 1)).astype(np.float64),
        f"{name}.lora_up.weight": rng.normal(size=(8, 2, 1, 1)).astype(np.float64),
        f"{name}.alpha": np.array(1.0, np.float64),
        f"{name}.scalar": np.array(1.0 + seed, np.float64),
    }


def _fused(seed: int) -> dict[str, np.ndarray]:
    """One B for q, k and v, of which each layer has its rows."""
    rng = np.random.default_rng(seed)
    name = "transformer.double_blocks.0.img_attn.qkv"
    return {
        f"{name}.lora_A.weight": rng.normal(size=(2, 8)).astype(np.float32),
        f"{name}.lora_B.weight": rng.normal(size=(24, 2)).astype(np.float32),
    }


@pytest.mark.parametrize("make", [_loha, _with_text, _convolution, _fused])
def test_other_adapters(tmp_path: Path, make: Any) -> None:
    alike(*(st_file(tmp_path / f"{i}.safetensors", make(i), {"ss_output_name": str(i)}) for i in range(2)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 2e9])
def test_numbers_that_are_none_are_refused_after_good_ones(tmp_path: Path, value: float) -> None:
    arrays = _with_text(0)
    good = st_file(tmp_path / "good.safetensors", arrays)
    name = next(iter(arrays))
    arrays[name] = arrays[name].copy()
    arrays[name][0, 3] = value
    bad = st_file(tmp_path / "bad.safetensors", arrays)
    alike(good, bad)
    with pytest.raises(BadLora):
        read_lora(bad)


def test_another_config_beside_the_same_tensors(tmp_path: Path) -> None:
    for i, config in enumerate(({"lora_alpha": 4, "r": 1}, {"lora_alpha": 4, "r": 1, "use_rslora": True})):
        write_lora(tmp_path / str(i), make_tensors(1), 4.0, fmt="peft")
        (tmp_path / str(i) / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    alike(tmp_path / "0", tmp_path / "1")


def test_metadata_twice_is_refused() -> None:
    for second in ("{}", '{"a":"b"}', "null"):
        with pytest.raises(BrokenHeader):
            tables_of(f'{{"__metadata__":{{"a":"b"}},"__metadata__":{second}}}'.encode(), 0)


_TEXTS = st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=3)
_VALUES = st.recursive(st.none() | st.integers(0, 9) | st.text(max_size=3), lambda inner: st.lists(inner), max_leaves=4)
_NAMES = st.sampled_from(["a", "b", "__metadata__", 'q"', "é"])
_ENTRIES = st.tuples(st.sampled_from(["F32", "F16", "I8", "X"]), st.lists(st.integers(0, 3), max_size=2))


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, int]:
    """Headers as written, and such with something broken."""
    parts = []
    place = 0
    if draw(st.booleans()):
        metadata = draw(_TEXTS if draw(st.booleans()) else _VALUES)
        parts.append('"__metadata__":' + json.dumps(metadata, ensure_ascii=draw(st.booleans())))
    for name in draw(st.lists(_NAMES, max_size=3)):
        tag, shape = draw(_ENTRIES)
        size = int(np.prod(shape)) * {"F32": 4, "F16": 2, "I8": 1, "X": 1}[tag]
        entry = {"dtype": tag, "shape": shape, "data_offsets": [place, place + size]}
        parts.append(json.dumps(name) + ":" + json.dumps(draw(st.sampled_from([entry, entry, entry, {"a": "b"}]))))
        place += size
    text = "{" + ",".join(parts) + "}" + " " * draw(st.integers(0, 3))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", ",", "}", '"', " ", "{", "\n", ',"a":1'])) + text[at:]
    return text.encode(), place + draw(st.sampled_from([0, 0, 0, 1]))


@given(headers(), _TEXTS)
def test_a_header_says_the_same_read_in_one_or_apart(case: tuple[bytes, int], other: dict[str, str]) -> None:
    text, size = case

    def told(read: Any, *given: Any) -> Any:
        try:
            shape, metadata = read(*given)
        except BrokenHeader as error:
            return str(error)
        return list(shape.entries.items()), shape.data_size, metadata or {}

    alone = told(header._read_table, text.decode(), size)
    assert told(tables_of, text, size) == alone
    apart = header._apart(text.decode())
    if apart is not None:  # with other metadata in between
        again = b'{"__metadata__":' + json.dumps(other).encode() + b"," + apart[0][1:].encode()
        assert told(tables_of, again, size) == told(header._read_table, again.decode(), size)
    assert told(tables_of, text, size) == alone


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_file_is_written_as_the_first_of_its_kind_was(dtype: Any, rank: int) -> None:
    def made(seed: int, alpha: Any) -> bytes:
        (data,) = write.lora_files(
            "x.safetensors", make_tensors(seed, rank), alpha, fmt="diffusers", dtype=dtype, base_model="own/base"
        ).values()
        return data

    for alpha in (27.0, None, {module: 2.0 + i % 2 for i, module in enumerate(MODULES)}):
        write._start_of.cache_clear()
        made(0, alpha)
        again = made(1, alpha)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(write, "_written_alike", lambda *_: None)
            assert made(1, alpha) == again


def test_what_cannot_be_written_is_named_after_a_good_one() -> None:
    good = make_tensors(0)
    write.lora_files("x.safetensors", good, 1.0, fmt="diffusers", dtype="fp16")
    for value, reason in ((1e30, "too large for fp16"), (np.nan, "NaN or Inf")):
        bad = {key: array.copy() for key, array in good.items()}
        bad[(MODULES[2], "B")][3, 0] = value
        with pytest.raises(BadLora, match=f"{MODULES[2]}.*{reason}"):
            write.lora_files("x.safetensors", bad, 1.0, fmt="diffusers", dtype="fp16")
