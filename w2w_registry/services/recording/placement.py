"""Placing a LoRA in a weight space: does it belong there, in which gauge, at which coordinates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import ForeignStart, RegistryError, SpaceMismatch
from w2w_registry.lora import LoraFile
from w2w_registry.records import UNKNOWN_BASE, Rank, Told
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.gauge import obstacles, to_gauge_all

_LOSS_WORTH_A_WARNING = 0.01


@dataclass(frozen=True, eq=False)
class Placed:
    """A LoRA's θ (D,) float32 in the space's gauge, how it got there, and what to tell about it.

    ``own`` (D,): the LoRA's own numbers, whose digest names the model; ``theta`` when its rank is not the space's. Put
    together by ``numbers`` each time they are asked for.
    """

    theta: NDArray[np.float32]
    numbers: Callable[[], NDArray[np.float32]]
    gauge: str
    loss: float
    base_model: str
    warnings: tuple[str, ...]

    @property
    def own(self) -> NDArray[np.float32]:
        """The LoRA's own numbers (D,)."""
        return self.numbers()


def check_fits(lora: LoraFile, space: WeightSpace, ref: str, base_model: str | None) -> None:
    """Refuse a LoRA of another base model or with other modules.

    Args:
        base_model: what the user says the LoRA's base is; beats what the file claims.

    Raises:
        SpaceMismatch: naming what differs.
    """
    base = base_model or lora.base_model
    if base is not None and not same_model_id(base, space.base_model):
        hint = "" if base_model else "say [[base-model]] if it is the same model under another name"
        raise SpaceMismatch(
            path=str(lora.path),
            space=ref,
            differences=(f"its base model is {base}, the space's is {space.base_model}",),
            **({"hint": hint} if hint else {}),
        )
    found = obstacles(lora.shapes, space.layout)
    if found:
        raise SpaceMismatch(path=str(lora.path), space=ref, differences=found)


def place(lora: LoraFile, space: WeightSpace, ref: str, base_model: str | None = None) -> Placed:
    """θ of ``lora`` in the space's gauge.

    Raises:
        SpaceMismatch: another base model, other modules, or other sizes. ForeignStart: trained from another start.
    """
    (placed,) = place_all([lora], space, ref, base_model)
    if isinstance(placed, RegistryError):
        raise placed
    return placed


def place_all(
    loras: Sequence[LoraFile], space: WeightSpace, ref: str, base_model: str | None = None
) -> list[Placed | RegistryError]:
    """As :func:`place`, for many, with the error in place of a LoRA that has none."""
    found: list[Placed | RegistryError] = []
    misfits: dict[int, RegistryError] = {}
    for i, lora in enumerate(loras):
        try:
            check_fits(lora, space, ref, base_model)
        except SpaceMismatch as error:
            misfits[i] = error
    fitting = [(lora.tensors, lora.alphas) for i, lora in enumerate(loras) if i not in misfits]
    gauges = iter(to_gauge_all(fitting, space.layout, space.mean, space.std, space.start))
    for i, lora in enumerate(loras):
        gauged = misfits[i] if i in misfits else next(gauges)
        if isinstance(gauged, ForeignStart):
            found.append(ForeignStart(path=str(lora.path), space=ref, agreement=gauged.agreement))
        elif isinstance(gauged, RegistryError):
            found.append(gauged)
        else:
            base = base_model or lora.base_model or space.base_model
            remarks = tuple(_remarks(lora, gauged.how, gauged.loss, base_model, space))
            found.append(Placed(gauged.theta, gauged.numbers, gauged.how, gauged.loss, base, remarks))
    return found


def _remarks(lora: LoraFile, how: str, loss: float, base_model: str | None, space: WeightSpace) -> Iterable[str]:
    conflict = base_conflict(lora.base_model, base_model)
    if conflict is not None:
        yield conflict
    if lora.ignored:
        yield (
            f"it also changes {len(lora.ignored)} text-encoder modules, which a UNet space cannot represent; "
            "only its UNet part is placed"
        )
    if how == "gauge":
        kept = f"; {loss:.1%} of its ΔW was lost in cutting its rank" if loss > _LOSS_WORTH_A_WARNING else ""
        yield f"its factors come from another initialisation or rank and were rewritten in the space's gauge{kept}"
    if base_model is None and lora.base_model is None:
        known = space.base_model != UNKNOWN_BASE
        told = lora.base_hint
        yield (
            "its file names no base model"
            + (f" that others could ask for; it was trained on {told}" if told else "")
            + (f"; taken to be {space.base_model}" if known else "")
        )


def base_conflict(named: str | None, said: str | None) -> Told | None:
    """What to tell where a file names another base model than the user says."""
    if not named or not said or same_model_id(named, said):
        return None
    return Told(f"its file names {named} as base model; recorded as {said}, as you say", Rank.CONTRADICTION)


def hint_agrees(hint: str | None, base_model: str) -> bool:
    """Whether a checkpoint's file name (``realisticVisionV51``) may be of the model with this id
    (``SG161222/Realistic_Vision_V5.1_noVAE``): one's letters and digits contain the other's."""
    bare = [re.sub(r"[\W_]", "", text).lower() for text in (hint or "", base_model.rstrip("/").rsplit("/", 1)[-1])]
    return all(len(one) > 3 for one in bare) and (bare[0] in bare[1] or bare[1] in bare[0])


def same_model_id(a: str, b: str) -> bool:
    """Whether two base-model ids mean one model: equal but for case, or equal in their last part when one is bare
    or a path (``SG161222/RV51`` and ``/models/RV51``); two Hub ids of different owners are two models."""
    a, b = a.rstrip("/").lower(), b.rstrip("/").lower()
    if a == b:
        return True
    hub = [m.count("/") == 1 and not m.startswith((".", "/", "~")) for m in (a, b)]
    return a.rsplit("/", 1)[-1] == b.rsplit("/", 1)[-1] and not all(hub)
