"""The formats adapters come in, one module each: ``NAME`` and ``key_of(key)``. Those also written have ``FILE``,
the tensor file's name, and ``write(parts)``: the tensor file of each folder, the main part's in folder "".

The first whose ``key_of`` knows a key has it; diffusers, whose older files have no mark of their own, comes last.
A new format is one module here, one line in ``FORMATS``, and a row in ``docs/formats.md``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from types import ModuleType

from w2w_registry.lora.families import layers_of_family
from w2w_registry.lora.formats import cloneofsimo, comfyui, diffusers, kohya, peft, xlabs
from w2w_registry.lora.formats.key import Key
from w2w_registry.lora.names import DENOISERS
from w2w_registry.lora.targets import SHARED_TOP, Target
from w2w_registry.lora.unets import UNET_BLOCKS

FORMATS: tuple[ModuleType, ...] = (cloneofsimo, xlabs, peft, kohya, comfyui, diffusers)


def read_keys(names: Iterable[str]) -> tuple[dict[str, Key], Counter[str], list[str]]:
    """Every key that is one of an adapter's, how many each format has, and the names that are none."""
    keys: dict[str, Key] = {}
    formats: Counter[str] = Counter()
    unknown: list[str] = []
    for name in names:
        form, key = _known(name)
        if key is None:
            unknown.append(name)
        else:
            keys[name] = key
            formats[form] += 1
    shared = [name for name, key in keys.items() if key.name == peft.SHARED]
    if len(shared) < len(keys):  # what is one for all layers counts as one of them where the file names no other
        keys = {name: key for name, key in keys.items() if key.name != peft.SHARED}
        unknown += shared
    return _as_their_model(keys), formats, unknown


_STACKS = ("transformer_blocks.", "single_transformer_blocks.", "blocks.")


def _as_their_model(keys: dict[str, Key]) -> dict[str, Key]:
    """What only the file as a whole says. Names outside every block, as ``img_in``, are those of the original Flux and
    Wan beside blocks of theirs; other models (Qwen-Image, HiDream) have layers of these names too, which keep them. And
    layers whose names stand without a part are all of one model."""
    keys = _of_one_denoiser(_with_t5(_of_their_family(keys)))
    bare = {name: key for name, key in keys.items() if _bare(name, key)}
    parts = {key.part for key in bare.values() if not _unplaced(key)}
    if len(parts) == 1 and parts <= set(DENOISERS):
        part = parts.pop()
        keys = keys | {name: replace(key, part=part) for name, key in bare.items() if _unplaced(key)}
    renamed = {name: key for name, key in keys.items() if key.part == "transformer" and _renamed(key)}
    if any(key.targets[0].module.startswith(_STACKS) for key in renamed.values()):
        return keys
    own = {name: dotted for name, key in renamed.items() if (dotted := _shared_name(key))}
    return keys | {name: replace(keys[name], targets=(Target(dotted),)) for name, dotted in own.items()}


_SHARED_STACK = re.compile(r"layers\.\d+\.(?:self_attn|mlp)\..+|lm_head")


def _unplaced(key: Key) -> bool:
    """Whether a name by itself does not say what model its layer is of: language models and transformers that draw
    have layers of some names."""
    return key.part == "model" or (key.part == "language model" and bool(_SHARED_STACK.fullmatch(key.name)))


def _of_their_family(keys: dict[str, Key]) -> dict[str, Key]:
    """Layers whose model the file's other names tell."""
    by_peft = any(key.adapter == "default" for key in keys.values())
    told = layers_of_family(dict.fromkeys(key.name for key in keys.values()), by_peft=by_peft)
    return {
        name: replace(key, part=told[key.name].part, targets=told[key.name].targets) if key.name in told else key
        for name, key in keys.items()
    }


def _of_one_denoiser(keys: dict[str, Key]) -> dict[str, Key]:
    """A pipeline has a UNet or a transformer; layers outside the blocks may be called alike in both."""
    if not {key.part for key in keys.values()}.issuperset(DENOISERS):
        return keys
    told = (key.targets[0].module.startswith(UNET_BLOCKS) for key in keys.values() if key.part in DENOISERS)
    part = "unet" if any(told) else "transformer"
    return {
        name: replace(key, part=part) if key.part in DENOISERS and not name.startswith(f"{key.part}.") else key
        for name, key in keys.items()
    }


def _with_t5(keys: dict[str, Key]) -> dict[str, Key]:
    """Tools count a T5 as the third text encoder, as SD3 does; Flux, which has one CLIP less, has it as its second."""
    parts = {key.part for key in keys.values()}
    if "text_encoder_3" not in parts or "text_encoder_2" in parts or not any(map(_of_flux, keys.values())):
        return keys
    return {n: replace(k, part="text_encoder_2") if k.part == "text_encoder_3" else k for n, k in keys.items()}


def _of_flux(key: Key) -> bool:
    return key.part == "transformer" and (
        key.targets[0].module.startswith("single_transformer_blocks.") or "double_blocks" in key.name
    )


def _bare(name: str, key: Key) -> bool:
    return form_of(name) in (peft.NAME, diffusers.NAME) and not name.startswith(f"{key.part}.")


def _shared_name(key: Key) -> str | None:
    flat = key.name.replace(".", "_")
    return next((dotted for dotted in SHARED_TOP if flat.endswith(dotted.replace(".", "_"))), None)


def _renamed(key: Key) -> bool:
    """Whether the file calls the layer by another name than diffusers."""
    return not key.name.replace(".", "_").endswith(key.targets[0].module.replace(".", "_"))


def _known(name: str) -> tuple[str, Key | None]:
    """The format and the key that a name is; "" and None where it is none's."""
    return _remembered(name) if len(name) <= _USUAL else _look(name)


def _look(name: str) -> tuple[str, Key | None]:
    for form in FORMATS:
        key = form.key_of(name)
        if key is not None:
            return form.NAME, key
    return "", None


_remembered = lru_cache(maxsize=8192)(_look)  # files of one training name their tensors alike
_USUAL = 256  # characters: longer names are no model's, and not worth the memory


def form_of(name: str) -> str:
    """The format whose key this is; "" where it is none's."""
    return _known(name)[0]


__all__ = ["FORMATS", "Key", "form_of", "read_keys"]
