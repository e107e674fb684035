"""Any adapter file as one value: what it changes, how, and how much of that is known exactly.

``read_adapter`` reads every format of ``formats`` and every kind of ``change``. ``Adapter.changes`` says what happens
to each layer, with ΔW as exact factors or not.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from w2w_registry.errors import BadLora
from w2w_registry.files import why
from w2w_registry.lora import config
from w2w_registry.lora.assemble import changes_of
from w2w_registry.lora.change import Change
from w2w_registry.lora.formats import Key, diffusers, form_of, peft, read_keys
from w2w_registry.lora.metadata import Told, told_by
from w2w_registry.lora.names import DENOISERS
from w2w_registry.lora.roles import OWN_WEIGHTS
from w2w_registry.lora.tensorfile import (
    DTYPE_NAMES,
    DType,
    Header,
    brief,
    is_pickle_name,
    read_header,
    read_tensors,
    round_to,
    stat_path,
)
from w2w_registry.records import canonical_json


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter as read.

    ``kind``: LoRA, LoHa, LoKr, DoRA, OFT… (of the layers it changes most). ``format``: how its keys are spelt.
    ``dtype``: on disk (``mixed`` when several). ``base_model`` and ``base_revision``: what the file claims; ``told``:
    what else its metadata says. ``unread``: keys that are no part of an adapter this release knows.
    ``more``: what its settings use beyond the tensors. ``remarks``: what a person should be told.
    ``sha256`` (hex) is of the tensor file; ``files`` lists it and the config that was used.
    """

    changes: tuple[Change, ...]
    format: str
    dtype: str
    base_model: str | None
    base_revision: str | None
    told: Told
    metadata: Mapping[str, str]
    path: Path
    sha256: str
    files: tuple[Path, ...]
    config: Mapping[str, Any] | None
    alpha_source: str
    unread: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @cached_property
    def kind(self) -> str:
        counts = Counter(c.kind for c in self.changes if c.kind not in (*_BESIDE, "full")) or Counter(
            c.kind for c in self.changes if c.kind not in _BESIDE
        )
        return counts.most_common(1)[0][0] if counts else self.changes[0].kind

    @property
    def exact(self) -> bool:
        """Whether the file says every ΔW; if not, it depends on the base model's weights, or holds more."""
        return not self.more and not self.unread and all(c.exact for c in self.changes)

    @cached_property
    def parts(self) -> dict[str, int]:
        """How many layers of each part of the pipeline it changes."""
        found: dict[str, set[str]] = defaultdict(set)
        for change in self.changes:
            found[change.part].add(change.module)
        return {part: len(modules) for part, modules in sorted(found.items())}

    @property
    def denoiser(self) -> tuple[Change, ...]:
        """The changes of the UNet or transformer."""
        return tuple(c for c in self.changes if c.part in DENOISERS)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of what the adapter is, whatever file it came in: every tensor as fp32 under its layer and
        role, with its scale. The same model in another format or key order has the same one."""
        return self.digest_as("fp32")

    def digest_as(self, dtype: DType) -> str:
        """The digest it would have in a file of this dtype."""
        digest = hashlib.sha256(b"w2w adapter fp32\n")
        for change in sorted(self.changes, key=lambda c: (c.part, c.module, c.kind, c.rows)):
            head = [change.part, change.module, change.kind, change.rows, float(change.scale)]
            digest.update(canonical_json(head).encode())
            for role, array in sorted(change.tensors.items()):
                digest.update(canonical_json([role, list(array.shape)]).encode())
                digest.update((round_to(array, dtype) + np.float32(0)).astype("<f4").tobytes())
        digest.update(canonical_json([sorted(self.unread), sorted(self.more)]).encode())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """What is known of it, for people and for the record of how it came in."""
        ranks = Counter(c.rank for c in self.changes if c.kind in ("LoRA", "DoRA", "LoHa", "LoKr"))
        return {
            "adapter": self.kind,
            "format": self.format,
            "dtype": self.dtype,
            "layers": self.parts,
            "ranks": {str(rank): count for rank, count in sorted(ranks.items())},
            "exact": self.exact,
            **({"other": len(self.unread)} if self.unread else {}),
            **({"uses": list(self.more)} if self.more else {}),
        }


def read_adapter(path: str | Path, *, alone: bool | None = None) -> Adapter:
    """Read an adapter from a file or a folder, whichever format it is in.

    Args:
        path: a ``.safetensors`` file, or a folder with one adapter (``adapter_model.safetensors`` +
            ``adapter_config.json``, ``pytorch_lora_weights.safetensors``, or one file of any name).
        alone: whether the file is the only adapter of its folder, so that an ``adapter_config.json`` there is its own;
            None looks.

    Raises:
        BadLora: with one reason (missing, unreadable, truncated, no adapter, a pickle, NaN or Inf, shapes that do not
            fit, a factor missing, an adapter of a language model, settings that contradict the tensors…).
    """
    where = Path(path)
    folder = stat.S_ISDIR(stat_path(where).st_mode)
    file = _file_in(where) if folder else where
    keys: dict[str, Key] = {}
    forms: Counter[str] = Counter()
    unread: list[str] = []

    def check(header: Header) -> None:
        found, counts, unknown = _keys(where, file, header)
        keys.update(found)
        forms.update(counts)
        unread.extend(unknown)

    data = read_tensors(file, check)
    form = forms.most_common(1)[0][0]
    _one_format_a_part(where, keys)
    config_file, tables = _settings(where, file, form, data.header, folder if alone is None else alone)
    settings = {part: config.settings_of(where, table) for part, table in tables.items()}
    _no_language_model(where, keys, settings)
    changes, remarks, source = changes_of(where, keys, data, settings)
    told = told_by(data.header.metadata)
    named = [s for s in settings.values() if s.base_model]
    dtypes = {DTYPE_NAMES[data.header.entries[key].dtype] for key, one in keys.items() if one.role != "alpha"}
    return Adapter(
        changes=changes,
        format=form,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        base_model=named[0].base_model if named else told.base_model,
        base_revision=named[0].revision if named else None,
        told=told,
        metadata=MappingProxyType(dict(data.header.metadata)),
        path=where,
        sha256=data.sha256,
        files=(file,) if config_file is None else (file, config_file),
        config=tables.get("") if config_file is not None or config.OWN_CONFIG in data.header.metadata else None,
        alpha_source=source if source != "settings" else "config" if config_file is not None else "header",
        unread=tuple(unread),
        more=tuple(dict.fromkeys(words for s in settings.values() for words in s.more)),
        remarks=tuple(remarks),
    )


def looks_like_adapter(header: Header) -> bool:
    """Whether a safetensors header holds at least one tensor only an adapter has."""
    keys, _, _ = read_keys(header.entries)
    return any(key.role not in (*OWN_WEIGHTS, "alpha") for key in keys.values())


# -- finding the tensor file --------------------------------------------------------------------
def _file_in(folder: Path) -> Path:
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise BadLora(path=str(folder), reason=why(error)) from None
    for name in (peft.FILE, diffusers.FILE):
        if name in names:
            return folder / name
    files = [folder / n for n in names if n.lower().endswith(".safetensors") and not n.startswith(".")]
    if len(files) == 1:
        return files[0]
    if files:
        loras = [f for f in files if looks_like_adapter(read_header(f))]
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


_BESIDE = ("bias", "norm", "replaced")
"""What stands beside an adapter's own kind."""


