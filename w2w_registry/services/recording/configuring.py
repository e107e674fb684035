"""``config``: what is in force, where it comes from, and one key of registry.toml set without touching the rest."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from w2w_registry.artifacts import ArtifactStore, write_atomic
from w2w_registry.catalog.engine import masked, parse_url
from w2w_registry.commands import command
from w2w_registry.errors import MissingExtra, NotFound, RegistryError, SettingError, UsageError, storage_error, storing
from w2w_registry.files import read_text
from w2w_registry.index.factory import check_options
from w2w_registry.records import Result
from w2w_registry.settings import (
    FLAG,
    POLICY_FILE,
    TABLE,
    TABLES,
    TEXT,
    TEXTS,
    VALUES,
    Settings,
    placed_url,
    read_settings_file,
)

_ELSEWHERE: Final = {"policy": f"`{command('policy set')}` changes it, on record"}
_ENVIRONMENT: Final = {
    "home": "W2W_HOME",
    "database.url": "W2W_DATABASE_URL",
    "actor": "W2W_ACTOR",
    "artifacts.url": "W2W_ARTIFACTS",
    "hub.endpoint": "HF_ENDPOINT",
}
_SECRET = re.compile(r"password|secret|token", re.IGNORECASE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\s*\[\s*(?P<name>[^\[\]]+?)\s*\]\s*(?:#.*)?")


@dataclass(frozen=True, eq=False)
class SettingRow(Result):
    """A setting in force, and its source: environment, registry.toml, account or default."""

    key: str
    value: Any
    source: str


@dataclass(frozen=True, eq=False)
class SettingPut(Result):
    """A setting as registry.toml has it from now on (None: taken out), and whether that is new; ``missing``: it names
    a database file that is not there."""

    key: str
    value: Any
    file: str
    changed: bool
    missing: bool


def show(settings: Settings) -> list[SettingRow]:
    """Every setting in force. Passwords are not shown."""
    file = read_settings_file(settings.home / POLICY_FILE)
    rows = [
        _row("home", str(settings.home), "default", file),
        _row("database.url", masked(settings.database_url), "default", file),
        _row("artifacts.url", masked(settings.artifacts_url), "default", file),
        _row("actor", settings.actor, "account", file),
    ]
    said = {row.key for row in rows}
    for table, keys in sorted(file.items()):
        for name, value in sorted(keys.items()):
            key = f"{table}.{name}"
            if key not in said:
                rows.append(_row(key, "…" if _SECRET.search(name) else value, "registry.toml", file))
    return rows


def _row(key: str, value: Any, source: str, file: Mapping[str, Any]) -> SettingRow:
    table, _, name = key.partition(".")
    if name and name in file.get(table, {}):
        source = POLICY_FILE
    if os.environ.get(_ENVIRONMENT.get(key, "")):
        source = f"environment ({_ENVIRONMENT[key]})"
    return SettingRow(key, value, source)


def put(settings: Settings, key: str, text: str | None) -> SettingPut:
    """Set ``TABLE.NAME`` in registry.toml (None: take it out); comments and the other lines stay as they are. Nobody
    else may read a file that holds a URL with a password, and the answer does not show it.

    ``pipelines.ID`` takes a base model's id with its dots and slashes, and a folder that is there.

    Raises:
        UsageError, SettingError: no such key, or what would result cannot be read. NotFound: nothing to take out.
        StorageError: the file cannot be written.
    """
    table, _, name = key.partition(".")
    if table in _ELSEWHERE:
        raise UsageError(reason=f"[{table}] is not changed here", hint=_ELSEWHERE[table])
    if not name or (table != "pipelines" and key not in VALUES and (text is not None or not _open(table))):
        raise UsageError(reason=f"no setting is named {key[:80]!r}", hint=f"there are {', '.join(_keys())}")
    if table == "pipelines" and text is not None:
        folder = Path(text).expanduser().absolute()
        if not folder.is_dir():
            raise SettingError(setting=key, value=text, reason="no such folder")
        text = str(folder)
    if key in ("database.url", "artifacts.url") and text is not None:
        text = placed_url(Path.cwd(), text)
    path = settings.home / POLICY_FILE
    before = read_text(path, limit=2**20) if path.exists() else ""
    after = edited(before, table, name, None if text is None else _value(key, text))
    if after == before and text is None:
        raise NotFound(what="setting", name=key)
    _try(after, path)
    if table == "index":
        check_options(tomllib.loads(after).get("index", {}))
    with storing(path):
        settings.home.mkdir(parents=True, exist_ok=True)
        write_atomic(path, after.encode(), mode=0o666 if masked(after) == after else 0o600)
    missing = key == "database.url" and _no_file(text)
    return SettingPut(key, None if text is None else masked(text), str(path), after != before, missing)


def _no_file(url: str | None) -> bool:
    """Whether this is the address of a SQLite file that is not there."""
    return url is not None and url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()


def _keys() -> list[str]:
    return sorted([*VALUES, "pipelines.…"])


def _open(table: str) -> bool:
    """Whether a table may hold what is not known here, which can be taken out."""
    return table in TABLES and TABLES[table] is None


def _value(key: str, text: str) -> str:
    """What was typed as a TOML value of the kind that the key takes; a text need not be in quotes.

    Raises:
        SettingError: it is another kind of value, or out of range.
    """
    takes = VALUES.get(key, TEXT)
    try:
        value = tomllib.loads(f"x = {text}")["x"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        value = text
    if takes == TEXT or isinstance(takes, tuple):
        plain = value if isinstance(value, str) else text
        if isinstance(takes, tuple) and plain not in takes:
            raise SettingError(setting=key, value=text, reason=f"expected one of {', '.join(takes)}")
        _check_place(key, plain)
        return _quoted(plain)
    if not _fits(takes, value):
        wanted = takes if isinstance(takes, str) else f"a whole number from {takes[0]} to {takes[-1]}"
        raise SettingError(setting=key, value=text, reason=f"expected {wanted}")
    return text


def _fits(takes: str | range | tuple[str, ...], value: Any) -> bool:
    if isinstance(takes, range):
        return type(value) is int and value in takes
    if takes == FLAG:
        return isinstance(value, bool)
    if takes == TABLE:
        return isinstance(value, dict)
    inner = str if takes == TEXTS else dict
    return isinstance(value, list) and all(isinstance(one, inner) for one in value)


def _check_place(key: str, text: str) -> None:
    """Raises SettingError: an address or file that cannot be one."""
    if key == "database.url":
        parse_url(text)
    elif key == "artifacts.url":
        with suppress(MissingExtra):  # what is needed to open it may still be installed
            ArtifactStore(text)
    elif key == "hub.endpoint" and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", text):
        raise SettingError(setting=key, value=text, reason="expected an address, as in https://huggingface.co")
    elif key == "hub.signing_key" and not Path(text).expanduser().is_file():
        raise SettingError(setting=key, value=text, reason="no such file")


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's, with DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def edited(text: str, table: str, name: str, value: str | None) -> str:
    """The file with one line of one table replaced, added or taken out."""
    lines = text.rstrip("\n").split("\n") if text.strip() else []
    start = next((i for i, line in enumerate(lines) if _table_of(line) == table), None)
    label = name if _BARE.fullmatch(name) else _quoted(name)
    new = None if value is None else f"{label} = {value}"
    if start is None:
        return text if new is None else "\n".join([*lines, *([""] if lines else []), f"[{table}]", new]) + "\n"
    end = next((i for i in range(start + 1, len(lines)) if _table_of(lines[i]) is not None), len(lines))
    at = next((i for i in range(start + 1, end) if _name_of(lines[i]) == name), None)
    if at is not None:
        last = _end_of(lines, at, end)
        lines[at:last] = [] if new is None else [new]
    elif new is not None:
        place = end
        while place > start + 1 and not lines[place - 1].strip():
            place -= 1
        lines.insert(place, new)
    return "\n".join(lines) + "\n"


def _table_of(line: str) -> str | None:
    match = _HEADER.fullmatch(line)
    return None if match is None else match["name"].strip("\"'")


def _name_of(line: str) -> str | None:
    key, equals, _ = line.partition("=")
    key = key.strip()
    if not equals or key.startswith("#"):
        return None
    try:
        (name,) = tomllib.loads(f"{key} = 0")
    except (tomllib.TOMLDecodeError, ValueError):
        return None
    return str(name)


def _end_of(lines: list[str], start: int, end: int) -> int:
    """The line after a value, which may go over several."""
    for last in range(start + 1, end + 1):
        try:
            tomllib.loads("\n".join(lines[start:last]))
        except tomllib.TOMLDecodeError:
            continue
        return last
    return start + 1


def _try(text: str, path: Path) -> None:
    """That the settings can be read with this file in place."""
    scratch = path.with_name(f".{path.name}.tried")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        read_settings_file(scratch)
    except OSError as error:
        raise storage_error(path, error) from error
    except RegistryError as error:
        error.fields = {k: str(v).replace(str(scratch), str(path)) for k, v in error.fields.items()}
        raise
    finally:
        scratch.unlink(missing_ok=True)
