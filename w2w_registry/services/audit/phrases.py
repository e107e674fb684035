"""What the subject's answer says of each thing: English text that reports can say again in another language.

``said("given_out", files=…)`` is a string like any other; its ``parts`` name the phrases it is made of. A language's
catalogue of messages translates phrase ``x`` under the key ``said_x``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

ENGLISH: Final[Mapping[str, str]] = {
    "allowed": "allowed for {purpose}",
    "allowed_by": "allowed by {records} for {purpose}",
    "another_held": "a model that named somebody else was held (by {by}, {score})",
    "another_like_own": "a model that names somebody else resembles your {like} (by {by}, {score})",
    "at_commit": "{version} at {commit}",
    "by_actor": "by {actor}",
    "decided_distinct": "decided by {resolver}: it shows somebody else",
    "decided_own": "decided by {resolver}: it is who it says it is",
    "decided_same": "decided by {resolver}: it shows you",
    "decided_same_other": "decided by {resolver}: it shows the person of the other model",
    "depicts": "depicts the subject",
    "derived": "made from a model of the subject",
    "edits_no": "no edits or mixes",
    "edits_yes": "edits and mixes allowed",
    "event": "event {seq}",
    "except_for": "not for {purposes}",
    "file_of": "{version}, {bytes} bytes",
    "files": "files {files}",
    "finished": "finished",
    "fitted": "fitted with",
    "given": "given {at} UTC",
    "held_open": "not decided yet",
    "held_phase": "at {phase}",
    "in_return": "in return: {compensation}",
    "kept_as_preview": "kept to show the model by",
    "known_again": "by which the model is known again",
    "looked_at": "somebody looked at it",
    "mark": "mark {mark}",
    "model_by": "{versions} by {actor}",
    "models": "{versions}",
    "models_many": "{count} models",
    "models_many_by": "{count} models by {actor}",
    "named_in": "named in consent {record}",
    "no_number": "too small to carry a number",
    "on_notice": "as told in {notice}",
    "only_in": "only in {territory}",
    "only_uses": "only to {uses}",
    "own_like_another": "it resembles a model that does not name you (by {by}, {score})",
    "own_like_own": "it resembles your {like} (by {by}, {score})",
    "pictures": "pictures: {count}",
    "publication_no": "no publication",
    "publication_yes": "publication allowed",
    "refuses": "refuses new models from a similarity of {threshold} on",
    "replaced": "replaced by a later one",
    "terms": "for {purposes}; until {until}",
    "terms_open": "for {purposes}; until withdrawn",
    "with_erasure": "with erasure",
}


class Said(str):
    """A text with the phrases it is made of: (name, values) each."""

    parts: tuple[tuple[str, Mapping[str, Any]], ...]

    def __new__(cls, *parts: tuple[str, Mapping[str, Any]]) -> Said:
        told = super().__new__(cls, spoken(parts, ENGLISH))
        told.parts = parts
        return told

    def and_(self, name: str, **values: Any) -> Said:
        """This, and one phrase more."""
        return Said(*self.parts, (name, values))


def said(name: str, **values: Any) -> Said:
    """One phrase."""
    return Said((name, values))


def spoken(parts: tuple[tuple[str, Mapping[str, Any]], ...], phrases: Mapping[str, str], *, between: str = "; ") -> str:
    """The phrases in the words of a language; what it does not have is said in English."""
    return between.join(phrases.get(name, ENGLISH[name]).format(**values) for name, values in parts)
