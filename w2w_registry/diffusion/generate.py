"""Pictures of identities, straight from θ: the stock pipeline runs, the LoRA is applied from outside.

Because the pipeline's own ``__call__`` does the work, a picture is the one that stock diffusers draws with the exported
LoRA, prompt, seed and settings.  An edit is injected from a timestep on (the paper, §3.3 and its appendix): above it
the unedited weights lay out the picture, below it the edited ones finish it, so that pose and background stay.  A
local edit goes further: the unedited picture is drawn beside the edited one, and after every step whatever the edit
hardly touches is taken from it (as DiffEdit and blended latent diffusion do with masks; here the two walks themselves
say where).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from w2w_registry.diffusion.pipeline import DiffusionModel, memory_guard
from w2w_registry.errors import UsageError
from w2w_registry.space.layout import Layout

Pixels = NDArray[np.uint8]
Theta = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""
StepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""What diffusers calls after a step: pipeline, step, timestep, and a dict with the latents; returns the dict."""
MEMORY: Final = 0.8
"""How much of what an edit has changed in earlier steps still says where it acts."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a picture besides weights and seed. ``guidance`` None is the pipeline's own default;
    ``edit_from`` is the timestep (1000 is pure noise, 0 the picture) from which an edit acts; ``local`` keeps the
    unedited picture wherever an edit changes less than this share of what it changes most."""

    prompt: str
    negative: str | None = None
    steps: int = 30
    guidance: float | None = None
    edit_from: int | None = None
    local: float | None = None

    def check(self) -> None:
        """Raises UsageError when the numbers make no sense."""
        if self.steps < 1:
            raise UsageError(reason="at least one denoising step is needed")
        if self.guidance is not None and not self.guidance >= 0:
            raise UsageError(reason="guidance must be zero or more")
        if self.edit_from is not None and not 0 <= self.edit_from <= 1000:
            raise UsageError(reason="[[from-timestep]] is between 0 and 1000")
        if self.local is not None and not 0.0 <= self.local <= 1.0:
            raise UsageError(reason="[[local]] is a share between 0 and 1")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture to draw: θ (D,) of the identity, a seed, and θ after the edit if there is one. ``theta`` None draws
    the base model without any LoRA; ``prompt`` replaces the recipe's."""

    theta: Theta | None
    seed: int
    edited: Theta | None = None
    prompt: str | None = None


def draw(
    model: DiffusionModel,
    layout: Layout,
    shots: Sequence[Shot],
    recipe: Recipe,
    *,
    batch: int = 8,
    bf16: bool = False,
    progress: Progress | None = None,
) -> list[Pixels]:
    """One picture (H, W, 3) uint8 per shot, in order. The same shot gives the same picture whatever else is drawn.

    Raises:
        UsageError, SpaceMismatch, DeviceError.
    """
    recipe.check()
    pictures: list[Pixels] = []
    with memory_guard(model.device, "lower [[batch]], or use [[dtype]] bfloat16"):
        for start in range(0, len(shots), max(1, batch)):
            part = shots[start : start + max(1, batch)]
            pictures.extend(_draw_batch(model, layout, part, recipe, bf16))
            if progress is not None:
                progress(len(pictures), len(shots))
    return pictures


def _draw_batch(
    model: DiffusionModel, layout: Layout, shots: Sequence[Shot], recipe: Recipe, bf16: bool
) -> list[Pixels]:
    bare = [s.theta is None for s in shots]
    if any(bare) and not all(bare):
        raise ValueError("a batch is drawn with LoRAs or without, not both")
    blended = recipe.local is not None and any(s.edited is not None for s in shots)
    # A local edit is drawn beside its unedited picture, from the same noise.
    drawn = [*shots, *shots] if blended else list(shots)
    call: dict[str, Any] = {
        "prompt": [recipe.prompt if s.prompt is None else s.prompt for s in drawn],
        "num_inference_steps": recipe.steps,
        "generator": [torch.Generator().manual_seed(s.seed) for s in drawn],
        "output_type": "np",
        **model.family.drawing,
    }
    if recipe.negative is not None:
        call["negative_prompt"] = [recipe.negative] * len(drawn)
    if recipe.guidance is not None:
        call["guidance_scale"] = recipe.guidance
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(model.autocast(bf16))
        if not all(bare):
            bank = model.bank(layout)
            plain = _stack(model, [s.theta for s in drawn])
            edited = _stack(model, [s.theta if s.edited is None else s.edited for s in drawn])
            if blended:
                edited[: len(shots)] = plain[: len(shots)]
            group = torch.arange(len(drawn), device=model.device)
            lora = stack.enter_context(ExitStack())
            total = int(model.scheduler.config.num_train_timesteps)
            limit = total if recipe.edit_from is None else recipe.edit_from
            if all(s.edited is None for s in shots) or limit >= total:
                # The first step belongs to the edit only if the whole schedule does.
                lora.enter_context(bank.apply(edited, group))
                after: list[StepEnd] = []
            else:
                lora.enter_context(bank.apply(plain, group))
                after = [_switch(lora, bank, edited, group, limit)]
            if blended and recipe.local is not None:
                after.append(_blend(recipe.local))
            if after:
                call["callback_on_step_end"] = _in_turn(after)
        images = model.pipe(**call).images[-len(shots) :]
    return [np.asarray(np.rint(np.clip(image, 0.0, 1.0) * 255.0), np.uint8) for image in images]


def _in_turn(callbacks: Sequence[StepEnd]) -> StepEnd:
    def after_step(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        for callback in callbacks:
            kwargs = callback(pipe, step, timestep, kwargs)
        return kwargs

    return after_step


def _blend(share: float) -> StepEnd:
    """A step callback for a batch of unedited pictures followed by their edited ones: in the latter, latents that have
    moved less than ``share`` of the furthest one, over the steps so far and with their neighbours, are put back."""
    moved: torch.Tensor | None = None

    def after_step(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        nonlocal moved
        plain, edited = kwargs["latents"].chunk(2)
        change = edited - plain
        now = change.float().square().sum(1, keepdim=True)
        moved = now if moved is None else MEMORY * moved + now
        reach = max(1, min(now.shape[-2:]) // 8)
        around = torch.nn.functional.pad(moved, (reach,) * 4, mode="replicate")
        local = torch.nn.functional.avg_pool2d(around, 2 * reach + 1, stride=1).sqrt()
        most = local.amax(dim=(2, 3), keepdim=True)
        kept = torch.where(local >= share * most, change, torch.zeros_like(change))
        kwargs["latents"] = torch.cat([plain, plain + kept])
        return kwargs

    return after_step


def _switch(lora: ExitStack, bank: Any, edited: torch.Tensor, group: torch.Tensor, limit: int) -> StepEnd:
    """A step callback that swaps the weights once the next timestep is below ``limit``."""
    done = False

    def after_step(pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        timesteps = pipe.scheduler.timesteps
        if not done and step + 1 < len(timesteps) and float(timesteps[step + 1]) < limit:
            lora.close()
            lora.enter_context(bank.apply(edited, group))
            done = True
        return kwargs

    return after_step


def _stack(model: DiffusionModel, thetas: Sequence[Theta | None]) -> torch.Tensor:
    rows = np.stack([t for t in thetas if t is not None])
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(model.device)
