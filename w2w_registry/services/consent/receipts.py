"""Receipts of a subject's consents (W3C DPV, ISO/IEC TS 27560), issued and written to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from w2w_registry.consent import lifecycle
from w2w_registry.consent.receipt import receipt as receipt_json
from w2w_registry.consent.receipt import receipt_markdown
from w2w_registry.errors import NotFound, UsageError
from w2w_registry.records import Result
from w2w_registry.services.consent import notices
from w2w_registry.services.consent.rows import (
    journal,
    move_record,
    records_of_subject,
)
from w2w_registry.services.recording.outputs import write_outputs
from w2w_registry.services.registry import Registry

_WORDS: Final = Path(__file__).parent / "messages"
LANGUAGES: Final = ("en", *sorted(path.stem for path in _WORDS.glob("*.json")))


def words_of(language: str) -> dict[str, str]:
    """The words of a language for those of a receipt; none for English, and for one there are no words for."""
    path = _WORDS / f"{language.partition('-')[0].lower()}.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def check_language(language: str | None) -> None:
    """Raises UsageError: receipts are not written in it."""
    if language not in (None, *LANGUAGES):
        raise UsageError(reason=f"unknown language {language!r}", hint=f"one of: {', '.join(LANGUAGES)}")


@dataclass(frozen=True, eq=False)
class Issued(Result):
    """The receipt of a record: as JSON-LD, for people to read, and ``warnings`` on what the subject is not told."""

    json: dict[str, Any]
    markdown: str
    warnings: list[str]


def receipt(
    registry: Registry, subject: str, *, record_id: str | None = None, language: str | None = None
) -> list[Issued]:
    """Receipts of a subject's records; that they were issued is noted. A way to withdraw that the record does not state
    is taken from ``[organisation]`` as it is today. The Markdown is in ``language``, or else in the language that the
    subject was told in (the notice's) where there are words for it, or else in English.

    Raises:
        UsageError: no words for the language. NotFound: no such subject or record, or nothing was ever asked or
            granted.
    """
    check_language(language)
    out: list[Issued] = []
    with registry.catalog.write(registry.actor) as uow:
        records = [r for r in records_of_subject(uow.session, subject) if record_id in (None, r.record_id)]
        if not records:
            raise NotFound(what="consent record", name=record_id or subject)
        for record in records:
            noted = lifecycle.note(record, "receipt", uow.now(), registry.actor)
            move_record(uow, noted)
            journal(uow, "consent.receipt", noted)
            way = notices.completed(registry, noted.notice).withdrawal_method
            words = words_of(language or noted.notice.language or "en")
            out.append(
                Issued(
                    receipt_json(noted, uow.now(), way),
                    receipt_markdown(noted, uow.now(), way, words),
                    notices.missing(replace(noted.notice, withdrawal_method=way)),
                )
            )
    return out


def write_receipts(registry: Registry, receipts: Sequence[Issued], folder: Path, *, force: bool = False) -> list[str]:
    """Write each receipt as RECORD.json and RECORD.md into ``folder``; returns the paths.

    Raises:
        OutputExists, OutputInHome: see ``check_outputs``. StorageError: they cannot be written.
    """
    files = {}
    for one in receipts:
        stem = one.json["identifier"]
        files[folder / f"{stem}.json"] = (json.dumps(one.json, indent=2, ensure_ascii=False) + "\n").encode()
        files[folder / f"{stem}.md"] = one.markdown.encode()
    write_outputs(registry, files, force=force)
    return [str(path) for path in files]
