"""One model, one place and one name, however its file is written; a second training is neither.

Regauged: every retrained LoRA of the mini world with its factors scaled by .01 to 100 and turned over at random keeps
its coordinates and its place in a search among 1,000. Same model: LoRAs are written in three formats and three
dtypes, rescaled, with the factors of an SVD, at a higher rank, and with a tail that a cut of ranks may leave out; all
are to be known again in one command, later, in another space, and by ``search``, and no retrained LoRA is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import recall_at
from benchmarks.frame import Row, held
from examples.miniworld.identities import FIT
from examples.miniworld.unpack import BASE_MODEL, load_loras
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.session import Catalog
from w2w_registry.lora import write_lora
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.settings import Settings
from w2w_registry.space.fit import fit_space as fitted
from w2w_registry.space.gauge import to_gauge
from w2w_registry.space.intervals import share
from w2w_registry.space.layout import Layout, TensorKey
from w2w_registry.space.metrics import default_metric
from w2w_registry.space.start import canonical_rows, common_start

Array = NDArray[np.float32]
Tensors = dict[TensorKey, Array]
SPARE = 3
"""Ranks beyond those that draw anybody."""
TAIL = 9e-4
"""Share of ΔW in them, where a tool may have left them out."""
FORMATS, DTYPES = ("peft", "diffusers", "kohya"), ("fp32", "fp16", "bf16")


def rows(small: bool) -> Iterator[Row]:
    loras = load_loras()
    count = 4 if small else 40
    yield regauged(loras.theta[:FIT], loras.retrained, loras.layout)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        yield from known_again(Path(folder), loras.theta[:FIT], loras.retrained, loras.layout, count)


def regauged(theta: Array, retrained: Array, layout: Layout) -> Row:
    """Where the retrained (q, D) lie among the registered (n, D), by their own factors and by others of the same ΔW."""
    start = common_start(theta, layout).values
    space = fitted(canonical_rows(theta, layout, start), layout, base_model=BASE_MODEL, start=start)
    alphas, rng = dict.fromkeys(layout.modules, layout.alpha), np.random.default_rng(0)

    def place(tensors: Mapping[TensorKey, Array]) -> Array:
        return space.project(to_gauge(tensors, alphas, layout, space.mean, space.std, space.start).theta)

    own = [layout.unflatten(one) for one in retrained]
    here = np.stack([place(one) for one in own])
    there = np.stack([place(scaled(one, layout, rng)) for one in own])
    gap = float((np.linalg.norm(there - here, axis=1) / np.linalg.norm(here, axis=1)).max())
    metric = default_metric(space.component_std)
    gallery, truth = metric.unit(space.project(canonical_rows(theta, layout, start))), np.arange(len(retrained))
    first, second = (recall_at(metric.unit(one) @ gallery.T, truth, 1) for one in (here, there))
    asked = held({"≤ 1e-5": gap <= 1e-5, "the same recall@1": first == second})
    quality = {"recall@1": first, "recall@1 regauged": second, "asked": asked}
    size = {"unit": "of its length", "queries": len(retrained), "registered": len(theta)}
    return Row("farthest from its place when regauged", gap, None, "", quality, size)


def scaled(tensors: Mapping[TensorKey, Array], layout: Layout, rng: np.random.Generator) -> Tensors:
    """The same ΔW by other factors: of each module 10^-2 to 10^2 times A, either way round."""
    found: Tensors = {}
    for module in layout.modules:
        by = np.float32(10 ** rng.uniform(-2, 2) * rng.choice((-1, 1)))
        found[module, "A"], found[module, "B"] = tensors[module, "A"] * by, tensors[module, "B"] / by
    return found


def refactored(tensors: Mapping[TensorKey, Array], layout: Layout, spare: int, tail: float) -> Tensors:
    """What an SVD tool writes at ``spare`` ranks more: nothing in them, or ``tail`` of ΔW."""
    found: Tensors = {}
    for module in layout.modules:
        a, b = (tensors[module, factor].astype(np.float64) for factor in "AB")
        u, s, vt = np.linalg.svd(b @ a)
        rank = len(a) + spare
        values = np.concatenate(
            [s[: len(a)], np.full(spare, tail * np.linalg.norm(s[: len(a)]) / np.sqrt(max(spare, 1)))]
        )
        root = np.sqrt(values)
        found[module, "A"] = (root[:, None] * vt[:rank]).astype(np.float32)
        found[module, "B"] = (u[:, :rank] * root).astype(np.float32)
    return found


def disguises(theta: Array, layout: Layout, rng: np.random.Generator) -> Iterator[tuple[str, Tensors, float, str, str]]:
    """Name, factors, alpha, format and dtype of every file that one model is written as."""
    own, alpha = layout.unflatten(theta), layout.alpha
    rank = len(next(iter(own.values())))
    wide = alpha * (rank + SPARE) / rank
    for fmt in FORMATS:
        for dtype in DTYPES:
            yield f"saved-{fmt}-{dtype}", own, alpha, fmt, dtype
    for dtype in DTYPES:
        yield f"scaled-{dtype}", scaled(own, layout, rng), alpha, "peft", dtype
        yield f"svd-{dtype}", refactored(own, layout, 0, 0), alpha, "diffusers", dtype
        yield f"padded-{dtype}", refactored(own, layout, SPARE, 0), wide, "kohya", dtype
        yield f"uncut-{dtype}", refactored(own, layout, SPARE, TAIL), wide, "diffusers", dtype


def write(path: Path, tensors: Tensors, alpha: float, fmt: str, dtype: str) -> None:
    at = path.with_suffix(".safetensors") if fmt == "kohya" else path
    write_lora(at, tensors, alpha, fmt=fmt, dtype=dtype, base_model=BASE_MODEL)  # type: ignore[arg-type]


def opened(home: Path) -> Registry:
    url = f"sqlite:///{home}/catalog.db"
    home.mkdir()
    schema.upgrade(url)
    settings = Settings(home, url, "bench", str(home / "artifacts"))
    return Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))


def known_again(root: Path, theta: Array, retrained: Array, layout: Layout, count: int) -> Iterator[Row]:
    """``count`` people's files in every disguise; the retrained as they are."""
    rng, alpha = np.random.default_rng(1), layout.alpha
    for i, one in enumerate(theta):
        write(root / "loras" / f"p{i:04d}", layout.unflatten(one), alpha, "peft", "fp32")
    for i, one in enumerate(retrained):
        write(root / "again" / f"r{i:04d}", layout.unflatten(one), alpha, "peft", "fp32")
    people = rng.permutation(len(retrained))[:count]
    named: dict[str, str] = {}
    for i in people:
        for what, *file in disguises(theta[i], layout, rng):
            write(root / "other" / f"p{i:04d}-{what}", *file)
            named[f"p{i:04d}-{what}"] = f"p{i:04d}"
    size = {"unit": "known again", "people": count, "disguises each": len(named) // count, "registered": len(theta)}

    empty = opened(root / "one")
    fit_space(empty, "faces", [str(root / "loras")], base_model=BASE_MODEL)
    whole = {item.path: item for item in add(empty, AddRequest([str(root / "other")])).items}
    of = {path: named[Path(path).name.removesuffix(".safetensors")] for path in whole}
    by: dict[str, set[str]] = {}
    for path, item in whole.items():
        by.setdefault(of[path], set()).add(f"{item.identity}@{item.version}")
    right = np.array([len(by[of[path]]) == 1 for path in whole])
    yield _row("same model, all in one command", right, size)

    full = opened(root / "many")
    fit_space(full, "faces", [str(root / "loras")], base_model=BASE_MODEL)
    add(full, AddRequest([str(root / "loras")]))
    yield _row("same model, later", _is(add(full, AddRequest([str(root / "other")])).items, of), size)
    some = [str(root / "loras" / f"p{i:04d}") for i in range(len(theta) // 2, len(theta))]
    fit_space(full, "others", some, base_model=BASE_MODEL)
    yield _row("same model, in another space", _is(add(full, AddRequest([*whole], space="others")).items, of), size)
    found = [search(full, path, limit=1).results[0] for path in whole]
    said = np.array(
        [hit.same_model is not None and hit.identity == of[path] for hit, path in zip(found, whole, strict=True)]
    )
    yield _row("same model, by search", said, size)

    items = add(full, AddRequest([str(root / "again")])).items
    apart = np.array([item.status == "added" for item in items])
    quality = {"share": str(share(apart)), "asked": held({"none": bool(apart.all())})}
    size = {"unit": "taken for the same model", "registered": len(theta), "tried": len(items)}
    yield Row("second trainings", float((~apart).sum()), None, "", quality, size)


def _is(items: tuple, of: Mapping[str, str]) -> NDArray[np.bool_]:
    return np.array([(item.status, item.identity, item.version) == ("existing", of[item.path], 1) for item in items])


def _row(name: str, right: NDArray[np.bool_], size: Mapping[str, object]) -> Row:
    quality = {"share": str(share(right)), "asked": held({"all": bool(right.all())})}
    return Row(name, float(right.mean()), None, "", quality, size, True)  # type: ignore[arg-type]
