"""Evidence: a signed form, a recording, a letter. Its digest is kept; what it says is for people to judge."""

from __future__ import annotations

import hashlib
from pathlib import Path

from w2w_registry.errors import BadFile
from w2w_registry.files import opened, why

_LIMIT = 4 << 30  # a long recording


def evidence_digest(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        BadFile: it cannot be read.
    """
    with opened(path, limit=_LIMIT) as (stream, _):
        digest = hashlib.sha256()
        try:
            while piece := stream.read(1 << 20):
                digest.update(piece)
            return digest.hexdigest()
        except OSError as error:
            raise BadFile(path=str(path), reason=why(error)) from None
