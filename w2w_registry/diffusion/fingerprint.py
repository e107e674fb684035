"""What an adapter makes the base model draw, in 512 floats: its fingerprint (DESIGN §3).

The UNet is asked once, at a fixed input of nearly pure noise, what it would draw; the base model's own answer is taken
away, and the difference in the predicted picture is projected by a fixed random matrix. At that noise there is nothing
to go by but the adapter, so the answer is the mean of what it has learned. Whatever rank, modules, starting point or
tool an adapter comes from, fingerprints of one base model can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2w_registry import lora
from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.diffusion.merged import PARTS, TEXT, UNET, as_named_in, merged
from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel, quiet
from w2w_registry.errors import BadLora
from w2w_registry.lora.formats.diffusers import FILE as DIFFUSERS_FILE
from w2w_registry.lora.formats.peft import CONFIG as PEFT_CONFIG
from w2w_registry.lora.formats.peft import FILE as PEFT_FILE
from w2w_registry.space.layout import Layout, TensorKey, layout_of

Float32 = NDArray[np.float32]

PROBES: Final = "x0-0.98-512"
"""Names everything below that a fingerprint depends on, beside the base model and the prompt."""
NOISE: Final = 0.98
WIDTH: Final = 512
BATCH: Final = 32
_SEED: Final = 20260101
_NAME: Final = "probed"
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
    if found.more or found.unread or any(c.part not in PARTS for c in found.changes):
        return None
    parts = {part: [c for c in found.changes if c.part == part] for part in PARTS}
    unet, text = (_factors(parts[part]) for part in PARTS)
    if unet is None or (parts[TEXT] and text is None):
        return None
    dora = {c.module: c.tensors["magnitude"] for c in parts[UNET] if c.kind == "DoRA"}
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


def fingerprints(
    model: DiffusionModel,
    adapters: Sequence[Adapter],
    prompt: str,
    *,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Float32:
    """(n, 512) float32, one row per adapter.

    Raises:
        BadLora: an adapter does not fit the base model.
    """
    probe = _probe(model, prompt)
    out = np.zeros((len(adapters), WIDTH), np.float32)
    done = 0
    for numbers in _alike(adapters, batch):
        out[numbers] = probe([adapters[n] for n in numbers])
        done += len(numbers)
        if progress is not None:
            progress(done, len(adapters))
    return out


def of_thetas(model: DiffusionModel, layout: Layout, thetas: Float32, prompt: str, *, batch: int = BATCH) -> Float32:
    """(n, 512) for plain LoRAs ``thetas`` (n, D) of one layout."""
    return fingerprints(model, [Adapter(layout, theta) for theta in thetas], prompt, batch=batch)


def _alike(adapters: Sequence[Adapter], batch: int) -> Iterator[list[int]]:
    """Numbers of adapters that can share a call of the UNet."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, adapter in enumerate(adapters):
        form = (
            (adapter.layout.digest, adapter.magnitudes is None, adapter.text and adapter.text[0].digest)
            if adapter.layout
            else (number,)
        )
        groups.setdefault(form, []).append(number)
    for numbers in groups.values():
        yield from (numbers[i : i + batch] for i in range(0, len(numbers), batch))


def _probe(model: DiffusionModel, prompt: str) -> _Probe:
    """The question, asked of the base model itself once."""
    key = ("probe", prompt, model.scheduler.config.prediction_type)
    if key not in model.memo:
        model.memo[key] = _Probe(model, prompt)
    found: _Probe = model.memo[key]
    return found


