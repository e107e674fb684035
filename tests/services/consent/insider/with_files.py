"""What an insider does with files: disguise them, bring them in, train and invert what they like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.miniworld.unpack import BASE_MODEL
from tests.services.consent.insider.eyes import PIPELINE
from tests.services.consent.insider.play import FOREIGN, Insider, Theta, move
from tests.services.consent.insider.world import PHOTO
from w2w_registry.errors import UsageError
from w2w_registry.lora import Candidate, read_lora, write_lora
from w2w_registry.services.consent.grants import evidence_digest
from w2w_registry.services.identities import intake, translated
from w2w_registry.services.identities.ingest import add
from w2w_registry.services.identities.items import AddRequest, Item
from w2w_registry.services.identities.unplaced import add_unplaced
from w2w_registry.services.synthesis.engine import WarmEngine
from w2w_registry.services.synthesis.invert import InvertRequest, invert
from w2w_registry.services.synthesis.train import TrainRequest, train

ENGINE = WarmEngine(pipeline=PIPELINE, most=8)


@move("add", weight=6)
def bring_in(insider: Insider) -> None:
    path, what = insider.file()
    _added(insider, [*add(insider.registry, _request(insider, path)).items], what)


@move("add", weight=2)
def bring_in_many(insider: Insider) -> None:
    """As a folder of files, wherever they fit."""
    files = [insider.file() for _ in range(3)]
    request = AddRequest([str(path) for path, _ in files], prefix=f"{insider.fresh('d')}/", kind=insider.kind())
    planned = intake.plan(insider.registry, intake.survey(request), fit=False)
    done = intake.perform(insider.registry, request, planned)
    _added(insider, list(done.items), " and ".join(what for _, what in files))


@move("add", weight=1)
def bring_in_unplaced(insider: Insider) -> None:
    """As a file that has no place in any space, in somebody's name."""
    path, what = insider.file()
    request = replace(_request(insider, path), space=None, base_model=BASE_MODEL)
    items = add_unplaced(insider.registry, request, [Candidate(path, request.name or path.stem)], {})
    _added(insider, items, what)


@move("add", weight=0.05)
def bring_in_translated(insider: Insider) -> None:
    path, what = insider.file()
    _added(insider, [*translated.add(insider.registry, _request(insider, path), PIPELINE).items], what)


def _request(insider: Insider, path: Path) -> AddRequest:
    subjects = [[], [], ["bob"], ["BOB"], [insider.one(insider.subjects)], [insider.one(insider.subjects).upper()]]
    name = insider.one([insider.fresh("x"), f"acme/{insider.fresh('x')}", insider.name()])
    spaces = insider.spaces()
    return AddRequest(
        [str(path)],
        kind=insider.kind(),
        subjects=subjects[int(insider.rng.integers(len(subjects)))],
        name=name,
        space="faces" if insider.rng.random() < 0.5 else insider.one(spaces),
        evidence=evidence_digest(insider.form()) if insider.rng.random() < 0.1 else None,
    )


def _added(insider: Insider, items: list[Item], what: str) -> None:
    for item in items:
        if item.error is None:
            insider.came_in(item.identity, what)
    if all(item.error is not None for item in items):
        raise UsageError(reason="nothing came in")


