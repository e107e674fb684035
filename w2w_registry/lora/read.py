"""The plain LoRA of a denoiser, whatever file it came in: what weight spaces compute with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora
from w2w_registry.lora.adapter import Adapter, Reading, adapter_of, read
from w2w_registry.lora.change import Change, row_index, unet_family
from w2w_registry.lora.header import brief
from w2w_registry.lora.names import DENOISERS
from w2w_registry.lora.others import is_embedding
from w2w_registry.lora.plans import Place, Plan, place_of
from w2w_registry.lora.tensorfile import Mark
from w2w_registry.space.layout import Layout, TensorKey, layout_of

LARGEST = 1e9  # ten thousand times what any trained factor holds; sums of squares stay far inside fp32
AlphaSource = Literal["config", "header", "tensor", "default"]


@dataclass(frozen=True)
class Beside:
    """A LoRA's share in another part of the pipeline, as a text encoder: tensors by (module, "A" | "B"), ``alphas`` by
    module."""

    part: str
    tensors: Mapping[TensorKey, NDArray[np.float32]]
    alphas: Mapping[str, float]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as read. Every module has its A (r, in[, kh, kw]) and B (out, r[, 1, 1]), float32, read-only.

    ``part``: the denoiser it changes, ``unet`` or ``transformer``. ``alphas`` holds every module's alpha, so that
    ΔW = (alpha / r) · B A; ``alpha_source`` says where it was found (``default``: nowhere, so alpha = rank). ``dtype``
    is the dtype on disk (``mixed`` when several). ``base_model`` and ``base_revision`` are what the file claims, None
    when it does not say; ``base_hint``: the name of a checkpoint or a folder of somebody's machine that it gives
    instead. ``beside``: its shares in other parts, which are written with it and which a weight space
    cannot represent. ``left``: tensors of the file that are in none of these (embeddings kept with the LoRA, other
    kinds of changes of a text encoder). ``sha256`` (hex) is of the tensor file, ``files`` lists it and the config that
    was used.
    """

    tensors: Mapping[TensorKey, NDArray[np.float32]]
    alphas: Mapping[str, float]
    format: str
    dtype: str
    base_model: str | None
    base_revision: str | None
    metadata: Mapping[str, str]
    path: Path
    sha256: str
    files: tuple[Path, ...]
    beside: tuple[Beside, ...] = ()
    left: tuple[str, ...] = ()
    alpha_source: AlphaSource = "default"
    part: str = "unet"
    base_hint: str | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """What is known of it, for people and for the record of how it came in (as ``Adapter.summary`` says it)."""
        ranks = Counter(self.rank(module) for module in self.alphas)
        return {
            "format": self.format,
            "dtype": self.dtype,
            "layers": {self.part: len(self.alphas), **{one.part: len(one.alphas) for one in self.beside}},
            "ranks": {str(rank): count for rank, count in sorted(ranks.items())},
        }

    @property
    def ignored(self) -> tuple[str, ...]:
        """The modules of other parts, by name."""
        return tuple(f"{one.part}.{module}" for one in self.beside for module in one.alphas)

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self.alphas)

    @property
    def shapes(self) -> dict[TensorKey, tuple[int, ...]]:
        return {key: array.shape for key, array in self.tensors.items()}

    def rank(self, module: str) -> int:
        return int(self.tensors[(module, "A")].shape[0])

    @property
    def alpha(self) -> float | None:
        """The alpha all modules share, None when they differ."""
        values = set(self.alphas.values())
        return values.pop() if len(values) == 1 else None

    def layout(self) -> Layout:
        """Canonical layout of this LoRA, in ``module_order``.

        Raises:
            BadLora: when modules differ in alpha, which one layout cannot represent.
        """
        alpha = self.alpha
        if alpha is None:
            raise BadLora(
                path=str(self.path), reason="its modules have different alphas, which one layout cannot represent"
            )
        return layout_of(self.shapes, alpha)

    def theta(self) -> NDArray[np.float32]:
        """θ (D,) float32 in the order of :meth:`layout`."""
        return self.layout().flatten(self.tensors)


