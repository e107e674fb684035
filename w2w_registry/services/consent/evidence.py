"""Evidence: a signed form, a recording, a letter. Its digest is kept; what it says is for people to judge."""

from __future__ import annotations

from pathlib import Path

from w2w_registry.files import sha256_file

_LIMIT = 4 << 30  # a long recording


def evidence_digest(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        BadFile: it cannot be read.
    """
    return sha256_file(path, limit=_LIMIT)
