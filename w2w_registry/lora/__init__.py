"""Adapter files: read and written without torch.

- ``read_adapter(path) -> Adapter``: any adapter in any of the formats (``formats``): ``.changes`` with, for each
  layer, its part of the pipeline, kind, and exact ΔW as ``.factors()`` (or None: it depends on the base model's
  weights); ``.exact``, ``.kind``, ``.parts``, ``.told`` (what its metadata says), ``.digest``; ``BadLora`` with one
  reason otherwise.
- ``read_lora(path) -> LoraFile``: the plain LoRA of a UNet or transformer, ``BadLora`` when it is none;
  ``lora_of(adapter)`` likewise. ``LoraFile.tensors`` maps (diffusers module name, "A" | "B") to float32 arrays;
  ``.alphas`` by module;
  ``.layout()`` and ``.theta()`` flatten it canonically; ``.ignored`` lists text-encoder modules left out.
- ``find_loras(paths) -> list[Candidate]``: files, folders of folders and globs → (path, suggested name).
- ``write_lora(out, lora_or_tensors, alpha, fmt="peft", dtype="fp32" | "fp16" | "bf16")``.
  ``WRITTEN`` are the formats, by name; ``lora_files(…)`` gives the same as bytes by path, unwritten.
- ``model_digests(theta, layout)`` (exact, and as fp16 and bf16 files hold it) and
  ``same_model(lora_a, lora_b)``: is this the same model (the same ΔW) under another file, other factors, another rank?
"""

from w2w_registry.lora.adapter import Adapter, read_adapter
from w2w_registry.lora.change import Change
from w2w_registry.lora.config import alone_there
from w2w_registry.lora.equivalence import (
    Factors,
    ModelDigests,
    Sameness,
    model_digest,
    model_digests,
    rounding_errors,
    same_model,
)
from w2w_registry.lora.find import Candidate, Skipped, discover, find_loras, further_names, suggest_name
from w2w_registry.lora.others import is_embedding
from w2w_registry.lora.read import AlphaSource, Beside, LoraFile, lora_of, not_plain, plain_lora, read_lora
from w2w_registry.lora.tensorfile import DType, Mark
from w2w_registry.lora.whole import change_of, digests_of, same_adapter, same_shares, shares_of
from w2w_registry.lora.write import WRITTEN, lora_files, write_lora

__all__ = [
    "WRITTEN",
    "Adapter",
    "AlphaSource",
    "Beside",
    "Candidate",
    "Change",
    "DType",
    "Factors",
    "LoraFile",
    "Mark",
    "ModelDigests",
    "Sameness",
    "Skipped",
    "alone_there",
    "change_of",
    "digests_of",
    "discover",
    "find_loras",
    "further_names",
    "is_embedding",
    "lora_files",
    "lora_of",
    "model_digest",
    "model_digests",
    "not_plain",
    "plain_lora",
    "read_adapter",
    "read_lora",
    "rounding_errors",
    "same_adapter",
    "same_model",
    "same_shares",
    "shares_of",
    "suggest_name",
    "write_lora",
]
