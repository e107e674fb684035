"""What a folder holds and what becomes of it, as values: a survey, the plan made of it, what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from w2w_registry.errors import BadFile, RegistryError
from w2w_registry.lora import Skipped
from w2w_registry.messages import message
from w2w_registry.services.identities.items import Item, Seen
from w2w_registry.services.identities.outcome import lists
from w2w_registry.services.recording.labels import Labels


@dataclass(frozen=True)
class Survey:
    """Everything under the paths: adapters, what cannot be used (with the error), what was passed over. ``prefix``: of
    the names they get. ``labels``: those of the label table by candidate's name; ``unmatched``: its rows that mean none
    of them."""

    seen: tuple[Seen, ...]
    failed: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    prefix: str = ""
    labels: Mapping[str, Labels] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Adapters that go to one place: space ``space`` (fitted first when ``fit``), or none."""

    members: tuple[Seen, ...]
    base_model: str | None
    space: str | None = None
    fit: bool = False
    new: int = 0

    def to_json(self) -> dict[str, Any]:
        kinds = Counter(one.kind for one in self.members)
        return {
            "space": self.space,
            "fit": self.fit,
            "files": len(self.members),
            "different": self.new,
            "base_model": self.base_model,
            "base_hints": sorted({one.base_hint for one in self.members if one.base_hint}),
            "kinds": dict(sorted(kinds.items())),
            "parts": sorted({one.part for one in self.members}),
            "formats": dict(sorted(Counter(one.format for one in self.members).items())),
            "ranks": sorted({rank for one in self.members for rank in one.ranks}),
        }


@dataclass(frozen=True)
class Plan:
    """What ``perform`` will do. ``items``: what is foreseen of each adapter; what is there, or in the folder twice, is
    existing. ``init``: there is no registry yet. ``unfitted``: what keeps groups that are large enough from a space."""

    survey: Survey
    groups: tuple[Group, ...]
    init: bool
    items: tuple[Item, ...]
    unfitted: Mapping[str, RegistryError] = field(default_factory=dict)

    @property
    def added(self) -> int:
        return sum(item.status == "added" for item in self.items)

    @property
    def existing(self) -> int:
        return sum(item.status == "existing" for item in self.items)

    @property
    def refused(self) -> tuple[Item, ...]:
        """What would not be let in (``asked``)."""
        return tuple(item for item in self.items if item.error is not None)

    @property
    def held(self) -> int:
        return sum(item.held for item in self.items)

    @property
    def fits(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.fit)

    def to_json(self) -> dict[str, Any]:
        return {
            **lists((*self.survey.failed, *self.items), self.survey.skipped),
            "spaces": sorted({group.space for group in self.groups if group.space is not None}),
            "fitted": [group.space for group in self.fits],
            "not_fitted": {space: message(error) for space, error in self.unfitted.items()},
            "unmatched_labels": list(self.survey.unmatched),
            "groups": [group.to_json() for group in self.groups],
        }


@dataclass(frozen=True)
class Intake:
    """What became of everything. ``fitted``: spaces made; ``unfitted``: what kept one from being made;
    ``unmatched``: rows of the label table that name none of the files."""

    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    fitted: tuple[str, ...] = ()
    unfitted: dict[str, RegistryError] = field(default_factory=dict)
    spaces: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when no file failed; the failures' common exit code, or 5 when they differ."""
        codes = {item.error.exit_code for item in self.items if item.error is not None}
        return 0 if not codes else codes.pop() if len(codes) == 1 else BadFile.exit_code


def repeats(seen: Sequence[Seen]) -> dict[int, int]:
    """Those that are the same model as one before them: their place → its place."""
    first: dict[int, int] = {}
    places = [first.setdefault(one.model, i) for i, one in enumerate(seen)]
    return {i: place for i, place in enumerate(places) if place != i}
