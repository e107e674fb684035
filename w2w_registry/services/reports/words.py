"""Reports as pages: templates filled with words of a language. A further language is one more file of messages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from w2w_registry.records import iso
from w2w_registry.services.audit.phrases import Said, spoken
from w2w_registry.services.reports.figures import NOT_MEASURED, ranges

_HERE: Final = Path(__file__).parent
LANGUAGES: Final = tuple(sorted(path.stem for path in (_HERE / "messages").glob("*.json")))
FALLBACK: Final = "en"
WORDED: Final = frozenset({"what", "state", "use", "decision", "reasons", "step", "consent", "made_by", "why"})
"""Columns whose texts are of a fixed vocabulary, and are said in the report's language."""


@lru_cache(maxsize=8)
def messages(language: str) -> dict[str, str]:
    """Key -> text; what a language does not say yet is said in English."""
    found: dict[str, str] = json.loads((_HERE / "messages" / f"{FALLBACK}.json").read_text("utf-8"))
    own: dict[str, str] = json.loads((_HERE / "messages" / f"{language}.json").read_text("utf-8"))
    return found | own


def render(template: str, language: str, **values: Any) -> str:
    """A template filled in; in a page everything is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    texts = messages(language)
    room = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    room.globals["t"] = lambda key, **more: str(texts.get(key, key)).format(**more)
    room.filters["figure"] = lambda value: _figure(value, texts)
    room.filters["money"] = lambda value, digits=2: _money(value, digits, texts)
    room.filters["timed"] = lambda value: _figure(value, texts) if isinstance(value, str) else _duration(value)
    room.filters["digits"] = _digits
    room.filters["ranges"] = ranges
    room.filters["bytes"] = _bytes
    room.filters["yours"] = lambda value: texts.get(f"you_{value}", _figure(value, texts))
    room.filters["happened"] = lambda row: _happened(row, texts)
    room.filters["tried"] = lambda value: texts.get(f"try_{value}", _figure(value, texts))
    room.filters["said"] = lambda value: _said(value, texts)
    room.filters["moment"] = _moment
    room.filters["cell"] = lambda value, column=None: _column(column, value, texts)
    room.filters["duration"] = _duration
    return room.get_template(template).render(language=language, **values)


def _happened(row: Mapping[str, Any], texts: dict[str, str]) -> str:
    """What an event or a thing is, to the person it is about. Most models that are made are recorded by an event of
    their own."""
    if row["state"] == "version.add" and row["kind"] not in ("import", "pull"):
        return texts["you_recorded"]
    words = texts.get(f"you_{row['kind']}") or texts.get(f"act_{row['state']}")
    return words or _figure(row["kind"], texts)


def _figure(value: Any, texts: dict[str, str]) -> str:
    if value is None or value == NOT_MEASURED:
        return texts["not_measured"]
    if isinstance(value, (list, tuple)):
        return " – ".join(_figure(v, texts) for v in value)
    if isinstance(value, float):
        digits = 2 if abs(value) >= 0.01 or value == 0 else 1 - math.floor(math.log10(abs(value)))
        return f"{value:,.{digits}f}"  # two figures that count, and never a power of ten
    if isinstance(value, int):
        return f"{value:,}"
    return texts.get(str(value), str(value))


def _digits(whole: Any) -> int:
    """How many decimals the amounts of a table have, so that its total has three figures: two at least."""
    return 2 if not isinstance(whole, float) or whole <= 0 else min(9, max(2, 2 - math.floor(math.log10(whole))))


def _money(value: Any, digits: int, texts: dict[str, str]) -> str:
    """An amount to so many decimals; a smaller one is said to be smaller (JSON and CSV have them in full)."""
    if isinstance(value, (list, tuple)):
        return " – ".join(_money(one, digits, texts) for one in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _figure(value, texts)
    least: float = 10.0**-digits
    return f"< {least:.{digits}f}" if 0 < value < least / 2 else f"{value:,.{digits}f}"


def _bytes(value: Any) -> Any:
    """A size as people say it: 29.9 MB."""
    if not isinstance(value, (int, float)):
        return value
    power = min(4, max(0, int(math.log10(max(value, 1)) // 3)))
    return f"{value:.0f} B" if power == 0 else f"{value / 1000**power:.1f} {' kMGT'[power]}B"


def _column(column: str | None, value: Any, texts: dict[str, str]) -> str:
    """A table's cell: an action with its code, the words of what has a fixed vocabulary in the language, names as they
    are (somebody's model may be called ``held``)."""
    if column == "action":
        words = texts.get(f"act_{value}")
        return texts["act_code"].format(words=words, code=value) if words else str(value)
    if column == "seq":
        return str(value)
    return _cell(value, texts, worded=column in WORDED)


def _said(value: Any, texts: dict[str, str]) -> str:
    """A text made of phrases in the words of the language, any other value as it is."""
    if not isinstance(value, Said):
        return _figure(value, texts)
    phrases = {key.removeprefix("said_"): text for key, text in texts.items() if key.startswith("said_")}
    parts = tuple(
        (name, {key: _purposes(key, one, texts) for key, one in values.items()}) for name, values in value.parts
    )
    return spoken(parts, phrases, between=texts["between"])


def _purposes(key: str, value: Any, texts: dict[str, str]) -> Any:
    """A value of a phrase; purposes are of a fixed vocabulary and have words of their own."""
    if key not in ("purpose", "purposes"):
        return value
    return texts["comma"].join(texts.get(f"for_{one}") or texts.get(one, one) for one in str(value).split(", "))


def _moment(value: Any) -> str:
    """UTC, to the second, and said to be UTC."""
    if value is None:
        return "–"
    text = iso(value) if isinstance(value, datetime) else str(value)
    return text[:19].replace("T", " ") + " UTC"


def _duration(seconds: float | None) -> str:
    """Seconds as people say them: 3 s, 5 min, 2.5 h, 4.0 d."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _cell(value: Any, texts: dict[str, str], *, worded: bool) -> str:
    """Any value in a table: lists with semicolons, tables as k=v, instants in UTC, digests short."""
    if value is None or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return texts["yes"] if value else texts["no"]
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_cell(v, texts, worded=worded)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_cell(v, texts, worded=worded) for v in value)
    if isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"):
        return value[:12]
    return str(value) if isinstance(value, str) and not worded else _figure(value, texts)
