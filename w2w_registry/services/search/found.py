"""What a search is asked with, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2w_registry.records import Result

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")


def is_photo(text: str) -> bool:
    """Whether a query is a picture file rather than a name or an adapter."""
    path = Path(text).expanduser()
    return path.suffix.lower() in PICTURES and path.exists()


@dataclass(frozen=True)
class Query:
    """What a search is asked with: a registered name or a path as typed, and the file when it was fetched.

    ``photo``: the file was found for a photo, and is no trained LoRA.
    """

    text: str
    file: Path | None = None
    photo: bool = False

    @property
    def path(self) -> Path:
        """Where its file lies, when it is not taken for a registered name."""
        return self.file or Path(self.text).expanduser()


@dataclass(frozen=True)
class Hit:
    """One result.

    ``by``: compared by weights or by behaviour. ``verdict``: same, likely or no; None where a space was never
    calibrated. ``false_alarm``: the chance that a stranger's search among as many people ends with such a score; None
    where it is not known. ``same_model``: how the query is known to be this very model, and then nothing else is
    asked; None where it is another. ``same_identity``: whether the score reaches the space's threshold; by behaviour,
    whether the verdict is "same". ``score_weights``: what weights say of the same version, when both were asked.
    """

    rank: int
    identity: str
    version: int
    score: float
    same_identity: bool | None
    kind: str
    consent: str
    by: str = "weights"
    verdict: str | None = None
    false_alarm: float | None = None
    same_model: str | None = None
    score_weights: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field; ``score_weights`` only where both were asked."""
        return {k: v for k, v in vars(self).items() if k != "score_weights" or self.by == "both"}


@dataclass(frozen=True, eq=False)
class Found(Result):
    """What a search found. ``residual``: share of the query the space cannot represent; None for a registered one.

    By behaviour ``space`` is None and ``base`` says which base model was asked. ``people``: in how many the query was
    looked for. ``gap``: how far the best score lies above the next person's.

    ``certainty``: ``exact`` (every version was compared), ``certified`` (it is proven that nobody else reaches the
    threshold), ``approximate`` (a version among the nearest may be missing, fewer than one in a hundred) or ``fast``
    (about three in a hundred).
    """

    query: str
    space: str | None
    metric: str
    residual: float | None
    results: tuple[Hit, ...]
    threshold: float | None
    false_match_rate: float | None
    warnings: tuple[str, ...] = ()
    certainty: str = "exact"
    by: str = "weights"
    base: str | None = None
    people: int | None = None
    gap: float | None = None
