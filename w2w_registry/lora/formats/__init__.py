"""The formats adapters come in, one module each: ``NAME`` and ``key_of(key)``, and how it is written if it is.

The first whose ``key_of`` knows a key has it; diffusers, whose older files have no mark of their own, comes last.
A new format is one module here, one line in ``FORMATS``, and a row in ``docs/formats.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType

from w2w_registry.lora.formats import cloneofsimo, comfyui, diffusers, kohya, peft, xlabs
from w2w_registry.lora.formats.key import Key

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
    return keys, formats, unknown


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
