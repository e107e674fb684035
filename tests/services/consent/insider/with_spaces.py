"""What an insider does with weight spaces: fit few, update, forge, carry over, publish."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.miniworld.unpack import BASE_MODEL
from tests.services.consent.insider.play import Insider, move
from tests.services.consent.insider.with_files import plain, theta_of
from tests.services.consent.insider.with_registered import taken_out
from w2w_registry.catalog.resolve import space_for
from w2w_registry.services.hub.spaces import push_space
from w2w_registry.services.recording.space_files import read_space, write_space
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.spaces.manage import export_space, fit_space, import_space
from w2w_registry.services.spaces.migrate import migrate_space
from w2w_registry.services.spaces.refit import refit_space
from w2w_registry.services.spaces.update import update_space
from w2w_registry.services.synthesis.edit import mix, sample
from w2w_registry.space.basis import WeightSpace


@move("space fit", weight=1)
def fitted(insider: Insider) -> None:
    count = int(insider.rng.integers(3, 30))
    files = [insider.file()[0] for _ in range(count)]
    if insider.rng.random() < 0.5:  # as many others as it takes
        files += sorted((insider.folder.parent / "loras").glob("p00[4-7]?"))[:24]
    paths = [str(path) for path in files]
    fit_space(insider.registry, insider.fresh("s"), paths, base_model=BASE_MODEL, force=True)


@move("space update", weight=0.5)
def updated(insider: Insider) -> None:
    update_space(insider.registry, insider.one(insider.spaces()), [str(insider.file()[0]) for _ in range(4)])


@move("space refit", weight=0.3)
def refitted(insider: Insider) -> None:
    refit_space(insider.registry, _small(insider))


@move("space migrate", weight=0.2)
def migrated(insider: Insider) -> None:
    migrate_space(insider.registry, _small(insider), insider.one(insider.spaces()))


def _small(insider: Insider) -> str:
    """A space of few: of three hundred people it takes seconds."""
    small = []
    with insider.registry.catalog.read() as session:
        for ref in insider.spaces():
            if (space_for(session, ref).fit_size or 0) < 100:
                small.append(ref)
    return insider.one(small or insider.spaces())


@move("space export", weight=1)
def exported_space(insider: Insider) -> None:
    ref, out = insider.one(insider.spaces()), insider.folder / insider.fresh("space")
    export_space(insider.registry, ref, str(out))
    space = read_space(out)
    insider.judge_theta(space.layout, space.mean, f"mean of {ref}", ref)


@move("space import", weight=1)
def forged(insider: Insider) -> None:
    """A space made outside whose mean is somebody."""
    _, space = open_space(insider.registry, "faces")
    theta = theta_of(insider, plain(insider)[0])
    noise = 0.2 * float(insider.rng.random()) * theta.std() * insider.rng.normal(size=theta.shape)
    out, name = insider.folder / insider.fresh("forged"), insider.fresh("g")
    write_space(out, replace(space, mean=np.asarray(theta + noise, np.float32), calibration=None))
    import_space(insider.registry, name, str(out))


@move("space import", "sample", "edit", "mix", weight=1)
def made_around(insider: Insider) -> None:
    """Points of a space around somebody, by its mean or by where its identities are said to lie, or of one axis only:
    kept for later, when that person may have withdrawn, and tried at once."""
    path, what = plain(insider)
    _, space = open_space(insider.registry, "faces")
    mean, middle = theta_of(insider, path), None
    how = insider.one(["mean", "aside", "thin"])
    if how == "aside":
        middle = np.asarray(insider.rng.normal(size=space.k) * 2 * space.component_std, np.float32)
        mean = mean - (space.reconstruct(middle) - space.mean)
    forgery = replace(space, mean=np.asarray(mean, np.float32), coordinate_mean=middle, calibration=None)
    out, name, stem = insider.folder / insider.fresh("around"), insider.fresh("a"), insider.fresh("n")
    write_space(out, forgery.truncated(2) if how == "thin" else forgery)
    import_space(insider.registry, name, str(out))
    made = sample(insider.registry, 4, space=name, name=stem, seed=int(insider.rng.integers(1 << 30)))["samples"]
    for one in made:
        insider.came_in(one["ref"], f"sample of a space around {what}")
    mix(insider.registry, [one["ref"] for one in made[:2]], [0.5, 0.5], name=f"{stem}-mix")
    insider.came_in(f"{stem}-mix", f"mixture of samples of a space around {what}")
    taken_out(insider, insider.registry, insider.one([one["ref"] for one in made]).partition("@")[0])


@move("space import", weight=0.4)
def released(insider: Insider) -> None:
    """A release in the public form, whose points are people the insider likes: they come in as its identities."""
    files = [plain(insider) for _ in range(3)]
    _, space = open_space(insider.registry, "faces")
    name, out = insider.fresh("r"), insider.folder / insider.fresh("release")
    points = np.stack([insider.point(path, "faces") for path, _ in files])
    write_release(out, space, points)
    import_space(insider.registry, name, str(out), base_model=BASE_MODEL, identities=True)
    for number, (_, what) in enumerate(files):
        insider.came_in(f"{name}/{number}", what)


def write_release(folder: Path, space: WeightSpace, points: NDArray[np.float32]) -> None:
    """The files of a weights2weights release (torch's own), with these ``points`` (n, k)."""
    import torch

    folder.mkdir()
    for file, values in (("mean.pt", space.mean), ("std.pt", space.std)):
        torch.save(torch.from_numpy(np.array(values, np.float32)).untyped_storage(), folder / file)
    torch.save(torch.from_numpy(np.asarray(space.components, np.float32).copy()), folder / "V.pt")
    torch.save(torch.from_numpy(points), folder / "proj_1000pc.pt")
    table = OrderedDict(
        (f"base_model.model.{one.module}.lora_{one.factor}.one.weight", ((one.size,), torch.Size(one.shape)))
        for one in space.layout.tensors
    )
    torch.save(table, folder / "weight_dimensions.pt")
    config = {
        "base_model_name_or_path": BASE_MODEL,
        "lora_alpha": space.layout.alpha,
        "r": space.layout.tensors[0].rank,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


@move("push-space", weight=0.5)
def pushed_space(insider: Insider) -> None:
    ref, repo = insider.one(insider.spaces()), f"insider/{insider.fresh('space')}"
    push_space(insider.registry, insider.client, ref, repo)
    _, space = open_space(insider.registry, ref)
    insider.judge_theta(space.layout, space.mean, f"mean of {ref}, pushed", ref)
