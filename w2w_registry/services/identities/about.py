"""What people keep beside an adapter about it: ``x.civitai.info``, the ``x.json`` and ``x.txt`` of the common web
interface, what managers of such files keep (``x.metadata.json``, ``x.cm-info.json``, ``x.swarm.json``,
``x.rgthree-info.json``), each also under the whole file's name (``x.safetensors.json``), the Hub's card in its folder,
and what the file's own header says. Read as labels; a stranger's words, bounded and never trusted."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from w2w_registry.errors import BadFile
from w2w_registry.files import first_there, read_bytes, read_text
from w2w_registry.lora import alone_there
from w2w_registry.lora.metadata import Told, told_by
from w2w_registry.records import Rank
from w2w_registry.records import Told as Said
from w2w_registry.services.identities.previews import no_picture, preview_files, unread_beside
from w2w_registry.services.recording.labels import Label, to_label

_LIMIT = 4 * 2**20
_TEXT = 2_000
_STRONGEST = 1_000.0
_HIGHEST = 100
_MANAGERS = (".rgthree-info.json", ".metadata.json", ".cm-info.json", ".civitai.json", ".civitai.info")
_BESIDE = (*_MANAGERS, ".swarm.json", ".json")
_WORDS = (".description.txt", ".txt")


def about(path: Path, told: Told | None) -> dict[str, Label]:
    """Labels by name: trigger, notes, license, strength, rating, favorite, base_hint, title, tags; files beside before
    the header."""
    found: dict[str, Label] = {}
    _from_header(found, told)
    none: dict[str, Any] = {}
    beside = dict.fromkeys(_BESIDE, none) | {ending: _table(file) or {} for ending, file in _files_beside(path)}
    _from_card(found, path)
    _from_header(found, told_by({n: v for n, v in beside[".swarm.json"].items() if isinstance(v, str)}))
    for name in _MANAGERS:
        _from_manager(found, beside[name])
    own = beside[".json"]
    _put(found, "trigger", own.get("activation text"))
    _put(found, "base_hint", own.get("sd version"))
    _put(found, "notes", own.get("notes") or own.get("description"))
    _put_strength(found, own.get("preferred weight"))
    if "notes" not in found:
        _put(found, "notes", next((_note(file) for _, file in _files_beside(path, _WORDS)), None))
    return found


def _note(path: Path) -> str | None:
    """A text's words; None where it is none."""
    try:
        return read_text(path, limit=_LIMIT)
    except BadFile:
        return None


def _from_header(found: dict[str, Label], told: Told | None) -> None:
    if told is not None:
        _put(found, "trigger", told.trigger)
        _put(found, "base_hint", told.base_hint)
        for name in ("title", "license", "tags"):
            _put(found, name, told.facts.get(name))
        _put(found, "notes", told.facts.get("description"))


def _files_beside(path: Path, endings: Sequence[str] = _BESIDE) -> list[tuple[str, Path]]:
    """Those that are there, by how their names end after the adapter's own, with or without its ending."""
    folder, stem = (path.parent, path.stem) if os.path.isfile(path) else (path, path.name)
    names = dict.fromkeys((stem, path.name))
    found = [(ending, first_there(folder, (name + ending for name in names))) for ending in endings]
    return [(ending, file) for ending, file in found if file is not None]


def beside_told(path: Path) -> tuple[str, ...]:
    """What to tell of the files beside an adapter: those that cannot be used, and one that says it shows somebody who
    lives."""
    found: list[str] = []
    for _, file in _files_beside(path):
        table, whole = _table_and_letters(file)
        if not whole:
            found.append(f"{file.name} beside it is not in UTF-8: whatever in it is not plain ASCII could not be read")
        if table is None:
            found.append(f"{file.name} beside it cannot be read as a table (JSON): what it says is not known")
        elif _shows_somebody(table):
            found.append(Said(f"{file.name} beside it says that it shows a real person", Rank.LIKENESS))
    unclear = [file.name for _, file in _files_beside(path, _WORDS) if _note(file) is None]
    found += [f"{name} beside it cannot be read as a text: what it says is not known" for name in unclear]
    unread = unread_beside(path)
    for picture in preview_files(path):
        wrong = no_picture(picture)
        if wrong is None:  # the preview: what else lies there is not looked for
            unread = None
            break
        found.append(f"{picture.name} beside it is not taken as a preview: {wrong}")
    if unread is not None:
        found.append(f"{unread[0].name} beside it is {unread[1]}, which is not taken as a preview")
    return tuple(found)


def _shows_somebody(table: dict[str, Any], within: int = 2) -> bool:
    """Whether a download site's description has its mark for a person of interest."""
    inner = [table.get(name) for name in ("civitai", "model")]
    if table.get("poi") is True:
        return True
    return within > 0 and any(isinstance(one, dict) and _shows_somebody(one, within - 1) for one in inner)


