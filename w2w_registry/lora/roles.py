"""What the end of a tensor's name says: which kind of adapter it belongs to, and which of its tensors it is.

One table for every format: PEFT, diffusers, kohya and LyCORIS differ in how they spell these ends and the module before
them, not in what there is. Matching is anchored at the end of the name, so an adapter's own name (``soft_light``) is
never taken for a kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Ending:
    """``stem``: the name before the ending. ``processor``: written in the time of attention processors
    (``…processor.to_q_lora.down``). ``adapter``: the adapter's own name, where PEFT put it into the key."""

    stem: str
    role: str
    adapter: str | None = None
    processor: bool = False


_ADAPTER = r"(?:\.(?P<adapter>[^.]+))?"
_ENDINGS = re.compile(
    r"(?P<stem>.+?)(?:"
    rf"\.lora_(?P<peft>[AB]){_ADAPTER}\.weight"
    r"|\.lora_(?P<bare>[AB])(?:\.(?P<adapter5>(?!bias$)[^.]+))?"
    r"|(?:(?P<attn>_lora)|\.lora|\.lora_linear_layer|\.lora_layer)\.(?P<old>down|up)\.weight"
    r"|\.lora_(?P<kohya>down|up|mid)\.weight"
    rf"|\.lora_B{_ADAPTER.replace('adapter', 'adapter2')}\.(?P<bias>bias)"
    rf"|\.lora_embedding_(?P<table>[AB]){_ADAPTER.replace('adapter', 'adapter3')}"
    rf"|\.(?P<magnitude>lora_magnitude_vector|dora_scale){_ADAPTER.replace('adapter', 'adapter4')}(?:\.weight)?"
    r"|\.(?:lora\.)?(?P<alpha>alpha|scalar)"
    r"|\.(?P<lycoris>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12])|diff|diff_b|w_norm|b_norm|oft_blocks|"
    r"oft_diag|oft_[rR]|rescale|lora_E|ranknum|on_input|ia3_l|vera_lambda_[bd]|lambda_layer|boft_[RsS])(?:\.[^.]+)?"
    r"|\.(?P<glora>[ab][12]|bm|[qp]_layer)\.weight"
    r"|\.(?P<plain>weight|bias)"
    r")"
)
_NAMED = ("adapter", *(f"adapter{n}" for n in range(2, 6)))
_SAME = {"down": "A", "up": "B", "A": "A", "B": "B", "mid": "mid"}
# What a PEFT file calls the diagonal blocks, and what LyCORIS does.
_ALIASES = {"oft_r": "oft_R"}


@lru_cache(maxsize=16384)  # thousands of files share the same few hundred keys
def ending_of(key: str) -> Ending | None:
    """The ending of a key, None when it ends like no tensor of an adapter."""
    match = _ENDINGS.fullmatch(key)
    if match is None:
        return None
    adapter = next((match[name] for name in _NAMED if match[name]), None)
    factor = match["peft"] or match["bare"] or match["old"] or match["kohya"]
    if factor:
        role = _SAME[factor]
    elif match["bias"]:
        role = "B_bias"
    elif match["table"]:
        role = f"embedding_{match['table']}"
    elif match["magnitude"]:
        role = "magnitude"
    else:
        role = match["alpha"] or match["lycoris"] or match["glora"] or match["plain"]
    return Ending(match["stem"], _ALIASES.get(role, role), adapter, bool(match["attn"]))


OWN_WEIGHTS = ("weight", "bias")
"""Roles every model has: alone they say nothing of an adapter."""


_FACTOR = re.compile(r"A|B|mid|B_bias|magnitude|embedding_.|hada_.*|lokr_.*|diff|diff_b|[wb]_norm|[ab][12]|bm")


def is_factor(role: str) -> bool:
    """Whether a tensor of this role is multiplied or added to weights, so that its numbers are real ones."""
    return _FACTOR.fullmatch(role) is not None


def kind_of(roles: frozenset[str], tensors: Mapping[str, Any] | None = None) -> str:
    """The kind of adapter that has tensors of these roles for one module."""
    kind = next((kind for marks, kind in _KINDS if roles & marks), "other")
    if "magnitude" in roles and kind != "LoRA":
        return f"DoRA of {kind}"
    if kind == "OFT" and tensors is not None and "oft_blocks" in roles and tensors["oft_blocks"].ndim == 4:
        return "BOFT"  # LyCORIS gives both one name; BOFT has a stack of blocks
    return "DoRA" if "magnitude" in roles else kind


_KINDS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"hada_w1_a", "hada_w2_a"}), "LoHa"),
    (frozenset({"lokr_w1", "lokr_w1_a"}), "LoKr"),
    (frozenset({"oft_blocks", "oft_diag", "oft_R"}), "OFT"),
    (frozenset({"boft_R", "boft_s", "boft_S"}), "BOFT"),
    (frozenset({"on_input", "ia3_l"}), "IA3"),
    (frozenset({"a1", "a2", "b1", "b2", "bm"}), "GLoRA"),
    (frozenset({"lambda_layer"}), "T-LoRA"),
    (frozenset({"vera_lambda_b", "vera_lambda_d"}), "VeRA"),
    (frozenset({"embedding_A", "embedding_B"}), "embedding LoRA"),
    (frozenset({"lora_E", "ranknum"}), "AdaLoRA"),
    (frozenset({"A", "B"}), "LoRA"),
    (frozenset({"w_norm", "b_norm"}), "norm"),
    (frozenset({"diff", "diff_b"}), "full"),
    (frozenset({"weight", "bias"}), "replaced"),
)
