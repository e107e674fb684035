"""How values look on a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

_COMMANDING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(value: Any) -> str:
    """Text without what could turn, hide or break its neighbours: control and direction characters become �."""
    return _COMMANDING.sub("\ufffd", str(value))


def finalize(value: Any) -> Any:
    """What a template puts out of a value: text is always ``plain``, whoever forgot to say so."""
    return _COMMANDING.sub("\ufffd", value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def number(value: Any, digits: int = 3) -> str:
    """A number for reading: ``0.123``, ``12,345``, a dash when there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
            return f"{value:.2e}"
        return f"{value:.{digits}g}" if abs(value) < 100 else f"{value:,.0f}"
    return plain(value)


def score(value: Any) -> str:
    """A score or a threshold: as many digits for each, so that they line up and compare."""
    if value is None:
        return "–"
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}").replace("-", "−")


def sentence(value: Any) -> str:
    """What a service said as a sentence of its own: a capital, unless it begins with a name, and a full stop."""
    text = plain(value).strip()
    first = text.partition(" ")[0]
    named = any(one in first.rstrip(",;:") for one in "./@_-:0123456789")
    return text if not text else (text if named else text[0].upper() + text[1:]) + ("" if text[-1] in ".?!" else ".")


def parts_of(text: str) -> list[str]:
    """A text at its back quotes: every second part is something to type."""
    found = plain(text).split("`")
    return found if len(found) % 2 else [plain(text)]


def told(value: Any) -> str:
    """A parameter of an operation, however it is built."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {told(one)}" for key, one in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(told(one) for one in value) or "none"
    return "none" if value is None else number(value) if isinstance(value, float | bool) else plain(value)


def moment(value: Any) -> str:
    """A moment as people read it: ``26 Nov 2026, 14:05`` UTC."""
    found = _moment(value)
    return "–" if found is None else f"{found.day} {found:%b %Y, %H:%M}"


def day(value: Any) -> str:
    found = _moment(value)
    return "–" if found is None else f"{found.day} {found:%b %Y}"


def iso8601(value: Any) -> str:
    found = _moment(value)
    return "" if found is None else found.strftime("%Y-%m-%dT%H:%M:%SZ")


def short(value: Any, length: int = 12) -> str:
    """The beginning of a digest."""
    return "–" if value is None else plain(value)[:length]


def percent(value: Any) -> str:
    return "–" if value is None else f"{100 * float(value):.1f}%"


def chance(value: Any) -> str:
    """A chance as people read it: ``3 in 100``, ``1 in 2,000``, never nought."""
    if value is None:
        return "–"
    share = float(value)
    if share >= 0.01:
        return f"{100 * share:.0f} in 100"
    if share <= 1e-6:
        return "less than 1 in a million"
    return f"1 in {round(1 / share, -1 if share > 1e-3 else -2):,.0f}"


SAID_ABOUT: Final = frozenset({"title", "trigger", "base_hint", "license", "tags", "notes", "strength"})
"""Labels that are about the file, and may well name somebody."""


def alt(labels: Mapping[str, Any], kind: str = "picture") -> str:
    """What a picture shows, said from its labels: never who it is."""
    said = []
    for name, value in list(labels.items())[:40]:
        if name in SAID_ABOUT:
            continue
        name = plain(name).replace("_", " ")
        if isinstance(value, bool) or value in (0, 1, 0.0, 1.0):
            if value:
                said.append(name)
        elif isinstance(value, str):
            said.append(f"{name}: {plain(value)}")
    what = {"person": "a face", "product": "a product", "style": "a style", "animal": "an animal"}.get(
        kind, "a picture"
    )
    return f"{what} with {', '.join(said[:6])}" if said else what


def tag_where(pair: tuple[str, str]) -> str:
    """The filter for a tag."""
    return f"tag.{quoted(pair[0])} = {quoted(pair[1])}"


def quoted(text: str) -> str:
    """A value as the filter's language reads it whole."""
    return text if text.replace("-", "").replace("_", "").isalnum() else "'" + text.replace("'", "''") + "'"


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "plain": plain,
    "number": number,
    "score": score,
    "sentence": sentence,
    "parts_of": parts_of,
    "told": told,
    "moment": moment,
    "day": day,
    "iso8601": iso8601,
    "short": short,
    "percent": percent,
    "chance": chance,
    "alt": alt,
    "tag_where": tag_where,
    "quoted": quoted,
}
