"""Any adapter file as one value: what it changes, how, and how much of that is known exactly.

``read_adapter`` reads every format of ``formats`` and every kind of ``change``. ``Adapter.changes`` says what happens
to each layer, with ΔW as exact factors or not.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from w2w_registry.errors import BadLora
from w2w_registry.lora import config
from w2w_registry.lora.assemble import changes_of
from w2w_registry.lora.change import Change, unet_family
from w2w_registry.lora.formats import Key, diffusers, form_of, peft, read_keys
from w2w_registry.lora.header import DTYPE_NAMES, INTEGERS, Header, brief
from w2w_registry.lora.infolder import file_in
from w2w_registry.lora.metadata import Told, base_at_hand, base_named, told_by
from w2w_registry.lora.names import DENOISERS
from w2w_registry.lora.others import is_embedding, other_model, whole_model
from w2w_registry.lora.plans import SPELLINGS, Plan, Spelling, pattern_of
from w2w_registry.lora.roles import OWN_WEIGHTS, is_factor
from w2w_registry.lora.tensorfile import (
    DType,
    Mark,
    TensorData,
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
    ``sha256`` (hex) is of the tensor file; ``files`` lists it and the config that was used. No number of the file is
    larger than ``at_most``, signs aside.
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
    at_most: float = math.inf

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

    @property
    def idle(self) -> bool:
        """Whether it changes nothing: every ΔW it says is zero."""
        return self.exact and not any(all(t.any() for t in change.tensors.values()) for change in self.changes)

    @cached_property
    def parts(self) -> dict[str, int]:
        """How many layers of each part of the pipeline it changes."""
        found: dict[str, set[str]] = defaultdict(set)
        for change in self.changes:
            found[change.part].add(change.module)
        return {part: len(modules) for part, modules in sorted(found.items())}

    @cached_property
    def denoiser(self) -> tuple[Change, ...]:
        """The changes of the UNet or transformer."""
        return tuple(c for c in self.changes if c.part in DENOISERS)

    @cached_property
    def largest(self) -> float:
        """The largest of the denoiser's values, signs aside; worked out once, since all of them are read for it."""
        return max(float(np.abs(array).max()) for change in self.denoiser for array in change.tensors.values())

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
                digest.update((round_to(array, dtype) + np.float32(0)).astype("<f4").reshape(-1).data)
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


