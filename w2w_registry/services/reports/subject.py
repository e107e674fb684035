"""The subject's answer as a page a person can read, print and keep."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from w2w_registry.artifacts import write_atomic
from w2w_registry.errors import UsageError
from w2w_registry.records import Result, now
from w2w_registry.services.audit.subject import PARTS, about_subject
from w2w_registry.services.registry import Registry
from w2w_registry.services.reports.words import LANGUAGES, render


@dataclass(frozen=True, eq=False)
class SubjectPage(Result):
    """Where a subject's page was written, and how many rows each part of it has."""

    path: str
    rows: dict[str, int]


def write(registry: Registry, subject: str, out: Path, language: str) -> SubjectPage:
    """Write everything about a subject as ``.html``.

    Raises:
        NotFound: no such subject. UsageError: another kind of file or language. StorageError.
    """
    if out.suffix != ".html":
        hint = "a browser prints it as PDF"
        raise UsageError(reason=f"this report is .html, not {out.suffix or out.name!r}", hint=hint)
    if language not in LANGUAGES:
        raise UsageError(reason=f"unknown language {language!r}", hint=f"one of: {', '.join(LANGUAGES)}")
    rows = sorted(about_subject(registry, subject), key=lambda row: PARTS.index(row["what"]))
    parts = [(part, list(found)) for part, found in groupby(rows, key=lambda row: row["what"])]
    organisation = registry.settings.organisation
    text = render("subject.html", language, subject=subject, parts=parts, organisation=organisation, at=now())
    write_atomic(out, text.encode())
    return SubjectPage(str(out), {part: len(found) for part, found in parts})
