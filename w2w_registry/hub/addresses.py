"""What people type to say where a release goes or comes from: a Hub repo, or a repository of an OCI registry."""

from __future__ import annotations

import re

from w2w_registry.errors import BadName

HUB = "hf://"
OCI = "oci://"
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HOST = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# The grammar of the OCI distribution specification 1.1, <name>; the host is its own.
_OCI_ID = re.compile(rf"oci://({_HOST})/({_PART}(?:/{_PART})*)")
_REVISION_PROBLEM = re.compile(r"[\s\x00-\x1f\x7f]|\.\.")


def is_oci(text: str) -> bool:
    """Whether an address, or the endpoint of a release, is an OCI registry's."""
    return text.startswith(OCI)


def is_remote(text: str) -> bool:
    """Whether what was typed has to be fetched first."""
    return text.startswith((HUB, OCI))


def check_repo_id(text: str) -> str:
    """``owner/repo`` if it obeys the Hub's rules; ``oci://host/name`` if it obeys the OCI specification's.

    Raises:
        BadName: when it does not.
    """
    if is_oci(text):
        if len(text) > 255 or not _OCI_ID.fullmatch(text):
            reason = "use oci://host/name in lower case, as in oci://registry.example/acme/alice-lora"
            raise BadName(name=text, what="OCI repository", reason=reason)
        return text
    repo_id = text.removeprefix(HUB)
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or repo_id.endswith((".git", ".ipynb")):
        raise BadName(name=text, what="Hub repo", reason="use owner/repo, as in acme/alice-lora")
    return repo_id


def parse_repo(text: str) -> tuple[str, str | None]:
    """``[hf://]owner/repo[@revision]`` or ``oci://host/name[@revision]`` → repo id and revision (None: the newest).

    Of an OCI repository ``:tag`` and ``@sha256:digest`` are understood as well.
    """
    if is_oci(text) and "@" not in text:
        before, colon, tag = text.rpartition(":")
        text = f"{before}@{tag}" if colon and "/" not in tag else text
    repo_id, at, revision = text.removeprefix(HUB).partition("@")
    if at and (not revision or len(revision) > 200 or _REVISION_PROBLEM.search(revision)):
        raise BadName(name=text, what="Hub revision", reason="use a branch, tag or commit after '@'")
    return check_repo_id(repo_id), revision or None


def address_of(repo_id: str) -> str:
    """A repo id as an address that says where it is: ``hf://owner/repo`` or ``oci://host/name``."""
    return repo_id if is_oci(repo_id) else f"{HUB}{repo_id}"


def owner_of(repo_id: str) -> str:
    """Whom a repo belongs to: the Hub's owner, or all of an OCI address but its last part."""
    return repo_id.rpartition("/")[0]


def split_oci(repo_id: str) -> tuple[str, str]:
    """Host and name of an OCI repository.

    Raises:
        BadName: it is none.
    """
    found = _OCI_ID.fullmatch(check_repo_id(repo_id))
    assert found is not None
    return found[1], found[2]