# -- keys ---------------------------------------------------------------------------------------
_EMBEDDING = {"emb_params", "clip_l", "clip_g", "t5", "string_to_param", "*"}


def is_embedding(name: str) -> bool:
    """Whether a tensor's name is one that textual-inversion embeddings have, alone or kept in an adapter's file."""
    return name in _EMBEDDING or name.startswith(("<", "bundle_emb."))


def _other_model(names: Iterable[str]) -> str | None:
    """What a file is whose tensors end like an adapter's and are another thing's."""
    names = list(names)
    if "lora_controlnet" in names:
        return "a Control-LoRA, the makings of a ControlNet"
    if any(name.startswith(("ip_adapter.", "image_proj.")) for name in names):
        return "an IP-Adapter, which takes pictures as prompts"
    return None


def _keys(path: Path, file: Path, header: Header) -> tuple[dict[str, Key], Counter[str], list[str]]:
    if not header.entries:
        raise BadLora(path=str(path), reason="the file holds no tensors")
    other = _other_model(header.entries)
    if other is not None:
        raise BadLora(path=str(path), reason=f"{other}: not an adapter of a model")
    keys, forms, unknown = read_keys(header.entries)
    telling = [key for key in keys.values() if key.role not in (*OWN_WEIGHTS, "alpha")]
    if not telling:
        name = next(iter(header.entries))
        _no_other_peft(path, file)
        if all(map(is_embedding, header.entries)):
            raise BadLora(path=str(path), reason="a textual-inversion embedding, not an adapter")
        if len(keys) < len(header.entries) and not any(n.endswith((".weight", ".bias")) for n in header.entries):
            raise BadLora(path=str(path), reason=f"{brief(name)} is not a LoRA tensor")
        raise BadLora(path=str(path), reason=f"not a LoRA: its tensors are model weights ({brief(name)})")
    adapters = sorted({key.adapter for key in keys.values() if key.adapter is not None})
    if len(adapters) > 1:
        raise BadLora(
            path=str(path), reason=f"holds several adapters ({', '.join(map(brief, adapters[:4]))}): save one per file"
        )
    return keys, forms, unknown


