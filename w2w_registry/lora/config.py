"""What a file's settings say: alpha and rank by layer, the kind of adapter, the base model.

Settings come as PEFT's ``adapter_config.json`` beside the file, or in the safetensors header (diffusers keeps PEFT's
there). Source: PEFT's ``LoraConfig``, ``LoHaConfig``, ``LoKrConfig``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2w_registry.errors import BadLora
from w2w_registry.files import read_bytes
from w2w_registry.lora.formats import diffusers, peft
from w2w_registry.lora.header import Header, brief
from w2w_registry.lora.patterns import PatternTable, UnsafePattern, table_of

CONFIG_LIMIT = 10_000_000
OWN_CONFIG = "w2w_adapter_config"
"""Header key under which an adapter that is kept as it is carries its ``adapter_config.json``."""

# Settings under which the tensors alone are not all there is.
_MORE = {
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal factors",
    "kasa_config": "KaSA, which changes the base weights too",
    "alora_invocation_tokens": "activation by tokens",
    "arrow_config": "routing between adapters",
    "layer_replication": "layer replication",
    "target_parameters": "parameters targeted by name",
    "trainable_token_indices": "trained tokens",
    "modules_to_save": "modules_to_save",
}
# These initialisations change the base weights too, so the adapter alone does not say what the model is.
_BASE_CHANGING_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CPT")
"""PEFT's methods that put something before the input and change no weights."""
_TOLD_BY_TENSORS = ("LORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "ADALORA", "VERA")
_LANGUAGE_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")


@dataclass(frozen=True)
class Settings:
    """Settings of one part of the pipeline (or of all). ``more``: what they use beyond the tensors, in words."""

    kind: str
    alpha: float
    rank: float | None
    alphas: PatternTable
    ranks: PatternTable
    rslora: bool
    dora: bool
    more: tuple[str, ...]
    language: bool
    base_model: str | None
    revision: str | None

    def alpha_of(self, name: str) -> float:
        found = self.alphas.find(name)
        return self.alpha if found is None else found

    def rank_of(self, name: str) -> float | None:
        found = self.ranks.find(name)
        return self.rank if found is None else found


def beside(file: Path, *, alone: bool, mandatory: bool) -> tuple[Path | None, dict[str, Any] | None]:
    """The ``adapter_config.json`` that belongs to ``file``: it lies beside PEFT's own file name, or beside the only
    adapter of a folder."""
    path = config_beside(file)
    if path is None or not (mandatory or alone or file.name == peft.FILE):
        return None, None
    return path, parse(path, read_bytes(path, BadLora, limit=CONFIG_LIMIT))


def config_beside(file: Path) -> Path | None:
    """Where settings lie beside a file: their name may be in other case where the file's own is PEFT's, or another's
    that is alone there."""
    path = file.with_name(peft.CONFIG)
    if path.exists():
        return path
    if file.name.lower() != peft.FILE and not alone_there(file):
        return None
    try:
        with os.scandir(file.parent) as entries:
            return next((Path(e.path) for e in entries if e.name.lower() == peft.CONFIG), None)
    except OSError:
        return None


def alone_there(file: Path) -> bool:
    """Whether no other safetensors file lies in the folder of this one."""
    try:
        with os.scandir(file.parent) as entries:  # to the first other: a folder may hold thousands, each asking this
            return not any(e.name.lower().endswith((".safetensors", ".sft")) and e.name != file.name for e in entries)
    except OSError:
        return False


def parse(path: Path, data: bytes | str) -> dict[str, Any] | None:
    """A config's table; None when it says nothing of alpha and rank."""
    try:
        table = json.loads(data)
    except (ValueError, RecursionError):
        raise BadLora(path=str(path), reason=f"{peft.CONFIG} is not valid JSON") from None
    if not isinstance(table, dict):
        raise BadLora(path=str(path), reason=f"{peft.CONFIG} is not a table")
    known = {"lora_alpha", "alpha", "r", "peft_type"}
    return table if any(table.get(name) is not None for name in known) else None


def in_header(path: Path, header: Header) -> dict[str, dict[str, Any]]:
    """Settings by part from the header; the part ``""`` is for all."""
    text = header.metadata.get(diffusers.METADATA_KEY)
    own = header.metadata.get(OWN_CONFIG)
    if text is None:
        table = None if own is None else parse(path, own)
        return {} if table is None else {"": table}
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        raise BadLora(path=str(path), reason=f"the header's {diffusers.METADATA_KEY} is not valid JSON") from None
    if not isinstance(table, dict):
        raise BadLora(path=str(path), reason=f"the header's {diffusers.METADATA_KEY} is not a table")
    found: dict[str, dict[str, Any]] = {}
    for key, value in table.items():
        part, dot, name = key.partition(".")
        found.setdefault(part if dot else "", {})[name if dot else key] = value
    return {part: one for part, one in found.items() if one.get("lora_alpha") is not None}


def settings_of(path: Path, table: Mapping[str, Any]) -> Settings:
    """The settings in a table.

    Raises:
        BadLora: an alpha that is not a positive number, a pattern outside the safe subset.
    """

    def bad(reason: str) -> BadLora:
        return BadLora(path=str(path), reason=reason)

    kind = brief(str(table.get("peft_type") or "LORA").upper().removeprefix("PEFTTYPE."), 40)
    alpha = number(table.get("alpha" if kind in ("LOHA", "LOKR") else "lora_alpha", 8))  # PEFT's own default
    if unusual(kind):  # whose layers have none, whatever their settings say
        alpha = 1.0
    if alpha is None or not 0 < alpha < math.inf:
        raise bad("lora_alpha is not a positive number")
    init = brief(str(table.get("init_lora_weights", "")).lower(), 40)
    more = [words for name, words in _MORE.items() if table.get(name)]
    if init.startswith(_BASE_CHANGING_INIT):
        more.append(f"{init} initialisation, which changes the base weights too")
    base, revision = table.get("base_model_name_or_path"), table.get("revision")
    return Settings(
        kind=kind,
        alpha=alpha,
        rank=number(table.get("r", 8 if kind in ("LOHA", "LOKR") else None)),
        alphas=_patterns(path, table.get("alpha_pattern"), "alpha_pattern"),
        ranks=_patterns(path, table.get("rank_pattern"), "rank_pattern"),
        rslora=kind == "LORA" and bool(table.get("use_rslora")),
        dora=bool(table.get("use_dora")),
        more=tuple(more),
        language=table.get("task_type") in _LANGUAGE_TASKS,
        base_model=str(base) if base else None,
        revision=str(revision) if revision else None,
    )


def unusual(kind: str) -> bool:
    """Whether only the settings name this method of PEFT's: its tensors are called like a model's own."""
    return kind not in _TOLD_BY_TENSORS


def number(value: Any) -> float | None:
    """A settings value as a number, None when it is none."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e18 else None


def _patterns(path: Path, table: Any, name: str) -> PatternTable:
    if table and not isinstance(table, dict):
        raise BadLora(path=str(path), reason=f"{name} is not a table")
    items = []
    for key, raw in (table or {}).items():
        value = number(raw)
        if value is None or value <= 0:
            raise BadLora(path=str(path), reason=f"{name} of {brief(key)} is not a positive number")
        items.append((key, value))
    try:
        return table_of(tuple(items))
    except UnsafePattern as error:
        raise BadLora(
            path=str(path), reason=f"{name} has a pattern that is not safe to try: {brief(str(error))}"
        ) from None