@dataclass(frozen=True, eq=False)
class Reading:
    """A file as read, its numbers not yet sorted by layer. ``changes``: those of the first file of its plan."""

    path: Path
    file: Path
    config_file: Path | None
    spelling: Spelling
    plan: Plan
    data: TensorData
    changes: tuple[Change, ...] | None

    @cached_property
    def told(self) -> Told:
        told = told_by(self.data.header.metadata)
        named = next((s.base_model for s in self.plan.settings.values() if s.base_model), None)
        return replace(told, base_hint=told.base_hint or base_named(named or "")[1])

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,) if self.config_file is None else (self.file, self.config_file)

    @property
    def base(self) -> tuple[str | None, str | None]:
        """The base model and its revision, as the file claims: an id, or the folder of a pipeline that lies where it
        says (a folder of somebody else's machine is no more than a hint)."""
        named = next((s for s in self.plan.settings.values() if s.base_model), None)
        said = "" if named is None else named.base_model or ""
        base = base_at_hand(said)
        return (self.told.base_model, None) if base is None or named is None else (base, named.revision)

    @property
    def alpha_source(self) -> str:
        found = "config" if self.config_file is not None else "header"
        return found if self.plan.alpha_source == "settings" else self.plan.alpha_source


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter from a file or a folder, whichever format it is in.

    Args:
        path: a ``.safetensors`` file, or a folder with one adapter (``adapter_model.safetensors`` +
            ``adapter_config.json``, ``pytorch_lora_weights.safetensors``, or one file of any name).

    Raises:
        BadLora: with one reason (missing, unreadable, truncated, no adapter, a pickle, NaN or Inf, shapes that do not
            fit, a factor missing, an adapter of a language model, settings that contradict the tensors…).
    """
    return adapter_of(read(path))


def read(path: str | Path, *, alone: bool | None = None, before: Mark | None = None) -> Reading:
    """As :func:`read_adapter`, before the numbers are sorted by layer. ``alone``: whether it is the only adapter of
    its folder, so that an ``adapter_config.json`` there is its own; None looks. ``before``: by what the tensor file is
    known if it is still as it was read before."""
    where = Path(path)
    folder = stat.S_ISDIR(stat_path(where).st_mode)
    file = file_in(where) if folder else where
    spelling = Spelling({}, "", (), "")

    def check(header: Header) -> None:
        nonlocal spelling
        spelling = _spelling(where, file, header)

    data = read_tensors(file, check, before)
    config_file, table = _config(file, spelling, data.header, folder if alone is None else alone)
    plan, changes = _planned(where, spelling, data, config_file, table)
    return Reading(where, file, config_file, spelling, plan, data, changes)


def adapter_of(reading: Reading) -> Adapter:
    """The adapter that was read."""
    base, revision = reading.base
    plan, metadata = reading.plan, reading.data.header.metadata
    own = reading.config_file is not None or config.OWN_CONFIG in metadata
    changes = plan.changes(reading.data.values) if reading.changes is None else reading.changes
    told = reading.told
    if base is None and told.base_hint is None:
        told = replace(told, base_hint=unet_family(changes))
    return Adapter(
        changes=changes,
        format=reading.spelling.form,
        dtype=reading.spelling.dtype,
        base_model=base,
        base_revision=revision,
        told=told,
        metadata=MappingProxyType(dict(metadata)),
        path=reading.path,
        sha256=reading.data.sha256,
        files=reading.files,
        config=plan.tables.get("") if own else None,
        alpha_source=reading.alpha_source,
        unread=reading.spelling.unread,
        more=tuple(dict.fromkeys(words for one in plan.settings.values() for words in one.more)),
        remarks=plan.remarks,
        at_most=reading.data.largest,
    )


def _planned(
    where: Path, spelling: Spelling, data: TensorData, config_file: Path | None, table: dict[str, Any] | None
) -> tuple[Plan, tuple[Change, ...] | None]:
    """What header, settings and alphas say, remembered from an earlier file where they are the same; else the changes,
    too.

    ``table``: of the ``config_file`` beside; None looks into the header.
    """
    metadata = data.header.metadata
    said = (None if table is None else json.dumps(table), metadata.get(diffusers.METADATA_KEY))
    key = spelling.key(data, (*said, metadata.get(config.OWN_CONFIG)))
    known = spelling.plans.get(key)
    if known is not None:
        return known, None
    in_header = table is None and not _flat(spelling, data.header)
    tables = config.in_header(where, data.header) if in_header else {} if table is None else {"": table}
    settings = {part: config.settings_of(where, one) for part, one in tables.items()}
    _no_language_model(where, spelling.keys, settings)
    changes, remarks, source = changes_of(where, spelling.keys, data, settings)
    pattern, places = pattern_of(changes, data.values)
    plan = Plan(tables, settings, pattern, places, tuple(remarks), source)
    spelling.remember(key, plan)
    return plan, changes


_SOME_LORA = re.compile(r"[._]loras?[._]", re.IGNORECASE)
_BESIDE = ("bias", "norm", "replaced")
"""What stands beside an adapter's own kind."""


# -- keys ---------------------------------------------------------------------------------------
def _spelling(path: Path, file: Path, header: Header) -> Spelling:
    """What the tensors' names say; of the second file on with these tensors it is remembered."""
    known = SPELLINGS.get(header.shape)
    if known is not None:
        return known
    keys, forms, unread = _keys(path, file, header)
    _one_format_a_part(path, keys)
    whole = next((k for k, one in keys.items() if header.entries[k].dtype in INTEGERS and is_factor(one.role)), None)
    if whole is not None:
        dtype = DTYPE_NAMES[header.entries[whole].dtype]
        raise BadLora(path=str(path), reason=f"{brief(whole)} holds {dtype} numbers, where floats belong (quantised?)")
    dtypes = {DTYPE_NAMES[header.entries[key].dtype] for key, one in keys.items() if one.role != "alpha"}
    dtype = dtypes.pop() if len(dtypes) == 1 else "mixed"
    found = Spelling(keys, forms.most_common(1)[0][0], tuple(unread), dtype)
    return SPELLINGS.setdefault(header.shape, found)


