"""Adding SD 1.5-size rank-1 LoRAs, against reading them and one product, and a loop of PEFT load and insert."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_release_size import ALPHA, sd15_layout
from benchmarks.frame import Row
from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog import schema
from w2w_registry.catalog.session import Catalog
from w2w_registry.lora import write_lora
from w2w_registry.records import OperationKind, now
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording.versions import Activity
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import register_space
from w2w_registry.settings import Settings
from w2w_registry.space.basis import WeightSpace

BASE = "bench/sd15"
COMPONENTS = 1000
PEFT_LOADS = 20


def rows(small: bool) -> Iterator[Row]:
    count, components = (128, 200) if small else (2_000, COMPONENTS)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        root = Path(folder)
        space = made_up_space(components)
        write(root / "loras", space, count)
        size: dict[str, Any] = {"loras": count, "dim": space.dim, "components": components, "threads": 1}
        peer = cpu(lambda: product(root / "loras", space)) / count
        registry = opened(root, space)
        add(registry, AddRequest([str(next((root / "loras").iterdir()))]))  # the index and the imports are there
        report = None

        def all_of_them() -> None:
            nonlocal report
            report = add(registry, AddRequest([str(root / "loras")]))

        ours = cpu(all_of_them) / count
        assert report is not None
        assert all(item.error is None for item in report.items)
        statuses = [item.status for item in report.items]
        quality = {"added": statuses.count("added"), "there already": statuses.count("existing")}
        yield Row("bulk add, CPU", ours, peer, "reading and one projection product", quality, size)
        again = cpu(all_of_them) / count
        yield Row("the same again, CPU", again, peer, "reading and one projection product", {}, size)
        slow = peft_loop(root, space) / PEFT_LOADS
        yield Row("bulk add, CPU", ours, slow, "PEFT load and insert, one by one", {"of": PEFT_LOADS}, size)
        registry.catalog.close()


def cpu(work: Callable[[], object]) -> float:
    """Seconds of this process's CPU."""
    start = time.process_time()
    work()
    return time.process_time() - start


def made_up_space(components: int) -> WeightSpace:
    """A space of canonical gauge in SD 1.5's shapes, its components random and orthonormal."""
    layout, rng = sd15_layout(), np.random.default_rng(0)
    mean = rng.standard_normal(layout.dim).astype(np.float32) * np.float32(0.02)
    start = np.concatenate([mean[place] for tensor, place in layout.slices() if tensor.factor == "A"])
    random = rng.standard_normal((layout.dim, components), np.float32)
    triangle = np.linalg.cholesky((random.T @ random).astype(np.float64)).T
    return WeightSpace(
        layout=layout,
        mean=mean,
        std=np.full(layout.dim, 0.01, np.float32),
        components=np.linalg.solve(triangle.T, random.T.astype(np.float64)).T.astype(np.float32),
        component_std=np.linspace(3, 1, components).astype(np.float32),
        explained_variance_ratio=np.full(components, 1 / components, np.float32),
        base_model=BASE,
        base_revision=None,
        fit_set_digest="",
        fit_size=0,
        start=start,
    )


def write(folder: Path, space: WeightSpace, count: int) -> None:
    """LoRAs trained from one start: A near the space's, B their own."""
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng((1, i))
        theta = space.mean + space.std * rng.standard_normal(space.dim).astype(np.float32)
        tensors = space.layout.unflatten(theta)
        write_lora(folder / f"p{i:05d}.safetensors", tensors, ALPHA, fmt="diffusers", base_model=BASE)


def product(folder: Path, space: WeightSpace) -> None:
    """The least there is to do: read every tensor, and one product of all rows, 256 at a time."""
    from safetensors.numpy import load_file

    files = sorted(folder.iterdir())
    for start in range(0, len(files), 256):
        thetas = np.stack(
            [np.concatenate([a.ravel() for a in load_file(f).values()]) for f in files[start : start + 256]]
        )
        _ = ((thetas - space.mean) / space.std) @ space.components


def opened(root: Path, space: WeightSpace) -> Registry:
    url, home = f"sqlite:///{root}/catalog.db", root / "home"
    schema.upgrade(url)
    settings = Settings(home, url, "bench", str(home / "artifacts"))
    registry = Registry(settings, Catalog(url, event_hash=event_hash), ArtifactStore(settings.artifacts_url))
    register_space(registry, "sd15", space, Activity(OperationKind.IMPORT, now()))
    return registry


def peft_loop(root: Path, space: WeightSpace) -> float:
    """CPU seconds of loading adapters into a model of the same layers and storing each θ as a row."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.utils import get_peft_model_state_dict

    torch.set_num_threads(1)
    model = torch.nn.Module()
    for module in space.layout.modules:
        at = model
        *path, last = module.split(".")
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        out, width = space.layout.by_key[(module, "B")].shape[0], space.layout.by_key[(module, "A")].shape[1]
        at.add_module(last, torch.nn.Linear(width, out, bias=False))
    folders = []
    for i in range(PEFT_LOADS):
        rng = np.random.default_rng((1, i))
        theta = space.mean + space.std * rng.standard_normal(space.dim).astype(np.float32)
        folders.append(root / "peft" / str(i))
        write_lora(folders[-1], space.layout.unflatten(theta), ALPHA, fmt="peft")
    names = list(space.layout.modules)
    peft: PeftModel = get_peft_model(model, LoraConfig(r=1, lora_alpha=27, target_modules=names), "first")
    database = sqlite3.connect(root / "peft.db")
    database.execute("CREATE TABLE lora (name TEXT PRIMARY KEY, theta BLOB)")

    def loop() -> None:
        for folder in folders:
            peft.load_adapter(str(folder), folder.name)
            state = get_peft_model_state_dict(peft, adapter_name=folder.name)
            theta = torch.cat([tensor.reshape(-1) for tensor in state.values()]).numpy()
            database.execute("INSERT INTO lora VALUES (?, ?)", (folder.name, theta.tobytes()))
            database.commit()
            peft.delete_adapter(folder.name)

    return cpu(loop)
