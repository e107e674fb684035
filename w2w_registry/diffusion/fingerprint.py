"""What an adapter makes the base model draw, in 512 floats: its fingerprint (DESIGN §3).

The UNet is asked once, at a fixed input of nearly pure noise, what it would draw; the base model's own answer is taken
away, and the difference in the predicted picture is projected by a fixed random matrix. At that noise there is nothing
to go by but the adapter, so the answer is the mean of what it has learned. Whatever rank, modules, starting point or
tool an adapter comes from, fingerprints of one base model can be compared.
"""

from __future__ import annotations

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

from w2w_registry.diffusion.pipeline import Conditioning, DiffusionModel
from w2w_registry.errors import BadLora
from w2w_registry.lora import read_lora
from w2w_registry.lora.read import DIFFUSERS_FILE, PEFT_FILE
from w2w_registry.space.layout import Layout, layout_of

Float32 = NDArray[np.float32]

PROBES: Final = "x0-0.98-512"
"""Names everything below that a fingerprint depends on, beside the base model and the prompt."""
NOISE: Final = 0.98
WIDTH: Final = 512
BATCH: Final = 32
_SEED: Final = 20260101
_NAME: Final = "probed"


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter ready to be probed: a plain LoRA's ``theta`` (D,) in its ``layout``, or the ``state`` dict of any other."""

    layout: Layout | None = None
    theta: Float32 | None = None
    state: dict[str, Tensor] | None = None


def read_adapter(path: str | Path) -> Adapter:
    """Any adapter that diffusers loads: plain UNet LoRAs are read by the registry (and probed many at a time),
    text-encoder parts, DoRA and the rest by diffusers.

    Raises:
        BadLora: neither can read it.
    """
    try:
        lora = read_lora(path)
    except BadLora as error:
        state = _state(Path(path), error)
        return Adapter(state=state)
    if lora.ignored:
        return Adapter(state=_state(Path(path), None))
    # α/r goes into B, so that modules with different alphas fit one layout.
    tensors = {
        (module, factor): (value * (lora.alphas[module] / lora.rank(module)) if factor == "B" else value)
        for (module, factor), value in lora.tensors.items()
    }
    ranks = {module: lora.rank(module) for module in lora.modules}
    if len(set(ranks.values())) > 1 or any(value.ndim != 2 for value in tensors.values()):
        return Adapter(state=_state(Path(path), None))
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
            with _loaded(self.model.pipe, first.state or {}):
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
def _loaded(pipe: Any, state: dict[str, Tensor]) -> Iterator[None]:
    """Inside the block ``pipe`` has the adapter, as diffusers loads it.

    Raises:
        BadLora: it cannot.
    """
    try:
        pipe.load_lora_weights(dict(state), adapter_name=_NAME)
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


def _state(path: Path, unread: BadLora | None) -> dict[str, Tensor]:
    """The tensors of a safetensors file (never a pickle), keys and alphas as diffusers wants them."""
    import json

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = next((p for p in (path / DIFFUSERS_FILE, path / PEFT_FILE) if p.is_file()), path)
    try:
        if file.is_dir():
            (file,) = file.glob("*.safetensors")
        state: dict[str, Tensor] = load_file(str(file))
    except (OSError, ValueError, SafetensorError):
        raise unread or BadLora(path=str(path), reason="cannot be read") from None
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if not any(key.startswith("base_model.model.") for key in state):
        return state
    config_file = file.parent / "adapter_config.json"
    config = json.loads(config_file.read_text()) if config_file.is_file() else {}
    renamed = {}
    for key, value in state.items():
        scale = float(config.get("lora_alpha") or value.shape[-1]) / value.shape[-1] if ".lora_B." in key else 1.0
        renamed["unet." + key.removeprefix("base_model.model.").removeprefix("unet.")] = value * scale
    return renamed