def _keys(path: Path, file: Path, header: Header) -> tuple[dict[str, Key], Counter[str], list[str]]:
    if not header.entries:
        raise BadLora(path=str(path), reason="the file holds no tensors")
    other = other_model(header.entries)
    if other is not None:
        raise BadLora(path=str(path), reason=f"{other}: not an adapter of a model")
    keys, forms, unknown = read_keys(header.entries)
    telling = [key for key in keys.values() if key.role not in (*OWN_WEIGHTS, "alpha")]
    if not telling and not _other_peft(path, file, keys):
        name = next(iter(header.entries))
        if all(map(is_embedding, header.entries)):
            raise BadLora(path=str(path), reason="a textual-inversion embedding, not an adapter")
        if len(keys) < len(header.entries) and not any(n.endswith((".weight", ".bias")) for n in header.entries):
            if name.endswith((".lora_down", ".lora_up")):
                hint = "add the file it was converted from"
                raise BadLora(path=str(path), reason="a LoRA converted for Nunchaku", hint=hint)
            name = next((one for one in unknown if not is_embedding(one)), name)
            raise BadLora(path=str(path), reason=f"{brief(name)} is no tensor of an adapter that this release reads")
        odd = next((name for name in header.entries if _SOME_LORA.search(name)), None)
        if odd is not None:
            raise BadLora(path=str(path), reason=f"{brief(odd)} is no tensor of an adapter that this release reads")
        if any(key.role == "alpha" for key in keys.values()):
            raise BadLora(path=str(path), reason="holds alphas and no factors: nothing is left of the adapter it was")
        what = whole_model(header.entries)
        raise BadLora(path=str(path), reason=f"not a LoRA: {what or 'its tensors are model weights'} ({brief(name)})")
    adapters = sorted({key.adapter for key in keys.values() if key.adapter is not None})
    if len(adapters) > 1:
        raise BadLora(
            path=str(path), reason=f"holds several adapters ({', '.join(map(brief, adapters[:4]))}): save one per file"
        )
    return keys, forms, unknown


def _other_peft(path: Path, file: Path, keys: Mapping[str, Key]) -> bool:
    """Whether the settings beside say that tensors whose names tell nothing are of another of PEFT's methods; those
    that change no weights, as prompt tuning, are refused by their names."""
    there = config.config_beside(file) is not None
    _, table = config.beside(file, alone=config.alone_there(file), mandatory=False) if there else (None, None)
    if table is None:
        return False
    found = config.settings_of(path, table)
    _no_language_model(path, {}, {"": found})
    if found.kind in config.PROMPTS:
        raise BadLora(path=str(path), reason=f"a PEFT adapter of the kind {found.kind}, which changes no weights")
    return config.unusual(found.kind) and bool(keys) and all(form_of(key) == peft.NAME for key in keys)


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
    # One that reads pictures changes a language model's layers and those of the part that looks.
    language = parts["language model"] > 0 and not any(parts[part] for part in DENOISERS)
    if language or any(s.language for s in settings.values()):
        hint = "this registry keeps adapters of models that draw pictures"
        raise BadLora(path=str(path), reason="an adapter of a language model", hint=hint)


def _flat(spelling: Spelling, header: Header) -> bool:
    """A kohya file's own alphas are its settings; one without is a dump that may have a config beside."""
    alphas = spelling.form == "kohya" and any(name.endswith(".alpha") for name in header.entries)
    return spelling.form == "cloneofsimo" or alphas


def _config(file: Path, spelling: Spelling, header: Header, alone: bool) -> tuple[Path | None, dict[str, Any] | None]:
    """The config beside a file, and its table where that says anything of alpha and rank."""
    if _flat(spelling, header) or config.config_beside(file) is None:
        return None, None  # asked first: ``_alone`` may have to list a large folder
    return config.beside(file, alone=alone or config.alone_there(file), mandatory=spelling.form == "peft")