def _from_manager(found: dict[str, Label], table: dict[str, Any], *, within: int = 2) -> None:
    """What a download site's description says (``x.civitai.info``), as it is or as the managers of such files keep it:
    theirs are the same names in another case, and the site's description inside."""
    inner = table.get("civitai")
    if isinstance(inner, dict) and within:
        _from_manager(found, inner, within=within - 1)
    fields = {re.sub(r"_", "", str(key)).lower(): value for key, value in table.items()}
    versions = fields.get("modelversions")  # the site's answer for a model, which lists its versions
    if isinstance(versions, list) and within:
        _put(found, "title", fields.get("name"))
        if len(versions) == 1 and isinstance(versions[0], dict):
            _from_manager(found, versions[0], within=within - 1)
    _put(found, "trigger", fields.get("trainedwords"))
    _put(found, "base_hint", fields.get("basemodel"))
    notes = next((fields[n] for n in ("notes", "usernote", "description", "modeldescription") if fields.get(n)), None)
    _put(found, "notes", _plain(notes))
    model = fields.get("model")
    model = model if isinstance(model, dict) else {"name": model}
    _put(found, "title", fields.get("usertitle") or fields.get("modelname") or model.get("name"))
    _put(found, "tags", fields.get("tags") or model.get("tags"))
    tips = fields.get("usagetips")
    if isinstance(tips, str):
        try:
            tips = json.loads(tips[:_TEXT])
        except (ValueError, RecursionError):
            tips = None
    _put_strength(found, tips.get("strength") if isinstance(tips, dict) else None)
    rating = fields.get("rating")
    if isinstance(rating, (int, float)) and not isinstance(rating, bool) and 0 < rating <= _HIGHEST:
        found["rating"] = float(rating)
    if fields.get("favorite") is True:
        found["favorite"] = 1.0


def _from_card(found: dict[str, Label], path: Path) -> None:
    """The Hub's card in the adapter's folder, or beside a file that is alone there: what stands between the first two
    lines of ``---``."""
    card = (path if path.is_dir() else path.parent) / "README.md"
    try:
        text = read_text(card, limit=_LIMIT) if card.is_file() and (path.is_dir() or alone_there(path)) else ""
    except BadFile:
        return
    head = re.match(r"---\s*\n(.{0,20000}?)\n---", text, re.DOTALL)
    if head is None:
        return
    import yaml

    try:
        fields = yaml.safe_load(head[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    if isinstance(fields, dict):
        base = fields.get("base_model")
        _put(found, "base_hint", base[0] if isinstance(base, list) and base else base)
        _put(found, "trigger", fields.get("instance_prompt"))
        _put(found, "license", fields.get("license"))
        _put(found, "tags", fields.get("tags"))


def _words(value: Any) -> str | None:
    """Words as one text, each once; ``value``: a text, or a list of texts or of tables that each have a ``word``."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else None
    words = (one.get("word") if isinstance(one, dict) else one for one in value)
    return ", ".join(dict.fromkeys(w.strip(" ,") for w in words if isinstance(w, str) and w.strip(" ,")))


def _put_strength(found: dict[str, Label], strength: Any) -> None:
    if isinstance(strength, str):
        strength = to_label(strength.strip())
    number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if number and strength and abs(strength) < _STRONGEST:
        found["strength"] = float(strength)


def _put(found: dict[str, Label], name: str, value: Any) -> None:
    value = _words(value)
    if isinstance(value, str) and value.strip() and value.strip() != "Unknown":
        found[name] = value.strip()[:_TEXT]


def _plain(text: Any) -> str | None:
    text = _words(text)
    return None if text is None else html.unescape(re.sub(r"<[^<>]{0,200}>", "", text)).strip()


def _table(path: Path) -> dict[str, Any] | None:
    """A file's table, empty where there is no such file; None where it holds none."""
    return _table_and_letters(path)[0]


def _table_and_letters(path: Path) -> tuple[dict[str, Any] | None, bool]:
    """A file's table as :func:`_table` gives it, and whether all its letters could be read. Where they are of another
    encoding than UTF-8 or UTF-16, nobody says of which: texts of English letters alone are taken, which most have in
    common, and others left out."""
    try:
        text, whole = _text(path) if os.path.isfile(path) else ("{}", True)
        value = json.loads(text)
    except (BadFile, ValueError, RecursionError):
        return None, True  # a convenience: a broken one does not keep the adapter out
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return None, True
    return (value if whole else _legible(value)), whole


def _text(path: Path) -> tuple[str, bool]:
    data = read_bytes(path, limit=_LIMIT)
    try:
        return read_text(path, limit=_LIMIT), True
    except BadFile:
        return data.decode("utf-8", "replace"), False


def _legible(value: Any) -> Any:
    """A JSON value without the texts that have a letter which could not be read."""
    if isinstance(value, dict):
        return {name: _legible(one) for name, one in value.items() if not _illegible(one)}
    return [_legible(one) for one in value if not _illegible(one)] if isinstance(value, list) else value


def _illegible(value: Any) -> bool:
    return isinstance(value, str) and "\N{REPLACEMENT CHARACTER}" in value