def _no_other_peft(path: Path, file: Path) -> None:
    """Refuse by its name what PEFT's other methods write, which change no weights, as prompt tuning."""
    there = file.with_name(peft.CONFIG).exists()
    _, table = config.beside(file, alone=_alone(file), mandatory=False) if there else (None, None)
    if table is None:
        return
    found = config.settings_of(path, table)
    _no_language_model(path, {}, {"": found})
    raise BadLora(path=str(path), reason=f"a PEFT adapter of the kind {found.kind}, which changes no weights")


def _one_format_a_part(path: Path, keys: Mapping[str, Key]) -> None:
    """Tools that merge files leave each part in the spelling it had; two spellings in one part are two adapters."""
    forms: dict[str, set[str]] = defaultdict(set)
    for key, one in keys.items():
        forms[one.part].add(form_of(key))
    mixed = next((found for found in forms.values() if len(found) > 1), None)
    if mixed is not None:
        raise BadLora(path=str(path), reason=f"mixes key names of {' and '.join(sorted(mixed))}")


def _no_language_model(path: Path, keys: Mapping[str, Key], settings: Mapping[str, config.Settings]) -> None:
    parts = Counter(key.part for key in keys.values())
    if (parts and parts.most_common(1)[0][0] == "language model") or any(s.language for s in settings.values()):
        raise BadLora(
            path=str(path),
            reason="an adapter of a language model",
            hint="this registry keeps adapters of models that draw pictures",
        )


def _settings(
    where: Path, file: Path, form: str, header: Header, alone: bool
) -> tuple[Path | None, dict[str, dict[str, Any]]]:
    found: tuple[Path | None, dict[str, Any] | None] = (None, None)
    # A kohya file's own alphas are its settings; one without is a dump that may have a config beside.
    flat = form == "cloneofsimo" or (form == "kohya" and any(name.endswith(".alpha") for name in header.entries))
    if not flat and file.with_name(peft.CONFIG).exists():  # asked first: ``_alone`` may have to list a large folder
        found = config.beside(file, alone=alone or _alone(file), mandatory=form == "peft")
    path, table = found
    if table is not None:
        return path, {"": table}
    return path, {} if flat else config.in_header(where, header)


def _alone(file: Path) -> bool:
    try:
        with os.scandir(file.parent) as entries:  # to the first other: a folder may hold thousands, each asking this
            return not any(e.name.lower().endswith(".safetensors") and e.name != file.name for e in entries)
    except OSError:
        return False