def read_lora(path: str | Path, before: Mark | None = None) -> LoraFile:
    """Read a plain LoRA from a file or a folder, whichever format it is in (see ``read_adapter``).

    Args:
        before: by what its tensor file is known if it is still as it was read before.

    Raises:
        BadLora: what ``read_adapter`` refuses, and adapters that are no plain LoRA of a UNet or transformer.
    """
    reading = read(path, before=before)
    known = _PLAIN.get(reading.plan)
    if known is None:
        lora = lora_of(adapter_of(reading))
        plain = _plain_of(lora, reading.data.values)
        if plain is not None and reading.plan.places is not None:
            _PLAIN[reading.plan] = plain
        return lora
    if reading.data.largest > LARGEST:
        return lora_of(adapter_of(reading))  # which says whether that is too much
    return known.lora(reading)


@dataclass(frozen=True, eq=False)
class _Plain:
    """A plain LoRA without its numbers, of which all files of one plan have the rest in common."""

    pattern: LoraFile
    places: Mapping[TensorKey, Place]
    beside: tuple[Mapping[TensorKey, Place], ...]

    def lora(self, reading: Reading) -> LoraFile:
        values = reading.data.values
        base, revision = reading.base
        return replace(
            self.pattern,
            tensors=_filled(self.places, values),
            base_model=base,
            base_revision=revision,
            base_hint=reading.told.base_hint,
            metadata=MappingProxyType(dict(reading.data.header.metadata)),
            path=reading.path,
            sha256=reading.data.sha256,
            files=reading.files,
            alpha_source=cast(AlphaSource, reading.alpha_source),
            beside=tuple(
                replace(one, tensors=_filled(places, values))
                for one, places in zip(self.pattern.beside, self.beside, strict=True)
            ),
        )


_PLAIN: WeakKeyDictionary[Plan, _Plain] = WeakKeyDictionary()


def _filled(places: Mapping[TensorKey, Place], values: NDArray[np.float32]) -> Mapping[TensorKey, NDArray[np.float32]]:
    return MappingProxyType({key: place.of(values) for key, place in places.items()})


def _plain_of(lora: LoraFile, values: NDArray[np.float32]) -> _Plain | None:
    """What other files of its plan have in common with a LoRA; None where its numbers are not as the file has them."""
    found = []
    for tensors in (lora.tensors, *(one.tensors for one in lora.beside)):
        places = {key: place for key, array in tensors.items() if (place := place_of(array, values)) is not None}
        if len(places) < len(tensors):
            return None
        found.append(places)
    bare = tuple(replace(one, tensors={}) for one in lora.beside)
    return _Plain(replace(lora, tensors={}, metadata={}, beside=bare), found[0], tuple(found[1:]))


def lora_of(adapter: Adapter) -> LoraFile:
    """The plain LoRA that ``adapter`` is.

    Raises:
        BadLora: it is another kind of adapter, or changes the denoiser in other ways too, or not at all.
    """
    found = plain_lora(adapter)
    if isinstance(found, str):
        raise BadLora(path=str(adapter.path), reason=found)
    return found


def plain_lora(adapter: Adapter) -> LoraFile | str:
    """As :func:`lora_of`, or why it is none (:func:`not_plain`)."""
    reason = not_plain(adapter)
    if reason is not None:
        return reason
    tensors: dict[TensorKey, NDArray[np.float32]] = {}
    alphas: dict[str, float] = {}
    for change in adapter.denoiser:
        b = change.tensors["B"]
        if change.rows != "all":
            b = np.ascontiguousarray(b[row_index(change.rows, len(b), change.tensors["A"].shape[1])])
            b.flags.writeable = False
        tensors[(change.module, "A")], tensors[(change.module, "B")] = change.tensors["A"], b
        alphas[change.module] = cast(float, change.alpha)
    return LoraFile(
        tensors=MappingProxyType(tensors),
        alphas=MappingProxyType(alphas),
        format=adapter.format,
        dtype=adapter.dtype,
        base_model=adapter.base_model,
        base_revision=adapter.base_revision,
        metadata=adapter.metadata,
        path=adapter.path,
        sha256=adapter.sha256,
        files=adapter.files,
        beside=_beside(adapter),
        left=(
            *adapter.unread,
            *(f"{c.part}.{c.module}" for c in adapter.changes if c.part not in DENOISERS and not _said(c)),
        ),
        alpha_source=cast(AlphaSource, adapter.alpha_source),
        part=adapter.denoiser[0].part,
        base_hint=adapter.told.base_hint if adapter.told.base_hint != unet_family(adapter.changes) else None,
    )


