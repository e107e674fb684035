"""What an insider does with what is registered: make others of it, call it something else, draw it, take it out."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.services.consent.insider.eyes import PROMPT, SEEDS, STEPS
from tests.services.consent.insider.play import Insider, move
from tests.services.consent.insider.with_files import ENGINE
from w2w_registry.services.identities import bulk, describing, manage
from w2w_registry.services.identities.previews import set_preview
from w2w_registry.services.provenance.replay import replay
from w2w_registry.services.recording import fingerprints, newcomers
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis import direction_list, directions, edit
from w2w_registry.services.synthesis.export import export
from w2w_registry.services.synthesis.generate import GenerateRequest, generate
from w2w_registry.services.synthesis.previewing import PreviewRequest, draw_preview

FORMATS = ("peft", "peft", "diffusers", "kohya", "coordinates", "original")


@move("export", weight=7)
def exported(insider: Insider) -> None:
    name = insider.name()
    taken_out(insider, insider.registry, name)


def taken_out(insider: Insider, registry: Registry, name: str) -> None:
    """Export from a registry, judge what was written, and keep it: it can be brought in again."""
    out, what = insider.folder / insider.fresh("out"), f"{insider.what(name)}"
    fmt: Any = insider.one(FORMATS)
    export(registry, name, str(out), fmt=fmt, from_coordinates=bool(insider.rng.integers(2)))
    way = f"export of {name} as {fmt}"
    if fmt == "coordinates":
        body = json.loads((out / "coordinates.json").read_text())
        _, space = open_space(registry, body["space"])
        point = np.frombuffer(base64.b64decode(body["data"]), np.float32)
        insider.judge_theta(space.layout, space.reconstruct(point), way, what)
        return
    insider.judge(out, way, what)
    if fmt in ("peft", "original") and (out / "adapter_model.safetensors").exists():
        insider.files.append((out, what))


@move("generate", weight=1)
def drawn(insider: Insider) -> None:
    name, out = insider.name(), insider.folder / insider.fresh("pictures")
    amounts: dict[str, Any] = {}
    found = [one["direction"] for one in direction_list.list_directions(insider.registry)]
    if found and insider.rng.random() < 0.4:
        amounts = {insider.one(found): float(insider.rng.normal(scale=2))}
    generate(
        insider.registry,
        GenerateRequest(
            name,
            str(out),
            PROMPT,
            SEEDS,
            steps=STEPS,
            edit=amounts,
            from_coordinates=bool(insider.rng.integers(2)),
            engine=ENGINE,
        ),
    )
    pixels = [_pixels(path) for path in sorted(out.glob("*.png")) if "grid" not in path.name][: len(SEEDS)]
    insider.judge_pictures(np.stack(pixels), SEEDS[: len(pixels)], f"pictures of {name}", insider.what(name))


@move("preview draw", weight=0.5)
def previewed(insider: Insider) -> None:
    name = insider.name()
    request = PreviewRequest(name, PROMPT, SEEDS[0], STEPS, replace_existing=True, engine=ENGINE)
    made = draw_preview(insider.registry, request)
    with insider.registry.artifacts.local(made["preview"]) as path:
        pixels = _pixels(path)
    insider.judge_pictures(pixels[None], SEEDS[:1], f"preview of {name}", insider.what(name))


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").resize((32, 32)), np.uint8)


@move("preview set", weight=0.3)
def pictured(insider: Insider) -> None:
    set_preview(insider.registry, insider.name(), insider.folder / "photo.png")


@move("remove", weight=0.7)
def removed(insider: Insider) -> None:
    manage.remove(insider.registry, insider.name(), perform=True)


@move("rename", weight=1)
def renamed(insider: Insider) -> None:
    old, new = insider.name(), insider.one([insider.fresh("r"), insider.name()])
    describing.rename(insider.registry, old, new)
    insider.came_in(new, insider.what(old))


@move("alias set", "alias unset", weight=0.7)
def aliased(insider: Insider) -> None:
    name = insider.name()
    if insider.rng.random() < 0.3:
        manage.unset_alias(insider.registry, "live", name)
    else:
        manage.set_alias(insider.registry, "live", name)
        taken_out(insider, insider.registry, f"{name}@live")


@move("label set", "label unset", "label import", "tag set", "tag unset", "note", "rate", "collection add", weight=0.5)
def labelled(insider: Insider) -> None:
    """Whoever draws much like a refused person is said to be near, others far: a direction can be fitted between."""
    theta = insider.eyes.loras.theta
    row = int(insider.rng.choice(sorted(insider.refusing)))
    there = [int(name[1:]) for name in insider.names() if name[:1] == "p" and name[1:].isdigit()]
    like = np.argsort(-(theta[there] - theta.mean(0)) @ (theta[row] - theta.mean(0)))
    near, far = like[1:21], insider.rng.permutation(like[21:])[:20]
    for value, places in ((1.0, near), (0.0, far)):
        bulk.label_many(insider.registry, [f"p{there[i]:04d}" for i in places], {"near": value})


@move("direction fit", "direction compose", "direction debias", weight=0.5)
def directed(insider: Insider) -> None:
    name = insider.fresh("dir")
    found = [one["direction"] for one in direction_list.list_directions(insider.registry)]
    how = insider.one(["fit", "compose", "debias"]) if len(found) > 1 else "fit"
    if how == "fit":
        directions.fit(insider.registry, name, "near", "faces")
    elif how == "compose":
        directions.compose(insider.registry, name, {insider.one(found): 2.0, insider.one(found): 1.0}, "faces")
    else:
        directions.debias(insider.registry, name, insider.one(found), [insider.one(found)], "faces")


@move("edit", weight=2)
def edited(insider: Insider) -> None:
    found = [one["direction"] for one in direction_list.list_directions(insider.registry)]
    if not found:
        labelled(insider)
        found = [directions.fit(insider.registry, insider.fresh("dir"), "near", "faces")["direction"]]
    source, name = insider.name(), insider.fresh("e")
    amounts: dict[str, Any] = {insider.one(found): float(insider.rng.normal(scale=2))}
    edit.edit(insider.registry, source, amounts, name=name, kind=insider.kind())
    insider.came_in(name, f"edit of {insider.what(source)}")


@move("mix", weight=3)
def mixed(insider: Insider) -> None:
    names, name = [insider.name(), insider.name()], insider.fresh("m")
    share = float(insider.rng.uniform(0.3, 0.999))
    edit.mix(insider.registry, names, [share, 1 - share], name=name)
    insider.came_in(name, f"{share:.2f} of {insider.what(names[0])}, the rest {insider.what(names[1])}")


@move("sample", weight=1.5)
def sampled(insider: Insider) -> None:
    space, stem = insider.one(["faces", insider.one(insider.spaces())]), insider.fresh("n")
    seed = int(insider.rng.integers(1 << 30))
    made = edit.sample(insider.registry, 1, space=space, name=stem, seed=seed, kind=insider.kind())
    for one in made["samples"]:
        insider.came_in(one["ref"], f"sample of {space}")


@move("replay", weight=0.3)
def replayed(insider: Insider) -> None:
    replay(insider.registry, insider.name())


@move("fingerprint", weight=0.5)
def seen(insider: Insider) -> None:
    """What was taken in unseen is looked at."""
    if not insider.blind:
        fingerprints.take(insider.registry, newcomers.opened(str(ENGINE.pipeline)), [insider.name()])
