"""Whether a subject's id, which the log keeps for ever, says who the subject is."""

from __future__ import annotations

import re

_ROLES = frozenset(
    """subject person people donor actor actress model talent client customer user member participant player patient
    voice face faces holder owner brand estate guardian test demo anon anonymous pseudonym team project shoot cast
    num number case ref rec part item group batch unit one two the and for""".split()  # noqa: SIM905
)
_WORD = re.compile(r"[^\W\d_]+")
_HEX = re.compile(r"[0-9a-f]{6,}|[0-9a-f-]{32,}", re.IGNORECASE)


def looks_like_a_name(subject_id: str) -> bool:
    """Whether an id looks like a name or an address rather than a pseudonym.

    A guess, for a warning: a word of three letters or more that is no role ("subject", "donor") and no hexadecimal
    number may be a name; ``s-17``, ``donor-0042`` and ``9f3c2a`` are not.
    """
    if "@" in subject_id:
        return True
    rest = _HEX.sub(" ", subject_id) if any(c.isdigit() for c in subject_id) else subject_id
    return any(len(word) >= 3 and word.casefold() not in _ROLES for word in _WORD.findall(rest))
