"""LoRAs and a small UNet for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[tuple[str, str], np.ndarray]

MODULES = tuple(
    f"{block}.attentions.0.transformer_blocks.0.{attention}.{projection}"
    for block in ("down_blocks.0", "mid_block", "up_blocks.1")
    for attention in ("attn1", "attn2")
    for projection in ("to_q", "to_v")
)


def make_tensors(seed: int = 0, rank: int = 1, modules: tuple[str, ...] = MODULES, width: int = 16) -> Tensors:
    """Random factors; B is much smaller than A, as after training from zero."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for module in modules:
        inner = width // 2 if "attn2.to_v" in module else width
        tensors[(module, "A")] = rng.normal(size=(rank, inner)).astype(np.float32)
        tensors[(module, "B")] = (1e-2 * rng.normal(size=(width, rank))).astype(np.float32)
    return tensors


def raw_file(path: Path, table: dict[str, Any] | bytes, data: bytes = b"") -> Path:
    """A safetensors-shaped file with any header, right or wrong."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def st_file(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    """A file written by the safetensors library itself."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, metadata)
    return path
