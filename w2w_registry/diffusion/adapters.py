"""Adapters of any kind as the base model is asked with them: read, sorted by form, applied for the length of a block.

What changes linear layers by known factors, or is a DoRA, is applied by the registry's own bank, many adapters in one
call; other known changes are added to the weights, one adapter at a time; the rest is left to diffusers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2w_registry import lora
from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.diffusion.families import Conditioning
from w2w_registry.diffusion.merged import PARTS, TEXT, UNET, as_named_in, merged
from w2w_registry.diffusion.pipeline import DiffusionModel, quiet
from w2w_registry.errors import BadLora
from w2w_registry.files import check_file, read_text
from w2w_registry.lora.formats.diffusers import FILE as DIFFUSERS_FILE
from w2w_registry.lora.formats.peft import CONFIG as PEFT_CONFIG
from w2w_registry.lora.formats.peft import FILE as PEFT_FILE
from w2w_registry.space.layout import Layout, TensorKey, layout_of

_CONFIG_LIMIT = 16 << 20

Float32 = NDArray[np.float32]

_NAME: Final = "probed"
TRANSFORMER: Final = "transformer"
_LOADED: Final = ("unet", TRANSFORMER, "text_encoder", "text_encoder_2")
_PEFT: Final = "base_model.model."


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter ready to be probed: factors of linear layers of the UNet (``layout``, ``theta`` (D,)), ``changes`` of
    any layers whose ΔW is known, or whatever diffusers takes: the ``source`` is its safetensors file, or tensors by
    diffusers' names.

    ``magnitudes`` (M,) make it a DoRA; ``text`` (layout, θ) is what it changes in the text encoder.
    """

    layout: Layout | None = None
    theta: Float32 | None = None
    source: Path | dict[str, Tensor] | None = None
    magnitudes: Float32 | None = None
    text: tuple[Layout, Float32] | None = None
    changes: tuple[lora.Change, ...] = ()


def read_adapter(path: str | Path) -> Adapter:
    """Any adapter whose ΔW is known, or that diffusers loads. What changes linear layers of the UNet and the text
    encoder by known factors, or is a DoRA, is probed many at a time; other known changes are added to the weights, one
    adapter at a time; the rest is left to diffusers.

    Raises:
        BadLora: neither can read it.
    """
    try:
        found = lora.read_adapter(path)
    except BadLora as error:
        return Adapter(source=_source(Path(path), error))
    ours = _factored(found)
    # Of a LoHa or LoKr only the model knows whether the layer is linear.
    if ours is not None and ours.text is None and all(c.kind in ("LoRA", "DoRA") for c in found.changes):
        return ours
    if found.exact and all(c.part in PARTS for c in found.changes):
        return Adapter(changes=found.changes) if ours is None else replace(ours, changes=found.changes)
    source = _source(Path(path), None)
    return Adapter(source=source) if ours is None else replace(ours, source=source)


def _factored(found: lora.Adapter) -> Adapter | None:
    """``found`` as factors, None when it is more than that."""
    # A base model has a UNet or a transformer: which of them a LoRA changes is held against the base model later.
    denoiser = TRANSFORMER if any(c.part == TRANSFORMER for c in found.changes) else UNET
    if found.more or found.unread or any(c.part not in (denoiser, TEXT) for c in found.changes):
        return None
    parts = {part: [c for c in found.changes if c.part == part] for part in (denoiser, TEXT)}
    unet, text = (_factors(parts[part]) for part in (denoiser, TEXT))
    if unet is None or (parts[TEXT] and text is None):
        return None
    dora = {c.module: c.tensors["magnitude"] for c in parts[denoiser] if c.kind == "DoRA"}
    layout, theta = unet
    if not dora:
        return Adapter(layout, theta, text=text)
    outputs = [layout.by_key[m, "B"].shape[0] for m in layout.modules]
    if len(dora) < len(layout.modules) or any(
        dora[m].shape not in ((size,), (size, 1)) for m, size in zip(layout.modules, outputs, strict=True)
    ):
        return None
    magnitudes = np.concatenate([np.asarray(dora[m], np.float32).reshape(-1) for m in layout.modules])
    return Adapter(layout, theta, magnitudes=magnitudes, text=text)


