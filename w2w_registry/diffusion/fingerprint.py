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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel, quiet
from w2w_registry.errors import BadLora
from w2w_registry.lora import read_lora
from w2w_registry.lora.formats.diffusers import FILE as DIFFUSERS_FILE
from w2w_registry.lora.formats.peft import CONFIG as PEFT_CONFIG
from w2w_registry.lora.formats.peft import FILE as PEFT_FILE
from w2w_registry.space.layout import Layout, layout_of

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
    """An adapter ready to be probed: a plain LoRA (``layout``, ``theta`` (D,)), or any other as diffusers takes it:
    the ``source`` is its safetensors file, or tensors by diffusers' names."""

    layout: Layout | None = None
    theta: Float32 | None = None
    source: Path | dict[str, Tensor] | None = None


def read_adapter(path: str | Path) -> Adapter:
    """Any adapter that diffusers loads: plain UNet LoRAs are read by the registry (and probed many at a time),
    text-encoder parts, DoRA and the rest by diffusers.

    Raises:
        BadLora: neither can read it.
    """
    try:
        lora = read_lora(path)
    except BadLora as error:
        return Adapter(source=_source(Path(path), error))
    if lora.ignored:
        return Adapter(source=_source(Path(path), None))
    # α/r goes into B, so that modules with different alphas fit one layout.
    tensors = {
        (module, factor): (value * (lora.alphas[module] / lora.rank(module)) if factor == "B" else value)
        for (module, factor), value in lora.tensors.items()
    }
    ranks = {module: lora.rank(module) for module in lora.modules}
    if len(set(ranks.values())) > 1 or any(value.ndim != 2 for value in tensors.values()):
        return Adapter(source=_source(Path(path), None))
    layout = layout_of({key: value.shape for key, value in tensors.items()}, float(next(iter(ranks.values()))))
    return Adapter(layout, layout.flatten(tensors))


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
    probe = _Probe(model, prompt)
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
    groups: dict[str, list[int]] = {}
    for number, adapter in enumerate(adapters):
        groups.setdefault(adapter.layout.digest if adapter.layout else f"alone {number}", []).append(number)
    for numbers in groups.values():
        yield from (numbers[i : i + batch] for i in range(0, len(numbers), batch))


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
        first = adapters[0]
        if first.layout is not None:
            theta = torch.from_numpy(np.stack([a.theta for a in adapters if a.theta is not None]))
            try:
                bank = self.model.bank(first.layout)
            except Exception as error:
                raise BadLora(path="adapter", reason=f"does not fit the base model: {error}") from None
            with bank.apply(theta.to(self.model.device)):
                answer = self._ask(self.words, len(adapters))
        else:
            with _loaded(self.model.pipe, first.source or {}):
                answer = self._ask(self.model.encode_text(self.prompt), 1)
        moved = (answer - self.own) * self.scale
        found: Float32 = (moved.flatten(1) @ self.matrix).cpu().numpy()
        return found

    @torch.no_grad()
    def _ask(self, words: Conditioning, count: int) -> Tensor:
        kind = self.model.dtype
        text = words.text.to(kind)[None].expand(count, *words.text.shape)
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
