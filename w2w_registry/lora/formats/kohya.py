"""kohya's sd-scripts, LyCORIS and what follows them: ``lora_unet_<layer with _>.lora_down.weight``, ``.alpha`` tensors,
``ss_*`` metadata."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.lora.flat import flat_layer, module_to_kohya
from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.formats.part import Part, Written
from w2w_registry.lora.roles import ending_of
from w2w_registry.lora.targets import Target
from w2w_registry.lora.unets import UnknownKey

NAME = "kohya"
FILE = "lora.safetensors"


def key_of(key: str) -> Key | None:
    """What a key names, None when it is none of this format."""
    stem, dot, tail = key.partition(".")
    ending = ending_of(f"x.{tail}") if dot else None
    if ending is None or ending.stem != "x":
        return None
    layer = flat_layer(stem)
    return None if layer is None else Key(layer.part, layer.targets, ending.role, stem, ending.adapter)


def write(parts: Sequence[Part]) -> dict[str, Written]:
    """One file with every part, and the metadata other tools expect. Raises UnknownKey."""
    main, *others = parts
    arrays = _tensors(main)
    for other in others:
        arrays |= _tensors(other, _text_prefix(other.name, [one.name for one in others], main.alphas))
    settings = main.settings()
    rank, alpha = settings["r"], settings["lora_alpha"]
    header = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return {"": Written(arrays, header | ({"ss_sd_model_name": main.base_model} if main.base_model else {}))}


def _tensors(part: Part, prefix: str | None = None) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for module in dict.fromkeys(m for m, _ in part.tensors):
        name = module_to_kohya(module) if prefix is None else _text_name(prefix, module)
        arrays[f"{name}.alpha"] = np.asarray(part.alphas[module], np.float32)
        arrays[f"{name}.lora_down.weight"] = part.tensors[(module, "A")]
        arrays[f"{name}.lora_up.weight"] = part.tensors[(module, "B")]
    return arrays


def _text_prefix(part: str, parts: Collection[str], modules: Iterable[str]) -> str:
    """What stands before a text encoder's layers, where a file changes ``parts`` beside ``modules`` of the denoiser:
    kohya numbers them only where there are several, and a T5 is the third of Flux too. Raises UnknownKey."""
    number = {"text_encoder": "1", "text_encoder_2": "2", "text_encoder_3": "3"}.get(part)
    if number == "2" and any(module.startswith("single_transformer_blocks.") for module in modules):
        number = "3"
    if number is None:
        raise UnknownKey(f"kohya's files have no place for the {part}")
    return "lora_te_" if number == "1" and len(parts) == 1 else f"lora_te{number}_"


def _text_name(prefix: str, module: str) -> str:
    name = prefix + module.replace(".", "_")
    layer = flat_layer(name)
    if layer is None or layer.targets != (Target(module),):
        raise UnknownKey(f"{module} is a module that kohya names cannot carry")
    return name
