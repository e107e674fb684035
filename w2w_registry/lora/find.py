"""Finding LoRAs among files, folders, folders of folders and glob patterns."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from w2w_registry.lora.formats.diffusers import FILE as DIFFUSERS_FILE
from w2w_registry.lora.formats.peft import CONFIG as PEFT_CONFIG
from w2w_registry.lora.formats.peft import FILE as PEFT_FILE
from w2w_registry.lora.tensorfile import is_database, is_safetensors
from w2w_registry.records import MAX_NAME, legal_name

# A folder with one of these is one LoRA; the pickles are listed so that reading refuses them by name.
_FOLDER_MARKS = {PEFT_FILE, PEFT_CONFIG, DIFFUSERS_FILE, "adapter_model.bin", "pytorch_lora_weights.bin"}
_ENDINGS = (".safetensors", ".sft", ".bin", ".pt", ".ckpt", ".pth")
_OURS = _ENDINGS[:2]
# What trainers keep to go on from.
_STATE = re.compile(
    r"(?:optimizer|scheduler|lr_scheduler|scaler|grad_scaler|rng_state|random_states|training_args|sampler)"
    r"(?:[-_.]?\d+)*\.(?:bin|pt|pth|ckpt|pkl|safetensors)",
    re.IGNORECASE,
)
# Names that say what a file is, not whom it draws: the folder above is asked.
_GENERIC = {
    *(
        "adapter_model",
        "pytorch_lora_weights",
        "lora",
        "loras",
        "lora_weights",
        "model",
        "weights",
        "adapter",
        "default",
    ),
    *("unet", "transformer", "final", "last", "best", "checkpoint", "output"),
    *("pytorch_model", "diffusion_pytorch_model", "checkpoints", "snapshots"),
    *("lora_unet", "unet_lora", "transformer_lora", "lora_model", "outputs", "models", "adapters", "adapter_weights"),
}
_UNFINISHED = re.compile(
    r".+\.safetensors\.(?:part|partial|filepart|crdownload|opdownload|download|aria2|tmp|temp|incomplete|!qb|!ut|bc!)"
    r"|.+\.crdownload",
    re.IGNORECASE,
)
_OTHER = {
    "archive": ("an archive", "unpack it first"),
    "gguf": ("a model file of another program (GGUF)", None),
    "onnx": ("a model file of another program (ONNX)", None),
    "msgpack": ("a model file of another program (Flax)", "save it as safetensors"),
    "h5": ("a model file of another program (HDF5)", "save it as safetensors"),
    "npz": ("arrays of numbers (NumPy)", "save it as safetensors"),
    "tflite": ("a model file of another program (TensorFlow Lite)", None),
    "trt": ("a model file of another program (TensorRT)", None),
    "mlmodel": ("a model file of another program (Core ML)", None),
    "dvc": ("a note of where a file is kept (DVC), not the file", "run dvc pull"),
    "torrent": ("a note of where a file can be had (BitTorrent), not the file", None),
    "pti": ("a textual-inversion embedding, not an adapter", None),
    "renamed": ("a safetensors file under another ending", "let its name end in .safetensors"),
    "unfinished": ("an unfinished download", "download it again"),
}
_PICKLE = ("a pickle file, which could run code when opened", "save it as safetensors")
_DATABASE = ("a database (SQLite), as Draw Things keeps models in", "export it as safetensors there")
_BY_MORE = ("archive", "renamed", "unfinished")  # what is told by more than an ending of that name
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz")
_MOST_HIDDEN = 20_000  # files: what tools keep in hidden folders is seldom an adapter
_SHARD = re.compile(r".+[-_.]\d{5}-of-\d{5}\.safetensors", re.IGNORECASE)
# What is told from its like by the folder above: a state of one training, a second part of one pipeline.
_STEP = re.compile(
    r"(?:checkpoint|step|epoch|iter|last|lora|pytorch_lora_weights|adapter_model|model)[-_]?(?:step|epoch)?[-_]?\d+"
    r"|text_encoder(?:_[23])?",
    re.IGNORECASE,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_CACHE = re.compile(r"models--(?P<owner>[^-].*?)--(?P<name>.+)")


@dataclass(frozen=True)
class Candidate:
    """Something that may be a LoRA, and a name for it that obeys ``records.check_name``. ``said``: the user gave the
    name; it does not come from the path. ``further``: names to try when it is another's; None takes the path's."""

    path: Path
    name: str
    said: bool = False
    further: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that is passed over, why, and what would make it one that is taken."""

    path: Path
    reason: str
    cure: str | None = None


