"""Whose picture is this? The registry's own pictures, known again by their file, their metadata or their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.pictures import Shown, pictures_by_digest, pictures_marked
from w2w_registry.consent.policy import combined_state
from w2w_registry.diffusion.images import find_photos, open_picture
from w2w_registry.errors import BadImage, MissingExtra
from w2w_registry.marking import c2pa, watermark
from w2w_registry.records import Result, iso
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.recording import pictures
from w2w_registry.services.registry import Registry, present

BROKEN = "its content credentials are broken: the picture was changed after they were signed, or they are another's"
Answer = TypeVar("Answer")
FOREIGN = "its content credentials name a different picture from the number in its pixels"


@dataclass(frozen=True)
class Seen:
    """What a picture says by itself: the mark in its pixels, and its content credentials."""

    found: watermark.Found
    claim: c2pa.Claim | None
    digest: str
    credentials_read: bool = True

    @property
    def ai_generated(self) -> bool:
        """Whether either layer says that a model made it."""
        intact = self.claim is not None and self.claim.state != "invalid"
        return self.found.present or (intact and self.claim is not None and self.claim.ai_generated)

    def told(self, path: Path) -> Detected:
        """What the picture at ``path`` says, in plain values."""
        claim = self.claim
        credentials = None
        if claim is not None:
            credentials = Credentials(claim.state, claim.issuer, claim.generator, claim.model, list(claim.problems))
        return Detected(
            picture=str(path),
            marked=self.found.present,
            false_alarm=self.found.false_alarm,
            mirrored=self.found.mirrored,
            turned=self.found.turned,
            enlarged=self.found.enlarged,
            ai_generated=self.ai_generated,
            credentials=credentials,
            credentials_read=self.credentials_read,
            warnings=list(self.warnings),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not fit together in the picture."""
        claim = self.claim
        if claim is None or claim.state != "invalid":
            return ()
        if claim.mark is None or self.found.mark in (None, claim.mark):
            return (BROKEN,)
        return (BROKEN, FOREIGN)


@dataclass(frozen=True, eq=False)
class Credentials(Result):
    """The content credentials in a picture."""

    state: str
    issuer: str | None
    generator: str | None
    model: str | None
    problems: list[str]


@dataclass(frozen=True, eq=False)
class Detected(Result):
    """What anybody can see in a picture. ``turned``: degrees since it was marked."""

    picture: str
    marked: bool
    false_alarm: float
    mirrored: bool
    turned: int
    enlarged: bool
    ai_generated: bool
    credentials: Credentials | None
    credentials_read: bool
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class Unknown(Detected):
    """A picture that is none of this registry's. ``by``: how one that is was recognised."""

    found: bool
    by: str | None
    identity: str | None
    version: int | None
    operation: str | None
    consent: str | None


@dataclass(frozen=True, eq=False)
class Known(Unknown):
    """One of this registry's pictures: ``identity``, ``version`` and ``ref`` where it shows one alone, what made it,
    and ``lineage``, the versions that those shown were made from."""

    ref: str | None
    seed: int | None
    made: str
    event: int
    lineage: list[str]
    shows: list[ShownVersion]


@dataclass(frozen=True, eq=False)
class ShownVersion(Result):
    """A version that a picture shows, and what it may be used for today."""

    identity: str
    version: int | None
    ref: str
    consent: str
    state: str


def look(path: Path, *, secret: bytes | None = None, root: str | None = None) -> Seen:
    """Read both layers of a picture. Without c2pa-python the credentials stay unread, which is said.

    Raises:
        BadImage: not a picture.
    """
    data, pixels, mime = open_picture(path)
    claim, readable = None, True
    if mime in ("image/png", "image/jpeg", "image/webp"):
        try:
            claim = c2pa.read(data, mime, root)
        except MissingExtra:
            readable = False
    return Seen(watermark.detect(pixels, secret), claim, sha256(data).hexdigest(), readable)


def of_each(paths: Iterable[Path], ask: Callable[[Path], Answer]) -> tuple[list[Answer], list[BadImage]]:
    """What ``ask`` (``detect`` or ``whose``) tells of every picture, those directly in a folder included, and why some
    were not asked about."""
    told: list[Answer] = []
    unread: list[BadImage] = []
    for path in paths:
        try:
            pictures = find_photos(path) if path.is_dir() else [path]
        except BadImage as error:
            pictures, unread = [], [*unread, error]
        for picture in pictures:
            try:
                told.append(ask(picture))
            except BadImage as error:
                unread.append(error)
    return told, unread


def detect(path: Path) -> Detected:
    """What anybody can see in a picture, without a registry.

    Raises:
        BadImage.
    """
    return look(path).told(path)


def whose(registry: Registry, path: Path) -> Unknown:
    """Which of the registry's pictures this is (:class:`Known`), of whom, made by what; and what they consent to today.

    Raises:
        BadImage: not a picture.
    """
    secret, root = pictures.keys_to_read_by(registry)
    seen = look(path, secret=secret, root=root)
    with registry.catalog.read() as session:
        shown, by = _known(session, seen)
        told = seen.told(path)
        if shown is None:
            return Unknown(**told, found=False, by=by, identity=None, version=None, operation=None, consent=None)
        return _about(registry, session, told, shown, by)


def _known(session: Session, seen: Seen) -> tuple[Shown | None, str | None]:
    """The file itself, then what our own intact signature names, then the number in the pixels."""
    for shown in pictures_by_digest(session, seen.digest):
        return shown, "file"
    claim = seen.claim
    if claim is not None and claim.state == "trusted" and claim.mark is not None:
        for shown in pictures_marked(session, [claim.mark]):
            return shown, "credentials"
    if seen.found.mark is not None:
        for shown in pictures_marked(session, [seen.found.mark]):
            return shown, "watermark"
    return None, None


def _about(registry: Registry, session: Session, told: Detected, shown: Shown, by: str | None) -> Known:
    ids = list(shown.versions)
    refs = refs_of(session, ids)
    states = consent_states(session, ids, present(session), gate.rules_of(registry, session))
    reach = walks.ancestors(session, ids)
    above = refs_of(session, set(reach.depth) - set(ids))
    kept = versions_by_id(session, ids)
    people = [
        ShownVersion(refs[i].name, refs[i].number, str(refs[i]), states[i].value, kept[i].state.value)
        for i in ids
        if i in refs
    ]
    alone = people[0] if len(people) == 1 else None
    return Known(
        **told,
        found=True,
        by=by,
        identity=alone.identity if alone else None,
        version=alone.version if alone else None,
        ref=alone.ref if alone else None,
        operation=shown.picture.operation,
        seed=shown.picture.seed,
        made=iso(shown.picture.made),
        event=shown.picture.event_seq,
        consent=combined_state(states.values()).value,
        lineage=[str(above[i]) for i in sorted(above)],
        shows=people,
    )