class _Probe:
    """The fixed question to one base model, and its own answer."""

    def __init__(self, model: DiffusionModel, prompt: str) -> None:
        self.model, self.prompt = model, prompt
        scheduler = model.scheduler
        self.t = torch.tensor(round(NOISE * scheduler.config.num_train_timesteps) - 1, device=model.device)
        shape = model.latent_shape
        noise = np.random.Generator(np.random.Philox(_SEED)).standard_normal((1, *shape)).astype(np.float32)
        self.x = torch.from_numpy(noise).to(model.device)
        alpha = float(scheduler.alphas_cumprod[int(self.t)])
        signal, sigma = max(alpha, 0.0) ** 0.5, (1 - alpha) ** 0.5
        # How far the predicted picture moves when the prediction moves by one.
        kind = scheduler.config.prediction_type
        self.scale = {"v_prediction": -sigma, "epsilon": -sigma / max(signal, 1e-3), "sample": 1.0}[kind]
        self.matrix = torch.from_numpy(_projection(int(np.prod(shape)))).to(model.device)
        self.words = model.encode_text(prompt)
        self.own = self._ask(self.words, 1)

    def __call__(self, adapters: Sequence[Adapter]) -> Float32:
        try:
            answer = self._answers(adapters)
        except ValueError as error:
            raise BadLora(path="adapter", reason=f"does not fit the base model: {error}") from None
        moved = (answer - self.own) * self.scale
        found: Float32 = (moved.flatten(1) @ self.matrix).cpu().numpy()
        return found

    def _answers(self, adapters: Sequence[Adapter]) -> Tensor:
        """Raises ValueError when one does not fit the base model."""
        first, spare = adapters[0], all(adapter.changes for adapter in adapters)
        # A prompt that two text encoders read is encoded by diffusers alone.
        if first.layout is not None and (first.text is None or not hasattr(self.model.pipe, "text_encoder_2")):
            try:
                return self._factored(adapters)
            except ValueError:
                if not spare:
                    raise
        return torch.cat([self._alone(adapter) for adapter in adapters])

    def _alone(self, adapter: Adapter) -> Tensor:
        pipe = self.model.pipe
        with merged(pipe, adapter.changes) if adapter.changes else _loaded(pipe, adapter.source or {}):
            same_words = bool(adapter.changes) and all(change.part == UNET for change in adapter.changes)
            return self._ask(self.words if same_words else self.model.encode_text(self.prompt), 1)

    def _factored(self, adapters: Sequence[Adapter]) -> Tensor:
        """The answers of adapters of one form, in one call."""
        first, device = adapters[0], self.model.device
        assert first.layout is not None
        theta, magnitudes = (
            None if values[0] is None else torch.from_numpy(np.stack(values)).to(device)  # type: ignore[arg-type]
            for values in ([a.theta for a in adapters], [a.magnitudes for a in adapters])
        )
        assert theta is not None
        bank, text = LoraBank(self.model.unet, first.layout), None
        if first.text is not None:
            encoder = self.model.pipe.text_encoder
            words = LoraBank(encoder, as_named_in(encoder, first.text[0]))
            said = torch.from_numpy(np.stack([a.text[1] for a in adapters if a.text is not None])).to(device)
            with torch.no_grad(), words.apply(said):
                text = self.model.pipe.encode_prompt([self.prompt] * len(adapters), device, 1, False)[0]
        with bank.apply(theta, magnitudes=magnitudes):
            return self._ask(self.words, len(adapters), text)

    @torch.no_grad()
    def _ask(self, words: Conditioning, count: int, texts: Tensor | None = None) -> Tensor:
        """The model's answers (count, C, h, w); ``texts`` (count, L, E): each with embeddings of its own."""
        kind = self.model.dtype
        text = words.text.to(kind)[None].expand(count, *words.text.shape) if texts is None else texts.to(kind)
        with self.model.conditioned(words):
            x = self.x.to(kind).expand(count, *self.x.shape[1:])
            answer: Tensor = self.model.unet(x, self.t, text).sample
        return answer.float()


@lru_cache(maxsize=2)
def _projection(size: int) -> Float32:
    """(size, 512): entries N(0, 1/512), so that lengths are kept on average (Johnson & Lindenstrauss 1984)."""
    random = np.random.Generator(np.random.Philox(_SEED + 1))
    return (random.standard_normal((size, WIDTH), dtype=np.float32) / np.float32(WIDTH**0.5)).astype(np.float32)


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
        for part in ("unet", "text_encoder", "text_encoder_2"):
            if getattr(pipe, part, None) is not None:
                getattr(pipe, part).to(pipe.device)
        yield
    finally:
        _unload(pipe)


def _unload(pipe: Any) -> None:
    if pipe.get_list_adapters():
        pipe.unload_lora_weights()
    for part in ("unet", "text_encoder", "text_encoder_2"):
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
        state: dict[str, Tensor] = load_file(str(file))
    except (OSError, ValueError, SafetensorError):
        raise unread or BadLora(path=str(path), reason="cannot be read") from None
    if not any(key.startswith(_PEFT) for key in state):
        return file
    config_file = file.parent / PEFT_CONFIG
    config = json.loads(config_file.read_text()) if config_file.is_file() else {}
    if config.get("alpha_pattern") or config.get("use_rslora"):
        raise unread or BadLora(path=str(path), reason="its scale differs by module, in a way only PEFT knows")
    return {
        f"unet.{key.removeprefix(_PEFT).removeprefix('unet.')}": value.float() * _scale(key, value, config)
        for key, value in state.items()
    }


def _scale(key: str, value: Tensor, config: dict[str, Any]) -> float:
    return float(config.get("lora_alpha") or value.shape[-1]) / value.shape[-1] if ".lora_B." in key else 1.0
