"""The policy: what it is, how it is changed, and what becomes of a file that says otherwise.

The catalog's policy decides. ``[policy]`` of a registry.toml, with whom its ``[hub]`` trusts, is where one is written
down; it takes effect when
``w2w-reg policy set`` (or the first ``init``) adopts it, which is an event. A file that differs, from whatever folder,
changes nothing: the difference is an event too, once for each file that turns up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog import policies
from w2w_registry.catalog.events import events
from w2w_registry.consent.policy import Rules
from w2w_registry.errors import SettingError
from w2w_registry.records import iso
from w2w_registry.services.registry import POLICY_SET, Registry
from w2w_registry.settings import POLICY_FILE, policy_of, read_settings_file

IGNORED = "policy.ignored"


def in_force(registry: Registry, session: Session) -> Mapping[str, Any]:
    """The policy that decides: the catalog's. A catalog that was never given one goes by the settings."""
    found = policies.in_force(session)
    if found is None:
        return registry.settings.policy
    here = registry.settings.policy
    if here and policies.policy_digest(here) != found.digest:
        _say_ignored(registry, session, policies.policy_digest(here), found.digest)
    return found.rules


def hub_trust(registry: Registry) -> Mapping[str, Any]:
    """Whose releases are believed: ``trusted``, ``keys`` and ``require_signature`` of the policy in force."""
    with registry.catalog.read() as session:
        found = in_force(registry, session).get("hub", {})
    return found if isinstance(found, Mapping) else {}


def show(registry: Registry) -> dict[str, Any]:
    """The policy in force, since when, and whether this registry.toml says something else."""
    with registry.catalog.read() as session:
        rules = in_force(registry, session)
        found = policies.in_force(session)
    here = registry.settings.policy
    return {
        "digest": None if found is None else found.digest,
        "since": None if found is None else iso(found.since),
        "rules": dict(rules),
        "file_differs": bool(here) and found is not None and policies.policy_digest(here) != found.digest,
    }


def history(registry: Registry) -> list[dict[str, Any]]:
    """Every policy there was, oldest first, with what changed from the one before."""
    with registry.catalog.read() as session:
        found = policies.policies(session)
    rows: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    for policy in found:
        rows.append(
            {
                "number": policy.number,
                "since": iso(policy.since),
                "digest": policy.digest,
                "changes": differences(before, policy.rules),
            }
        )
        before = dict(policy.rules)
    return rows


def adopt(registry: Registry, file: Path | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    """Put the ``[policy]`` of a file (None: the home folder's registry.toml) in force.

    Raises:
        SettingError: there is no such table, or it cannot be used.
    """
    path = file or registry.settings.home / POLICY_FILE
    data = read_settings_file(path)
    wanted = policy_of(data)
    if "policy" not in data:
        raise SettingError(setting=str(path), value="", reason="no [policy] table to put in force")
    Rules.from_settings(wanted)
    with registry.catalog.read() as session:
        found = policies.in_force(session)
    before = {} if found is None else dict(found.rules)
    changes = differences(before, wanted)
    result = {"digest": policies.policy_digest(wanted), "changes": changes, "dry_run": dry_run}
    if found is not None and found.digest == result["digest"]:
        return {**result, "changed": False}
    if not dry_run:
        _adopt(registry, wanted)
    return {**result, "changed": not dry_run}


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


def _say_ignored(registry: Registry, session: Session, file: str, in_force: str) -> None:
    if session.info.get(IGNORED) == file:
        return
    session.info[IGNORED] = file
    last = next(events(session, action="policy.", newest_first=True, limit=1), None)
    if last is not None and last.action == IGNORED and last.payload.get("file") == file:
        return
    registry.catalog.note(registry.actor, IGNORED, {}, file=file, in_force=in_force)
