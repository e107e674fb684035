"""Reports say what has a fixed vocabulary in their language, and leave names alone."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import w2w_registry
from tests.services.small import Small
from w2w_registry.catalog.releases import ReleaseState, TakedownState
from w2w_registry.catalog.session import Catalog
from w2w_registry.catalog.spaces import SpaceState
from w2w_registry.catalog.subjects import SubjectState
from w2w_registry.consent.reasons import ReasonCode
from w2w_registry.consent.records import PURPOSES, Status, Use
from w2w_registry.consent.withdrawal import Step
from w2w_registry.records import ConsentState, Kind, OperationKind, VersionState
from w2w_registry.services.audit.phrases import said
from w2w_registry.services.audit.queries import UNEXPLAINED
from w2w_registry.services.reports import regulator
from w2w_registry.services.reports.words import LANGUAGES, _column, _said, messages

PACKAGE = Path(w2w_registry.__file__).parent
VOCABULARIES = (
    *(ConsentState, Kind, OperationKind, ReasonCode, ReleaseState, SpaceState, Status, Step, SubjectState),
    *(TakedownState, Use, VersionState),
)


def own(language: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((PACKAGE / f"services/reports/messages/{language}.json").read_text("utf-8"))
    return found


def actions() -> Iterator[str]:
    """Every action that the services write into the log, read from their code."""
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] in ("event", "journal"):
                for part in (c for argument in call.args[:2] for c in ast.walk(argument)):
                    if isinstance(part, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(part.value)):
                        yield str(part.value)


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_every_word_of_a_fixed_vocabulary_is_said_in_the_language(language: str) -> None:
    said = own(language)
    words = {
        *(str(word) for vocabulary in VOCABULARIES for word in vocabulary),
        *PURPOSES,
        *UNEXPLAINED,
        "allowed",
        "refused",
    }
    assert words - set(said) == set()


def test_every_action_of_the_log_is_said_in_every_language() -> None:
    found = set(actions())
    assert len(found) > 40
    for language in LANGUAGES:
        assert {f"act_{action}" for action in found} - set(own(language)) == set(), language


@pytest.mark.parametrize(("language", "words"), [("en", "for any purpose"), ("ja", "目的：すべて")])
def test_purposes_in_a_phrase_have_words_of_their_own(language: str, words: str) -> None:
    assert words in _said(said("terms_open", purposes="any"), messages(language))


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", "for research, advertising; until withdrawn; publication allowed"),
        ("ja", "目的：研究、広告、撤回するまで有効；公開も可"),
    ],
)
def test_phrases_are_joined_as_the_language_joins_them(language: str, words: str) -> None:
    told = said("terms_open", purposes="research, advertising").and_("publication_yes")
    assert _said(told, messages(language)) == words


def test_names_are_left_alone() -> None:
    texts = messages("ja")
    assert _column("versions", ["held@1", "research"], texts) == "held@1; research"
    assert _column("reasons", ["held", "no-record"], texts) == f"{texts['held']}; {texts['no-record']}"
    assert _column("seq", 1012, texts) == "1012"
    assert _column("action", "version.export", texts) == "ファイルの書き出し（version.export）"


def test_the_japanese_page_says_what_was_counted_in_japanese(sqlite_catalog: Catalog, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    made = Small(sqlite_catalog, tmp_path)
    made.grant("s1")
    made.derive("m", made.add("a", "s1"), how=Use.MIX)
    regulator.write(made.registry, out, regulator.Period(), language="ja")
    page = out.read_text("utf-8")
    counts = page[page.index('<section id="counts">') :].split("</section>")[0]
    cells = re.findall(r"<td[^>]*>([^<\n]+)", counts)
    assert cells
    assert [cell for cell in cells if re.search("[A-Za-z]", cell)] == []


def test_japanese_has_its_own_colon_and_no_space_behind_it() -> None:
    assert [key for key, text in own("ja").items() if re.search(r"：\s|、\s|。\s(?!\Z)", text)] == []
    assert not any(
        re.search(r'"\) }}: ', page.read_text("utf-8")) for page in (PACKAGE / "services/reports/templates").iterdir()
    )
