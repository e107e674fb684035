"""Fingerprints of what is about to be recorded, taken before the transaction where the base model is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from w2w_registry.catalog import fingerprints as stored
from w2w_registry.errors import RegistryError
from w2w_registry.messages import message
from w2w_registry.services.recording.fingerprints import Prober, open_prober, prober_of
from w2w_registry.services.recording.likeness import Print
from w2w_registry.services.recording.pipelines import at_hand, remember, saying_where
from w2w_registry.services.registry import Progress, Registry, no_progress
from w2w_registry.space.layout import Layout

if TYPE_CHECKING:
    from w2w_registry.diffusion.fingerprint import Adapter


@dataclass(frozen=True, eq=False)
class Newcomer:
    """What is to be asked: the adapter at ``path``, or θ (D,) in ``layout``. ``base_model``: as it names it."""

    base_model: str | None
    path: Path | None = None
    layout: Layout | None = None
    theta: NDArray[np.float32] | None = None

    def adapter(self) -> Adapter:
        """Raises BadLora: it cannot be read."""
        from w2w_registry.diffusion.fingerprint import Adapter, read_adapter

        return Adapter(self.layout, self.theta) if self.path is None else read_adapter(self.path)


@dataclass(frozen=True, eq=False)
class Asked:
    """A newcomer's ``prints``; none, and ``why`` not, where it could not be asked."""

    prints: tuple[Print, ...] = ()
    why: str | None = None


def can_ask(registry: Registry, base_model: str | None, pipeline: str | None = None) -> bool:
    """Whether fingerprints on this base model can be taken here; answered without importing or opening anything."""
    return installed() and (pipeline is not None or at_hand(registry, base_model) is not None)


def installed() -> bool:
    """Whether fingerprints can be taken here at all."""
    return all(find_spec(package) is not None for package in ("torch", "diffusers", "transformers"))


def ask(
    registry: Registry,
    newcomers: Sequence[Newcomer],
    pipeline: str | None = None,
    progress: Progress = no_progress,
) -> list[Asked]:
    """Take the fingerprints of newcomers, those of one base model together, with every question that anybody of this
    base model has answered.

    Args:
        pipeline: the base model's folder or Hub id, where it is said; then it has to open.

    Raises:
        NotFound, DeviceError, UsageError: ``pipeline`` cannot be opened.
    """
    found = [Asked(why=_absent(one.base_model)) for one in newcomers]
    if pipeline is None and not installed():
        return [Asked(why="torch and diffusers are not installed") for _ in newcomers]
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(newcomers):
        folder = pipeline or at_hand(registry, one.base_model)
        if folder is not None:
            groups.setdefault(folder, []).append(number)
    for folder, numbers in groups.items():
        try:
            prober = opened(folder)
        except RegistryError as error:
            if pipeline is not None:
                raise
            for n in numbers:
                found[n] = Asked(why=message(error))
            continue
        for n, answer in zip(
            numbers, _answers(registry, prober, [newcomers[n] for n in numbers], progress), strict=True
        ):
            found[n] = answer
        if pipeline is not None:
            remember(registry, {newcomers[n].base_model for n in numbers if found[n].prints}, folder)
    return found


@lru_cache(maxsize=1)
def opened(folder: str) -> Prober:
    """The base model there; the last one stays open, for a process that comes back to it."""
    return open_prober(folder)


def probers(registry: Registry, prober: Prober) -> list[Prober]:
    """The opened base model with each question to ask a newcomer: what others of this base have answered."""
    from w2w_registry.diffusion.fingerprint import QUESTIONS

    with registry.catalog.read() as session:
        asked = stored.questions_of(session, prober.base)
    known = [question for question in sorted(asked) if question.partition(" ")[0] in QUESTIONS]
    return [replace(prober, question=question) for question in known or [prober_of(prober.model).question]]


def _answers(registry: Registry, prober: Prober, newcomers: Sequence[Newcomer], progress: Progress) -> list[Asked]:
    found: dict[int, Asked] = {}
    adapters: dict[int, Adapter] = {}
    for number, one in enumerate(newcomers):
        try:
            adapters[number] = one.adapter()
        except RegistryError as error:
            found[number] = Asked(why=message(error))
    each = probers(registry, prober)
    try:
        rows = [one.of_adapters(list(adapters.values()), progress) for one in each]
        prints = zip(*rows, strict=True) if adapters else []
        found |= {n: _asked(each, values) for n, values in zip(adapters, prints, strict=True)}
    except RegistryError:  # one of them does not fit: ask each by itself, so that the others are not lost
        for number, adapter in adapters.items():
            try:
                found[number] = _asked(each, [one.of_adapters([adapter])[0] for one in each])
            except RegistryError as error:
                found[number] = Asked(why=message(error))
    return [found[number] for number in range(len(newcomers))]


def _asked(each: Sequence[Prober], values: Sequence[NDArray[np.float32]]) -> Asked:
    return Asked(tuple(Print(p.base, p.question, v) for p, v in zip(each, values, strict=True)))


def _absent(base_model: str | None) -> str:
    if base_model is None:
        return "it names no base model"
    return f"base model {base_model} is not on this machine ({saying_where(base_model)})"
