"""The formats adapters come in, one module each: ``NAME`` and ``key_of(key)``, and how it is written if it is.

The first whose ``key_of`` knows a key has it; diffusers, whose older files have no mark of their own, comes last.
A new format is one module here, one line in ``FORMATS``, and a row in ``docs/formats.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
        for form in FORMATS:
            key = form.key_of(name)
            if key is not None:
                keys[name] = key
                formats[form.NAME] += 1
                break
        else:
            unknown.append(name)
    return keys, formats, unknown


def form_of(name: str) -> str:
    """The format whose key this is; "" where it is none's."""
    return next((form.NAME for form in FORMATS if form.key_of(name) is not None), "")


__all__ = ["FORMATS", "Key", "form_of", "read_keys"]
