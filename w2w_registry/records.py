"""Values that cross module borders: references, kinds, states, canonical JSON. Standard library only.

Rows persist, these values reason: services turn rows into records at the edge of a transaction.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from functools import cache, lru_cache
from typing import Any

from w2w_registry.errors import BadName, UsageError


class Result(Mapping[str, Any]):
    """What a service answers: a frozen dataclass (``eq=False``), its fields the keys of ``--json`` (``keyed`` gives a
    field another key than its name).

    Whoever knows which answer it is reads fields; tables and templates, which do not, read keys.
    """

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints: fields by name, answers inside it likewise."""
        return {key: _json(value) for key, value in self.items()}

    def __getitem__(self, key: str) -> Any:
        return getattr(self, _names(type(self))[key])

    def __iter__(self) -> Iterator[str]:
        return iter(_names(type(self)))

    def __len__(self) -> int:
        return len(_names(type(self)))


def keyed(key: str) -> dict[str, str]:
    """``metadata`` of a ``Result``'s field that stands under ``key``, a word that Python keeps for itself."""
    return {"alias": key}


@cache
def _names(answer: type[Result]) -> dict[str, str]:
    """Keys and the fields that stand under them."""
    return {one.metadata.get("alias", one.name): one.name for one in fields(answer)}  # type: ignore[arg-type]


def _json(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return value


UNKNOWN_BASE = "unknown"
"""What a space names as base model whose LoRAs name none."""


class Kind(StrEnum):
    """What an identity depicts. Only ``person`` carries likeness rules by default."""

    PERSON = "person"
    PRODUCT = "product"
    STYLE = "style"
    ANIMAL = "animal"
    CHARACTER = "character"
    OTHER = "other"

    @classmethod
    def parse(cls, text: str) -> Kind:
        """The kind of that name. Raises UsageError listing the kinds there are."""
        try:
            return cls(text)
        except ValueError:
            raise UsageError(reason=f"unknown kind {text!r}", hint=f"one of {', '.join(cls)}") from None


class OperationKind(StrEnum):
    """What made a version (PROV activity)."""

    IMPORT = "import"
    TRAIN = "train"
    INVERT = "invert"
    EDIT = "edit"
    MIX = "mix"
    SAMPLE = "sample"
    PULL = "pull"


class VersionState(StrEnum):
    """``active`` is served; ``blocked`` is kept but not served (consent); ``removed`` left the registry;
    ``erased`` has lost its coordinates and files for good; ``held`` is found and shown, and nothing else, until
    somebody has decided whom it depicts."""

    ACTIVE = "active"
    BLOCKED = "blocked"
    REMOVED = "removed"
    ERASED = "erased"
    HELD = "held"


class ConsentState(StrEnum):
    """Consent of everyone upstream of a version, at one instant."""

    GRANTED = "granted"
    UNKNOWN = "unknown"
    REQUESTED = "requested"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    INVALIDATED = "invalidated"
    NOT_NEEDED = "not-needed"


class Rank(IntEnum):
    """How grave something that a user is told is; the gravest is told first."""

    LIKENESS = 0
    """Whom it depicts or resembles."""
    CONTRADICTION = 1
    """What was said is not what the file or the registry says."""
    REMARK = 2


class Told(str):
    """A sentence for the user that knows how grave it is; a plain string is a remark."""

    rank: Rank

    def __new__(cls, text: str, rank: Rank = Rank.REMARK) -> Told:
        told = super().__new__(cls, text)
        told.rank = rank
        return told


def rank_of(text: str) -> Rank:
    """How grave a sentence is."""
    return text.rank if isinstance(text, Told) else Rank.REMARK


_NAME = re.compile(r"[^\W_](?:[\w.+-]*\w)?(?:/[^\W_](?:[\w.+-]*\w)?)*", re.UNICODE)
_ALIAS = re.compile(r"[^\W\d_][\w.-]*", re.UNICODE)
MAX_NAME = 200


FORMULA = tuple("=+-@\t\r＝＋－＠")
"""What a cell of a table begins with that a spreadsheet runs, the wide forms too."""


def composed(text: str) -> str:
    """``text`` in Unicode's composed form (NFC): é typed as one character or as two is one text."""
    return unicodedata.normalize("NFC", text)


def folded(subject_id: str) -> str:
    """What subjects' ids are compared by: upper and lower case, and how accents are typed, make no difference."""
    return composed(composed(subject_id).casefold())


_NOT_IN_NAMES = re.compile(r"[^\w.+-]+")


@lru_cache(maxsize=4096)  # the folders above are the same for all
def legal_name(raw: str) -> str:
    """What an identity's name may have of ``raw``; a pictogram by its name in Unicode, so that two of them stay two."""
    raw = unicodedata.normalize("NFC", raw)
    raw = "".join(f"-{unicodedata.name(c, '')[:40].lower()}-" if unicodedata.category(c) == "So" else c for c in raw)
    return re.sub(r"-{2,}", "-", _NOT_IN_NAMES.sub("-", raw)).strip("._+-")


def check_name(name: str, what: str = "identity") -> str:
    """``name`` if it obeys the rules: letters, digits, ``. _ + -``, parts joined by ``/``, at most 200 long.

    It is given back composed (Unicode NFC): é typed as one character or as two is one name.

    Raises:
        BadName: naming the rule that is broken.
    """
    name = composed(name)
    if len(name) > MAX_NAME:
        raise BadName(name=name[:40] + "…", what=what, reason=f"longer than {MAX_NAME} characters")
    if not _NAME.fullmatch(name):
        raise BadName(
            name=name,
            what=what,
            reason="use letters, digits, '.', '_', '+', '-' and '/' between parts, as in acme/alice",
        )
    return name


def assigned(items: Iterable[str], what: str, form: str) -> dict[str, str]:
    """What people type as NAME=VALUE: ``("team=ads",)`` → ``{"team": "ads"}``.

    Raises:
        UsageError: an item is not of that ``form``, or two give one name different values. BadName.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = (composed(part.strip()) for part in item.partition("="))
        if not equals or not name:
            raise UsageError(reason=f"{what} {item[:60]!r} is not {form}")
        if found.setdefault(check_name(name, what), value) != value:
            raise UsageError(reason=f"{what} {name} is given two values: {found[name][:30]!r} and {value[:30]!r}")
    return found


def check_alias(alias: str) -> str:
    """``alias`` if it starts with a letter and could not be taken for a version number."""
    if len(alias) > MAX_NAME or not _ALIAS.fullmatch(alias):
        raise BadName(name=alias[:40], what="alias", reason="start with a letter; letters, digits, '.', '_', '-'")
    return alias


def _version_number(digits: str, ref: str, what: str) -> int:
    """The number in digits, 0 when they are none; as many digits as a database's integers hold."""
    if not (digits.isascii() and digits.isdigit()):
        return 0
    if len(digits) > 9:
        raise BadName(name=ref, what=what, reason="a version number has at most 9 digits")
    if not int(digits):
        raise BadName(name=ref, what=what, reason="versions are numbered from 1")
    return int(digits)


@dataclass(frozen=True)
class IdentityRef:
    """``acme/alice``, ``acme/alice@3`` or ``acme/alice@production``; neither number nor alias = newest version."""

    name: str
    number: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> IdentityRef:
        name, at, rest = text.partition("@")
        name = check_name(name)
        if not at:
            return cls(name)
        number = _version_number(rest, text, "identity")
        return cls(name, number=number) if number else cls(name, alias=check_alias(rest))

    def __str__(self) -> str:
        tail = self.number if self.number is not None else self.alias
        return self.name if tail is None else f"{self.name}@{tail}"


@dataclass(frozen=True)
class SpaceRef:
    """``faces`` (newest) or ``faces@2``."""

    name: str
    number: int | None = None

    @classmethod
    def parse(cls, text: str) -> SpaceRef:
        name, at, rest = text.partition("@")
        name = check_name(name, "space")
        if not at:
            return cls(name)
        number = _version_number(rest, text, "space")
        if not number:
            raise BadName(name=text, what="space", reason="a space version is a number, as in faces@1")
        return cls(name, number)

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name}@{self.number}"


