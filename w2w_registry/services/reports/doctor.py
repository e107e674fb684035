"""``doctor``: whether everything a registry needs is in order, each finding with what to do about it. Writes nothing
and asks nobody on the network."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from w2w_registry.catalog.artifact_refs import referred
from w2w_registry.catalog.clock import CLOCK_TOLERANCE, latest_seen
from w2w_registry.catalog.event_log import jobs_of_kind
from w2w_registry.catalog.events import last_moment
from w2w_registry.catalog.resolve import all_spaces
from w2w_registry.commands import command
from w2w_registry.errors import RegistryError
from w2w_registry.marking.certificates import SELF_MADE
from w2w_registry.messages import message
from w2w_registry.records import UNKNOWN_BASE, Result, now
from w2w_registry.services.audit import keys
from w2w_registry.services.audit.log import KEY
from w2w_registry.services.hub.intents import JOB
from w2w_registry.services.recording.pictures import CREDENTIALS, certified_name
from w2w_registry.services.recording.pipelines import at_hand
from w2w_registry.services.registry import Registry, current_schema, open_registry
from w2w_registry.settings import POLICY_FILE, Settings, read_settings_file

State = Literal["ok", "note", "bad"]
LITTLE: Final = 10**9
"""Bytes of room under which it is said that the disk is nearly full."""
PACKAGES: Final = {
    "faiss": ("cpu", "search of large registries"),
    "torch": ("diffusion", "training, inversion, pictures"),
    "diffusers": ("diffusion", "training, inversion, pictures"),
    "transformers": ("diffusion", "training, inversion, pictures"),
    "peft": ("diffusion", "training, inversion, pictures"),
    "fastapi": ("web", "the gallery in a browser"),
    "c2pa": ("marking", "marking pictures"),
}


@dataclass(frozen=True, eq=False)
class Finding(Result):
    """One thing looked at. ``note``: works, but somebody may want to know; ``bad``: something will fail."""

    check: str
    state: State
    said: str
    cure: str | None = None


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; what cannot be looked at because of something else is left out."""
    found = [*_home(settings), *_settings_file(settings), *_packages(), *_keys(settings), *_certificates(settings)]
    try:
        schema = current_schema(settings)
    except RegistryError as error:
        return [*found, Finding("database", "bad", message(error))]
    if schema.schema is None:
        cure = f"{command('init')}, or {command('add', 'FOLDER', yes=True)}"
        return [*found, Finding("database", "bad", f"no registry in {schema.database} yet", cure)]
    if schema.schema != schema.head:
        said = f"its schema is {schema.schema}, this release needs {schema.head}"
        return [*found, Finding("database", "bad", said, command("db upgrade"))]
    found.append(Finding("database", "ok", f"{schema.database}, schema {schema.schema}"))
    with ExitStack() as stack:
        registry = stack.enter_context(open_registry(settings))
        for check in (_clock, _artifacts, _pushes, _pipelines):
            found += _safely(check, registry)
    return found


def _safely(check: Callable[[Registry], Iterator[Finding]], registry: Registry) -> list[Finding]:
    try:
        return list(check(registry))
    except RegistryError as error:
        return [Finding(check.__name__.strip("_"), "bad", message(error))]


