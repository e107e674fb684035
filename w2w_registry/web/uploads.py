"""Files that are sent: kept in a folder of the request's own, and read by the usual readers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fastapi import UploadFile

from w2w_registry.errors import BadLora
from w2w_registry.services.registry import Registry
from w2w_registry.services.search.found import PICTURES
from w2w_registry.web.filters import plain

WEIGHTS: Final = ".safetensors"
BESIDE: Final = frozenset({"adapter_config.json"})
MAX_CONFIG: Final = 1 << 20
MAX_PHOTO: Final = 64 << 20
_ODD: Final = re.compile(r"[^\w .,()+=@-]")


@dataclass(frozen=True)
class Sent:
    """What was sent: its name for showing, where it lies now, and whether it is a photo rather than an adapter."""

    name: str
    path: Path
    photo: bool


@contextmanager
def received(registry: Registry, files: Sequence[UploadFile]) -> Iterator[Sent]:
    """The photo or the adapter among what was sent: one picture, or one ``.safetensors`` with PEFT's configuration
    beside it. It is gone at the end.

    Raises:
        BadLora: none, several, or files of another kind.
    """
    sent = [(name_of(file), file) for file in files if file.filename]
    main = [(name, file) for name, file in sent if name.endswith(WEIGHTS) or is_picture(name)]
    others = [name for name, file in sent if (name, file) not in main and name not in BESIDE]
    if others:
        raise BadLora(path=others[0], reason=f"only {WEIGHTS} files and pictures ({', '.join(PICTURES)}) are read here")
    if len(main) != 1:
        reason = "send one .safetensors file, with adapter_config.json if there is one, or one photo"
        raise BadLora(path=main[1][0] if main else "the form", reason=reason)
    ((shown, _),) = main
    with registry.temporary_folder() as folder:
        peft = any(name in BESIDE for name, _ in sent)
        target = folder / _kept_as(shown, peft)
        for name, file in sent:
            path = target if name == shown else folder / name
            most = MAX_CONFIG if name in BESIDE else MAX_PHOTO if is_picture(name) else None
            if most is not None and (file.size or 0) > most:
                raise BadLora(path=name, reason=f"larger than {most >> 20} MB")
            with path.open("wb") as stream:
                shutil.copyfileobj(file.file, stream, 1 << 20)
        whole = peft and not is_picture(shown)
        yield Sent(shown, folder if whole else target, is_picture(shown))


def is_picture(name: str) -> bool:
    """Whether a file is one by its name."""
    return name.lower().endswith(PICTURES)


def name_of(file: UploadFile) -> str:
    """What a file was called, for showing: the last part, short and plain."""
    return plain(PurePosixPath((file.filename or "").replace("\\", "/")).name)[-120:]


def _kept_as(name: str, peft: bool) -> str:
    """A file's name here: its own, which provenance states, without what a file system or a reader may take amiss."""
    if peft and not is_picture(name):
        return "adapter_model.safetensors"
    ending = next(one for one in (WEIGHTS, *PICTURES) if name.lower().endswith(one))
    stem = _ODD.sub("_", name[: -len(ending)]).encode()[:160].decode(errors="ignore").lstrip(". -")
    return (stem or "file") + ending