def _beside(adapter: Adapter) -> tuple[Beside, ...]:
    """The plain shares in other parts than the denoiser, in the order of the pipeline."""
    shares: dict[str, list[Change]] = {}
    for change in adapter.changes:
        if change.part not in DENOISERS and _said(change):
            shares.setdefault(change.part, []).append(change)
    return tuple(
        Beside(
            part,
            MappingProxyType({(c.module, role): c.tensors[role] for c in changes for role in ("A", "B")}),
            MappingProxyType({c.module: cast(float, c.alpha) for c in changes}),
        )
        for part, changes in sorted(shares.items())
    )


def _said(change: Change) -> bool:
    """Whether factors and an alpha are all there is to a change."""
    return change.kind == "LoRA" and "mid" not in change.tensors and change.rows == "all"


def not_plain(adapter: Adapter) -> str | None:
    """Why an adapter is not a plain LoRA of a denoiser, in a phrase; None when it is one."""
    kinds = {c.kind for c in adapter.denoiser}
    special = [c for c in adapter.denoiser if c.kind != "LoRA" or "mid" in c.tensors]
    if adapter.format == "cloneofsimo":
        return "a cloneofsimo file: it numbers its layers without naming them"
    if not adapter.denoiser:
        other = sorted(adapter.parts)
        if all(part.startswith("text_encoder") for part in other):
            return "changes only the text encoder, not the UNet"
        return f"its layers are of no UNet or transformer this release knows ({brief(adapter.changes[0].module)})"
    strange = next((c for c in adapter.changes if c.part not in DENOISERS and "text_encoder" not in c.part), None)
    if strange is not None and strange.part != "model":
        return f"changes the {strange.part} beside the {adapter.denoiser[0].part}"
    if strange is not None:
        return f"{brief(strange.module)} is not the name of a UNet module, nor of a transformer's"
    if special:
        if adapter.kind == "LoRA":
            return f"a LoRA with {_words(special[0].kind, 'mid' in special[0].tensors)} beside"
        article = "an" if adapter.kind.startswith(("A", "E", "H", "I", "O")) else "a"
        return f"{article} {adapter.kind} file, not a plain LoRA"
    if adapter.more:
        return f"its settings use {adapter.more[0]}, which is more than a plain LoRA"
    strange_key = next((key for key in adapter.unread if not is_embedding(key)), None)
    if strange_key is not None:
        return f"{brief(strange_key)} is not a LoRA tensor"
    places = [c.module for c in adapter.denoiser]
    twice = next((m for m in places if places.count(m) > 1), None) if len(set(places)) < len(places) else None
    if twice is not None:
        return f"{brief(twice)} is changed twice"
    if len({c.part for c in adapter.denoiser}) > 1:
        return "changes a UNet and a transformer"
    assert kinds == {"LoRA"}
    alpha = max(cast(float, c.alpha) for c in adapter.denoiser)
    if max(adapter.at_most, alpha) <= LARGEST:
        return None
    largest = max(adapter.largest, alpha)
    return f"its values (up to {largest:.0e}) are too large to compute with" if largest > LARGEST else None


def _words(kind: str, tucker: bool) -> str:
    named = {
        **{"bias": "biases", "norm": "norms", "full": "whole differences", "replaced": "replaced weights"},
        "other": "tensors this release does not know",
    }
    return "a Tucker (cp) core" if tucker else named.get(kind, kind)
