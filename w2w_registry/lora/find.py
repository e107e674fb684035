"""Finding LoRAs among files, folders, folders of folders and glob patterns."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from w2w_registry.lora.formats.diffusers import FILE as DIFFUSERS_FILE
from w2w_registry.lora.formats.peft import CONFIG as PEFT_CONFIG
from w2w_registry.lora.formats.peft import FILE as PEFT_FILE
from w2w_registry.records import MAX_NAME

# A folder with one of these is one LoRA; the pickles are listed so that reading refuses them by name.
_FOLDER_MARKS = {PEFT_FILE, PEFT_CONFIG, DIFFUSERS_FILE, "adapter_model.bin", "pytorch_lora_weights.bin"}
_GENERIC = {PEFT_FILE, DIFFUSERS_FILE, "lora.safetensors"}
_NOT_IN_NAMES = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class Candidate:
    """Something that may be a LoRA, and a name for it that obeys ``records.check_name``."""

    path: Path
    name: str


def find_loras(paths: Iterable[str | Path]) -> list[Candidate]:
    """Every LoRA candidate under ``paths``, in a stable order, each place once.

    A PEFT or diffusers folder is one candidate; other folders are searched for such folders and for
    ``.safetensors`` files, hidden ones left out, links followed once. What was named but does not exist, or
    holds nothing, stays a candidate: reading it says why it cannot be used. Nothing is opened here.
    """
    found: dict[str, Candidate] = {}
    for given in paths:
        for path in _expand(str(given)):
            for hit in _under(path):
                found.setdefault(os.path.abspath(hit), Candidate(hit, suggest_name(hit)))
    return list(found.values())


def suggest_name(path: Path) -> str:
    """A legal identity name from a file or folder name: ``OUT/loras/p0001/`` and ``p0001.safetensors`` → ``p0001``."""
    absolute = Path(os.path.abspath(path))
    if absolute.name in _GENERIC:
        raw = absolute.parent.name
    else:
        raw = absolute.name
        for ending in (".safetensors", ".bin", ".pt", ".ckpt"):
            raw = raw[: -len(ending)] if raw.lower().endswith(ending) else raw
    name = _NOT_IN_NAMES.sub("-", unicodedata.normalize("NFC", raw)).strip("._+-")
    if len(name) > MAX_NAME:
        # Two long names must not become one.
        mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]
        name = f"{name[: MAX_NAME - 13].rstrip('._+-')}-{mark}"
    return name or "unnamed"


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


def _under(path: Path) -> list[Path]:
    try:
        is_folder = os.path.isdir(path)
    except ValueError:  # a NUL in the name
        is_folder = False
    if not is_folder:
        return [path]
    return list(_walk(path, set())) or [path]


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            return
        seen.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        # A folder that cannot be listed is told of when it is read, like any other bad candidate.
        yield folder
        return
    if any(entry.name in _FOLDER_MARKS for entry in entries):
        yield folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _walk(folder / entry.name, seen)
        elif entry.name.lower().endswith(".safetensors"):
            yield folder / entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False
