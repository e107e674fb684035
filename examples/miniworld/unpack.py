"""Unpack the mini world into ordinary folders; needs numpy, safetensors and pillow, not torch.

``python -m examples.miniworld.unpack OUT [--loras N] [--no-photos]`` writes

- ``OUT/loras/<id>/`` and ``OUT/retrained/<id>/``: LoRAs in PEFT form, ``OUT/heldout/<id>/``: of identities no space
  should be fitted on,
- ``OUT/formats/diffusers/<id>/`` and ``OUT/formats/kohya/<id>.safetensors``: some of them in the other two forms,
- ``OUT/photos/<id>/NN.png`` and ``OUT/photos-retrained/<id>/NN.png``: what the LoRAs learned from,
- ``OUT/labels.csv``: every identity's split and true attributes,
- ``OUT/pipeline/`` and ``OUT/readers.safetensors``: the base model as a diffusers folder, and the attribute readers.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from examples.miniworld import identities as people
from examples.miniworld.world import ATTRIBUTES
from w2w_registry.lora import lora_files
from w2w_registry.space.layout import Layout

DATA: Final = Path(__file__).parent / "data"
BASE_MODEL: Final = "w2w-registry/miniworld"
FORMATS: Final = 24


class Damaged(Exception):
    """A data file is missing or differs from its digest."""


def verify(data: Path = DATA) -> dict[str, str]:
    """Check every data file against ``digests.json``; returns the digests by relative path."""
    digests: dict[str, str] = json.loads((data / "digests.json").read_text())
    for name, expected in digests.items():
        path = data / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"
        if found != expected:
            raise Damaged(f"{path}: SHA-256 is {found}, should be {expected}")
    return digests


def revision(digests: dict[str, str]) -> str:
    """Of the base model: a digest over its weights' digests, 40 hex digits like a commit."""
    lines = sorted(f"{name} {digest}" for name, digest in digests.items() if name.startswith("pipeline/"))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Loras:
    """All shipped LoRAs: ``theta`` (FIT + HELDOUT, D) and ``retrained`` (RETRAINED, D), float32, row = index."""

    layout: Layout
    theta0: NDArray[np.float32]
    theta: NDArray[np.float32]
    retrained: NDArray[np.float32]


def load_loras(data: Path = DATA) -> Loras:
    """Read ``loras.safetensors``; what is stored is the difference to the shared initialisation, in fp16."""
    with safe_open(str(data / "loras.safetensors"), "np") as file:
        layout = Layout.from_json(json.loads(file.metadata()["layout"]))
        theta0 = file.get_tensor("theta0").astype(np.float32)
        theta = file.get_tensor("theta").astype(np.float32) + theta0
        retrained = file.get_tensor("retrained").astype(np.float32) + theta0
    return Loras(layout, theta0, theta, retrained)


def _write(files: dict[Path, bytes]) -> None:
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_labels(path: Path, truth: NDArray[np.float32]) -> None:
    """CSV: id, split, attributes; yes/no ones as 0 and 1."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "split", *ATTRIBUTES])
        for index, values in enumerate(truth):
            rows.writerow([people.identity_id(index), people.split_of(index), *(f"{v:.6g}" for v in values)])


def unpack(out: Path, loras: int | None = None, photos: bool = True, data: Path = DATA) -> dict[str, int]:
    """Write everything under ``out``; ``loras`` limits the identities of the fit set. Returns counts by kind."""
    digests = verify(data)
    stored, truth = load_loras(data), people.attributes()
    limit = people.FIT if loras is None else min(loras, people.FIT)
    common: dict[str, Any] = {"base_model": BASE_MODEL, "revision": revision(digests)}

    def write(folder: Path, theta: NDArray[np.float32], fmt: str = "peft") -> None:
        tensors = stored.layout.unflatten(theta)
        _write(lora_files(folder, tensors, stored.layout.alpha, fmt=fmt, **common))

    out.mkdir(parents=True, exist_ok=True)
    fit = range(limit)
    heldout = range(people.FIT, people.FIT + people.HELDOUT)
    again = range(min(people.RETRAINED, limit))
    for index in fit:
        write(out / "loras" / people.identity_id(index), stored.theta[index])
    for index in heldout:
        write(out / "heldout" / people.identity_id(index), stored.theta[index])
    for index in again:
        write(out / "retrained" / people.identity_id(index), stored.retrained[index])
    for index in fit[:FORMATS]:
        name = people.identity_id(index)
        write(out / "formats" / "diffusers" / name, stored.theta[index], "diffusers")
        write(out / "formats" / "kohya" / f"{name}.safetensors", stored.theta[index], "kohya")
    write_labels(out / "labels.csv", truth)
    shutil.copytree(data / "pipeline", out / "pipeline", dirs_exist_ok=True)
    shutil.copyfile(data / "readers.safetensors", out / "readers.safetensors")
    if photos:
        for index in [*fit, *heldout]:
            _write_photos(out / "photos" / people.identity_id(index), people.photo_set(index, truth[index], 0))
        for index in again:
            folder = out / "photos-retrained" / people.identity_id(index)
            _write_photos(folder, people.photo_set(index, truth[index], 1))
    return {"loras": len(fit), "heldout": len(heldout), "retrained": len(again)}


def _write_photos(folder: Path, photos: NDArray[np.uint8]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / f"{number:02d}.png", compress_level=1)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--loras", type=int, help="only the first N identities of the fit set")
    parser.add_argument("--no-photos", action="store_true")
    args = parser.parse_args()
    counts = unpack(args.out, args.loras, not args.no_photos)
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()), "→", args.out)


if __name__ == "__main__":
    main()
