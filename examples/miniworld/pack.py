"""Pack what the training scripts made into ``data/``: fp16 throughout, every file named in ``digests.json``."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from examples.miniworld import identities as people
from examples.miniworld.train_loras import ALPHA, Base, gather
from examples.miniworld.train_vae import BUILD
from examples.miniworld.unpack import DATA


def pack_loras(build: Path, data: Path) -> None:
    """``loras.safetensors``: differences to θ₀ in fp16, so that small changes keep their digits."""
    base = Base()
    firsts, theta = gather(build / "loras", 0)
    seconds, retrained = gather(build / "loras", 1)
    if firsts != list(range(people.FIT + people.HELDOUT)) or seconds != list(range(people.RETRAINED)):
        raise SystemExit(f"{len(firsts)} first and {len(seconds)} retrained LoRAs are there; not yet all")
    tensors = {
        "theta0": base.theta0.contiguous(),
        "theta": (theta - base.theta0).half().contiguous(),
        "retrained": (retrained - base.theta0).half().contiguous(),
    }
    metadata = {"layout": json.dumps(base.layout.to_json()), "alpha": str(ALPHA)}
    save_file(tensors, data / "loras.safetensors", metadata)


def main() -> None:
    """Rebuild ``data/`` from ``.build/miniworld``."""
    DATA.mkdir(exist_ok=True)
    shutil.rmtree(DATA / "pipeline", ignore_errors=True)
    shutil.copytree(BUILD / "pipeline", DATA / "pipeline")
    shutil.copyfile(BUILD / "readers.safetensors", DATA / "readers.safetensors")
    torch.set_num_threads(1)
    pack_loras(BUILD, DATA)
    files = sorted(p for p in DATA.rglob("*") if p.is_file() and p.name != "digests.json")
    digests = {p.relative_to(DATA).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    (DATA / "digests.json").write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")
    print(f"{len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
