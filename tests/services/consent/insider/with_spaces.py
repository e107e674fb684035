"""What an insider does with weight spaces: fit few, update, forge, carry over, publish."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from examples.miniworld.unpack import BASE_MODEL
from tests.services.consent.insider.play import Insider, move
from tests.services.consent.insider.with_files import plain, theta_of
from w2w_registry.services.hub.spaces import push_space
from w2w_registry.services.recording.space_files import read_space, write_space
from w2w_registry.services.recording.spaces import find_space, open_space
from w2w_registry.services.spaces.manage import export_space, fit_space, import_space
from w2w_registry.services.spaces.migrate import migrate_space
from w2w_registry.services.spaces.refit import refit_space
from w2w_registry.services.spaces.update import update_space


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
            if (find_space(session, ref).fit_size or 0) < 100:
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


@move("push-space", weight=0.5)
def pushed_space(insider: Insider) -> None:
    ref, repo = insider.one(insider.spaces()), f"insider/{insider.fresh('space')}"
    push_space(insider.registry, insider.client, ref, repo)
    _, space = open_space(insider.registry, ref)
    insider.judge_theta(space.layout, space.mean, f"mean of {ref}, pushed", ref)
