"""The one error tree.

Errors carry fields (what, where, which value). Where a field speaks of an option of the request it writes
``[[name]]``, which every surface spells in its own way (:func:`spelt`). The sentence a person reads is written once, at
the boundary (``messages.py``), which ``str`` of an error asks too. ``code`` is a stable machine name for ``--json``
output, ``exit_code`` the process exit status documented in the README. Everything that is *not* a ``RegistryError`` is
a bug.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, Final


class RegistryError(Exception):
    """Base of every error a user can cause or meet. ``fields`` hold the data of the message."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, **fields: Any) -> None:
        super().__init__(fields)
        self.fields: dict[str, Any] = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.fields)  # pickled as its fields, which are given by name

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        """The sentence, options spelt as arguments (``space=``). Its writers stand on a floor above this one, and are
        asked only where somebody reads."""
        writers = import_module("w2w_registry.messages")
        return str(writers.message(self, lambda name: f"{name.replace('-', '_')}="))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.fields.items())})"


def _again(kind: type[RegistryError], fields: dict[str, Any]) -> RegistryError:
    return kind(**fields)


def spelt(text: str, option: Callable[[str], str]) -> str:
    """``text`` with each ``[[name]]``, an option of a request, as a surface spells it: ``--name`` at a prompt."""
    return re.sub(r"\[\[([a-z][a-z-]*)\]\]", lambda match: option(match[1]), text)


# -- exit 2: what was asked makes no sense ------------------------------------------------------
class UsageError(RegistryError):
    """A request that cannot be carried out as written. Fields: reason[, hint]."""

    code, exit_code = "usage", 2


class WhereError(UsageError):
    """A ``--where`` expression that does not parse. Fields: expression, position, reason."""

    code = "where"


class UnknownField(WhereError):
    """A word in ``--where`` that is neither a field nor a label. Fields: name, position, near, fields, labels
    (tuples)."""

    code = "unknown-field"


class BadName(UsageError):
    """A name, reference or id that breaks the naming rules. Fields: name, what, reason."""

    code = "name"


class UnknownPurpose(UsageError):
    """A purpose or prohibition that looks like a misspelt one. Fields: name, near (tuple)."""

    code = "unknown-purpose"


class UnknownTerritory(UsageError):
    """A territory that is not a country code. Fields: name."""

    code = "unknown-territory"


class NoEdit(UsageError):
    """What shapes an edit, without one. Fields: given (names of what was said: strengths, keep…)."""

    code = "no-edit"


class NoFingerprints(UsageError):
    """Behaviour cannot be compared yet. Fields: name of a version without a fingerprint; or least (how many versions
    have to have one)[, of (the base model meant)]."""


class NothingCompared(UsageError):
    """There is neither a weight space nor enough fingerprints. Fields: least (how many versions have to have one),
    at_hand (whether a base model that takes them is on this machine)."""


class OutputInHome(UsageError):
    """An answer that would be written among the registry's own files. Fields: path, home."""

    code = "output-in-home"


# -- exit 3: not there --------------------------------------------------------------------------
class NotFound(RegistryError):
    """Fields: what (identity, space, version, alias, subject…), name[, near: tuple of suggestions]."""

    code, exit_code = "not-found", 3


class NotInitialised(NotFound):
    """No registry at this home. Fields: home."""

    code = "not-initialised"


# -- exit 4: policy says no ---------------------------------------------------------------------
class ConsentDenied(RegistryError):
    """Policy refuses. Fields: operation, purpose, reasons (tuple of str), subjects (tuple of ids), ways_out (commands
    that record what is lacking)."""

    code, exit_code = "consent-denied", 4


UNLIKE: Final = "unlike the versions before it"
"""Why something is held that bears the name of somebody it does not look like (``HeldBack.why``)."""


class HeldBack(ConsentDenied):
    """A version that is held until somebody has decided whom it depicts. Fields: those of ConsentDenied, name, like
    (``name@number``, None where nothing was compared), by, why."""

    code = "held"


class NotCompared(ConsentDenied):
    """A person's model of outside origin that was never compared by what it draws. Fields: those of ConsentDenied,
    name."""

    code = "not-compared"


class SecondPersonNeeded(RegistryError):
    """What one person may not do alone. Fields: operation, actor, command (what another person types)[, hint][,
    of: "policy" where that itself is what takes two]."""

    code, exit_code = "second-person", 4


