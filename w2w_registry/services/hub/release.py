"""``push``: one version published as a Hub repo, in one commit, with consent for it.

Order of things, so that no crash leaves a half release that nobody knows of: the gate; a plan; a note of the intent
(a job) in the catalog; then the Hub (a new repo is private until its content is complete); then, in one transaction,
the gate once more, the release row and its event, and the note removed. ``sync`` finishes or undoes what a note is
left of (:func:`finish`). Every step looks at what the Hub has first, so doing it again is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.models import Job, Release, ReleaseState, Space, Version
from w2w_registry.catalog.policies import in_force
from w2w_registry.catalog.publications import record_release, release_at, releases_in
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.policy import Decision, ways_out
from w2w_registry.consent.records import Use
from w2w_registry.errors import Conflict, ConsentDenied, HubError, NotFound, RegistryError, UsageError
from w2w_registry.hub import bundle
from w2w_registry.hub.addresses import check_repo_id, is_oci
from w2w_registry.hub.api import Digests, Hub, RepoState
from w2w_registry.hub.plan import Access, PushPlan, choose_access, plan_push
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.made_in import look as look_at_spaces
from w2w_registry.services.consent.results import hold_point
from w2w_registry.services.consent.takedown_queue import UP_TO, queue
from w2w_registry.services.consent.upstream import upstream_of
from w2w_registry.services.hub import signatures, takedown
from w2w_registry.services.hub.attesting import attest, attested_by
from w2w_registry.services.hub.carry_out import carry_out, look
from w2w_registry.services.hub.intents import arrived, drop, drop_forbidden, note, undo, unfinished
from w2w_registry.services.hub.published_consent import Consent, consent_of
from w2w_registry.services.hub.release_files import (
    DEFAULT_FORMATS,
    WEIGHTS,
    Options,
    VersionFacts,
    build_files,
    find_facts,
    preview_of,
    read_facts,
)
from w2w_registry.services.recording.sources import open_space_of, source
from w2w_registry.services.registry import Progress, Registry, no_progress, present


@dataclass(frozen=True)
class PushRequest:
    """What ``w2w-reg push`` was asked. ``access`` None: private for a likeness, else public."""

    name: str
    repo_id: str
    access: Access | None = None
    options: Options = field(default_factory=Options)
    dry_run: bool = False


@dataclass(frozen=True)
class PushReport:
    """What a push did. ``changed`` is False when the repo held all of it already; ``commit`` is None for a dry run.
    ``attested_by``: id of the key that signed the statement of how it was made."""

    ref: str
    repo_id: str
    access: Access
    plan: PushPlan
    changed: bool
    commit: str | None = None
    tag: str | None = None
    warnings: tuple[str, ...] = ()
    attested_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.ref,
            "repo": self.repo_id,
            "access": str(self.access),
            "commit": self.commit,
            "tag": self.tag,
            "attested_by": self.attested_by,
            "changed": self.changed,
            "plan": self.plan.lines(),
            "bytes": sum(self.plan.add.values()),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Prepared:
    """A release ready to go: its files and who may see them."""

    facts: VersionFacts
    consent: Consent
    files: Mapping[str, bytes]
    access: Access
    warnings: tuple[str, ...]


def push_request(
    name: str,
    repo_id: str,
    *,
    access: str | None = None,
    formats: Sequence[str] = (),
    coordinates_only: bool = False,
    license: str | None = None,
    instance_prompt: str | None = None,
    purpose: str | None = None,
    dry_run: bool = False,
) -> PushRequest:
    """A request out of what people type; what is not typed is the default.

    Raises:
        UsageError: forms of a LoRA asked of a release without one.
    """
    if coordinates_only and formats:
        raise UsageError(reason="[[coordinates-only]] publishes no LoRA, so [[format]] has no effect")
    options = Options(
        formats=tuple(dict.fromkeys(formats)) or DEFAULT_FORMATS,
        coordinates_only=coordinates_only,
        license=license or "other",
        instance_prompt=instance_prompt,
        purpose=purpose,
    )
    return PushRequest(name, repo_id, None if access is None else parse_access(access), options, dry_run)


def parse_access(text: str) -> Access:
    """``private``, ``gated`` or ``public``."""
    try:
        return Access(text)
    except ValueError:
        raise UsageError(reason=f"unknown access {text!r}", hint=f"one of {', '.join(Access)}") from None


def push(registry: Registry, hub: Hub, request: PushRequest, progress: Progress = no_progress) -> PushReport:
    """Publish a version.

    Raises:
        ConsentDenied: before anything leaves. NotFound: no such version. Conflict: the repo changed meanwhile.
        HubError: the Hub refused or cannot be reached; ``sync`` finishes what was begun.
    """
    repo_id = check_repo_id(request.repo_id)
    with registry.catalog.read() as session:
        facts = find_facts(registry, session, request.name)
        _check_free(session, hub, repo_id, facts)
    prepared = prepare(registry, facts, repo_id, request.access, request.options, dry_run=request.dry_run)
    state = look(hub, repo_id)
    prepared, plan = _planned(registry, repo_id, state, prepared)
    report = PushReport(facts.ref, plan.repo_id, prepared.access, plan, not plan.empty, warnings=prepared.warnings)
    report = replace(report, attested_by=attested_by(prepared.files))
    if request.dry_run:
        return report
    with registry.catalog.read() as session:
        recorded = _recorded(session, hub, plan.repo_id, facts.version_id, state)
    if plan.empty and recorded is not None:
        return replace(report, commit=recorded.commit_id, tag=recorded.revision)
    job = note(registry, hub, facts, plan, prepared.access, request.options)
    try:
        commit, tag = carry_out(hub, plan, prepared.files, facts.number, progress)
    except HubError as error:
        drop_forbidden(registry, hub, job, error)
        raise
    _record(registry, hub, job, prepared, plan, commit, tag, request.options)
    return replace(report, commit=commit, tag=tag)


def prepare(
    registry: Registry,
    facts: VersionFacts,
    repo_id: str,
    asked: Access | None,
    options: Options,
    *,
    dry_run: bool = False,
) -> Prepared:
    """Ask the gate, decide who may see it, and make the files. ``dry_run``: no picture is put on record.

    Raises:
        ConsentDenied.
    """
    look_at_spaces(registry, [facts.version_id])
    decision = gate.require(registry, Use.PUBLISH, versions=[facts.version_id], purpose=options.purpose)
    if options.coordinates_only and facts.artifact_digest is not None:
        with registry.catalog.read() as session:
            origin = source(session, session.get_one(Version, facts.version_id))
            _, arrays = open_space_of(registry, session, origin.space_id)
        hold_point(registry, origin, arrays, operation="publish")
    with registry.catalog.read() as session:
        upstream = upstream_of(session, [facts.version_id], gate.rules_of(registry, session))
        consent = consent_of(upstream, decision, present(session))
        policy = in_force(session)
        space = None if facts.place is None else session.get_one(Space, facts.place.space_id)
    access = choose_access(likeness=consent.likeness, asked=asked, oci=is_oci(repo_id))
    preview, missing = preview_of(registry, facts, dry_run=dry_run)
    files = build_files(registry, facts, space, consent, options, repo_id, preview)
    files |= attest(registry, facts, options, files, None if policy is None else policy.digest)
    warnings = (*(str(w) for w in decision.warnings), *missing)
    if access is not asked and asked is not None:
        warnings += ("it draws a person, so it is published gated: whoever wants it asks for access",)
    return Prepared(facts, consent, files, access, warnings)


def _planned(
    registry: Registry, repo_id: str, state: RepoState | None, prepared: Prepared
) -> tuple[Prepared, PushPlan]:
    """The plan, with a signature when the registry has a key and what is signed is not there already as it is: a
    new signature over the same content would be a new content."""
    key = signatures.signing_key(registry)
    keep = frozenset({bundle.SIGNATURE})
    if key is None:
        return prepared, plan_push(repo_id, state, prepared.files, prepared.access, weights=WEIGHTS)
    plan = plan_push(repo_id, state, prepared.files, prepared.access, keep=keep, weights=WEIGHTS)
    signed = state is not None and state.file(bundle.SIGNATURE) is not None
    if signed and not plan.delete and set(plan.add) <= {bundle.CARD}:
        return prepared, plan
    files = {**prepared.files, bundle.SIGNATURE: signatures.sign(key, prepared.files, registry.settings.temporary_dir)}
    prepared = replace(prepared, files=files)
    return prepared, plan_push(repo_id, state, files, prepared.access, weights=WEIGHTS)


# -- in the catalog ----------------------------------------------------------------------------
def _check_free(session: Session, hub: Hub, repo_id: str, facts: VersionFacts) -> None:
    """One repo, one identity: its history is taken down as a whole.

    Raises:
        Conflict: another identity is published there.
    """
    for other in releases_in(session, hub.endpoint, repo_id):
        if other.version is not None and other.version.identity.name != facts.name:
            raise Conflict(
                what="Hub repo", name=repo_id, reason=f"holds {other.version.identity.name}; give each identity its own"
            )


def _recorded(session: Session, hub: Hub, repo_id: str, version_id: int, state: RepoState | None) -> Release | None:
    """The row of this version at this very commit."""
    if state is None:
        return None
    row = release_at(session, hub.endpoint, repo_id, state.commit, version_id=version_id)
    return row if row is not None and row.state is ReleaseState.PUBLISHED else None


def _record(
    registry: Registry,
    hub: Hub,
    job_id: str,
    prepared: Prepared,
    plan: PushPlan,
    commit: str,
    tag: str,
    options: Options,
) -> None:
    """The release row, its event, and the note gone; when consent ended meanwhile, the takedown queued with it.

    Raises:
        ConsentDenied: it ended between the gate and now. What went out is being taken down.
    """
    with registry.catalog.write(registry.actor) as uow:
        decision = gate.ask(
            registry,
            Use.PUBLISH,
            versions=[prepared.facts.version_id],
            purpose=options.purpose,
            session=uow.session,
        )
        release = _upsert(uow, hub, prepared, plan, commit, tag, options)
        job = uow.session.get(Job, job_id)
        if job is not None:
            uow.delete(job)
        uow.event(
            "release.push",
            {"release": release.id, "version": prepared.facts.version_id},
            commit=commit,
            # Events stay for ever, so the prompt, which may name somebody, is not among them.
            options=replace(options, instance_prompt=None).to_json(),
            **gate.evidence(decision),
        )
        if not decision.allowed:
            queue(uow, [release.id], UP_TO["delete" if plan.create else "erase"])
            release_id = release.id
    if not decision.allowed:
        takedown.drain(registry, hub, releases=[release_id])
        raise denied(decision)


def denied(decision: Decision) -> ConsentDenied:
    """The error of a refusal."""
    return ConsentDenied(
        operation=str(decision.use),
        purpose=decision.purpose,
        reasons=tuple(str(r) for r in decision.reasons),
        subjects=decision.subjects,
        ways_out=ways_out(decision),
    )


def _upsert(
    uow: UnitOfWork, hub: Hub, prepared: Prepared, plan: PushPlan, commit: str, tag: str, options: Options
) -> Release:
    return record_release(
        uow,
        endpoint=hub.endpoint,
        repo_id=plan.repo_id,
        commit_id=commit,
        version_id=prepared.facts.version_id,
        revision=tag,
        **prepared.access.words,
        format=options.word,
        digests={path: Digests.of(content).sha256 for path, content in sorted(prepared.files.items())},
    )


# -- finishing what was begun ------------------------------------------------------------------
def finish(registry: Registry, hub: Hub, job_id: str) -> str:
    """Bring a push that stopped half-way to its end: ``published``, ``undone`` when it may not go out any more, or
    ``dropped`` when the Hub forbids it and nothing of it ever arrived there.

    Raises:
        HubError: the Hub cannot be reached yet; the note stays.
    """
    with registry.catalog.read() as session:
        job = session.get_one(Job, job_id)
        intent = dict(job.state)
        version = session.get(Version, intent["version"])
        facts = None if version is None else _facts_or_none(registry, session, version)
    options = Options.from_json(intent["options"])
    try:
        if facts is None:
            raise NotFound(what="version", name=intent["ref"])
        prepared = prepare(registry, facts, intent["repo"], Access(intent["access"]), options)
    except (ConsentDenied, NotFound):
        undo(registry, hub, job_id, intent)
        return "undone"
    state = look(hub, intent["repo"])
    prepared, plan = _planned(registry, intent["repo"], state, prepared)
    try:
        commit, tag = carry_out(hub, plan, prepared.files, facts.number)
    except HubError as error:
        if drop_forbidden(registry, hub, job_id, error):
            return "dropped"
        raise
    _record(registry, hub, job_id, prepared, replace(plan, create=bool(intent["created"])), commit, tag, options)
    return "published"


def cancel(registry: Registry, hub: Hub, repo: str) -> str:
    """Give up a push to ``repo`` that was begun and not finished: what of it arrived there is taken back.

    Returns:
        ``undone``, or ``dropped`` when nothing of it had arrived.

    Raises:
        NotFound: no such push. HubError: the Hub cannot be reached, or does not let it be taken back.
    """
    repo_id = check_repo_id(repo)
    with registry.catalog.read() as session:
        found = [job for job in unfinished(session, hub.endpoint) if job.state["repo"] == repo_id]
        if not found:
            raise NotFound(what="unfinished push", name=repo_id)
        job_id, intent = found[0].id, dict(found[0].state)
    if not arrived(hub, intent):
        drop(registry, job_id, intent)
        return "dropped"
    undo(registry, hub, job_id, intent)
    return "undone"


def _facts_or_none(registry: Registry, session: Session, version: Version) -> VersionFacts | None:
    try:
        return read_facts(registry, session, version)
    except RegistryError:
        return None
