"""What a safetensors header tells about an adapter besides its tensors: kohya's ``ss_*`` and ``modelspec.*`` keys.

Everything here is a stranger's word: shown and used as a hint, never relied on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LIMIT = 2_000
_CHECKPOINT = re.compile(r"\.(?:safetensors|sft|ckpt|pt|pth|bin|gguf)$", re.IGNORECASE)
_CACHED = re.compile(r"(?:.*[\\/])?models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)(?:[\\/].*)?")
_ADDRESS = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?:[/?#].*)?")
_ID = re.compile(r"[\w][\w.-]*(?:/[\w][\w.-]*)?")
# The first are of sd-scripts and of the Stability AI metadata; the others are written by hand and by scripts.
_BASE = ("base_model_name_or_path", "base_model", "pretrained_model_name_or_path")
_TRIGGER = (
    *("modelspec.trigger_phrase", "ss_trigger_word", "trigger_word", "instance_prompt"),
    *("trigger_words", "trigger_phrase", "activation_text", "instance_token"),
)
_REPEATS = re.compile(r"\d+_(?P<words>.+)")


@dataclass(frozen=True)
class Told:
    """``base_model``: an id the file names. ``base_hint``: a checkpoint's file name, or an architecture, where it names
    no model. ``trigger``: words that call what was learned. ``facts``: the rest, short texts by plain name."""

    base_model: str | None = None
    base_hint: str | None = None
    trigger: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def told_by(metadata: Mapping[str, str]) -> Told:
    """What the header says; empty where it says nothing."""

    def text(*names: str) -> str | None:
        for name in names:
            value = metadata.get(name, "").strip()
            if value and value not in ("None", "null"):
                return value[:_LIMIT]
        return None

    name = text("ss_sd_model_name") or _trainers_base(metadata.get("ot_config", "")) or text(*_BASE)
    base, hint = base_named(name or "")
    architecture = re.sub(r"/\w[\w-]*$", "", text("modelspec.architecture", "ss_base_model_version") or "") or None
    facts = {
        "title": text("modelspec.title", "ss_output_name", "title", "name"),
        "author": text("modelspec.author"),
        "license": text("modelspec.license"),
        "description": text("modelspec.description", "ss_training_comment"),
        "architecture": architecture,
        "checkpoint": name if base is None else None,
        "resolution": text("modelspec.resolution", "ss_resolution"),
        "tags": text("modelspec.tags"),
    }
    return Told(
        base_model=base,
        base_hint=hint or architecture,
        trigger=text(*_TRIGGER) or _folder_words(metadata) or _class_words(metadata.get("ss_datasets", "")),
        facts={key: value for key, value in facts.items() if value},
    )


def base_named(name: str) -> tuple[str | None, str | None]:
    """(the id, a hint) of the base model a trainer was given: an id is what others can ask the Hub for, also where it
    stands in an address or in a place of the Hub's cache. A file or a folder of somebody's machine is a hint by its
    name alone."""
    name = name.strip()
    known = _CACHED.fullmatch(name) or _ADDRESS.fullmatch(name)
    if known is not None:
        return f"{known['owner']}/{known['name']}", None
    if _ID.fullmatch(name) and not _CHECKPOINT.search(name):
        return name, None
    last = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    return None, _CHECKPOINT.sub("", last) or None


def base_at_hand(name: str) -> str | None:
    """The id of the base model a trainer was given, or the folder of a pipeline that lies on this machine."""
    known, _ = base_named(name)
    try:
        here = os.path.isabs(name) and os.path.isfile(os.path.join(name, "model_index.json"))
    except ValueError:  # no name of a file at all
        return known
    return name if known is None and here else known


def _json(text: str) -> Any:
    """What a text of JSON says, also where it was written so twice; None where it says nothing."""
    for _ in range(2):
        try:
            value = json.loads(text) if 0 < len(text) < 10_000_000 else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, str):
            return value
        text = value
    return None


def _trainers_base(text: str) -> str | None:
    """The base model in OneTrainer's settings."""
    table = _json(text)
    name = table.get("base_model_name") if isinstance(table, dict) else None
    return name[:_LIMIT] if isinstance(name, str) and name else None


def _folder_words(metadata: Mapping[str, str]) -> str | None:
    """The words in the names of kohya's training folders (``10_sks person``), when all folders have the same; those of
    pictures that only keep the model as it is (regularisation) are no part of it."""
    folders, kept = (_json(metadata.get(name, "")) for name in ("ss_tag_frequency", "ss_reg_dataset_dirs"))
    names = set(map(str, folders if isinstance(folders, dict) else ())) - set(kept if isinstance(kept, dict) else ())
    return _only({match["words"] for name in names if (match := _REPEATS.fullmatch(name))})


def _class_words(text: str) -> str | None:
    """The words that kohya's settings of several sets of pictures say, when all sets of the person say the same."""
    words, sets = set(), _json(text)
    for one in sets if isinstance(sets, list) else ():
        parts = one.get("subsets") if isinstance(one, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and not part.get("is_reg") and isinstance(part.get("class_tokens"), str):
                words.add(part["class_tokens"])
    return _only(words)


def _only(words: set[str]) -> str | None:
    said = {word.strip() for word in words} - {""}
    return said.pop()[:_LIMIT] if len(said) == 1 else None
