"""Reading a LoRA: a PEFT folder, a diffusers file or folder, or a kohya file, into one form."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora
from w2w_registry.lora.names import Format, KeyParts, UnknownKey, parse_key
from w2w_registry.lora.tensorfile import (
    DTYPE_NAMES,
    Header,
    TensorData,
    brief,
    is_pickle_name,
    read_header,
    read_tensors,
    stat_path,
    why,
)
from w2w_registry.space.layout import Layout, TensorKey, layout_of

PEFT_FILE, PEFT_CONFIG, DIFFUSERS_FILE = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "pytorch_lora_weights.safetensors",
)
METADATA_KEY = "lora_adapter_metadata"  # diffusers' name for PEFT settings in the safetensors header
AlphaSource = Literal["config", "header", "tensor", "default"]

_MAX_CONFIG = 10_000_000
_UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "layer_replication",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
)
# These initialisations change the base weights too, so the LoRA alone does not say what the model is.
_BASE_CHANGING_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as read. Every module has its A (r, in[, kh, kw]) and B (out, r[, 1, 1]), float32, read-only.

    ``alphas`` holds every module's alpha, so that ΔW = (alpha / r) · B A; ``alpha_source`` says where it was
    found (``default``: nowhere, so alpha = rank). ``dtype`` is the dtype on disk (``mixed`` when several).
    ``base_model`` and ``base_revision`` are what the file claims, None when it does not say. ``ignored`` names
    text-encoder modules the file also changes: a UNet space cannot say them, the caller decides. ``sha256``
    (hex) is of the tensor file, ``files`` lists it and the config that was used.
    """

    tensors: Mapping[TensorKey, NDArray[np.float32]]
    alphas: Mapping[str, float]
    format: Format
    dtype: str
    base_model: str | None
    base_revision: str | None
    metadata: Mapping[str, str]
    path: Path
    sha256: str
    files: tuple[Path, ...]
    ignored: tuple[str, ...] = ()
    alpha_source: AlphaSource = "default"

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self.alphas)

    @property
    def shapes(self) -> dict[TensorKey, tuple[int, ...]]:
        return {key: array.shape for key, array in self.tensors.items()}

    def rank(self, module: str) -> int:
        return int(self.tensors[(module, "A")].shape[0])

    @property
    def alpha(self) -> float | None:
        """The alpha all modules share, None when they differ."""
        values = set(self.alphas.values())
        return values.pop() if len(values) == 1 else None

    def layout(self) -> Layout:
        """Canonical layout of this LoRA, in ``module_order``.

        Raises:
            BadLora: when modules differ in alpha, which one layout cannot say.
        """
        alpha = self.alpha
        if alpha is None:
            raise BadLora(path=str(self.path), reason="its modules have different alphas, which one layout cannot say")
        return layout_of(self.shapes, alpha)

    def theta(self) -> NDArray[np.float32]:
        """θ (D,) float32 in the order of :meth:`layout`."""
        return self.layout().flatten(self.tensors)


def read_lora(path: str | Path) -> LoraFile:
    """Read a LoRA from a file or a folder, whichever of the three formats it is in.

    Args:
        path: a ``.safetensors`` file, a PEFT folder (``adapter_model.safetensors`` + ``adapter_config.json``), a
            diffusers folder (``pytorch_lora_weights.safetensors``), or a folder with one LoRA file.

    Raises:
        BadLora: with one reason (missing, unreadable, truncated, not a LoRA, a pickle, NaN or Inf, shapes that
            do not fit, a factor missing, another kind of adapter, settings that contradict the tensors…).
    """
    where = Path(path)
    folder = _is_folder(where)
    file = _file_in(where) if folder else where
    keys: dict[str, KeyParts] = {}
    data = read_tensors(file, lambda header: keys.update(_keys(where, header)))
    formats = {parts.format for parts in keys.values()}
    if len(formats) > 1:
        raise BadLora(path=str(where), reason=f"mixes key names of {' and '.join(sorted(formats))}")
    form = formats.pop()
    tensors, alpha_tensors, ignored = _collect(where, keys, data)
    _check_pairs(where, tensors)
    modules = tuple(dict.fromkeys(module for module, _ in tensors))
    ranks = {module: tensors[(module, "A")].shape[0] for module in modules}
    config_file, config = _config(file, form)
    source: AlphaSource = "config"
    if config is None:
        config, source = _header_config(where, data.header, form), "header"
    if config is not None:
        alphas = _alphas_from_config(where, config, ranks)
        for module, value in alpha_tensors.items():
            if not math.isclose(value, alphas[module], rel_tol=1e-3):
                raise BadLora(
                    path=str(where), reason=f"two alphas for {module}: {alphas[module]:g} and {value:g} in its tensor"
                )
    else:
        alphas = {m: alpha_tensors.get(m, float(ranks[m])) for m in modules}
        source = "tensor" if alpha_tensors else "default"
    base, revision = _base_model(config, data.header.metadata)
    dtypes = {DTYPE_NAMES[data.header.entries[key].dtype] for key, parts in keys.items() if parts.role != "alpha"}
    return LoraFile(
        tensors=MappingProxyType(tensors),
        alphas=MappingProxyType(alphas),
        format=form,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        base_model=base,
        base_revision=revision,
        metadata=MappingProxyType(dict(data.header.metadata)),
        path=where,
        sha256=data.sha256,
        files=(file,) if config_file is None else (file, config_file),
        ignored=ignored,
        alpha_source=source,
    )