@move(weight=5)
def disguise(insider: Insider) -> None:
    """Noise, other factors, another rank, half precision, another strength."""
    path, what = insider.file()
    lora = read_lora(path)
    how = insider.one(["noise", "regauge", "rank", "fp16", "bf16", "scale"])
    tensors = {key: np.array(value, np.float32) for key, value in lora.tensors.items()}
    alphas = {module: float(lora.alphas[module]) for module in lora.modules}
    alpha = float(lora.alpha or next(iter(alphas.values())))
    if how == "noise":
        share = float(insider.rng.uniform(0.05, 0.8))
        tensors = {key: _noisy(insider, value, share) for key, value in tensors.items()}
    for module in lora.modules if how in ("regauge", "rank", "scale") else ():
        a, b = tensors[module, "A"], tensors[module, "B"]
        if how == "regauge":
            s = np.float32(np.exp(insider.rng.normal()) * insider.rng.choice([-1, 1]))
            tensors[module, "A"], tensors[module, "B"] = a * s, b / s
        elif how == "scale":
            tensors[module, "B"] = b * np.float32(insider.rng.uniform(0.8, 1.2))
        else:
            tensors[module, "A"] = np.concatenate([a, np.zeros_like(a)])
            tensors[module, "B"] = np.concatenate([b, np.zeros_like(b)], axis=1)
    alpha = 2 * alpha if how == "rank" else alpha
    written = insider.folder / insider.fresh("f")
    dtype: Any = how if how in ("fp16", "bf16") else "fp32"
    write_lora(written, tensors, alpha, base_model=BASE_MODEL, dtype=dtype)
    insider.files.append((written, f"{how} of {what}"))


def _noisy(insider: Insider, value: Theta, share: float) -> Theta:
    noise = share * value.std() * insider.rng.normal(size=value.shape)
    return np.asarray(value + noise, np.float32)


@move(weight=2)
def mix_files(insider: Insider) -> None:
    """A mixture made outside, for the registry to take."""
    (first, one), (second, other) = plain(insider), plain(insider)
    share = float(insider.rng.uniform(0.5, 1.0))
    mixed = share * theta_of(insider, first) + (1 - share) * theta_of(insider, second)
    layout, written = insider.eyes.loras.layout, insider.folder / insider.fresh("f")
    write_lora(written, layout.unflatten(mixed.astype(np.float32)), layout.alpha, base_model=BASE_MODEL)
    insider.files.append((written, f"{share:.2f} of {one}, the rest {other}"))


@move("train", weight=1.5)
def trained(insider: Insider) -> None:
    """A training that finds what the insider likes, registered or only written."""
    path, what = plain(insider)
    insider.planted = (theta_of(insider, path), what)
    write_only = insider.rng.random() < 0.4
    name, out = insider.fresh("t"), insider.folder / insider.fresh("trained")
    subjects = [[], ["bob"], [insider.one(insider.subjects)]][int(insider.rng.integers(3))]
    train(
        insider.registry,
        TrainRequest(
            [str(insider.folder / PHOTO)],
            name=name,
            out=str(out) if write_only else None,
            register=not write_only,
            space=None if write_only else "faces",
            alpha=float(insider.eyes.loras.layout.alpha),
            steps=1,
            samples=1,
            kind=insider.kind(),
            subjects=subjects,
            engine=ENGINE,
        ),
    )
    if write_only:
        insider.judge(out, "train --out", what)
        insider.files.append((next(out.glob("*/")), what))
    else:
        insider.came_in(name, what)


@move("invert", weight=1.5)
def inverted(insider: Insider) -> None:
    path, what = plain(insider)
    insider.planted = (theta_of(insider, path), what)
    name = insider.fresh("i")
    photo = str(insider.folder / PHOTO)
    space = insider.one(["faces", insider.one(insider.spaces())])
    invert(
        insider.registry,
        InvertRequest([photo], name=name, space=space, kind=insider.kind(), initializer=False, engine=ENGINE),
    )
    insider.came_in(name, what)


def theta_of(insider: Insider, path: Path) -> Theta:
    """θ (D,) of a file of rank 1, padded ones included, in the mini world's layout."""
    lora, layout = read_lora(path), insider.eyes.loras.layout
    tensors = {}
    for module in layout.modules:
        a, b = lora.tensors[module, "A"], lora.tensors[module, "B"]
        factor = lora.alphas[module] / len(a)
        tensors[module, "A"], tensors[module, "B"] = a[:1], b[:, :1] * np.float32(factor / layout.alpha)
    return layout.flatten(tensors)


def plain(insider: Insider) -> tuple[Path, str]:
    """A file of rank 1."""
    plain = [one for one in insider.files if FOREIGN not in one[1]]
    return plain[int(insider.rng.integers(len(plain)))]
