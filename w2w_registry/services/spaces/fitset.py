"""The LoRAs a space is fitted on: one layout, one base model, each model once; what does not fit is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora, RegistryError, UsageError
from w2w_registry.lora import find_loras, read_lora
from w2w_registry.services.registry import Progress, no_progress
from w2w_registry.services.spaces.spool import Noted, Spool
from w2w_registry.space.fit import Scratch, in_memory
from w2w_registry.space.layout import Layout
from w2w_registry.space.rows import forget
from w2w_registry.space.start import SHARED_START, canonical_rows, common_start, shares_start

_BLOCK = 1 << 22  # numbers of θ that are handled at once
_SAMPLE = 64  # of LoRAs, says whether they share a start


@dataclass(frozen=True)
class Member:
    """One LoRA of the fit set."""

    name: str
    model_digest: str
    sha256: str


@dataclass(frozen=True, eq=False)
class FitSet:
    """θ (n, D) float32 with their members in order; ``skipped`` says what was left out and why (an error each).

    θ may be a memory map. ``scratch`` makes arrays of its size. ``start``: the A₀ whose canonical gauge θ is in, None
    for θ as the files have it.
    """

    layout: Layout
    thetas: NDArray[np.float32]
    members: tuple[Member, ...]
    skipped: tuple[RegistryError, ...]
    start: NDArray[np.float32] | None = None
    scratch: Scratch = field(default=in_memory, repr=False)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """θ in row blocks (m, D), with their place."""
        for part in _blocks(len(self.members), self.layout.dim):
            yield part, self.thetas[part]
            forget(self.thetas)

    def only(self, kept: NDArray[np.bool_], *errors: RegistryError) -> FitSet:
        """The members that are kept (n,); ``errors`` say of the others why not."""
        if kept.all():
            return self
        rows = np.flatnonzero(kept)
        members = tuple(self.members[row] for row in rows)
        thetas = gathered(self.thetas, rows, self.scratch)
        return replace(self, thetas=thetas, members=members, skipped=(*self.skipped, *errors))

    def in_gauge(self, start: NDArray[np.float32]) -> FitSet:
        """θ in the canonical gauge of A₀ = ``start`` (D_A,)."""
        thetas = self.scratch(self.thetas.shape)
        for part, block in self.blocks():
            thetas[part] = canonical_rows(block, self.layout, start)
            forget(thetas)
        return replace(self, thetas=thetas, start=start)


def gathered(
    thetas: NDArray[np.float32], rows: Sequence[int] | NDArray[np.int_], scratch: Scratch
) -> NDArray[np.float32]:
    """These rows of θ, in this order; θ itself when they are all of it."""
    if len(rows) == len(thetas) and np.array_equal(rows, np.arange(len(thetas))):
        return thetas
    out = scratch((len(rows), thetas.shape[1]))
    for part in _blocks(len(rows), thetas.shape[1]):
        out[part] = thetas[np.asarray(rows[part])]
        forget(thetas)
        forget(out)
    return out


def read_fit_set(
    spool: Spool,
    paths: Sequence[str],
    base_model: str,
    progress: Progress = no_progress,
    *,
    least: int = 2,
    ray: str | None = None,
) -> FitSet:
    """Read every LoRA under ``paths`` that shares the commonest layout, each model once; ``ray``: on the cluster there.

    Raises:
        UsageError: fewer than ``least`` usable LoRAs, or no cluster there. BadLora: none could be read (the first
            reason).
    """
    read: list[tuple[str, Noted]] = []
    skipped: list[RegistryError] = []
    for candidate, found in spool.read(find_loras(paths), base_model, progress, ray):
        if isinstance(found, RegistryError):
            skipped.append(found)
        else:
            read.append((candidate.name, found))
    if not read:
        raise skipped[0] if skipped else UsageError(reason="no LoRA files there")
    layout = Counter(noted.layout for _, noted in read).most_common(1)[0][0]
    rows: list[int] = []
    members: list[Member] = []
    seen: set[str] = set()
    for name, noted in read:
        if noted.layout != layout:
            reason = "its layout (modules, rank or alpha) is not the fit set's"
            skipped.append(BadLora(path=noted.path, reason=reason))
        elif noted.model_digest not in seen:
            seen.add(noted.model_digest)
            rows.append(noted.row)
            members.append(Member(name, noted.model_digest, noted.sha256))
    if len(members) < least:
        raise UsageError(reason=f"a space needs at least two different LoRAs, {len(members)} can be used")
    thetas = gathered(spool.rows(layout), rows, spool.scratch)
    return FitSet(spool.layouts[layout], thetas, tuple(members), tuple(skipped), scratch=spool.scratch)


def in_common_gauge(fit_set: FitSet, *, force: bool = False) -> FitSet:
    """The fit set in the canonical gauge of its own A₀ (``space.gauge.common_start``).

    Args:
        force: take LoRAs of different starts as they are, in raw gauge.

    Raises:
        UsageError: the LoRAs share no start.
    """
    layout, start = fit_set.layout, common_start(fit_set.thetas, fit_set.layout)
    if start.agreement >= SHARED_START:
        ours = np.concatenate([shares_start(block, layout, start.values) for _, block in fit_set.blocks()])
        if not ours.all():
            fit_set = fit_set.only(ours, *_strangers(fit_set, ours))
            start = common_start(fit_set.thetas, layout)
        return fit_set.in_gauge(start.values)
    if force:
        return fit_set
    raise _apart(start.agreement)


def no_common_start(paths: Sequence[Path], layout: Layout) -> UsageError | None:
    """What :func:`in_common_gauge` will say against LoRAs of this layout, by a sample of them; None where nothing, or
    where one cannot be read."""
    places = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _SAMPLE)).astype(int))
    try:
        thetas = np.stack([read_lora(paths[i]).theta() for i in places])
    except (BadLora, ValueError):
        return None
    agreement = common_start(thetas, layout).agreement
    return None if agreement >= SHARED_START else _apart(agreement)


def _apart(agreement: float) -> UsageError:
    return UsageError(
        reason=f"these LoRAs were trained from different starts (agreement {max(0.0, agreement):.2f} of 1): "
        "coordinates fitted on them would mean nothing",
        hint="fit on LoRAs of one training recipe, or say [[force]]",
    )


def _strangers(fit_set: FitSet, ours: NDArray[np.bool_]) -> list[RegistryError]:
    reason = "it was not trained from the same initialisation as the others"
    return [BadLora(path=m.name, reason=reason) for m, own in zip(fit_set.members, ours, strict=True) if not own]


def _blocks(count: int, dim: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, dim))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))