def looks_like_lora(header: Header) -> bool:
    """Whether a safetensors header holds at least one LoRA factor."""
    for key in header.entries:
        try:
            if parse_key(key).role != "alpha":
                return True
        except UnknownKey:
            continue
    return False


# -- finding the tensor file --------------------------------------------------------------------
def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(stat_path(path).st_mode)


def _file_in(folder: Path) -> Path:
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise BadLora(path=str(folder), reason=why(error)) from None
    for name in (PEFT_FILE, DIFFUSERS_FILE):
        if name in names:
            return folder / name
    files = [folder / n for n in names if n.lower().endswith(".safetensors") and not n.startswith(".")]
    if len(files) == 1:
        return files[0]
    if files:
        loras = [f for f in files if looks_like_lora(read_header(f))]
        if len(loras) == 1:
            return loras[0]
        shown = ", ".join(f.name for f in (loras or files)[:3])
        raise BadLora(path=str(folder), reason=f"the folder holds {len(loras)} LoRA files ({shown}…): name one")
    pickles = [n for n in names if is_pickle_name(Path(n))]
    if pickles:
        raise BadLora(
            path=str(folder),
            reason=f"{pickles[0]} is a pickle file: it could run code when opened, so it is refused unread",
            hint="save it as safetensors",
        )
    raise BadLora(path=str(folder), reason="the folder holds no LoRA (no .safetensors file)")


# -- the tensors --------------------------------------------------------------------------------
def _keys(path: Path, header: Header) -> dict[str, KeyParts]:
    if not header.entries:
        raise BadLora(path=str(path), reason="the file holds no tensors")
    keys: dict[str, KeyParts] = {}
    refused: list[tuple[str, str]] = []
    for key in header.entries:
        try:
            keys[key] = parse_key(key)
        except UnknownKey as error:
            refused.append((key, str(error)))
    if refused:
        key, reason = refused[0]
        # Another kind of adapter is worth naming even when plain LoRA keys come first.
        kinds = [text for _, text in refused if text.startswith("a ")]
        if kinds and "kohya name" not in kinds[0]:
            raise BadLora(path=str(path), reason=kinds[0])
        if not any(parts.role != "alpha" for parts in keys.values()) and reason == "not a LoRA tensor":
            raise BadLora(path=str(path), reason=f"not a LoRA: its tensors are model weights ({brief(key)})")
        raise BadLora(path=str(path), reason=f"{brief(key)} is {reason}")
    adapters = sorted({parts.adapter for parts in keys.values() if parts.adapter is not None})
    if len(adapters) > 1:
        raise BadLora(
            path=str(path), reason=f"holds several adapters ({', '.join(map(brief, adapters[:4]))}): save one per file"
        )
    if all(parts.part != "unet" for parts in keys.values()):
        raise BadLora(path=str(path), reason="changes only the text encoder, not the UNet")
    return keys


def _collect(
    path: Path, keys: Mapping[str, KeyParts], data: TensorData
) -> tuple[dict[TensorKey, NDArray[np.float32]], dict[str, float], tuple[str, ...]]:
    tensors: dict[TensorKey, NDArray[np.float32]] = {}
    alphas: dict[str, float] = {}
    ignored: dict[str, None] = {}
    for key, parts in keys.items():
        array = data.arrays[key]
        if parts.part != "unet":
            ignored[f"{parts.part}.{parts.module}"] = None
        elif parts.role == "alpha":
            if array.size != 1 or not float(array.reshape(-1)[0]) > 0:
                raise BadLora(path=str(path), reason=f"{brief(key)} is not one positive number")
            alphas[parts.module] = float(array.reshape(-1)[0])
        elif (parts.module, parts.role) in tensors:
            raise BadLora(path=str(path), reason=f"two tensors for {brief(parts.module)} {parts.role}")
        else:
            tensors[(parts.module, parts.role)] = array
    strays = [m for m in alphas if (m, "A") not in tensors]
    if strays:
        raise BadLora(path=str(path), reason=f"{brief(strays[0])} has an alpha but no factors")
    return tensors, alphas, tuple(ignored)


def _check_pairs(path: Path, tensors: Mapping[TensorKey, NDArray[np.float32]]) -> None:
    for module, factor in tensors:
        other: Literal["A", "B"] = "B" if factor == "A" else "A"
        if (module, other) not in tensors:
            raise BadLora(path=str(path), reason=f"{brief(module)} has its {factor} but no {other}")
    for module in {m for m, _ in tensors}:
        a, b = tensors[(module, "A")].shape, tensors[(module, "B")].shape
        fits = len(a) == len(b) and len(a) in (2, 4) and a[0] == b[1] and a[0] > 0 and math.prod(a) * math.prod(b) > 0
        if not fits or (len(b) == 4 and b[2:] != (1, 1)):
            raise BadLora(path=str(path), reason=f"{brief(module)}: shapes A {a} and B {b} do not make a LoRA")