def find_loras(paths: Iterable[str | Path]) -> list[Candidate]:
    """Every LoRA candidate under ``paths`` (see :func:`discover`)."""
    return discover(paths)[0]


def discover(
    paths: Iterable[str | Path], looked: Callable[[int], None] = lambda entries: None
) -> tuple[list[Candidate], list[Skipped]]:
    """Every adapter candidate under ``paths``, in a stable order, each place once; and the files passed over.
    ``looked`` is told, folder by folder, how many entries have been looked at.

    A PEFT or diffusers folder is one candidate, other ``.safetensors`` files in it are their own; every folder is
    searched, hidden ones left out, links followed once. What was named but does not exist, or holds nothing, stays a
    candidate: reading it says why it cannot be used. No file is read here but for a few bytes of
    those whose names do not say what they are. Two places never get one name: what tells
    them apart (the folders above) is put before it.
    """
    found: dict[str, Path] = {}
    skipped: dict[str, Skipped] = {}
    entries = 0

    def count(more: int) -> None:
        nonlocal entries
        entries += more
        looked(entries)

    for given in paths:
        for path in _expand(str(given)):
            for hit in _under(path, count):
                if isinstance(hit, Skipped):
                    skipped.setdefault(os.path.abspath(hit.path), hit)
                else:
                    found.setdefault(os.path.abspath(hit), _with_a_name(hit))
    for place in [place for place, path in found.items() if os.path.islink(path)]:
        real = os.path.realpath(place)
        if real != place and real in found:  # a place is known by its own name before that of a link to it
            skipped[place] = Skipped(found.pop(place), "a link to another file here, which is taken")
    names = _distinct(list(found.values()))
    return [Candidate(path, name) for path, name in zip(found.values(), names, strict=True)], list(skipped.values())


def suggest_name(path: Path) -> str:
    """A legal identity name from a file or folder name: ``OUT/loras/p0001/`` and ``p0001.safetensors`` → ``p0001``,
    ``alice/unet/`` and ``alice/pytorch_lora_weights.safetensors`` → ``alice``."""
    return _ways(path)[0]


def further_names(path: Path) -> list[str]:
    """Legal names for one place, each with one more of the folders above than the one before; the last has a mark of
    the whole path."""
    names = _ways(path)
    return [*dict.fromkeys(names), f"{names[0][: MAX_NAME - 9]}-{_mark(path)}"]


def _mark(path: Path) -> str:
    return hashlib.sha256(os.path.abspath(path).encode("utf-8", "replace")).hexdigest()[:8]


def _ways(path: Path) -> list[str]:
    """Names for a place, the shortest first; at least one."""
    parts, commit = _telling_parts(path)
    names = [_name_from(parts[:n]) for n in range(1, len(parts) + 1)] or ["unnamed"]
    if commit is not None:  # two snapshots of one repo are told apart by their commits, not by where the cache lies
        names.insert(1, _name_from([f"{parts[0]}-{commit[:7]}"]))
    return names


def _telling_parts(path: Path) -> tuple[list[str], str | None]:
    """What is left of a path's parts, the last first, when those that only say what a file is are taken out; and the
    commit, where the last that is left is a repo of the Hub's cache."""
    parts = list(reversed(Path(os.path.abspath(path)).parts[1:]))
    if parts:
        ending = next((e for e in _ENDINGS if parts[0].lower().endswith(e)), "")
        parts[0] = parts[0][: len(parts[0]) - len(ending)]
    telling: list[str] = []
    commit: str | None = None
    for part in parts:
        hub = _HUB_CACHE.fullmatch(part)
        if hub is not None:
            telling.append(f"{legal_name(hub['owner'])}/{legal_name(hub['name'])}")
        elif _COMMIT.fullmatch(part):
            commit = part if not telling else None
        elif part.lower() not in _GENERIC and legal_name(part):
            telling.append(part)
    if telling and _STEP.fullmatch(telling[0]) and len(telling) > 1:
        telling[:2] = [f"{telling[1]}-{telling[0]}"]
    return telling or [p for p in parts if legal_name(p)][:1], commit if telling else None


