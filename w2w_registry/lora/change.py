"""What an adapter does to one layer, and its exact ΔW where the file alone says it.

ΔW is kept as factors (never dense until asked): a product B A of float64 matrices, B (out, n) and A (n, in·kh·kw),
scale included. Sources: LoRA, arXiv 2106.09685; LoHa and LoKr, arXiv 2108.06098 and 2309.14859 (LyCORIS), whose
code and PEFT's are the oracles of the tests; DoRA, arXiv 2402.09353, and OFT, arXiv 2306.07280, need the base weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora.targets import HEAD, HEADS, Rows, Target

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.float32]]


class BrokenChange(Exception):
    """Tensors that do not make a change of their kind; the argument says why, in a phrase."""


@dataclass(frozen=True, eq=False)
class Change:
    """What an adapter does to one layer of one part of the pipeline.

    ``kind``: LoRA, LoHa, LoKr, DoRA, OFT, norm, full (a stored difference), bias, replaced… ``tensors`` by role, as the
    file has them. ``scale``: what B A is multiplied by (alpha / r for a LoRA). ``rows``: which rows of a fused layer
    these are, ``name`` what the file calls the layer. ``exact``: whether ΔW is known; else it depends on weights that
    are not in the file.
    """

    part: str
    module: str
    kind: str
    tensors: Tensors
    alpha: float | None
    scale: float
    rank: int
    rows: Rows = "all"
    name: str = ""

    @property
    def exact(self) -> bool:
        return self.kind in _FACTORS

    def factors(self) -> tuple[Array, Array] | None:
        """(B, A) with ΔW = B A, float64, or None when the file does not say ΔW. A change of a vector (a bias, a norm)
        is B (n, 1) with A = [[1]]."""
        make = _FACTORS.get(self.kind)
        if make is None:
            return None
        b, a = make(self.tensors)
        return self.scale * b[row_index(self.rows, len(b), a.shape[1])], a

    def delta(self) -> Array | None:
        """ΔW as (out, in·kh·kw) float64, or None when the file does not say it."""
        found = self.factors()
        return None if found is None else found[0] @ found[1]


def row_index(rows: Rows, count: int, width: int) -> slice | list[int]:
    """Which of a fused layer's ``count`` rows one part has; ``width`` is the layer's input."""
    third, half = count // 3, count // 2
    pieces: dict[str, slice] = {
        "all": slice(None),
        "1/3": slice(0, third),
        "2/3": slice(third, 2 * third),
        "3/3": slice(2 * third, count),
        "1/2": slice(0, half),
        "2/2": slice(half, count),
        "first": slice(0, width),
        "second": slice(width, 2 * width),
        "third": slice(2 * width, 3 * width),
        "rest": slice(3 * width, count),
        "keys": slice(width, (width + count) // 2),
        "values": slice((width + count) // 2, count),
    }
    if rows == "swapped" or (rows == "swapped pair" and count == 2 * width):
        return [*range(half, count), *range(half)]
    if rows == "swapped pair":
        return slice(None)
    if rows in HEADS:
        first = HEADS.index(rows) * HEAD
        return [start + i for start in range(first, count, 3 * HEAD) for i in range(HEAD)]
    return pieces[rows]


def _check_rows(rows: Rows, count: int, width: int) -> None:
    """Raises BrokenChange where a layer of ``count`` rows cannot be the fused one that ``rows`` is a part of."""
    parts = {"/3": 3, "/2": 2}.get(rows[-2:], 2 if rows == "swapped" else 1)
    least = {"first": width, "second": 2 * width, "third": 3 * width, "rest": 3 * width + 1}.get(rows, 1)
    if rows in HEADS:
        parts = 3 * HEAD
    if rows in ("keys", "values"):
        least, parts = width + 2, 1 if (count - width) % 2 == 0 else count + 1
    if count % parts or count < least:
        raise BrokenChange(f"has {count} rows, which cannot be those of the layers fused in it")


def _wide(array: NDArray[np.float32]) -> Array:
    return np.asarray(array, np.float64)


def _flat(array: NDArray[np.float32]) -> Array:
    return _wide(array).reshape(len(array), -1)


def _need(tensors: Tensors, *roles: str) -> list[NDArray[np.float32]]:
    missing = [role for role in roles if role not in tensors]
    if missing:
        raise BrokenChange(f"lacks its {', '.join(missing)}")
    return [tensors[role] for role in roles]


def _lora(tensors: Tensors) -> tuple[Array, Array]:
    down, up = _need(tensors, "A", "B")
    if "mid" in tensors:  # Tucker: out × p, p × q × k, q × in
        return _flat(up), _tucker(_wide(tensors["mid"]), _flat(down).T)
    return _flat(up), _flat(down)


def _tucker(core: Array, right: Array) -> Array:
    """core (p, q, …k) and right (in, q) → (p, in·k)."""
    found: Array = np.einsum("pq...,iq->pi...", core, right)
    return found.reshape(len(core), -1)


def _loha(tensors: Tensors) -> tuple[Array, Array]:
    """(B₁A₁) ∘ (B₂A₂) has the rows' products as factors: rank r₁ r₂."""
    w1a, w1b, w2a, w2b = map(_wide, _need(tensors, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"))
    if "hada_t1" in tensors:
        t1, t2 = map(_wide, _need(tensors, "hada_t1", "hada_t2"))
        w1a, w1b, w2a, w2b = w1a.T, _tucker(t1, w1b.T), w2a.T, _tucker(t2, w2b.T)
    if w1a.shape[0] != w2a.shape[0] or w1b.shape[1] != w2b.shape[1]:
        raise BrokenChange("has two halves of different sizes")
    b = np.einsum("or,os->ors", w1a, w2a).reshape(len(w1a), -1)
    return b, np.einsum("ri,si->rsi", w1b, w2b).reshape(-1, w1b.shape[1])


def _lokr(tensors: Tensors) -> tuple[Array, Array]:
    """kron(B₁A₁, B₂A₂) = kron(B₁, B₂) kron(A₁, A₂)."""
    b1, a1 = _half(tensors, "lokr_w1", None)
    b2, a2 = _half(tensors, "lokr_w2", tensors.get("lokr_t2"))
    return np.asarray(np.kron(b1, b2), np.float64), np.asarray(np.kron(a1, a2), np.float64)


def _half(tensors: Tensors, name: str, core: NDArray[np.float32] | None) -> tuple[Array, Array]:
    if name in tensors:
        return _split(_flat(tensors[name]))
    left, right = map(_wide, _need(tensors, f"{name}_a", f"{name}_b"))
    if core is not None:
        return left.T, _tucker(_wide(core), right.T)
    return left, right.reshape(len(right), -1)


def _split(matrix: Array) -> tuple[Array, Array]:
    """A matrix as a product with the identity, on its shorter side."""
    if matrix.shape[0] <= matrix.shape[1]:
        return np.eye(matrix.shape[0]), matrix
    return matrix, np.eye(matrix.shape[1])


def _embedding(tensors: Tensors) -> tuple[Array, Array]:
    """PEFT adds (B A)ᵀ to an embedding table (rows are tokens)."""
    a, b = _need(tensors, "embedding_A", "embedding_B")
    return _wide(a).T, _wide(b).T


def _vector(role: str) -> Callable[[Tensors], tuple[Array, Array]]:
    def make(tensors: Tensors) -> tuple[Array, Array]:
        return _wide(_need(tensors, role)[0]).reshape(-1, 1), np.ones((1, 1))

    return make


def _full(tensors: Tensors) -> tuple[Array, Array]:
    (difference,) = _need(tensors, "diff")
    return _split(_flat(difference)) if difference.ndim > 1 else _vector("diff")(tensors)


_FACTORS: dict[str, Callable[[Tensors], tuple[Array, Array]]] = {
    "LoRA": _lora,
    "LoHa": _loha,
    "LoKr": _lokr,
    "embedding LoRA": _embedding,
    "full": _full,
    "bias": _vector("bias"),
    "norm": _vector("norm"),
}


def rank_of(kind: str, tensors: Tensors) -> int:
    """r, what alpha is divided by; 1 where there is none. LyCORIS gives a LoKr of two full matrices the scale 1."""
    match kind:
        case "LoRA" | "DoRA":
            found = tensors.get("A")
        case "embedding LoRA":
            found = tensors.get("embedding_A")
        case "LoHa":
            found = tensors.get("hada_w1_b")
        case "LoKr":
            found = tensors.get("lokr_w1_b", tensors.get("lokr_w2_b"))
        case _:
            return 1
    return 1 if found is None else int(found.shape[0])


def check_shapes(kind: str, tensors: Tensors, targets: Sequence[Target] = ()) -> None:
    """Raises BrokenChange when the tensors cannot be multiplied, or a LoRA's product cut up for its ``targets``."""
    if kind in ("LoRA", "DoRA"):
        down, up = _need(tensors, "A", "B")
        a, b = down.shape, up.shape
        core = tensors["mid"].shape if "mid" in tensors else (*a[:1], *a[:1])
        shaped = 2 <= len(a) <= 5 and 2 <= len(b) <= 5 and set(b[2:]) <= {1} and math.prod(a) * math.prod(b) > 0
        if not shaped or len(core) < 2 or (b[1], a[0]) != core[:2]:
            turned = len(a) == len(b) == 2 and a[1] == b[0] < b[1] and a[1] < a[0]
            how = "are turned over, as MLX keeps them" if turned else "do not make a LoRA"
            raise BrokenChange(f"has factors whose shapes, A {a} and B {b}, {how}")
        if "mid" in tensors and math.prod(a[2:]) != 1:
            raise BrokenChange(f"has a core between factors of the shapes A {a} and B {b}, which do not make a LoRA")
        if len(a) == len(b) == 2 and a[0] >= 2 * a[1] and b[1] >= 2 * b[0] and a[1] == b[0]:
            # Square layers' factors could be multiplied either way: no LoRA has twice the rank of its layer.
            raise BrokenChange(f"has factors whose shapes, A {a} and B {b}, are turned over, as MLX keeps them")
    elif kind == "LoHa":
        halves = []
        for i in "12":
            left, right = (t.shape for t in _need(tensors, f"hada_w{i}_a", f"hada_w{i}_b"))
            tucker = bool(tensors.keys() & {"hada_t1", "hada_t2"})
            halves.append(_pair(kind, left, right, _need(tensors, f"hada_t{i}")[0].shape if tucker else None))
        if halves[0] != halves[1]:
            raise BrokenChange("has two halves of different sizes")
    elif kind == "LoKr":
        for name in ("lokr_w1", "lokr_w2"):
            if name in tensors:
                shape = tensors[name].shape
                _pair(kind, shape[:2], (*shape[1:2], math.prod(shape[2:])), None)
                continue
            left, right = (t.shape for t in _need(tensors, f"{name}_a", f"{name}_b"))
            tucker = name == "lokr_w2" and "lokr_t2" in tensors
            _pair(kind, left, right, tensors["lokr_t2"].shape if tucker else None)
    elif kind == "embedding LoRA":
        a, b = (t.shape for t in _need(tensors, "embedding_A", "embedding_B"))
        _pair(kind, b, a, None)
    if kind in _FACTORS and not all(tensor.size for tensor in tensors.values()):
        raise BrokenChange("has a tensor without a number in it")
    for target in targets:
        _check_rows(target.rows, len(tensors["B"]), tensors["A"].shape[1])


def _pair(
    kind: str, left: tuple[int, ...], right: tuple[int, ...], core: tuple[int, ...] | None
) -> tuple[int, tuple[int, ...]]:
    """(rows, columns) of the product, with the core's own sides where one stands between two turned factors."""
    ranks = (left[1:], right[:1]) if core is None else (left[:1] + right[:1], core[:2])
    if len(left) != 2 or len(right) != 2 or ranks[0] != ranks[1] or 0 in (*left, *right, *(core or ())):
        between = "" if core is None else f", {core} between"
        raise BrokenChange(f"has tensors whose shapes do not make a {kind} ({left} and {right}{between})")
    return (left[0], right[1:]) if core is None else (left[1], (*right[1:], *core[2:]))


_BY_CONTEXT = {768: "sd-1", 1024: "sd-2", 2048: "sdxl"}
"""Numbers a token of the prompt has, where a UNet's cross-attention reads it (the models' own configurations)."""
_READS_PROMPT = (".attn2.to_k", ".attn2.to_v")


def unet_family(changes: Iterable[Change]) -> str | None:
    """``sd-1``, ``sd-2`` or ``sdxl`` by the width of the prompt that a UNet's layers read; None where no layer says it,
    or two disagree. Transformers share their layers' names and widths across makers, and are not told apart."""
    widths = {
        change.tensors["A"].shape[1]
        for change in changes
        if change.part == "unet" and "A" in change.tensors and change.module.endswith(_READS_PROMPT)
    }
    return _BY_CONTEXT.get(widths.pop()) if len(widths) == 1 else None
