"""Reports as pages: templates filled with words of a language. A further language is one more file of messages."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from w2w_registry.records import iso
from w2w_registry.services.reports.figures import NOT_MEASURED

_HERE: Final = Path(__file__).parent
LANGUAGES: Final = tuple(sorted(path.stem for path in (_HERE / "messages").glob("*.json")))
FALLBACK: Final = "en"


@lru_cache(maxsize=8)
def messages(language: str) -> dict[str, str]:
    """Key -> text; what a language does not say yet is said in English."""
    found: dict[str, str] = json.loads((_HERE / "messages" / f"{FALLBACK}.json").read_text("utf-8"))
    own: dict[str, str] = json.loads((_HERE / "messages" / f"{language}.json").read_text("utf-8"))
    return found | own


def render(template: str, language: str, **values: Any) -> str:
    """A template filled in; everything is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    texts = messages(language)
    room = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    room.globals["t"] = lambda key, **more: str(texts.get(key, key)).format(**more)
    room.filters["figure"] = lambda value: _figure(value, texts)
    room.filters["moment"] = _moment
    return room.get_template(template).render(language=language, **values)


def _figure(value: Any, texts: dict[str, str]) -> str:
    if value is None or value == NOT_MEASURED:
        return texts["not_measured"]
    if isinstance(value, (list, tuple)):
        return " – ".join(_figure(v, texts) for v in value)
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
    if isinstance(value, int):
        return f"{value:,}"
    return texts.get(str(value), str(value))


def _moment(value: Any) -> str:
    """UTC, to the second, and said to be UTC."""
    if value is None:
        return "–"
    text = iso(value) if isinstance(value, datetime) else str(value)
    return text[:19].replace("T", " ") + " UTC"