def _name_from(parts: list[str]) -> str:
    """A name of these parts, the last first."""
    name = "/".join(
        legal for part in reversed(parts) if (legal := "/".join(filter(None, map(legal_name, part.split("/")))))
    )
    if len(name) > MAX_NAME:
        # Two long names must not become one.
        mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]
        name = f"{name[: MAX_NAME - 13].rstrip('._+-/')}-{mark}"
    return name or "unnamed"


def _distinct(paths: list[Path]) -> list[str]:
    """A name for each path; where several would get the same, as much more of the place as tells them apart."""
    ways = _told_apart(paths, [_ways(path) for path in paths])
    used = [0] * len(paths)
    for _ in range(max(map(len, ways), default=0)):
        names = [way[n] for way, n in zip(ways, used, strict=True)]
        count = Counter(names)
        again = [i for i, name in enumerate(names) if count[name] > 1 and used[i] + 1 < len(ways[i])]
        if not again:
            break
        for i in again:
            used[i] += 1
    names = [way[n] for way, n in zip(ways, used, strict=True)]
    count = Counter(names)
    for i, name in enumerate(names):
        if count[name] > 1:  # the same parts once the rest was taken out: a mark of the whole path
            names[i] = f"{ways[i][0][: MAX_NAME - 9]}-{_mark(paths[i])}"
    return names


def _told_apart(paths: list[Path], ways: list[list[str]]) -> list[list[str]]:
    """The ways of each path; of those that only differ in what was taken out (``ann/lora.safetensors`` and
    ``ann/unet/adapter_model.safetensors``) the outermost keeps its own, the others are told by that too."""
    same: dict[tuple[str, ...], list[int]] = {}
    for i, way in enumerate(ways):
        same.setdefault(tuple(way), []).append(i)
    found = list(ways)
    for places in same.values():
        if len(places) > 1:
            full = {i: Path(os.path.abspath(paths[i])).parts for i in places}
            above = len(Path(os.path.commonpath([os.path.join(*parts) for parts in full.values()])).parts)
            for i in sorted(places, key=lambda i: len(full[i]))[1:]:
                part = full[i][above].rpartition(".")[0] or full[i][above] if len(full[i]) > above else ""
                if part.lower() in _GENERIC:
                    found[i] = [f"{way}-{part}" if len(way) + len(part) < MAX_NAME else way for way in ways[i]]
    return found


def _with_a_name(path: Path) -> Path:
    """``.``, ``..`` and the root say no name: what lies beside them is found by the folder's own."""
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def _expand(given: str) -> Iterator[Path]:
    if not glob.has_magic(given) or os.path.lexists(given):
        yield Path(given)
        return
    pattern = Path(given)
    try:
        # pathlib's ** does not follow links (glob's does, and never ends in a pair of loops) but sees hidden entries.
        hits = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except ValueError:  # ** inside a name
        hits = []
    hits = [hit for hit in hits if _hidden(hit) <= _hidden(pattern)]
    yield from hits or [pattern]


def _hidden(path: Path) -> int:
    return sum(part.startswith(".") and part != ".." for part in path.parts)


def _under(path: Path, count: Callable[[int], None]) -> list[Path | Skipped]:
    try:
        is_folder = os.path.isdir(path)
    except ValueError:  # a NUL in the name
        is_folder = False
    if not is_folder:
        return [path]
    later: list[Path] = []
    seen: set[tuple[int, int]] = set()
    found = list(_walk(path, seen, later, count))
    while later:  # a place is known by where it lies, and by a link to it only where that is elsewhere
        found += _walk(later.pop(0), seen, later, count)
    return found if any(isinstance(one, Path) for one in found) else [*found, path]


