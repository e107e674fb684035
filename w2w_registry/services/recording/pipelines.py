"""Which base models lie on this machine: told in milliseconds, and without asking any network.

``[pipelines]`` in registry.toml says where a base model lies; then counts the folder it was last opened from
(``fingerprint --pipeline``); then an id that is a folder itself, or lies in the Hub's cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from w2w_registry.artifacts import write_atomic
from w2w_registry.commands import command
from w2w_registry.errors import BadFile, NotFound
from w2w_registry.files import read_text
from w2w_registry.records import UNKNOWN_BASE
from w2w_registry.services.recording.placement import same_model_id
from w2w_registry.services.registry import Registry

_INDEX = "model_index.json"


def at_hand(registry: Registry, base_model: str | None) -> str | None:
    """The folder a base model can be opened from, None when it is not on this machine (or nothing names it)."""
    if base_model is None or base_model == UNKNOWN_BASE:
        return None
    return _told(registry, base_model) or _cached(base_model)


def to_open(registry: Registry, base_model: str, said: str | None = None) -> tuple[str, bool]:
    """What to open a base model by (its folder, or its id where the Hub's cache has it), and whether everything lies on
    this machine, so that no network is asked. ``said``: what the user named instead, a folder or a Hub id.

    Raises:
        NotFound: it is not on this machine; says how to tell where it is.
    """
    if said is not None:
        return said, False
    folder = _told(registry, base_model)
    if folder is not None:
        return folder, True
    if base_model != UNKNOWN_BASE and _cached(base_model) is not None:
        return base_model, True
    if base_model == UNKNOWN_BASE:
        reason = "nothing says which it is; name its folder with [[pipeline]]"
    else:
        reason = f"{saying_where(base_model)}, or give [[pipeline]] FOLDER"
    raise NotFound(what="base model on this machine", name=base_model, reason=reason)


def saying_where(base_model: str) -> str:
    """How to say where a base model lies."""
    return f"`{command('config set', f'pipelines.{base_model}', 'FOLDER')}` says where it is"


def _told(registry: Registry, base_model: str) -> str | None:
    """The folder that somebody said a base model is in, or that it is itself."""
    for table in (registry.settings.pipelines, _used(registry)):
        for known, folder in table.items():
            if same_model_id(known, base_model) and _is_pipeline(Path(folder)):
                return folder
    own = Path(base_model).expanduser()
    return str(own) if _is_pipeline(own) else None


def remember(registry: Registry, base_models: Collection[str | None], folder: str) -> None:
    """Note that versions of these base models were asked with the pipeline in ``folder``. Of several nothing is
    concluded, nor from a folder that is none.

    Raises:
        StorageError: it cannot be noted.
    """
    named = {b for b in base_models if b is not None and b != UNKNOWN_BASE}
    if len(named) != 1 or not _is_pipeline(Path(folder)):
        return
    (base_model,) = named
    used, where = _used(registry), str(Path(folder).absolute())
    if used.get(base_model) == where or base_model == where:
        return
    path = registry.settings.pipelines_used_file
    write_atomic(path, (json.dumps({**used, base_model: where}, indent=2, sort_keys=True) + "\n").encode())


def _used(registry: Registry) -> Mapping[str, str]:
    """A cache: what cannot be read is as good as nothing."""
    path = registry.settings.pipelines_used_file
    try:
        found = json.loads(read_text(path)) if path.exists() else {}
    except (BadFile, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _is_pipeline(folder: Path) -> bool:
    try:
        return (folder / _INDEX).is_file()
    except (OSError, ValueError):
        return False


def _cached(base_model: str) -> str | None:
    """The newest snapshot of a Hub model in the Hub's cache, where its main branch was fetched."""
    if base_model.count("/") != 1:
        return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    kept = cache / f"models--{base_model.replace('/', '--')}"
    try:
        commit = (kept / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    folder = kept / "snapshots" / commit
    return str(folder) if _is_pipeline(folder) else None