def _home(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.is_dir():
        yield Finding("home", "bad", f"{home} is not there", f"{command('init')}, or set W2W_HOME")
        return
    if os.access(home, os.W_OK):
        yield Finding("home", "ok", str(home))
    else:
        yield Finding("home", "note", f"{home} is read-only: everything can be looked at, nothing changed")
    free = shutil.disk_usage(home).free
    if free < LITTLE:
        yield Finding("room", "bad", f"only {free / 1e6:.0f} MB are free at {home}", f"{command('gc')}, or make room")


def _settings_file(settings: Settings) -> Iterator[Finding]:
    path = settings.home / POLICY_FILE
    try:
        read_settings_file(path)
    except RegistryError as error:
        yield Finding("settings", "bad", message(error), f"mend {path}")
    else:
        yield Finding("settings", "ok", str(path) if path.exists() else "no registry.toml: the defaults hold")


def _packages() -> Iterator[Finding]:
    missing: dict[tuple[str, str], list[str]] = {}
    for package, (extra, purpose) in PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            missing.setdefault((extra, purpose), []).append(package)
    for (extra, purpose), packages in missing.items():
        cure = f"pip install 'w2w-registry[{extra}]'"
        yield Finding("packages", "note", f"{', '.join(packages)} not installed, needed for {purpose}", cure)
    if not missing:
        yield Finding("packages", "ok", "every optional one is installed")


def _keys(settings: Settings) -> Iterator[Finding]:
    folder = settings.home / "keys"
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.is_file() and path.suffix != ".pub" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield Finding("keys", "bad", f"others on this machine can read {path}", f"chmod 600 {path}")
    if (wrong := keys.fault(folder, KEY)) is not None:
        yield Finding("keys", "bad", f"{folder / KEY}.key signs the log: {wrong}", "put it back from a backup")


def _certificates(settings: Settings) -> Iterator[Finding]:
    named = settings.organisation.get("name")
    try:
        made_for = certified_name(settings)
    except RegistryError as error:
        yield Finding("certificates", "bad", message(error), "put it back from a backup")
        return
    if named and made_for == SELF_MADE:
        path = settings.home / "keys" / CREDENTIALS
        said = f"pictures are signed in the name of {made_for!r}: {path} was made before {named!r} was set"
        old = shlex.quote(str(path))
        cure = f"mv {old} {old}.old, and the next picture makes new ones; keep the old root for pictures signed before"
        yield Finding("certificates", "note", said, cure)


def _clock(registry: Registry) -> Iterator[Finding]:
    with registry.catalog.read() as session:
        last, seen = last_moment(session), latest_seen(session)
    moment = now()
    if last is not None and last > moment:
        said = f"the last event is of {last:%Y-%m-%d %H:%M}, which is in the future"
        yield Finding("clock", "bad", said, "set this machine's clock")
    elif seen is not None and seen - moment > CLOCK_TOLERANCE:
        said = f"by what this registry last saw it is {seen:%Y-%m-%d %H:%M}; consents that ended by then stay ended"
        kept = f"{registry.settings.database_url.removeprefix('sqlite:///')}-seen"
        cure = (
            f"set this machine's clock if it is slow; if it is right, and was fast then, delete {shlex.quote(kept)} "
            "(the log records that)"
        )
        yield Finding("clock", "bad", said, cure)


def _artifacts(registry: Registry) -> Iterator[Finding]:
    with registry.catalog.read() as session:
        named = referred(session)
    lost = sorted(digest for digest in named if not registry.artifacts.exists(digest))
    if lost:
        said = f"{len(lost)} of {len(named)} files are gone, as {lost[0][:16]}…"
        yield Finding("files", "bad", said, f"put them back from a backup: {command('restore')}")
    else:
        yield Finding(
            "files", "ok", f"all {len(named)} are there (`{command('verify', 'NAME')}` checks what is in them)"
        )


def _pushes(registry: Registry) -> Iterator[Finding]:
    with registry.catalog.read() as session:
        waiting = [str(job.state["repo"]) for job in jobs_of_kind(session, JOB)]
    if waiting:
        yield Finding("pushes", "bad", f"not finished: {', '.join(waiting[:3])}", command("sync"))


def _pipelines(registry: Registry) -> Iterator[Finding]:
    settings = registry.settings
    for name, folder in settings.pipelines.items():
        if not Path(folder).is_dir():
            cure = command("config set", f"pipelines.{name}", "FOLDER")
            yield Finding("base models", "bad", f"{name} is said to be in {folder}, which is not there", cure)
    with registry.catalog.read() as session:
        bases = {space.base_model for space in all_spaces(session)} - {UNKNOWN_BASE}
    for base in sorted(bases - set(settings.pipelines)):
        if at_hand(registry, base) is None:
            said = f"{base} is not on this machine, so nothing can be drawn, trained or compared by what it draws"
            cure = f"{command('config set', f'pipelines.{base}', 'FOLDER')}, if you have it"
            yield Finding("base models", "note", said, cure)
