"""What people keep beside an adapter about it: ``x.civitai.info``, the ``x.json`` of the common web interface, and what
the file's own header says. Read as labels; a stranger's words, bounded and never trusted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from w2w_registry.errors import BadFile
from w2w_registry.files import read_text
from w2w_registry.lora.metadata import Told
from w2w_registry.services.recording.labels import Label

_LIMIT = 4 * 2**20
_TEXT = 2_000


def about(path: Path, told: Told | None) -> dict[str, Label]:
    """Labels by name: trigger, notes, license, strength, base_hint, title, tags; files beside before the header."""
    found: dict[str, Label] = {}
    if told is not None:
        _put(found, "trigger", told.trigger)
        _put(found, "base_hint", told.base_hint)
        for name in ("title", "license", "tags"):
            _put(found, name, told.facts.get(name))
        _put(found, "notes", told.facts.get("description"))
    stem = path.with_suffix("") if path.is_file() else path / path.name
    civitai = _table(stem.with_name(stem.name + ".civitai.info"))
    _put(found, "trigger", ", ".join(map(str, civitai.get("trainedWords") or [])))
    _put(found, "base_hint", civitai.get("baseModel"))
    _put(found, "notes", _plain(civitai.get("description")))
    model = civitai.get("model")
    if isinstance(model, dict):
        _put(found, "title", model.get("name"))
    own = _table(stem.with_name(stem.name + ".json"))
    _put(found, "trigger", own.get("activation text"))
    _put(found, "base_hint", own.get("sd version"))
    _put(found, "notes", own.get("notes") or own.get("description"))
    strength = own.get("preferred weight")
    if isinstance(strength, (int, float)) and not isinstance(strength, bool) and strength:
        found["strength"] = float(strength)
    return found


def _put(found: dict[str, Label], name: str, value: Any) -> None:
    if isinstance(value, str) and value.strip() and value.strip() != "Unknown":
        found[name] = value.strip()[:_TEXT]


def _plain(text: Any) -> str | None:
    return re.sub(r"<[^<>]{0,200}>", "", text).strip() if isinstance(text, str) else None


def _table(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path, limit=_LIMIT)) if path.is_file() else {}
    except (BadFile, ValueError, RecursionError):
        return {}  # a convenience: a broken one does not keep the adapter out
    return value if isinstance(value, dict) else {}
