"""The policy: what it is, how it is changed, and what becomes of a file that says otherwise.

The catalog's policy decides. ``[policy]`` of a registry.toml, with whom its ``[hub]`` trusts, is where one is written
down; it takes effect when
``w2w-reg policy set`` (or the first ``init``) adopts it, which is an event. A file that differs, from whatever folder,
changes nothing, and each try is an event: one for every opening of the registry (every command, every ``open`` from
Python; of a server, for every person who acts there) in which the policy decides something. What only looks (lists,
searches, pages) says so once for each file, so that looking does not fill the log. A refusal names the file itself.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog import policies
from w2w_registry.catalog.events import actors, events
from w2w_registry.commands import command
from w2w_registry.consent.records import PURPOSES, is_territory
from w2w_registry.consent.rules import Rules, near_purpose
from w2w_registry.errors import SecondPersonNeeded, SettingError, UnknownTerritory, UsageError
from w2w_registry.files import read_text
from w2w_registry.records import Result, assigned, iso
from w2w_registry.services.registry import POLICY_SET, Registry
from w2w_registry.settings import POLICY_FILE, TABLES, policy_of, read_settings_file

IGNORED, ASKED = "policy.ignored", "policy.ask"


def in_force(registry: Registry, session: Session, *, looking: bool = False) -> Mapping[str, Any]:
    """The policy that decides: the catalog's. A catalog that was never given one goes by the settings.

    Args:
        looking: it is only shown what the policy says; nothing is decided by it.
    """
    found = policies.in_force(session)
    if found is None:
        return registry.settings.policy
    here = registry.settings.policy
    if here and policies.policy_digest(here) != found.digest:
        _say_ignored(registry, session, policies.policy_digest(here), found.digest, looking)
    return found.rules


def ignored(registry: Registry) -> str | None:
    """The digest of the policy that was tried, and ignored, since this registry was opened by whoever acts."""
    file = policies.policy_digest(registry.settings.policy)
    return file if (registry.actor, file) in registry.tried else None


def hub_trust(registry: Registry) -> Mapping[str, Any]:
    """Whose releases are believed: ``trusted``, ``keys`` and ``require_signature`` of the policy in force."""
    with registry.catalog.read() as session:
        found = in_force(registry, session).get("hub", {})
    return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, eq=False)
class PolicyShown(Result):
    """A policy, since when it is in force, whether one person decides alone, and whether registry.toml differs."""

    digest: str | None
    since: str | None
    rules: Mapping[str, Any]
    one_person: bool
    file_differs: bool


@dataclass(frozen=True, eq=False)
class PolicyStep(Result):
    """A policy there was, and what changed from the one before."""

    number: int
    since: str
    digest: str
    changes: Mapping[str, list[Any]]


@dataclass(frozen=True, eq=False)
class PolicyAdopted(Result):
    """A policy that was asked for: what it changes, and whether it is in force now and was not before."""

    digest: str
    changes: Mapping[str, list[Any]]
    dry_run: bool
    one_person: bool
    changed: bool


def show(registry: Registry) -> PolicyShown:
    """The policy in force, since when, and whether this registry.toml says something else."""
    with registry.catalog.read() as session:
        rules = in_force(registry, session, looking=True)
        found = policies.in_force(session)
    here = registry.settings.policy
    return PolicyShown(
        digest=None if found is None else found.digest,
        since=None if found is None else iso(found.since),
        rules=dict(rules),
        one_person=not Rules.from_settings(rules).second_person,
        file_differs=bool(here) and found is not None and policies.policy_digest(here) != found.digest,
    )


def history(registry: Registry) -> list[PolicyStep]:
    """Every policy there was, oldest first, with what changed from the one before."""
    with registry.catalog.read() as session:
        found = policies.policies(session)
    rows: list[PolicyStep] = []
    before: dict[str, Any] = {}
    for policy in found:
        rows.append(PolicyStep(policy.number, iso(policy.since), policy.digest, differences(before, policy.rules)))
        before = dict(policy.rules)
    return rows


def adopt(
    registry: Registry, file: Path | None = None, *, items: Sequence[str] = (), dry_run: bool = False
) -> PolicyAdopted:
    """Put a policy in force: the ``[policy]`` of a file (None: the home folder's registry.toml), or, with ``items``
    (``KEY=VALUE``), the one in force with these changed, which the home folder's registry.toml then says too.

    Where several people work, what allows more than before takes two of them: the first asks, the second does the same.

    Raises:
        SettingError: there is no such table, or it cannot be used. SecondPersonNeeded.
    """
    path = file or registry.settings.home / POLICY_FILE
    with registry.catalog.read() as session:
        found = policies.in_force(session)
        several = len(actors(session, 2) | {registry.actor}) > 1
    before = {} if found is None else dict(found.rules)
    wanted = {**before, **parse_items(items)}
    if not items:
        data = read_settings_file(path)
        wanted = policy_of(data)
        if "policy" not in data:
            raise SettingError(setting=str(path), value="", reason="no [policy] table to put in force")
    old, new = Rules.from_settings(before), Rules.from_settings(wanted)
    _no_slips(new, old)
    changes = differences(before, wanted)
    digest = policies.policy_digest(wanted)
    same = found is not None and found.digest == digest
    if not (same or dry_run):
        more = (*new.looser_than(old), *(("hub",) if _trusts_more(before.get("hub"), wanted.get("hub")) else ()))
        if more and several and old.second_person:
            _ask_another(registry, digest, more, command("policy set", *items, file=file))
        _adopt(registry, wanted)
        if items:
            write_down(path, parse_items(items))
    return PolicyAdopted(digest, changes, dry_run, not new.second_person, not (same or dry_run))


def _no_slips(rules: Rules, before: Rules) -> None:
    """Raise where a new value can only be a slip. Raises SettingError, UnknownPurpose, UnknownTerritory."""
    if rules.territory is not None and rules.territory != before.territory and not is_territory(rules.territory):
        raise UnknownTerritory(name=rules.territory)
    if not all(rules.purposes):
        raise SettingError(setting="[policy] purposes", value=list(rules.purposes), reason="one is empty")
    if rules.purpose != before.purpose and rules.purpose not in (known := {*PURPOSES, *rules.purposes}):
        near_purpose(rules.purpose, known)


def _trusts_more(before: Any, after: Any) -> bool:
    """Whether a ``[hub]`` table takes more releases at their word than the one before."""
    old, new = before or {}, after or {}
    return new != old and (bool(new) or bool(old.get("require_signature")))


def _ask_another(registry: Registry, digest: str, more: Sequence[str], typed: str) -> None:
    """Raise unless another person has asked for the very policy since it was last changed; ask, if nobody has."""
    with registry.catalog.read() as session:
        since = list(takewhile(lambda e: e.action != POLICY_SET, events(session, action="policy.", newest_first=True)))
    asked = {event.actor for event in since if event.action == ASKED and event.payload.get("digest") == digest}
    if asked - {registry.actor}:
        return
    if registry.actor not in asked:
        registry.catalog.note(registry.actor, ASKED, {}, digest=digest, more=list(more))
    operation = f"put a policy in force that allows more ({', '.join(more)})"
    raise SecondPersonNeeded(operation=operation, actor=registry.actor, command=typed, of="policy")


def parse_items(items: Sequence[str]) -> dict[str, Any]:
    """``("second_person=false",)`` → ``{"second_person": False}``: values as TOML has them, else as text.

    Raises:
        UsageError: no ``KEY=VALUE``, no such key, or one key with two values.
    """
    known = sorted(TABLES["policy"] or ())
    found: dict[str, Any] = {}
    for key, text in assigned(items, "setting", "KEY=VALUE of the policy").items():
        if key not in known:
            raise UsageError(reason=f"the policy has no key {key[:60]!r}", hint=f"keys: {', '.join(known)}")
        try:
            found[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = text
    return found


def write_down(path: Path, values: Mapping[str, Any]) -> None:
    """Let the ``[policy]`` of a registry.toml say these values too; the rest of it stays as it was written."""
    lines = read_text(path, limit=2**20).splitlines() if path.exists() else []
    heads = [i for i, line in enumerate(lines) if line.strip().startswith("[")]
    start = next((i for i in heads if lines[i].strip() == "[policy]"), None)
    if start is None:
        lines += ["[policy]"]
        start = len(lines) - 1
        heads.append(start)
    for key, value in values.items():
        end = next((i for i in heads if i > start), len(lines))
        said = [i for i in range(start + 1, end) if lines[i].partition("=")[0].strip() == key]
        text = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        if said:
            lines[said[0]] = text
        else:
            lines.insert(start + 1, text)
            heads = [i + 1 if i > start else i for i in heads]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """key -> [before, after] for what differs; None where a key is absent."""
    keys = sorted({*before, *after})
    return {k: [before.get(k), after.get(k)] for k in keys if before.get(k) != after.get(k)}


def _adopt(registry: Registry, rules: Mapping[str, Any]) -> None:
    with registry.catalog.write(registry.actor) as uow:
        before = policies.in_force(uow.session)
        row = policies.make_policy(rules, uow.now())
        uow.add(row)
        uow.event(POLICY_SET, {"policy": row.id}, digest=row.digest, before=None if before is None else before.digest)


def _say_ignored(registry: Registry, session: Session, file: str, in_force: str, looking: bool) -> None:
    if (registry.actor, file) in registry.tried or (looking and session.info.get(IGNORED) == file):
        return
    if looking:
        session.info[IGNORED] = file
        last = next(events(session, action="policy.", newest_first=True, limit=1), None)
        if last is not None and last.action == IGNORED and last.payload.get("file") == file:
            return
    registry.tried.add((registry.actor, file))
    registry.catalog.note(registry.actor, IGNORED, {}, file=file, in_force=in_force)
