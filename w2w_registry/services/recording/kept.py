"""Adapters kept as the file they came in: into one file, and out of it again."""

from __future__ import annotations

import json
from pathlib import Path

from w2w_registry.files import read_bytes
from w2w_registry.lora import Adapter
from w2w_registry.lora.config import OWN_CONFIG
from w2w_registry.lora.tensorfile import MAX_DATA


def as_kept(adapter: Adapter) -> bytes:
    """The adapter in one file: byte for byte as it came, or, when its settings lay beside, with those in its header."""
    data = read_bytes(adapter.files[0], limit=MAX_DATA)
    if len(adapter.files) == 1 or adapter.config is None:
        return data
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    text = json.dumps(dict(adapter.config), sort_keys=True)
    table["__metadata__"] = {**table.get("__metadata__", {}), OWN_CONFIG: text}
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, data[8 + length :]])


def kept_files(data: bytes, name: str) -> dict[str, bytes]:
    """The files of an adapter kept by :func:`as_kept`, by name: its settings lie beside it again."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    settings = metadata.get(OWN_CONFIG)
    if settings is None:
        return {Path(name).name: data}
    return {"adapter_model.safetensors": data, "adapter_config.json": (settings + "\n").encode()}
