"""Reading the LoRAs a space is fitted on: one layout, one base model, each model once; what does not fit is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora, RegistryError, UsageError
from w2w_registry.lora import LoraFile, find_loras, model_digest, read_lora
from w2w_registry.services.recording.placement import same_model_id
from w2w_registry.services.registry import Progress, no_progress
from w2w_registry.space.layout import Layout
from w2w_registry.space.start import SHARED_START, canonical_rows, common_start, shares_start


@dataclass(frozen=True)
class Member:
    """One LoRA of the fit set."""

    name: str
    model_digest: str
    sha256: str


@dataclass(frozen=True, eq=False)
class FitSet:
    """θ (n, D) float32 with their members in order; ``skipped`` says what was left out and why (an error each).

    ``start``: the A₀ whose canonical gauge θ is in, None for θ as the files have it.
    """

    layout: Layout
    thetas: NDArray[np.float32]
    members: tuple[Member, ...]
    skipped: tuple[RegistryError, ...]
    start: NDArray[np.float32] | None = None


def read_fit_set(paths: Sequence[str], base_model: str, progress: Progress = no_progress) -> FitSet:
    """Read every LoRA under ``paths`` that shares the commonest layout.

    Raises:
        UsageError: fewer than two usable LoRAs. BadLora: none could be read (the first reason).
    """
    candidates = find_loras(paths)
    loras: list[tuple[str, LoraFile, Layout]] = []
    skipped: list[RegistryError] = []
    for done, candidate in enumerate(candidates, start=1):
        try:
            lora = read_lora(candidate.path)
            if lora.base_model is not None and not same_model_id(lora.base_model, base_model):
                raise BadLora(path=str(candidate.path), reason=f"its base model is {lora.base_model}, not {base_model}")
            loras.append((candidate.name, lora, lora.layout()))
        except RegistryError as error:
            skipped.append(error)
        progress(done, len(candidates))
    if not loras:
        raise skipped[0] if skipped else UsageError(reason="no LoRA files there")
    layout = Counter(found for _, _, found in loras).most_common(1)[0][0]
    thetas, members, seen = [], [], set()
    for name, lora, found in loras:
        if found != layout:
            skipped.append(
                BadLora(path=str(lora.path), reason="its layout (modules, rank or alpha) is not the fit set's")
            )
            continue
        theta = lora.theta()
        digest = model_digest(theta, layout)
        if digest not in seen:
            seen.add(digest)
            thetas.append(theta)
            members.append(Member(name, digest, lora.sha256))
    if len(thetas) < 2:
        raise UsageError(reason=f"a space needs at least two different LoRAs, {len(thetas)} can be used")
    return FitSet(layout, np.stack(thetas), tuple(members), tuple(skipped))


def in_common_gauge(fit_set: FitSet, *, force: bool = False) -> FitSet:
    """The fit set in the canonical gauge of its own A₀ (``space.gauge.common_start``).

    Args:
        force: take LoRAs of different starts as they are, in raw gauge.

    Raises:
        UsageError: the LoRAs share no start.
    """
    layout, start = fit_set.layout, common_start(fit_set.thetas, fit_set.layout)
    if start.agreement >= SHARED_START:
        ours = shares_start(fit_set.thetas, layout, start.values)
        if not ours.all():
            fit_set = _only(fit_set, ours)
            start = common_start(fit_set.thetas, layout)
        return replace(fit_set, thetas=canonical_rows(fit_set.thetas, layout, start.values), start=start.values)
    if force:
        return fit_set
    raise UsageError(
        reason=f"these LoRAs were trained from different starts (agreement {max(0.0, start.agreement):.2f} of 1): "
        "coordinates fitted on them would mean nothing",
        hint="fit on LoRAs of one training recipe, or say [[force]]",
    )


def _only(fit_set: FitSet, ours: NDArray[np.bool_]) -> FitSet:
    """The members that share the start; the others are said to be left out."""
    strangers = [
        BadLora(path=member.name, reason="it was trained from another start than the others")
        for member, own in zip(fit_set.members, ours, strict=True)
        if not own
    ]
    members = tuple(member for member, own in zip(fit_set.members, ours, strict=True) if own)
    return replace(fit_set, thetas=fit_set.thetas[ours], members=members, skipped=(*fit_set.skipped, *strangers))
