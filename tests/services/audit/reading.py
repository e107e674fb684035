"""A second, much simpler reading of the rules: who granted what, what was made from what, and what that allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from w2w_registry.consent.records import Use

SUBJECTS = ("s1", "s2", "s3")
PURPOSES = ("research", "ads")
OPEN_TO_THE_UNKNOWN = (Use.REGISTER, Use.TRAIN, Use.INVERT)


@dataclass
class Grant:
    """The model's record: live until something ends it."""

    record: str
    purposes: tuple[str, ...]
    derivatives: bool
    publication: bool
    until: Any
    live: bool = True

    def covers(self, use: Use, derived: bool, purpose: str, at: Any) -> bool:
        everything = "any" in self.purposes
        return (
            self.live
            and (everything or purpose in self.purposes)
            and (everything or self.derivatives or not (derived or use in (Use.EDIT, Use.MIX)))
            and (self.publication or use is not Use.PUBLISH)
            and (self.until is None or at < self.until)
        )


@dataclass(eq=False)
class Made:
    """The model's version. ``needs``: it depicts somebody though nobody is named."""

    id: int
    ref: str
    subject: str | None
    needs: bool
    parents: tuple[Made, ...] = ()
    state: str = "active"
    repo: str | None = None

    def upstream(self) -> Iterator[tuple[Made, bool]]:
        """Everything it came from, with whether through an edit or mix; each version once each way."""
        seen: set[tuple[int, bool]] = set()
        stack: list[tuple[Made, bool]] = [(self, False)]
        while stack:
            one, derived = stack.pop()
            if (one.id, derived) not in seen:
                seen.add((one.id, derived))
                yield one, derived
                stack += [(parent, True) for parent in one.parents]


@dataclass
class Model:
    """``protected``: subjects with a do-not-recreate reference, and the seeds of the LoRAs it was made of.
    ``refusing``: who withdrew or was protected, with or without a record, and has not consented since."""

    grants: dict[str, list[Grant]] = field(default_factory=lambda: {s: [] for s in SUBJECTS})
    versions: list[Made] = field(default_factory=list)
    released: list[Made] = field(default_factory=list)
    protected: dict[str, list[int]] = field(default_factory=dict)
    refusing: set[str] = field(default_factory=set)

    def allows(self, use: Use, versions: list[Made], purpose: str, at: Any) -> bool:
        """Whether versions may be used so."""
        if any(v.state != "active" for v in versions):
            return False
        for version in versions:
            for source, derived in version.upstream():
                if source.subject is None:
                    if source.needs:
                        return False
                elif not any(g.covers(use, derived, purpose, at) for g in self.grants[source.subject]):
                    return False
        return True

    def welcomes(self, use: Use, subject: str | None, purpose: str, at: Any) -> bool:
        """Whether something new of a subject may be made: the unknown may, who ended a consent has to grant again."""
        assert use in OPEN_TO_THE_UNKNOWN
        records = [] if subject is None else self.grants[subject]
        unknown = subject not in self.refusing and all(g.live for g in records)
        return unknown or any(g.covers(use, False, purpose, at) for g in records)

    def refuses(self, at: Any) -> bool:
        """Whether anybody's likeness is kept out: withdrawn, protected, or nothing they granted holds any longer."""
        lapsed = any(
            grants and not any(g.live and (g.until is None or at < g.until) for g in grants)
            for grants in self.grants.values()
        )
        return lapsed or bool(self.refusing) or bool(self.protected)

    def depicting(self, subject: str) -> list[Made]:
        return [v for v in self.versions if any(s.subject == subject for s, _ in v.upstream())]

    def end(self, subject: str, *, erase: bool = False) -> None:
        """Nothing a subject granted holds any longer, and what depicts them is out of service."""
        for grant in self.grants[subject]:
            grant.live = False
        for version in self.depicting(subject):
            if erase:
                version.state = "erased"
            elif version.state in ("active", "held"):
                version.state = "blocked"
