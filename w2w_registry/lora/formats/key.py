"""What one key of a file names: the value every format's ``key_of`` gives."""

from __future__ import annotations

from dataclasses import dataclass

from w2w_registry.lora.targets import Target


@dataclass(frozen=True)
class Key:
    """``part`` of the pipeline and the layers (``targets``) there, ``role`` of the tensor, ``name`` of the layer as the
    file has it (what a config's patterns are held against), ``adapter`` the adapter's own name where PEFT wrote it."""

    part: str
    targets: tuple[Target, ...]
    role: str
    name: str
    adapter: str | None = None
