"""The same photograph under two names: what was trained on it, or found in it, depicts the same person."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from w2w_registry.catalog.lineage import made_from
from w2w_registry.catalog.models import InputKind
from w2w_registry.consent.second_look import By
from w2w_registry.services.consent.second_look import Near
from w2w_registry.services.recording.versions import Activity

_MOST = 20  # versions made from the same photos that are compared


def with_same_photos(
    session: Session, activities: Sequence[Activity | None], near: Sequence[Sequence[Near]]
) -> list[Sequence[Near]]:
    """``near``, each with the newest versions that were made from one of its photos, bit for bit."""
    photos = [
        {one.digest for one in ([] if activity is None else activity.inputs) if one.kind is InputKind.PHOTO}
        for activity in activities
    ]
    made = made_from(session, {digest for digests in photos for digest in digests if digest is not None})
    found: list[Sequence[Near]] = []
    for digests, known in zip(photos, near, strict=True):
        there = {one.version_id for one in known}
        same = sorted({i for digest in digests for i in made.get(digest or "", ())} - there, reverse=True)
        found.append([*known, *(Near(i, By.PHOTO, 1.0, 0.0) for i in same[:_MOST])])
    return found
