"""A real little registry for the services that make and draw identities: a small Stable Diffusion pipeline with
random weights, a space fitted on sixty LoRAs whose attributes are planted, and all of them registered with labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from tests.diffusion import tiny
from w2w_registry.lora import write_lora
from w2w_registry.services.identities import ingest
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.services.spaces import manage
from w2w_registry.services.synthesis.engine import Engine
from w2w_registry.settings import Settings, load_settings
from w2w_registry.space.layout import Layout

PEOPLE = 60
OPEN_POLICY = """\
[policy]
unknown = ["register", "search", "train", "invert", "edit", "mix", "sample", "generate", "export"]
space_people = 2
"""


def planted(layout: Layout) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """θ (PEOPLE, D) that vary with three attributes, and a little by themselves; and the attributes."""
    rng = np.random.default_rng(0)
    labels = {
        "beard": (np.arange(PEOPLE) % 2).astype(float),
        "hat": (np.arange(PEOPLE) % 3 == 0).astype(float),
        "skin": rng.random(PEOPLE),
    }
    stack = np.stack([(v - v.mean()) / v.std() for v in labels.values()], axis=1)
    # LoRAs of one space start from one A and leave it by little: people differ in B above all.
    moves = np.concatenate([np.full(t.size, 0.1 if t.factor == "A" else 1.0) for t in layout.tensors])
    patterns = rng.normal(size=(3, layout.dim)) * 0.1
    theta = tiny.theta(layout, 1) + (stack @ patterns + rng.normal(size=(PEOPLE, layout.dim)) * 0.03) * moves
    return theta.astype(np.float32), labels


def build(root: Path, pipeline: Path, layout: Layout) -> Settings:
    """Make the registry under ``root``."""
    settings = load_settings(root / "home", env={}, actor="curator")
    init_registry(settings)
    (root / "home" / "registry.toml").write_text(OPEN_POLICY)
    settings = load_settings(root / "home", env={}, actor="curator")
    theta, labels = planted(layout)
    for i, row in enumerate(theta):
        write_lora(root / "loras" / f"p{i:02d}", layout.unflatten(row), layout.alpha, base_model=str(pipeline))
    with open(root / "labels.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", *labels])
        writer.writerows([f"p{i:02d}", *(v[i] for v in labels.values())] for i in range(PEOPLE))
    with open_registry(settings) as registry:
        manage.fit_space(registry, "faces", [str(root / "loras")], base_model=str(pipeline), components=20)
        report = ingest.add(
            registry, ingest.AddRequest(paths=[str(root / "loras")], labels_csv=str(root / "labels.csv"))
        )
        assert report.exit_code == 0, report
    return settings


def photo(folder: Path, name: str, seed: int) -> Path:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiny.photo(seed, 48)).save(path)
    return path


def strict(registry: Registry) -> Registry:
    """The same registry under a policy where unknown consent allows nothing but to be registered."""
    file = registry.settings.home.parent / "strict.toml"
    file.write_text('[policy]\nunknown = ["register"]\n')
    policies.adopt(registry, file)
    return registry


ENGINE = Engine(device="cpu", dtype="float32")