class LikenessRefused(RegistryError):
    """The guard at the door: too near a withdrawn or protected subject. Fields: path, subject, near (how near)."""

    code, exit_code = "likeness-refused", 4


# -- exit 5: a file that cannot be used ---------------------------------------------------------
class BadFile(RegistryError):
    """A file that is not what it should be. Fields: path, reason[, hint]."""

    code, exit_code = "bad-file", 5


class BadLora(BadFile):
    """Not a usable LoRA. Fields: path, reason[, hint]."""

    code = "bad-lora"


class BadImage(BadFile):
    """Not a usable picture. Fields: path, reason[, hint]."""

    code = "bad-image"


class NoPoints(BadFile):
    """A weight space without coordinates of identities, where they were asked for. Fields: path."""

    code = "no-points"


class SpaceMismatch(BadFile):
    """A LoRA that does not fit the space. Fields: path, space, differences (tuple of str)[, hint]."""

    code = "space-mismatch"


class ForeignStart(SpaceMismatch):
    """A LoRA trained from another start than the space's members. Fields: path, space, agreement (1 same, 0 none)."""

    code = "foreign-start"


# -- exit 6: what is stored is not what was recorded --------------------------------------------
class IntegrityError(RegistryError):
    """A digest, signature or chain that does not hold. Fields: what, name, expected, found[, seq]."""

    code, exit_code = "integrity", 6


class LogForked(IntegrityError):
    """A published log that is not what was seen of it before. Fields: log, reason, kept (folder of the proof, or
    None)."""

    code = "log-forked"


# -- exit 7: something else is in the way -------------------------------------------------------
class Conflict(RegistryError):
    """A name or state already taken. Fields: what, name, reason."""

    code, exit_code = "conflict", 7


class OutputExists(Conflict):
    """A file that an answer would replace. Fields: path, special (a device, a pipe or a socket: never replaced)."""

    code = "output-exists"


class Busy(RegistryError):
    """Another process holds what is needed. Fields: what, name."""

    code, exit_code = "busy", 7


class CatalogLost(RegistryError):
    """The catalog's file is empty or gone while its files are there. Fields: path, artifacts."""

    code, exit_code = "catalog-lost", 9


class SchemaOutOfDate(RegistryError):
    """The database schema is not this release's. Fields: current, head."""

    code, exit_code = "schema", 7


# -- exit 8: a package, device or setting is missing --------------------------------------------
class MissingExtra(RegistryError):
    """An optional package is not installed. Fields: package, extra, feature."""

    code, exit_code = "missing-extra", 8


class DeviceError(RegistryError):
    """No such device, or not enough memory on it. Fields: device, reason, hint."""

    code, exit_code = "device", 8


class SettingError(RegistryError):
    """A setting or registry.toml entry that cannot be used. Fields: setting, value, reason."""

    code, exit_code = "setting", 8


class UnknownSetting(SettingError):
    """A table or key of registry.toml that nothing reads. Fields: path, name, known (tuple)."""

    code = "unknown-setting"


# -- exit 9: the outside world failed -----------------------------------------------------------
class StorageError(RegistryError):
    """Disk or object store failed. Fields: path, reason."""

    code, exit_code = "storage", 9


@contextmanager
def storing(path: object) -> Iterator[None]:
    """Around what reads or writes at ``path``: an OSError there becomes a StorageError that names it."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: object, error: OSError) -> StorageError:
    """What to raise where reading or writing at ``path`` failed."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageError(path=str(path), reason="the disk is full" if full else error.strerror or str(error))


class Unmarked(RegistryError):
    """A picture stays here, because it would leave without a mark that is on record. Fields: what (cannot be written),
    reason."""

    code, exit_code = "unmarked", 9


class DatabaseError(RegistryError):
    """The database cannot be reached or used. Fields: url (without password), reason."""

    code, exit_code = "database", 9


class HubError(RegistryError):
    """The Hub refused or could not be reached. Fields: repo, reason, status (int | None)[, hint]."""

    code, exit_code = "hub", 9


class SigningError(RegistryError):
    """Sigstore refused, cannot be reached, or does not know who signs. Fields: reason[, hint]."""

    code, exit_code = "signing", 9


class UnsafeRepo(HubError):
    """A Hub repo with content that is refused unread. Fields: repo, reason, path."""

    code, exit_code = "unsafe-repo", 5
