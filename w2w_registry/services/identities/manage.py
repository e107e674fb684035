"""Looking after identities: list, show, remove, aliases, tags, history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from w2w_registry.catalog.assets import PLAIN_ADAPTER
from w2w_registry.catalog.holds import Hold, open_holds
from w2w_registry.catalog.identities import (
    aliases_meaning,
    find_alias,
    find_identity,
    tag_rows,
    told_versions,
    versions_of,
)
from w2w_registry.catalog.listing import Listed
from w2w_registry.catalog.lookup import aliases_of, coordinates_rows, labels_of, refs_of, subjects_of, tags_of
from w2w_registry.catalog.models import Alias, AliasChange, Identity, Operation, Space, Tag, Version
from w2w_registry.catalog.resolve import alias_at, alias_history, identity_named, near_names, version_for
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.errors import UNLIKE, NotFound, UsageError
from w2w_registry.records import IdentityRef, VersionState, assigned, check_alias, check_name, iso
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.identities.answers import (
    AliasAt,
    AliasPeriod,
    AliasSet,
    IdentityRow,
    IdentityShown,
    MadeBy,
    OpenHold,
    Removal,
    Tagged,
    VersionRow,
)
from w2w_registry.services.registry import Registry, present


def rows_of(registry: Registry, session: Session, listed: Sequence[Listed]) -> list[IdentityRow]:
    """What a list shows of each line."""
    ids = [line.version.id for line in listed]
    consent = consent_states(session, ids, present(session), gate.rules_of(registry, session))
    labels = labels_of(session, ids)
    tags = tags_of(session, [line.identity.id for line in listed])
    aliases = aliases_of(session, [line.identity.id for line in listed])
    held = held_by(session, [i for i, line in zip(ids, listed, strict=True) if line.version.state is VersionState.HELD])
    return [
        IdentityRow(
            identity=line.identity.name,
            version=line.version.number,
            kind=str(line.identity.kind),
            state=str(line.version.state),
            space=None if line.space is None else line.space.ref,
            adapter=line.version.adapter or PLAIN_ADAPTER,
            base_model=line.version.base_model,
            residual=line.version.residual,
            consent=str(consent[line.version.id]),
            held=None if line.version.id not in held else str(held[line.version.id]),
            labels=labels.get(line.version.id, {}),
            tags=tags.get(line.identity.id, {}),
            aliases=aliases.get(line.identity.id, {}),
            created=line.version.created,
        )
        for line in listed
    ]


def held_by(session: Session, ids: Iterable[int]) -> dict[int, OpenHold]:
    """Of the versions that are held, whom each resembles and why."""
    return holds_shown(session, [one.hold for one in open_holds(session, ids)])


def holds_shown(session: Session, holds: Sequence[Hold]) -> dict[int, OpenHold]:
    """Of each version that one of these holds, whom it resembles and why."""
    likes = refs_of(session, {hold.like_id for hold in holds if hold.like_id is not None})
    return {
        hold.version_id: OpenHold(
            None if hold.like_id is None else str(likes[hold.like_id]), hold.why == UNLIKE, hold.why, hold.by
        )
        for hold in holds
    }


def show(registry: Registry, name: str) -> IdentityShown:
    """One version of an identity and all that is known of it; every version in short."""
    with registry.catalog.read() as session:
        version = version_for(session, name, any_state="@" in name)
        identity = session.get_one(Identity, version.identity_id)
        consent = consent_states(session, [version.id], present(session), gate.rules_of(registry, session))
        operation = session.get_one(Operation, version.operation_id)
        hold = held_by(session, [version.id]).get(version.id)
        rows = {row.space_id: row.digest for row in coordinates_rows(session, [version.id]).get(version.id, ())}
        return IdentityShown(
            identity=identity.name,
            version=version.number,
            kind=str(identity.kind),
            state=str(version.state),
            consent=str(consent[version.id]),
            held=None if hold is None else str(hold),
            hold=hold,
            subjects=list(subjects_of(session, [version.id]).get(version.id, ())),
            space=None if version.space_id is None else session.get_one(Space, version.space_id).ref,
            adapter=version.adapter or PLAIN_ADAPTER,
            residual=version.residual,
            coordinates_digest=rows.get(version.space_id or 0),
            model_digest=version.model_digest,
            manifest_digest=version.manifest_digest,
            preview_digest=version.preview_digest,
            base_model=version.base_model,
            base_revision=version.base_revision,
            labels=labels_of(session, [version.id]).get(version.id, {}),
            tags=tags_of(session, [identity.id]).get(identity.id, {}),
            aliases=aliases_of(session, [identity.id]).get(identity.id, {}),
            operation=MadeBy(
                id=operation.id,
                kind=operation.kind,
                agent=operation.agent,
                started_at=iso(operation.started_at),
                params=operation.params,
                seed=operation.seed,
                code_version=operation.code_version,
                models=operation.models,
            ),
            versions=_versions(session, identity),
        )


def _versions(session: Session, identity: Identity) -> list[VersionRow]:
    return [
        VersionRow(
            version=version.number,
            state=str(version.state),
            space=None if space is None else space.ref,
            residual=version.residual,
            operation=operation,
            created=version.created,
        )
        for version, operation, space in told_versions(session, identity.id)
    ]


def remove(registry: Registry, name: str, *, perform: bool) -> Removal:
    """Take an identity, or with ``@`` one version, out of service. Without ``perform`` only the plan is given.

    The rows stay (their history is audited); search, list and show no longer find them, and aliases that meant a
    removed version are unset.
    """
    ref = IdentityRef.parse(name)
    with registry.catalog.read() as session:
        identity, versions = _to_remove(session, ref)
        plan = Removal(
            identity=identity.name, versions=[f"{identity.name}@{v.number}" for v in versions], performed=perform
        )
    if not perform:
        return plan
    with registry.catalog.write(registry.actor) as uow:
        identity, versions = _to_remove(uow.session, ref)
        ids = [v.id for v in versions]
        for alias in aliases_meaning(uow.session, ids):
            _change_alias(uow, identity, alias.name, None)
        for version in versions:
            version.state = VersionState.REMOVED
        uow.session.flush()
        if not versions_of(uow.session, identity.id):
            identity.removed = uow.now()
        uow.event("version.remove", {"identity": identity.id, "version": ids})
    return plan


def _to_remove(session: Session, ref: IdentityRef) -> tuple[Identity, list[Version]]:
    if ref.number is not None or ref.alias is not None:
        version = version_for(session, ref)
        return session.get_one(Identity, version.identity_id), [version]
    identity = identity_named(session, ref.name)
    versions = versions_of(session, identity.id)
    if not versions:
        raise NotFound(what="identity", name=ref.name)
    return identity, versions


def set_alias(registry: Registry, alias: str, target: str) -> AliasSet:
    """Let ``alias`` mean the version ``target`` names. Setting it to what it means already changes nothing."""
    check_alias(alias)
    with registry.catalog.write(registry.actor) as uow:
        try:
            version = version_for(uow.session, target)
        except NotFound:
            if find_identity(uow.session, alias) is None:
                raise
            raise UsageError(
                reason=f"{alias} is an identity, and none is named {target}",
                hint="the alias comes first, then whose it is",
            ) from None
        identity = uow.session.get_one(Identity, version.identity_id)
        gate.require_released(registry, uow.session, f"give it the alias {alias}", version.id)
        _change_alias(uow, identity, alias, version)
        return AliasSet(identity=identity.name, alias=alias, version=version.number)


def unset_alias(registry: Registry, alias: str, name: str) -> AliasSet:
    """Take ``alias`` away from identity ``name``."""
    with registry.catalog.write(registry.actor) as uow:
        version = version_for(uow.session, IdentityRef(check_name(name), alias=check_alias(alias)))
        identity = uow.session.get_one(Identity, version.identity_id)
        _change_alias(uow, identity, alias, None)
        return AliasSet(identity=identity.name, alias=alias, version=None)


def _change_alias(uow: UnitOfWork, identity: Identity, alias: str, version: Version | None) -> None:
    row = find_alias(uow.session, identity.id, alias)
    before = None if row is None else row.version_id
    if version is not None and before == version.id:
        return
    if version is None and row is not None:
        uow.delete(row)
    elif version is not None and row is None:
        uow.add(Alias(identity_id=identity.id, name=alias, version_id=version.id))
    elif version is not None and row is not None:
        row.version_id = version.id
    after = None if version is None else version.id
    uow.add(AliasChange(identity_id=identity.id, alias=alias, version_id=after, at=uow.now()))
    uow.event("alias.set" if version else "alias.unset", {"identity": identity.id, "version": after}, before=before)


def parse_tags(items: Iterable[str]) -> dict[str, str]:
    """``("team=ads",)`` → ``{"team": "ads"}``. Raises UsageError or BadName."""
    return assigned(items, "tag", "KEY=VALUE, as in team=ads")


def set_tags(registry: Registry, name: str, items: Iterable[str]) -> Tagged:
    """Set tags of an identity; what a tag already says is left alone."""
    wanted = parse_tags(items)
    with registry.catalog.write(registry.actor) as uow:
        identity = identity_named(uow.session, check_name(name))
        present = tag_rows(uow.session, identity.id)
        changed = [key for key, value in wanted.items() if key not in present or present[key].value != value]
        for key in changed:
            if key in present:
                present[key].value = wanted[key]
            else:
                uow.add(Tag(identity_id=identity.id, key=key, value=wanted[key]))
        if changed:
            uow.event("tag.set", {"identity": identity.id})
        return Tagged(identity=identity.name, tags=tags_of(uow.session, [identity.id]).get(identity.id, {}))


def unset_tags(registry: Registry, name: str, keys: Iterable[str]) -> Tagged:
    """Take tags away.

    Raises:
        NotFound: a tag that is not set.
    """
    with registry.catalog.write(registry.actor) as uow:
        identity = identity_named(uow.session, check_name(name))
        present = tag_rows(uow.session, identity.id)
        for key in keys:
            if key not in present:
                raise NotFound(what="tag", name=key, near=near_names(key, list(present)))
            uow.delete(present[key])
        uow.event("tag.unset", {"identity": identity.id})
        return Tagged(identity=identity.name, tags=tags_of(uow.session, [identity.id]).get(identity.id, {}))


def history(registry: Registry, name: str, *, at: str | None = None) -> list[AliasAt] | list[AliasPeriod]:
    """What each alias of an identity meant and from when to when; with ``at`` only what held at that moment.

    Raises:
        UsageError: ``at`` is no ISO date or time.
    """
    ref = IdentityRef.parse(name)
    with registry.catalog.read() as session:
        identity = identity_named(session, ref.name)
        periods = alias_history(session, identity, ref.alias)
        if at is not None:
            moment = parse_moment(at)
            names = sorted({p.alias for p in periods})
            then = {alias: alias_at(session, identity, alias, moment) for alias in names}
            return [
                AliasAt(
                    identity=identity.name,
                    alias=alias,
                    version=v.number,
                    at=iso(moment),
                )
                for alias, v in then.items()
                if v is not None
            ]
        return [
            AliasPeriod(
                identity=identity.name,
                alias=p.alias,
                version=p.number,
                since=p.start,
                until=p.end,
            )
            for p in periods
        ]


def parse_moment(text: str) -> datetime:
    """An ISO date (its end, as "on that day" means) or time; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            reason=f"{text!r} is not a valid date or time", hint="write 2026-05-01 or 2026-05-01T12:00Z"
        ) from None
    if len(text) == 10:
        moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