def counted(number: int, thing: str) -> str:
    """``1 event``, ``2 events``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def once_in(chance: float, once: str = "once", never: str = "less than once") -> str:
    """How often something of this chance happens, as people read it: ``once in 1,200``; to two digits."""
    if chance < 1e-6:
        return f"{never} in 1,000,000"
    times = float(f"{1 / min(chance, 1.0):.2g}")
    return f"{once} in {times:,.0f}" if times >= 10 else f"{once} in {times:g}"


def nearness(by: str, similarity: float, threshold: float) -> str:
    """How near a model is to somebody who refused, and from where on that is refused: by what it draws both are one
    less the chance that a stranger comes as near, by weights cosines."""
    if by != "behaviour":
        return f"by its weights, at a cosine of {similarity:.3f}; refused from {threshold:.3f} up"
    here, line = (once_in(1 - one, "one stranger", "fewer than one stranger") for one in (similarity, threshold))
    return f"by what it draws, as near as {here} comes, where {line} is refused"


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, UTF-8 kept, no NaN. What every digest is taken over."""
    return "".join(_encoded(value, 0))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"no canonical form for {type(value).__name__}")


def _encoder() -> Callable[[Any, int], Iterable[str]]:
    """What turns a value into pieces of canonical JSON. The one in C is made once: ``json`` makes one a call, which
    takes as long as encoding a small value (the row digests and events of a version are some fifteen)."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another Python than CPython
        settings: dict[str, Any] = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
        plain = json.JSONEncoder(**settings, allow_nan=False, default=_plain)
        return lambda value, _: [plain.encode(value)]
    made: Callable[[Any, int], Iterable[str]] = make(
        None, _plain, json.encoder.encode_basestring, None, ":", ",", True, False, False
    )
    return made


_encoded = _encoder()


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def ordered_id() -> str:
    """A new identifier nobody else makes, later ones after earlier ones (UUID version 7, RFC 9562 §5.7): rows of one
    time lie together in an index, so that a large one takes new rows at its end and not all over."""
    stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
    chance = int.from_bytes(os.urandom(10))
    return str(uuid.UUID(int=stamp << 80 | 7 << 76 | (chance >> 68) << 64 | 2 << 62 | chance & (1 << 62) - 1))


def now() -> datetime:
    """The present, UTC, whole microseconds."""
    return datetime.now(UTC)


@lru_cache(maxsize=64)  # all rows of a version, and most of those recorded with it, say the same moment
def iso(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: ``2026-01-31T12:00:00.000000Z``; a naive moment is taken as UTC."""
    if moment.tzinfo is not UTC:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"
