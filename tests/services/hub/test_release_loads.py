"""A pushed repo, by its id, in stock diffusers and stock PEFT: the UNet says what ours says, to 1e-5."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User
from tests.services.hub_world import World, open_world
from w2w_registry.hub.plan import Access
from w2w_registry.lora import LoraFile
from w2w_registry.services.hub.release import PushRequest, push

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[World]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    made.consent("p0001")
    yield made
    made.registry.catalog.close()


def loaded(world: World, folder: Path, *repos: str) -> dict[tuple[str, str], np.ndarray]:
    """The UNet's output by (library, repo), from a fresh process that knows ids, endpoint and token, nothing else."""
    env = {
        **os.environ,
        "HF_ENDPOINT": world.hub.endpoint,
        "HF_TOKEN": world.owner.token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "hf-home"),
        "OMP_NUM_THREADS": "1",
    }
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hub.tiny_unet", *repos], cwd=root, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {(how, repo): np.array(values) for how, repo, values in json.loads(done.stdout.splitlines()[-1])}


def ours(lora: LoraFile | None) -> np.ndarray:
    """The same with ΔW = (alpha / r) · B A added by hand, as the registry computes it; without a LoRA for None."""
    from tests.hub.tiny_unet import make_unet, output

    unet = make_unet()
    modules = dict(unet.named_modules())
    for module, alpha in ({} if lora is None else lora.alphas).items():
        assert lora is not None
        a, b = (torch.tensor(np.array(lora.tensors[(module, factor)])) for factor in ("A", "B"))  # type: ignore[index]
        modules[module].weight.data += (alpha / a.shape[0]) * (b @ a)
    return np.array(output(unet))


def test_by_repo_id(world: World, tmp_path: Path) -> None:
    world.add("acme/alice", subjects=["p0001"])
    world.add("acme/point", subjects=["p0001"], stored=False)
    push(world.registry, world.client, PushRequest("acme/alice", "acme/as-it-came", Access.GATED))
    push(world.registry, world.client, PushRequest("acme/point", "acme/from-coordinates"))
    found = loaded(world, tmp_path, "acme/as-it-came", "acme/from-coordinates")
    plain = ours(None)
    for repo, noise in (("acme/as-it-came", 0.3), ("acme/from-coordinates", 0.0)):
        expected = ours(world.lora(1, noise=noise))
        scale = np.abs(expected).max()
        for how in ("diffusers", "peft"):
            assert np.abs(found[(how, repo)] - expected).max() <= 1e-5 * scale, (how, repo)
        # The LoRA matters: without it the output is another one by far.
        assert np.abs(plain - expected).max() > 1e-2 * scale