def _walk(
    folder: Path, seen: set[tuple[int, int]], later: list[Path], count: Callable[[int], None]
) -> Iterator[Path | Skipped]:
    """What lies in a folder and below; links to folders are put off until ``later``."""
    try:
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            return
        seen.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as listing:
            everything = sorted(listing, key=lambda entry: entry.name)
        entries = [e for e in everything if not e.name.startswith(".")]
    except OSError:
        # A folder that cannot be listed is told of when it is read, like any other bad candidate.
        yield folder
        return
    count(len(everything))
    for entry in everything:
        if entry.name.startswith("."):
            yield from _hidden_ones(folder, entry)
    folders = {entry.name for entry in entries if _is_folder(entry)}
    files: dict[str, list[Path | Skipped]] = {}
    for one in _files(folder, [entry.name for entry in entries if entry.name not in folders]):
        path = one.path if isinstance(one, Skipped) else one
        files.setdefault("" if path == folder else path.name, []).append(one)
    yield from files.get("", [])
    for entry in entries:
        yield from files.get(entry.name, [])
        if entry.name in folders and entry.is_symlink():
            later.append(folder / entry.name)
        elif entry.name in folders:
            yield from _walk(folder / entry.name, seen, later, count)


def _hidden_ones(folder: Path, entry: os.DirEntry[str]) -> Iterator[Skipped]:
    """The adapters that a hidden entry is or holds, as far as a look of bounded length finds them."""
    if not _is_folder(entry):
        if entry.name.lower().endswith(_OURS):
            yield Skipped(folder / entry.name, "a hidden file")
        return
    if entry.is_symlink():  # it may lead anywhere
        return
    looked = 0
    for place, _, names in os.walk(folder / entry.name):
        for name in sorted(names):
            if name.lower().endswith(_OURS):
                yield Skipped(Path(place) / name, "in a hidden folder", "name that folder")
        looked += 1 + len(names)
        if looked > _MOST_HIDDEN:
            return


def _files(folder: Path, names: list[str]) -> Iterator[Path | Skipped]:
    """What one folder's own files are."""
    if folder.name == "blobs" and _HUB_CACHE.fullmatch(folder.parent.name) and (folder.parent / "snapshots").is_dir():
        return  # the files of the snapshots, which have their names there
    state = {name for name in names if _STATE.fullmatch(name)}
    weights = [name for name in names if name.lower().endswith(_OURS) and name not in state]
    stems = {name.rpartition(".")[0] for name in weights}
    named = [name for name in names if name.lower().endswith(_ENDINGS[2:]) and name not in state]
    # A name says pickle, and some files bear it that are none.
    misnamed = [n for n in named if n.rpartition(".")[0] not in stems and is_safetensors(folder / n)]
    pickles = [name for name in named if name not in misnamed]
    yield from (Skipped(folder / name, "what a training goes on from, no model") for name in sorted(state))
    yield from (Skipped(folder / name, *_OTHER[kind]) for name in names if (kind := _other_kind(folder, name)))
    marked = bool(_FOLDER_MARKS & set(names))
    main = next((name for name in (PEFT_FILE, DIFFUSERS_FILE) if name in weights), None)
    if marked and (main is not None or len(weights) <= 1) and (weights or not named):
        yield folder
        weights = [name for name in weights if main is not None and name != main]
    for name in (*weights, *misnamed):
        if _SHARD.fullmatch(name):
            yield Skipped(folder / name, "one part of a file that was split", "join its parts first")
        else:
            yield folder / name
    for name in pickles:
        if name.rpartition(".")[0] in stems:
            yield Skipped(folder / name, "beside a .safetensors of its name, which is taken")
        else:
            yield Skipped(folder / name, *(_DATABASE if is_database(folder / name) else _PICKLE))


def _other_kind(folder: Path, name: str) -> str | None:
    """What a file is that may hold an adapter and is not read, by its name; None for all others."""
    if _UNFINISHED.fullmatch(name):
        return "unfinished"
    lower = name.lower()
    if lower.endswith(_ARCHIVES):
        return "archive"
    stem, _, ending = lower.rpartition(".")
    if (not stem or ".safetensors" in stem or not ending.isalnum()) and is_safetensors(folder / name):
        return "renamed"
    return ending if stem and ending in _OTHER and ending not in _BY_MORE else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False
