"""Every word that a consent can say has a term of the Data Privacy Vocabulary, or is said to have none."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from w2w_registry.consent import dpv
from w2w_registry.consent.receipt import CONTEXT, receipt
from w2w_registry.consent.records import ANY_PURPOSE, PURPOSES, ConsentRecord, Notice, Scope, Status, Use

NOW = datetime(2027, 1, 1, tzinfo=UTC)
RECORD = ConsentRecord("cr-1", "s-1", Status.GIVEN, Scope(purposes=PURPOSES, uses=tuple(Use)))
LISTED = {
    line.partition(":")[0]: set(line.partition(":")[2].split())
    for line in Path(__file__).with_name("dpv_terms.txt").read_text().splitlines()[1:]
}


def test_every_word_has_a_term_or_is_said_to_have_none() -> None:
    assert set(dpv.PURPOSE) == {*PURPOSES, ANY_PURPOSE}
    assert set(dpv.PROCESSING) == set(Use)
    assert set(dpv.STATUS) == set(Status)
    assert set(dpv.DATA) == set(Notice().data_types or ())


@pytest.mark.parametrize(
    ("table", "module"),
    [
        (dpv.PURPOSE, "purposes"),
        (dpv.PROCESSING, "processing"),
        (dpv.STATUS, "consent_status"),
        (dpv.DATA, "personal_data"),
        ({"basis": dpv.LEGAL_BASIS}, "legal_basis"),
        ({right: right for right in dpv.RIGHTS}, "rights"),
        ({"s": dpv.SUBJECT, "g": dpv.GUARDIAN}, "entities_datasubject"),
    ],
)
def test_every_term_is_one_of_its_kind(table: dict[str, str | None], module: str) -> None:
    terms = {term for term in table.values() if term is not None}
    assert terms
    assert terms <= LISTED[module]


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("guardian", [None, "g-1"])
def test_a_receipt_uses_no_other_terms(status: Status, guardian: str | None) -> None:
    made = receipt(replace(RECORD, status=status, guardian=guardian), NOW)
    used = {*_terms(made), *_terms(CONTEXT)}
    assert used <= set().union(*LISTED.values())
    assert {"hasPurpose", "hasProcessing", "hasRight", "eu-gdpr:A7-3"} <= used
    assert made["indicated_by"] == ("dpv:DataSubject" if guardian is None else "dpv:GuardianOfDataSubject")


def test_what_a_receipt_says_in_both() -> None:
    said = receipt(replace(RECORD, scope=Scope(("research", "film", "mine"), uses=(Use.EDIT, Use.GENERATE))), NOW)
    assert said["purposes"] == ["research", "film", "mine"]
    assert said["has_purpose"] == ["dpv:ResearchAndDevelopment"]
    assert said["has_processing"] == ["dpv:Adapt", "dpv:Generate"]
    assert said["has_personal_data"] == ["dpv:CollectedPersonalData", "dpv:DerivedPersonalData"]
    every = receipt(replace(RECORD, scope=Scope((ANY_PURPOSE,))), NOW)
    assert every["has_purpose"] == ["dpv:Purpose"]
    assert len(every["has_processing"]) == len(set(dpv.PROCESSING.values()))


def _terms(value: Any) -> set[str]:
    """Every compact IRI of DPV in a document, without DPV's own prefix."""
    if isinstance(value, dict):
        return set().union(*map(_terms, value.values()), set())
    if isinstance(value, list):
        return set().union(*map(_terms, value), set())
    found = re.fullmatch(r"dpv:(\w+)|(eu-gdpr:[\w-]+)", value) if isinstance(value, str) else None
    return set() if found is None else {found[1] or found[2]}
