"""The Hub library's errors as the registry's, with one reason each; and when a retry makes sense."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from w2w_registry.errors import Conflict, HubError, NotFound, RegistryError, StorageError
from w2w_registry.hub.safety import shorten

LONGEST_WAIT = 60.0
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
LATER = "type the same command again later; it goes on where it stopped"
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_TOKEN = re.compile(r"\b(?:hf_|api_)\w{8,}")
# What the library stumbles over when an answer is not of the promised shape.
_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError)

_STATUS: Mapping[int, tuple[str, str]] = {
    400: ("the Hub calls the request malformed", ""),
    401: ("the token is not accepted", _LOG_IN),
    402: ("the Hub asks for payment", ""),
    403: (
        "the token may not do this",
        "use a token of somebody who may read this repo and, to publish or take down, write to it",
    ),
    404: ("not there", ""),
    409: ("it exists already", ""),
    412: ("somebody else committed to it meanwhile; try again", ""),
    413: ("the Hub calls it too large", ""),
    429: ("the Hub's rate limit is reached", LATER),
    507: ("the Hub's storage quota is used up", ""),
}


def translate(error: Exception, endpoint: str, repo: str, revision: str | None, secret: str | None) -> RegistryError:
    """The registry's error for one of the library's.

    Args:
        endpoint: the Hub that was asked. secret: a token that no message may hold.

    Raises:
        Whatever ``error`` is, when it is none of the library's: then it is a bug and goes on.
    """
    if isinstance(error, RegistryError):
        return error
    said = plain(error, secret)
    known = _named(error, endpoint, repo, revision, said) or _answered(
        _status(error), repo, said, _asked_to_wait(error)
    )
    if known is not None:
        return known
    if from_network(error):
        reason = f"cannot be reached ({said})" if repo == endpoint else f"{endpoint} cannot be reached ({said})"
        return HubError(repo=repo, reason=reason, status=None, hint=LATER)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        # The library wraps what went wrong with one file of an upload.
        return translate(error.__cause__, endpoint, repo, revision, secret)
    if isinstance(error, OSError):
        return StorageError(path=str(error.filename or repo), reason=error.strerror or str(error))
    if isinstance(error, json.JSONDecodeError):
        return HubError(repo=repo, reason="the Hub's answer is not JSON", status=None)
    if isinstance(error, _MALFORMED):
        what = f"{type(error).__name__}: {said}"
        return HubError(repo=repo, reason=f"the Hub's answer makes no sense ({what})", status=None)
    if isinstance(error, ValueError):
        return HubError(repo=repo, reason=said, status=None)
    raise error


def _named(error: Exception, endpoint: str, repo: str, revision: str | None, said: str) -> RegistryError | None:
    """For what the library has a name for."""
    from huggingface_hub import errors as hf

    status = _status(error)
    if isinstance(error, hf.RevisionNotFoundError):
        return NotFound(what="Hub revision", name=f"{repo}@{revision or 'main'}")
    if isinstance(error, hf.GatedRepoError):
        hint = f"ask for access at {endpoint}/{repo}"
        return HubError(repo=repo, reason="gated: its owner decides who may fetch it", status=status, hint=hint)
    if isinstance(error, hf.EntryNotFoundError):
        return NotFound(what="Hub file", name=f"{repo}@{revision or 'main'}")
    if isinstance(error, hf.RepositoryNotFoundError):
        if status == 401:
            reason = "no such repo, or a private one and no token was given"
            return HubError(repo=repo, reason=reason, status=status, hint=_LOG_IN)
        return NotFound(what="Hub repo", name=repo)
    if isinstance(error, hf.LocalTokenNotFoundError):
        return HubError(repo=repo, reason="no token", status=None, hint=_LOG_IN)
    if isinstance(error, hf.OfflineModeIsEnabled):
        return offline(repo)
    if isinstance(error, hf.HFValidationError):
        return HubError(repo=repo, reason=f"not a repo id: {said}", status=None)
    return None


def _answered(status: int | None, repo: str, said: str, wait: float | None = None) -> RegistryError | None:
    """For an HTTP status the Hub answered with. ``wait``: the seconds it asked for."""
    if status is None:
        return None
    if status in _STATUS:
        reason, hint = _STATUS[status]
        if status in (409, 412):
            return Conflict(what="Hub repo", name=repo, reason=reason)
        if status == 429 and wait is not None:
            hint = f"it asks to wait {wait:,.0f} s; then {LATER.replace(' later', '')}"
        more = {"hint": hint} if hint else {}
        return HubError(repo=repo, reason=reason, status=status, **more)
    if status >= 500:
        return HubError(repo=repo, reason=f"the Hub answered {status}", status=status, hint=LATER)
    return HubError(repo=repo, reason=said, status=status)


def offline(repo: str) -> HubError:
    """What everything says in offline mode."""
    return HubError(
        repo=repo, reason="offline mode is on, the Hub was not asked", status=None, hint="unset HF_HUB_OFFLINE"
    )


def plain(error: BaseException, secret: str | None) -> str:
    """An error's first words on one line, without anything that could be a token."""
    text = getattr(error, "server_message", None) or str(error) or type(error).__name__
    if secret:
        text = text.replace(secret, "…")
    return shorten(_TOKEN.sub("…", " ".join(text.split())), 200)


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    code = getattr(response, "status_code", None)
    return int(code) if code is not None else None


def from_network(error: BaseException) -> bool:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return isinstance(error, (HTTPError, ConnectionError, TimeoutError)) or type(error).__module__.startswith("httpx")


def wait_before_retry(error: Exception, attempt: int) -> float | None:
    """Seconds until a retry makes sense: what the Hub asked for, else 0.5, 1, 2, 4…; None when none does."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return None
    status = _status(error)
    if status is None and not from_network(error):
        return None
    if status is not None and status not in _TRANSIENT:
        return None
    asked = _asked_to_wait(error)
    if asked is not None:
        return asked if asked <= LONGEST_WAIT else None
    return min(0.5 * 2.0 ** (attempt - 1), 8.0)


def _asked_to_wait(error: Exception) -> float | None:
    """The seconds that an answer asked to wait; None: it did not say, or not in seconds."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return float(asked[:9]) if asked.isascii() and asked.isdigit() else None
