"""Any adapter file as one value: what it changes, how, and how much of that is known exactly.

``read_adapter`` reads every format of ``formats`` and every kind of ``change``. ``Adapter.changes`` says what happens
to each layer, with ΔW as exact factors or not.
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.errors import BadLora
from w2w_registry.files import why
from w2w_registry.lora import config
from w2w_registry.lora.change import BrokenChange, Change, check_shapes, rank_of
from w2w_registry.lora.formats import Key, diffusers, peft, read_keys
from w2w_registry.lora.metadata import Told, told_by
from w2w_registry.lora.names import DENOISERS, Target
from w2w_registry.lora.roles import OWN_WEIGHTS, kind_of
from w2w_registry.lora.tensorfile import (
    DTYPE_NAMES,
    Header,
    TensorData,
    brief,
    is_pickle_name,
    read_header,
    read_tensors,
    stat_path,
)
from w2w_registry.records import canonical_json

_LINEAR = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2")
# Of one tensor each, added to a vector of the layer.
_VECTORS = {"B_bias": "bias", "diff_b": "bias", "b_norm": "bias", "w_norm": "norm"}


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
        counts = Counter(c.kind for c in self.changes if c.kind not in ("bias", "norm", "replaced"))
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
        digest = hashlib.sha256(b"w2w adapter fp32\n")
        for change in sorted(self.changes, key=lambda c: (c.part, c.module, c.kind, c.rows)):
            head = [change.part, change.module, change.kind, change.rows, float(change.scale)]
            digest.update(canonical_json(head).encode())
            for role, array in sorted(change.tensors.items()):
                digest.update(canonical_json([role, list(array.shape)]).encode())
                digest.update((array + np.float32(0)).astype("<f4").tobytes())
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
        found, counts, unknown = _keys(where, header)
        keys.update(found)
        forms.update(counts)
        unread.extend(unknown)

    data = read_tensors(file, check)
    form = forms.most_common(1)[0][0]
    if len(forms) > 1:
        raise BadLora(path=str(where), reason=f"mixes key names of {' and '.join(sorted(forms))}")
    config_file, tables = _settings(where, file, form, data.header, folder if alone is None else alone)
    settings = {part: config.settings_of(where, table) for part, table in tables.items()}
    _no_language_model(where, keys, settings)
    changes, remarks, source = _changes(where, keys, data, settings)
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


# -- keys ---------------------------------------------------------------------------------------
_EMBEDDING = {"emb_params", "clip_l", "clip_g", "t5", "string_to_param", "*"}


def _keys(path: Path, header: Header) -> tuple[dict[str, Key], Counter[str], list[str]]:
    if not header.entries:
        raise BadLora(path=str(path), reason="the file holds no tensors")
    keys, forms, unknown = read_keys(header.entries)
    telling = [key for key in keys.values() if key.role not in (*OWN_WEIGHTS, "alpha")]
    if not telling:
        name = next(iter(header.entries))
        if len(header.entries) <= 4 and all(n in _EMBEDDING or n.startswith("<") for n in header.entries):
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


def _no_language_model(path: Path, keys: Mapping[str, Key], settings: Mapping[str, config.Settings]) -> None:
    parts = Counter(key.part for key in keys.values())
    if parts.most_common(1)[0][0] == "language model" or any(s.language for s in settings.values()):
        raise BadLora(
            path=str(path),
            reason="an adapter of a language model",
            hint="this registry keeps adapters of models that draw pictures",
        )


def _settings(
    where: Path, file: Path, form: str, header: Header, alone: bool
) -> tuple[Path | None, dict[str, dict[str, Any]]]:
    found: tuple[Path | None, dict[str, Any] | None] = (None, None)
    if form not in ("kohya", "cloneofsimo"):
        found = config.beside(file, alone=alone or _alone(file), mandatory=form == "peft")
    path, table = found
    if table is not None:
        return path, {"": table}
    return path, {} if form in ("kohya", "cloneofsimo") else config.in_header(where, header)


def _alone(file: Path) -> bool:
    try:
        others = [p for p in file.parent.iterdir() if p.name.lower().endswith(".safetensors") and p.name != file.name]
    except OSError:
        return False
    return not others


# -- changes ------------------------------------------------------------------------------------
def _changes(
    path: Path, keys: Mapping[str, Key], data: TensorData, settings: Mapping[str, config.Settings]
) -> tuple[tuple[Change, ...], list[str], str]:
    groups: dict[tuple[str, tuple[Target, ...]], dict[str, NDArray[np.float32]]] = {}
    names: dict[tuple[str, tuple[Target, ...]], str] = {}
    for key, one in keys.items():
        group = groups.setdefault((one.part, one.targets), {})
        if one.role in group:
            raise BadLora(path=str(path), reason=f"two tensors for {brief(one.targets[0].module)} {one.role}")
        group[one.role] = data.arrays[key]
        names[one.part, one.targets] = one.name
    changes: list[Change] = []
    without: list[str] = []
    with_alpha: Counter[float] = Counter()
    for place, tensors in groups.items():
        part, targets = place
        try:
            made, own = _layer(part, targets, names[place], tensors, settings.get(part, settings.get("")))
        except BrokenChange as error:
            raise BadLora(path=str(path), reason=f"{brief(targets[0].module)} {error}") from None
        if own is not None:
            with_alpha[own] += 1
        elif not settings and made and made[0].alpha is not None:
            without.append(made[0].module)
        changes += made
    remarks = []
    if with_alpha and without:
        usual = with_alpha.most_common(1)[0][0]
        remarks.append(
            f"it gives alpha for {sum(with_alpha.values())} of {sum(with_alpha.values()) + len(without)} layers; the "
            f"others are taken at alpha = rank, where diffusers would take {usual:g}"
        )
    return tuple(changes), remarks, "settings" if settings else "tensor" if with_alpha else "default"


def _layer(
    part: str,
    targets: tuple[Target, ...],
    name: str,
    tensors: dict[str, NDArray[np.float32]],
    settings: config.Settings | None,
) -> tuple[list[Change], float | None]:
    """The changes of one layer as the file names it, and the alpha its tensors give."""
    own = _alpha(tensors)
    roles = frozenset(tensors) - {"alpha", "scalar"}
    kind = kind_of(roles)
    if not roles:
        raise BrokenChange("has an alpha but no factors")
    if settings is not None and settings.dora and kind == "LoRA":
        kind = "DoRA"
    elif settings is not None and kind in _PEFT_KINDS.values() and _PEFT_KINDS.get(settings.kind) != kind:
        raise BrokenChange(f"is a {kind}, but the settings are of a {settings.kind} adapter")
    vectors = {role: tensors[role] for role in roles & set(_VECTORS)}
    body = {role: tensors[role] for role in roles - set(_VECTORS)}
    made: list[Change] = []
    alpha: float | None = None
    scale = 1.0
    if body:
        for role in ("A", "B"):
            other = "B" if role == "A" else "A"
            if kind in ("LoRA", "DoRA") and role not in body:
                raise BrokenChange(f"has its {other} but no {role}")
        if kind in ("LoRA", "DoRA"):
            body = _shaped(targets, body)
        check_shapes(kind, body)
        rank = rank_of(kind, body)
        if kind in ("LoRA", "DoRA", "LoHa", "LoKr", "embedding LoRA"):
            alpha, scale = _scale(kind, name, body, rank, own, settings)
        if "scalar" in tensors and tensors["scalar"].size == 1:
            factor = float(tensors["scalar"].reshape(-1)[0])
            alpha, scale = None if alpha is None else alpha * factor, scale * factor
        extra = set(body) - _KNOWN.get(kind, set(body))
        final = "other" if extra else kind
        for target in targets if kind == "LoRA" else targets[:1]:
            module, rows = (target.module, target.rows) if kind == "LoRA" or len(targets) == 1 else (name, "all")
            made.append(Change(part, module, final, MappingProxyType(body), alpha, scale, rank, rows, name))
    for role, array in vectors.items():
        # A LoRA's bias is added to its output before it is scaled.
        factor = scale if role == "B_bias" else 1.0
        where = targets[0] if len(targets) == 1 else Target(name)
        tensor = MappingProxyType({_VECTORS[role]: array})
        made.append(Change(part, where.module, _VECTORS[role], tensor, None, factor, 1, where.rows, name))
    return made, own


_PEFT_KINDS = {"LORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr"}
_KNOWN: dict[str, set[str]] = {
    "LoRA": {"A", "B", "mid"},
    "LoHa": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"},
    "LoKr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"},
    "embedding LoRA": {"embedding_A", "embedding_B"},
    "full": {"diff"},
}


def _alpha(tensors: Mapping[str, NDArray[np.float32]]) -> float | None:
    if "alpha" not in tensors:
        return None
    array = tensors["alpha"]
    if array.size != 1 or not float(array.reshape(-1)[0]) > 0:
        raise BrokenChange("has an alpha that is not one positive number")
    return float(array.reshape(-1)[0])


def _scale(
    kind: str,
    name: str,
    tensors: Mapping[str, NDArray[np.float32]],
    rank: int,
    own: float | None,
    settings: config.Settings | None,
) -> tuple[float, float]:
    """(alpha, scale): ΔW = scale · (the product), scale = alpha / r, or alpha / √r with rsLoRA."""
    if settings is None:
        # LyCORIS writes alpha = its rank where both halves of a LoKr are full, which is the scale 1.
        whole = kind == "LoKr" and "lokr_w1" in tensors and "lokr_w2" in tensors
        alpha = float(rank) if own is None or whole else own
        return alpha, alpha / rank
    alpha, said = settings.alpha_of(name), settings.rank_of(name)
    if kind == "LoKr" and said is not None:
        rank = int(said)  # PEFT divides by the rank of its settings even where no factor has it
    elif said is not None and said != rank:
        raise BrokenChange(f"has rank {rank}, where the settings say rank {said:g}")
    if settings.rslora:
        alpha *= math.sqrt(rank)
    if own is not None and not math.isclose(own, alpha, rel_tol=1e-3):
        raise BrokenChange(f"has two alphas: {alpha:g} and {own:g} in its tensor")
    return alpha, alpha / rank


def _shaped(targets: tuple[Target, ...], tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Linear layers' factors as matrices, also where a tool wrote them as 1×1 convolutions; and B with as many
    dimensions as A."""
    a, b = tensors["A"], tensors["B"]
    linear = all(t.module.endswith(_LINEAR) for t in targets)
    if linear and "mid" not in tensors:
        a = a.reshape(a.shape[:2]) if a.ndim > 2 and set(a.shape[2:]) == {1} else a
        b = b.reshape(b.shape[:2]) if b.ndim > 2 and set(b.shape[2:]) == {1} else b
    if b.ndim == 2 < a.ndim:
        b = b.reshape(*b.shape, *(1,) * (a.ndim - 2))
    return {**tensors, "A": a, "B": b}
