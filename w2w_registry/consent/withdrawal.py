"""What a withdrawal does, as values: the plan first, then (elsewhere) its performance step by step.

Blocking is one transaction and comes first: from then on nothing that depicts the subject is served. Every later
step can be done again without harm, so a withdrawal that stopped half-way is resumed by doing what is left, and
one that is asked for twice finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from w2w_registry.commands import command
from w2w_registry.records import digest_of, iso


class Step(StrEnum):
    """Steps in the order they are performed.

    ``BLOCK``: records withdrawn, versions out of service, releases queued for takedown, all in one transaction.
    ``ERASE``: coordinates and everything personal out of the catalog. ``PURGE``: files, previews and caches.
    """

    BLOCK = "block"
    ERASE = "erase"
    PURGE = "purge"
    RECEIPT = "receipt"


@dataclass(frozen=True)
class AffectedVersion:
    """A version that depicts the subject, itself (``derived`` False) or through edits and mixes."""

    version_id: int
    ref: str
    derived: bool
    state: str
    artifacts: tuple[str, ...] = ()


@dataclass(frozen=True)
class AffectedRelease:
    """A publication of an affected version."""

    release_id: int
    repo: str
    commit: str | None
    version_id: int


@dataclass(frozen=True)
class Withdrawal:
    """The plan: everything that will be touched, in canonical order.

    ``recipients`` are those the records name as having received data. ``kept_artifacts`` are files of affected
    versions that others hold too, and which therefore stay. ``spaces`` are weight spaces fitted with the subject's
    models: they cannot forget by themselves. ``language``: the subject's, which the receipt is written in.
    """

    subject: str
    erase: bool
    protect: bool
    at: datetime
    steps: tuple[Step, ...]
    records: tuple[str, ...]
    versions: tuple[AffectedVersion, ...]
    releases: tuple[AffectedRelease, ...]
    purged_artifacts: tuple[str, ...]
    kept_artifacts: tuple[str, ...]
    spaces: tuple[str, ...]
    recipients: tuple[str, ...]
    language: str = "en"

    def to_json(self) -> dict[str, Any]:
        """Plain values: for ``--dry-run --json``, and for the catalog, where ``from_json`` reads them back."""
        return {
            "subject": self.subject,
            "erase": self.erase,
            "protect": self.protect,
            "at": iso(self.at),
            "steps": [str(s) for s in self.steps],
            "records": list(self.records),
            "versions": [
                {"id": v.version_id, "ref": v.ref, "derived": v.derived, "state": v.state} for v in self.versions
            ],
            "releases": [
                {"id": r.release_id, "repo": r.repo, "commit": r.commit, "version": r.version_id} for r in self.releases
            ],
            "purged_artifacts": list(self.purged_artifacts),
            "kept_artifacts": list(self.kept_artifacts),
            "spaces": list(self.spaces),
            "recipients": list(self.recipients),
            "language": self.language,
        }


def from_json(data: Mapping[str, Any]) -> Withdrawal:
    """The withdrawal ``to_json`` wrote, but for the files of single versions, which only the plan needed."""
    return Withdrawal(
        subject=data["subject"],
        erase=data["erase"],
        protect=data["protect"],
        at=datetime.fromisoformat(data["at"]),
        steps=tuple(Step(s) for s in data["steps"]),
        records=tuple(data["records"]),
        versions=tuple(AffectedVersion(v["id"], v["ref"], v["derived"], v["state"]) for v in data["versions"]),
        releases=tuple(AffectedRelease(r["id"], r["repo"], r["commit"], r["version"]) for r in data["releases"]),
        purged_artifacts=tuple(data["purged_artifacts"]),
        kept_artifacts=tuple(data["kept_artifacts"]),
        spaces=tuple(data["spaces"]),
        recipients=tuple(data["recipients"]),
        language=str(data.get("language", "en")),
    )


def plan(
    subject: str,
    now: datetime,
    *,
    records: Iterable[str],
    versions: Iterable[AffectedVersion],
    releases: Iterable[AffectedRelease],
    shared_artifacts: Iterable[str],
    spaces: Iterable[str],
    recipients: Iterable[str],
    erase: bool,
    protect: bool,
    language: str = "en",
) -> Withdrawal:
    """Plan a withdrawal from the facts of the catalog.

    Args:
        records: ids of the subject's records that can still be withdrawn.
        shared_artifacts: digests that unaffected versions hold as well.
        erase: whether files and coordinates go for good, not only out of service.
        protect: whether the subject wants a do-not-recreate reference kept.
    """
    affected = tuple(sorted(versions, key=lambda v: v.version_id))
    published = tuple(sorted(releases, key=lambda r: r.release_id))
    shared = set(shared_artifacts)
    held = sorted({digest for v in affected for digest in v.artifacts}) if erase else []
    wanted = [Step.BLOCK, *([Step.ERASE, Step.PURGE] if erase else []), Step.RECEIPT]
    return Withdrawal(
        subject=subject,
        erase=erase,
        protect=protect,
        at=now,
        steps=tuple(wanted),
        records=tuple(sorted(records)),
        versions=affected,
        releases=published,
        purged_artifacts=tuple(d for d in held if d not in shared),
        kept_artifacts=tuple(d for d in held if d in shared),
        spaces=tuple(sorted(spaces)),
        recipients=tuple(sorted(recipients)),
        language=language,
    )


def left(steps: Sequence[Step], phase: str) -> tuple[Step, ...]:
    """The steps after ``phase``, the last one that was performed."""
    return tuple(steps[list(steps).index(Step(phase)) + 1 :])


@dataclass(frozen=True)
class Tombstone:
    """What is left once all is erased: that something was, when it went, and how much. Names nobody.

    ``subject_digest`` is taken with the withdrawal's own random ``salt``: whoever knows the subject's id can check that
    this was its withdrawal, nobody else can tell whose it was.
    """

    salt: str
    subject_digest: str
    at: str
    versions: int
    releases: int
    files: int
    erased: bool

    def digest(self) -> str:
        return digest_of(self.__dict__)


def tombstone(withdrawal: Withdrawal, salt: str) -> Tombstone:
    """The tombstone of a performed withdrawal; ``salt``: 32 random bytes as hex."""
    return Tombstone(
        salt=salt,
        subject_digest=digest_of({"salt": salt, "subject": withdrawal.subject}),
        at=iso(withdrawal.at),
        versions=len(withdrawal.versions),
        releases=len(withdrawal.releases),
        files=len(withdrawal.purged_artifacts),
        erased=withdrawal.erase,
    )


def remains(
    withdrawal: Withdrawal, say: Callable[..., str] = lambda text, **values: text.format(**values)
) -> tuple[tuple[str, str], ...]:
    """What cannot be taken back, and what to do about it: pairs for the receipt, in plain words. ``say``: a sentence
    in another language, with its values filled in."""
    out: list[tuple[str, str]] = []
    if withdrawal.releases:
        out.append(
            (
                say("Copies of published files that others downloaded before the takedown are out of reach."),
                say(
                    "The recipients below are to be told; the takedown's state: {command}.", command=command("releases")
                ),
            )
        )
    for space in withdrawal.spaces:
        out.append(
            (
                say(
                    "The weight space {space} was fitted with models of this subject and holds a trace of them.",
                    space=space,
                ),
                say(
                    "Fit it again without them: {command}",
                    command=command("space refit", space, without=withdrawal.subject),
                ),
            )
        )
    if withdrawal.kept_artifacts:
        count = len(withdrawal.kept_artifacts)
        one = "One file is also held by models of other subjects and stays."
        out.append(
            (
                say(
                    one if count == 1 else "{count} files are also held by models of other subjects and stay.",
                    count=count,
                ),
                say("Review those models: {command}", command=command("audit query", "unexplained")),
            )
        )
    if not withdrawal.erase:
        out.append(
            (
                say("Files and coordinates are kept out of service, not erased."),
                say(
                    "To erase them for good: {command}",
                    command=command("consent withdraw", withdrawal.subject, erase=True),
                ),
            )
        )
    return tuple(out)