def _factors(changes: Sequence[lora.Change]) -> tuple[Layout, Float32] | None:
    """Changes of linear layers as (layout, θ), every scale in its B; None when there are others, or none at all."""
    tensors: dict[TensorKey, NDArray[Any]] = {}
    for change in changes:
        flat = all(value.ndim <= 2 for value in change.tensors.values())
        if change.kind not in ("LoRA", "DoRA", "LoHa", "LoKr") or not flat or (change.module, "A") in tensors:
            return None
        plain = replace(change, kind="LoRA") if change.kind == "DoRA" else change
        factors = plain.factors()
        if factors is None or (change.part == TEXT and change.kind == "DoRA"):
            return None
        tensors[change.module, "B"], tensors[change.module, "A"] = factors
    if not tensors:
        return None
    # A layout divides by every module's own rank: undo it, and modules of any rank fit one layout.
    most = max(value.shape[0] for (_, factor), value in tensors.items() if factor == "A")
    scaled = {key: value * (value.shape[1] / most) if key[1] == "B" else value for key, value in tensors.items()}
    layout = layout_of({key: value.shape for key, value in scaled.items()}, float(most))
    return layout, layout.flatten(scaled)


# -- asking with them --------------------------------------------------------------------------------
def alike(model: DiffusionModel, adapters: Sequence[Adapter], batch: int) -> Iterator[list[int]]:
    """Numbers of adapters that can share a call of the UNet, at most ``batch`` at a time.

    Raises:
        BadLora: one does not fit the base model.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, adapter in enumerate(adapters):
        form = (adapter.layout and adapter.layout.digest, adapter.magnitudes is None,
                adapter.text and adapter.text[0].digest)  # fmt: skip
        groups.setdefault(form if adapter.layout else (number,), []).append(number)
    for numbers in groups.values():
        most = batch if _banks(model, adapters[numbers[0]]) is not None else 1
        yield from (numbers[i : i + most] for i in range(0, len(numbers), most))


@contextmanager
def applied(
    model: DiffusionModel, adapters: Sequence[Adapter], prompt: str, words: Conditioning
) -> Iterator[tuple[Conditioning, Tensor]]:
    """Inside the block the UNet has the adapters (numbers that ``alike`` gave), each for an equal run of the batch.

    Gives the prompt as they are told it: the conditioning, and embeddings (n, L, E). ``words`` is the prompt as the
    base model's own text encoder reads it.

    Raises:
        BadLora: one does not fit the base model.
    """
    first, own = adapters[0], words.text[None].expand(len(adapters), *words.text.shape)
    banks = _banks(model, first)
    if banks is not None:
        unet, text = banks
        if text is not None:
            said = _stacked(model, [a.text and a.text[1] for a in adapters])
            with torch.no_grad(), text.apply(said):
                own = model.pipe.encode_prompt([prompt] * len(adapters), model.device, 1, False)[0]
        magnitudes = None if first.magnitudes is None else _stacked(model, [a.magnitudes for a in adapters])
        with unet.apply(_stacked(model, [a.theta for a in adapters]), magnitudes=magnitudes):
            yield words, own
        return
    (adapter,) = adapters
    if adapter.changes:
        try:
            inside = merged(model.pipe, adapter.changes)
            with inside:
                theirs = words
                if any(change.part != UNET for change in adapter.changes):
                    theirs = model.encode_text(prompt)
                yield theirs, theirs.text[None]
        except ValueError as error:
            raise _unfit(error) from None
    else:
        with _loaded(model.pipe, adapter.source or {}):
            theirs = model.encode_text(prompt)
            yield theirs, theirs.text[None]


def _banks(model: DiffusionModel, adapter: Adapter) -> tuple[LoraBank, LoraBank | None] | None:
    """The adapter's places in the UNet and the text encoder; None when it has to be applied by itself.

    Raises:
        BadLora: it does not fit, and there is no other way.
    """
    # A prompt that two text encoders read is encoded by diffusers alone.
    if adapter.layout is None or (adapter.text is not None and hasattr(model.pipe, "text_encoder_2")):
        return None
    try:
        text = None
        if adapter.text is not None:
            encoder = model.pipe.text_encoder
            text = LoraBank(encoder, as_named_in(encoder, adapter.text[0]))
        return LoraBank(model.unet, adapter.layout), text
    except ValueError as error:
        if adapter.changes:
            return None
        raise _unfit(error) from None


def _unfit(error: ValueError) -> BadLora:
    return BadLora(path="adapter", reason=f"does not fit the base model: {error}")


def _stacked(model: DiffusionModel, rows: Sequence[Float32 | None]) -> Tensor:
    return torch.from_numpy(np.stack([row for row in rows if row is not None])).to(model.device)


@contextmanager
def _loaded(pipe: Any, source: Path | dict[str, Tensor]) -> Iterator[None]:
    """Inside the block ``pipe`` has the adapter, as diffusers loads it.

    Raises:
        BadLora: it cannot.
    """
    try:
        with quiet():
            if isinstance(source, Path):
                where = {"weight_name": source.name, "local_files_only": True, "use_safetensors": True}
                pipe.load_lora_weights(str(source.parent), adapter_name=_NAME, **where)
            else:
                pipe.load_lora_weights(dict(source), adapter_name=_NAME)
        if not pipe.get_list_adapters():
            raise ValueError("none of its keys names a part of this base model")
    except Exception as error:  # diffusers and PEFT raise whatever they happen to stumble over
        _unload(pipe)
        raise BadLora(path="adapter", reason=f"diffusers cannot load it here: {str(error).splitlines()[0]}") from None
    try:
        for part in _LOADED:
            if getattr(pipe, part, None) is not None:
                getattr(pipe, part).to(pipe.device)
        yield
    finally:
        _unload(pipe)


def _unload(pipe: Any) -> None:
    if pipe.get_list_adapters():
        pipe.unload_lora_weights()
    for part in _LOADED:
        if hasattr(getattr(pipe, part, None), "peft_config"):
            getattr(pipe, part).delete_adapters(_NAME)


def _source(path: Path, unread: BadLora | None) -> Path | dict[str, Tensor]:
    """What diffusers can load of an adapter: its file, or PEFT's tensors under diffusers' names, α/r in B.

    Only safetensors are opened, never a pickle.

    Raises:
        BadLora: ``unread``, where given, when the file holds no tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = next((p for p in (path / DIFFUSERS_FILE, path / PEFT_FILE) if p.is_file()), path)
    try:
        if file.is_dir():
            (file,) = file.glob("*.safetensors")
        check_file(file, BadLora)
        state: dict[str, Tensor] = load_file(str(file))
    except (OSError, ValueError, SafetensorError):
        raise unread or BadLora(path=str(path), reason="cannot be read") from None
    if not any(key.startswith(_PEFT) for key in state):
        return file
    config_file = file.parent / PEFT_CONFIG
    config = json.loads(read_text(config_file, limit=_CONFIG_LIMIT)) if config_file.is_file() else {}
    if config.get("alpha_pattern") or config.get("use_rslora"):
        raise unread or BadLora(path=str(path), reason="its scale differs by module, in a way only PEFT knows")
    return {
        f"unet.{key.removeprefix(_PEFT).removeprefix('unet.')}": value.float() * _scale(key, value, config)
        for key, value in state.items()
    }


def _scale(key: str, value: Tensor, config: dict[str, Any]) -> float:
    return float(config.get("lora_alpha") or value.shape[-1]) / value.shape[-1] if ".lora_B." in key else 1.0
