"""Files that are sent: kept in a folder of the request's own under names chosen here, and read by the usual readers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Final

from fastapi import UploadFile

from w2w_registry.errors import BadLora
from w2w_registry.services.search.query import Query
from w2w_registry.web.filters import plain

WEIGHTS: Final = ".safetensors"
BESIDE: Final = frozenset({"adapter_config.json"})
MAX_CONFIG: Final = 1 << 20


@contextmanager
def adapter(files: Sequence[UploadFile]) -> Iterator[Query]:
    """The LoRA among what was sent as a search's query: one ``.safetensors``, and PEFT's configuration beside it.

    Raises:
        BadLora: none, several, or files of another kind.
    """
    sent = [(name_of(file), file) for file in files if file.filename]
    weights = [(name, file) for name, file in sent if name.endswith(WEIGHTS)]
    others = [name for name, _ in sent if not name.endswith(WEIGHTS) and name not in BESIDE]
    if others:
        raise BadLora(path=others[0], reason="only .safetensors files are read here")
    if len(weights) != 1:
        reason = "send one .safetensors file, with adapter_config.json if there is one"
        raise BadLora(path=weights[1][0] if weights else "the form", reason=reason)
    with TemporaryDirectory(prefix="w2w-query-") as folder:
        peft = any(name in BESIDE for name, _ in sent)
        target = Path(folder) / ("adapter_model.safetensors" if peft else "query.safetensors")
        for name, file in sent:
            path = target if name.endswith(WEIGHTS) else Path(folder) / name
            if path is not target and (file.size or 0) > MAX_CONFIG:
                raise BadLora(path=name, reason="larger than any adapter configuration")
            with path.open("wb") as stream:
                shutil.copyfileobj(file.file, stream, 1 << 20)
        yield Query(weights[0][0], Path(folder) if peft else target)


def name_of(file: UploadFile) -> str:
    """What a file was called, for showing: the last part, short and plain."""
    return plain(PurePosixPath((file.filename or "").replace("\\", "/")).name)[-120:]
