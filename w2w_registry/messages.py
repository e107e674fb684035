"""What each error says to a person: one line, what is wrong, what to do next. The only place with such prose."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from w2w_registry import errors as e
from w2w_registry.commands import command


def message(error: e.RegistryError, option: Callable[[str], str] = "--{}".format) -> str:
    """The line for ``error``: the most specific writer in its class tree, control characters made harmless, options of
    the request spelt by ``option``, by default as at a prompt."""
    for kind in type(error).__mro__:
        writer = _WRITERS.get(kind)
        if writer is not None:
            return _one_line(e.spelt(writer(_Fields(error.fields)), option))
    return _one_line(e.spelt(f"{error.code}: " + ", ".join(f"{k}={v!r}" for k, v in error.fields.items()), option))


class _Fields(dict[str, Any]):
    """Missing fields read as empty, so that a message never fails while reporting a failure."""

    def __missing__(self, key: str) -> str:
        return ""

    @property
    def hint(self) -> str:
        return f"; {self['hint']}" if self["hint"] else ""


def _one_line(text: str) -> str:
    text = re.sub(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]+", " ", text)
    return text if len(text) <= 1000 else text[:996] + " …"


def _short(value: Any, limit: int = 160) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 3 :]}"


def _integrity(f: _Fields) -> str:
    what = f"{f['what']} {_short(f['name'])}"
    if f["expected"] == "as signed":
        return f"{what} is not as it was signed: {_digest(f['found'])}"
    return f"{what} is not what was recorded: expected {_digest(f['expected'])}, found {_digest(f['found'])}"


def _digest(value: Any) -> str:
    """A digest is known by its ends; words are for reading."""
    text = str(value)
    return _short(text, 300 if " " in text else 24)


def _not_found(f: _Fields) -> str:
    if not f["name"]:
        return f"there is no {f['what']} yet{_FIND.get(str(f['what']), '')}"
    text = f"no {f['what']} named {_short(f['name'])!r}"
    if f["what"] == "identity" and PurePath(str(f["name"])).suffix.lower() in _FILES:
        return f"there is no file {_short(f['name'])}, and no identity of that name"
    if f["reason"]:
        return f"{text}; {f['reason']}"
    if f["near"]:
        return f"{text}; did you mean {', '.join(f['near'])}?"
    return text + _FIND.get(str(f["what"]), "")


def _nowhere(f: _Fields) -> str:
    """Where none is: in a home folder, or in a database of another place."""
    file = PurePath(str(f["name"]))
    return f"at {f['home']}" if file.name in ("", "catalog.db") or str(file) == str(f["home"]) else f"in {file}"


_FILES = (".safetensors", ".sft", ".pt", ".bin", ".ckpt", ".png", ".jpg", ".jpeg", ".webp", ".avif")

_FIND = {
    "identity": "; `w2w-reg list` shows what there is",
    "space": "; `w2w-reg space list` shows what there is, `w2w-reg space fit` makes one",
    "direction": "; `w2w-reg direction list` shows what there is, `w2w-reg direction fit` fits them to labels",
    "release on the Hub": "; `w2w-reg releases` shows what there is",
    "subject": "; `w2w-reg subject list` shows what there is",
    "collection": "; `w2w-reg collection list` shows what there is",
    "label": "; `w2w-reg show NAME` shows what there is",
    "tag": "; `w2w-reg show NAME` shows what there is",
    "artifact": ": the file was erased or the artifact store is not the one the catalog was made with",
}


def _denied(f: _Fields) -> str:
    who = f" (subjects: {', '.join(map(str, f['subjects']))})" if f["subjects"] else ""
    purpose = f" for {f['purpose']}" if f["purpose"] else ""
    ways = "; with their consent: " + " and ".join(f"`{way}`" for way in f["ways_out"][:3]) if f["ways_out"] else ""
    return f"not allowed to {f['operation']}{purpose}: {'; '.join(map(str, f['reasons']))}{who}{ways}"


def _held(f: _Fields) -> str:
    same = command("resolve", f["name"], same_as=f["like"].partition("@")[0], reason="TEXT")
    distinct = command("resolve", f["name"], distinct=True, reason="TEXT")
    looks = "does not look like" if f["why"] == e.UNLIKE else "resembles"
    return (
        f"not allowed to {f['operation']}: {_short(f['name'])} is held because it {looks} {_short(f['like'])} "
        f"({f['why']}; by {f['by']}); another person must decide: `{same}` or `{distinct}`"
    )


def _uncompared(f: _Fields) -> str:
    name = _short(f["name"])
    return (
        f"not allowed to {f['operation']}: {name} came from outside, and what it draws was never compared with those "
        f"who refused; compare it with `{command('fingerprint', f['name'], pipeline='FOLDER')}`, or another person "
        f"looks at it and runs `{command('resolve', f['name'], distinct=True, reason='TEXT')}`"
    )


def _schema(f: _Fields) -> str:
    if not f["current"]:
        return "the database has no registry schema; run `w2w-reg init`"
    return f"the catalog's schema is {f['current']}, but this release needs {f['head']}; run `w2w-reg db upgrade`"


def _unknown_field(f: _Fields) -> str:
    text = f"in [[where]], no field or label is named {_short(f['name'], 60)!r}"
    if f["near"]:
        return f"{text}; did you mean {' or '.join(f['near'])}?"
    labels = ", ".join(f["labels"][:20]) + (", …" if len(f["labels"]) > 20 else "")
    return f"{text}; fields: {', '.join(f['fields'])}, tag.KEY; labels: {labels or 'none yet'}"


_PREDICATES = ("cannot", "differs", "exists", "holds", "is")


def _conflict(f: _Fields) -> str:
    """One sentence where the reason is what the thing does or is, else the thing and, after a colon, the reason."""
    reason = str(f["reason"])
    verb = reason.split(" ")[0].rstrip(";,")
    return f"{f['what']} {_short(f['name'])!r}{'' if verb in _PREDICATES else ':'} {reason}"


_WRITERS: dict[type[e.RegistryError], Callable[[_Fields], str]] = {
    e.UsageError: lambda f: f"{f['reason']}{f.hint}",
    e.WhereError: lambda f: (
        f"[[where]] does not parse at position {f['position']}: {f['reason']} in {_short(f['expression'])!r}"
    ),
    e.UnknownField: _unknown_field,
    e.UnknownPurpose: lambda f: (
        f"no purpose or use is named {_short(f['name'], 60)!r}; did you mean {f['near'][0]}? (a purpose of your own is "
        "listed under purposes in [policy] of registry.toml; `w2w-reg policy set` puts it in force)"
    ),
    e.UnknownTerritory: lambda f: (
        f"{_short(f['name'], 40)!r} is not a territory; use a country's two letters, as in DE, or EU or EEA"
    ),
    e.NoEdit: lambda f: (
        f"{' and '.join('--' + g.replace('_', '-') for g in f['given'])} without an edit; add --edit, as in 'beard=+1'"
    ),
    e.NoFingerprints: lambda f: (
        f"{_short(f['name'])} has no fingerprint; take it with `{command('fingerprint', f['name'])}`"
        if f["name"]
        else f"fewer than {f['least']} registered versions have a fingerprint{f['of']}; take them with "
        "`w2w-reg fingerprint --all`"
    ),
    e.NothingCompared: lambda f: (
        f"there is no weight space yet, and fewer than {f['least']} registered versions have a fingerprint; "
        + (
            "the base model is on this machine: `w2w-reg fingerprint` takes them"
            if f["at_hand"]
            else "fit a space (`w2w-reg space fit`) or take fingerprints (`w2w-reg fingerprint --pipeline FOLDER`)"
        )
    ),
    e.OutputInHome: lambda f: f"{_short(f['path'])} is in {_short(f['home'])}, the registry's own folder; name another",
    e.OutputExists: lambda f: (
        f"{_short(f['path'])} is not an ordinary file, and only such are written; name another"
        if f.get("special")
        else f"{_short(f['path'])} exists; add --force to replace it"
    ),
    e.BadName: lambda f: f"{f['what']} name {_short(f['name'], 60)!r} is not allowed: {f['reason']}",
    e.NotFound: _not_found,
    e.NotInitialised: lambda f: (
        f"no registry {_nowhere(f)}; run `w2w-reg init` or `w2w-reg add FOLDER --yes` (or set W2W_HOME)"
    ),
    e.ConsentDenied: _denied,
    e.HeldBack: _held,
    e.NotCompared: _uncompared,
    e.SecondPersonNeeded: lambda f: (
        f"{_short(f['actor'], 60)} alone is not allowed to {f['operation']}: another person must do it, with "
        f"`{f['command']}`{f.hint}"
        + (
            ""
            if f.get("of") == "policy"
            else " (in a registry that one person runs: `w2w-reg policy set second_person=false`)"
        )
    ),
    e.LikenessRefused: lambda f: (
        f"{_short(f['path'])}: too near a protected or withdrawn subject ({f['subject']}; {f['near']}); not added"
    ),
    e.BadFile: lambda f: f"{_short(f['path'])}: {f['reason']}{f.hint}",
    e.NoPoints: lambda f: (
        f"{_short(f['path'])} holds no coordinates of identities (proj_1000pc.pt of the public release); "
        "import the space without --identities"
    ),
    e.SpaceMismatch: lambda f: (
        f"{_short(f['path'])}: does not fit space {f['space']}: {'; '.join(map(str, f['differences']))}{f.hint}"
    ),
    e.ForeignStart: lambda f: (
        f"{_short(f['path'])}: was not trained from the same initialisation as the LoRAs of space "
        f"{f['space']} (agreement {_number(f['agreement'])}), so it has no meaningful coordinates there"
    ),
    e.IntegrityError: _integrity,
    e.LogForked: lambda f: (
        f"the log {f['log']} cannot be trusted: {f['reason']}"
        + (f"; what was signed then and now is kept in {f['kept']}" if f["kept"] else "")
    ),
    e.Conflict: _conflict,
    e.Busy: lambda f: f"{f['what']} {f['name']} is in use by another process; try again when it is done",
    e.SchemaOutOfDate: _schema,
    e.CatalogLost: lambda f: (
        f"the catalog {f['path']} is empty or gone, but its files are there ({f['artifacts']}): restore the catalog "
        "from a backup; a new catalog would know none of them"
    ),
    e.MissingExtra: lambda f: (
        f"{f['feature'] or 'this'} needs the package {f['package']}: pip install 'w2w-registry[{f['extra']}]'"
    ),
    e.DeviceError: lambda f: f"device {f['device']}: {f['reason']}{f.hint}",
    e.UnknownSetting: lambda f: f"{f['path']}: unknown setting {_short(f['name'], 60)}; known: {', '.join(f['known'])}",
    e.SettingError: lambda f: f"setting {f['setting']}{_value(f['value'])}: {f['reason']}",
    e.Unmarked: lambda f: (
        f"no picture: each leaves with a mark that is on record, and {f['what']} cannot be written ({f['reason']})"
    ),
    e.StorageError: lambda f: f"cannot write or read {f['path']}: {f['reason']}",
    e.DatabaseError: lambda f: f"database {f['url']}: {f['reason']}",
    e.SigningError: lambda f: f"sigstore: {f['reason']}{f.hint}",
    e.HubError: lambda f: f"{f['repo']}: {f['reason']}{f.hint}",
}


def _value(value: Any) -> str:
    return "" if value == "" else f" = {_short(value, 40)!r}"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