# -- settings: alpha and base model -------------------------------------------------------------
def _config(file: Path, form: Format) -> tuple[Path | None, dict[str, Any] | None]:
    path = file.with_name(PEFT_CONFIG)
    if form != "peft":
        return None, None
    try:
        if path.stat().st_size > _MAX_CONFIG:
            raise BadLora(path=str(path), reason=f"{PEFT_CONFIG} is larger than {_MAX_CONFIG} bytes")
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise BadLora(path=str(path), reason=why(error)) from None
    except (ValueError, RecursionError):
        raise BadLora(path=str(path), reason=f"{PEFT_CONFIG} is not valid JSON") from None
    if not isinstance(config, dict):
        raise BadLora(path=str(path), reason=f"{PEFT_CONFIG} is not a table")
    if config.get("lora_alpha") is None and "r" not in config:
        return path, None
    return path, config


def _header_config(path: Path, header: Header, form: Format) -> dict[str, Any] | None:
    text = header.metadata.get(METADATA_KEY)
    if text is None or form == "kohya":
        return None
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        raise BadLora(path=str(path), reason=f"the header's {METADATA_KEY} is not valid JSON") from None
    if not isinstance(table, dict):
        raise BadLora(path=str(path), reason=f"the header's {METADATA_KEY} is not a table")
    prefixed = {k.removeprefix("unet."): v for k, v in table.items() if k.startswith("unet.")}
    config = prefixed or {k: v for k, v in table.items() if not k.startswith("text_encoder")}
    return config if config.get("lora_alpha") is not None else None


def _alphas_from_config(path: Path, config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """Every module's alpha as PEFT reads its settings: patterns first, ``use_rslora`` = alpha / √r."""

    def bad(reason: str) -> BadLora:
        return BadLora(path=str(path), reason=reason)

    kind = config.get("peft_type")
    if kind is not None and kind != "LORA":
        raise bad(f"a {brief(str(kind), 40)} adapter, not a LoRA")
    for name in _UNSUPPORTED:
        if config.get(name):
            raise bad(f"its settings use {name}, which is more than a plain LoRA")
    init = str(config.get("init_lora_weights", "")).lower()
    if init.startswith(_BASE_CHANGING_INIT):
        raise bad(f"trained with {brief(init, 40)} initialisation, which changes the base weights too")
    rank = _number(config.get("r"))
    alpha = _number(config.get("lora_alpha", 8))  # PEFT's own default
    if alpha is None or not 0 < alpha < math.inf:
        raise bad("lora_alpha is not a positive number")
    rank_for = _patterns(path, config.get("rank_pattern"), "rank_pattern")
    alpha_for = _patterns(path, config.get("alpha_pattern"), "alpha_pattern")
    alphas = {}
    for module, actual in ranks.items():
        said = _lookup(rank_for, module, rank)
        if said is not None and said != actual:
            raise bad(f"the settings say rank {said:g} for {brief(module)}, its tensors have {actual}")
        value = _lookup(alpha_for, module, alpha)
        assert value is not None
        if not 0 < value < math.inf:
            raise bad(f"alpha of {brief(module)} is not a positive number")
        alphas[module] = value * math.sqrt(actual) if config.get("use_rslora") else value
    return alphas


def _number(value: Any) -> float | None:
    return (
        float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18 else None
    )


# PEFT treats pattern keys as regular expressions. A stranger's expression could run for ever, so only those
# without groups and with few repeats are tried.
_SAFE_PATTERN = re.compile(r"[^()*+{}?]*(?:[*+?][^()*+{}?]*){0,3}")


def _patterns(path: Path, table: Any, name: str) -> list[tuple[re.Pattern[str], float]]:
    if not table:
        return []
    if not isinstance(table, dict):
        raise BadLora(path=str(path), reason=f"{name} is not a table")
    out = []
    for key, raw in table.items():
        value = _number(raw)
        if value is None:
            raise BadLora(path=str(path), reason=f"{name} of {brief(key)} is not a number")
        try:
            if len(key) > 500 or not _SAFE_PATTERN.fullmatch(key):
                raise re.error("too complicated")
            out.append((re.compile(rf"(?:.*\.)?(?:{key})"), value))
        except re.error:
            raise BadLora(
                path=str(path), reason=f"{name} has a pattern that is not safe to try: {brief(key)}"
            ) from None
    return out


def _lookup(patterns: Iterable[tuple[re.Pattern[str], float]], module: str, default: float | None) -> float | None:
    return next((value for pattern, value in patterns if pattern.fullmatch(module)), default)


def _base_model(config: Mapping[str, Any] | None, metadata: Mapping[str, str]) -> tuple[str | None, str | None]:
    settings = config or {}
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not base:
        name = metadata.get("ss_sd_model_name", "")
        # kohya writes a checkpoint's file name here when it trained from a file; that names no model.
        base = name if name and not name.endswith((".safetensors", ".ckpt")) else None
        revision = None
    return (str(base) if base else None), (str(revision) if revision else None)
