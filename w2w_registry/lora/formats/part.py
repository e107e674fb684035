"""What a format writes: a LoRA's share in one part of the pipeline, and the files that come of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from w2w_registry.lora.names import DENOISERS
from w2w_registry.space.layout import TensorKey


@dataclass(frozen=True)
class Part:
    """A LoRA's share in one part of the pipeline, its modules in the order they are written in."""

    name: str
    tensors: Mapping[TensorKey, NDArray[Any]]
    alphas: Mapping[str, float]
    base_model: str | None
    revision: str | None

    def told(self, module: str) -> str:
        """What settings call a module. transformers 5 took the first step out of CLIP's names; without it settings
        mean the module there and before."""
        return module if self.name in DENOISERS else module.removeprefix("text_model.")

    def _pattern(self, module: str) -> str:
        """What rank and alpha patterns call a module: all of a denoiser's name, the end of others'."""
        return f"^{module}" if self.name in DENOISERS else self.told(module)

    def settings(self) -> dict[str, Any]:
        """The fields of PEFT's LoraConfig that say this share: the commonest rank and alpha, patterns for the rest."""
        ranks = {module: int(self.tensors[(module, "A")].shape[0]) for module, factor in self.tensors if factor == "A"}
        rank = Counter(ranks.values()).most_common(1)[0][0]
        alpha = Counter(self.alphas.values()).most_common(1)[0][0]
        return {
            "base_model_name_or_path": self.base_model,
            "revision": self.revision,
            "r": rank,
            "lora_alpha": _plain(alpha),
            "rank_pattern": {self._pattern(m): r for m, r in ranks.items() if r != rank},
            "alpha_pattern": {self._pattern(m): _plain(a) for m, a in self.alphas.items() if a != alpha},
            "target_modules": [self.told(m) for m in ranks],
            "lora_dropout": 0.0,
            "bias": "none",
        }


@dataclass(frozen=True)
class Written:
    """A tensor file before it is encoded: its tensors, texts for its header, and files of other kinds beside it."""

    tensors: Mapping[str, NDArray[Any]]
    header: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, bytes] = field(default_factory=dict)


def _plain(value: float) -> int | float:
    return int(value) if value == int(value) else value
