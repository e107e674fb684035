"""What may come in from a stranger's repo: names, sizes, kinds of files. Pure; decided before a byte is fetched."""

from __future__ import annotations

import json
import struct
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from w2w_registry.errors import UnsafeRepo
from w2w_registry.hub.api import HubFile

MAX_FILE = 2 << 30
MAX_TOTAL = 4 << 30
MAX_TEXT = 16 << 20
MAX_HEADER = 100 << 20
MAX_PATH = 1024
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
TEXTS = (".json", ".md", ".txt", ".sig", ".sigstore")
_DEVICES = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))}


def is_pickle(path: str) -> bool:
    """Whether a file's name says that opening it could run code."""
    return path.lower().endswith(PICKLES)


def name_problem(path: str) -> str | None:
    """Why this name may not be written under a folder of ours; None when it may."""
    if not path or len(path) > MAX_PATH:
        return "a name that is empty or too long"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Cf") for c in path):
        return "a name with control characters"
    if "\\" in path or ":" in path or path.startswith(("/", "~")):
        return "a name that leads out of its folder"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "a name that leads out of its folder"
        if len(part.encode("utf-8", "surrogatepass")) > 255 or part.endswith((" ", ".")):
            return "a name no file system takes"
        if part.split(".")[0].lower() in _DEVICES:
            return "a name that means a device"
    return None


def check_files(repo: str, files: Iterable[HubFile]) -> tuple[HubFile, ...]:
    """``files`` when all of them may be fetched.

    Raises:
        UnsafeRepo: naming the first file that may not, and why.
    """
    chosen, total, seen = tuple(files), 0, set[str]()
    for file in chosen:
        problem = name_problem(file.path) or _file_problem(file)
        folded = unicodedata.normalize("NFKC", file.path).casefold()
        if problem is None and folded in seen:
            problem = "a second file of the same name, letter case aside"
        if problem is not None:
            raise UnsafeRepo(repo=repo, path=file.path, reason=f"{shorten(file.path)}: {problem}", status=None)
        seen.add(folded)
        total += file.size
    if total > MAX_TOTAL:
        reason = f"{size_text(total)} in all, at most {size_text(MAX_TOTAL)} is taken"
        raise UnsafeRepo(repo=repo, path="", reason=reason, status=None)
    return chosen


def _file_problem(file: HubFile) -> str | None:
    if is_pickle(file.path):
        return "a pickle: it could run code when opened, so it is not fetched"
    limit = MAX_TEXT if PurePosixPath(file.path).suffix.lower() in TEXTS else MAX_FILE
    if not 0 <= file.size <= limit:
        return f"claims {size_text(file.size)}, at most {size_text(limit)} is taken"
    return None


def header_problem(head: bytes, size: int) -> str | None:
    """What is wrong with a safetensors file by its first bytes and size; None while nothing is.

    ``head`` may be cut short: only what is there is judged.
    """
    if size < 10:
        return "too short to be safetensors"
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if length > min(MAX_HEADER, size - 8):
        return f"its header claims {size_text(length)} in a file of {size_text(size)}"
    if len(head) >= 9 and head[8:9] != b"{":
        return "not a safetensors file"
    if len(head) >= 8 + length:
        try:
            entries = json.loads(head[8 : 8 + length])
        except (ValueError, RecursionError):
            return "its header is not JSON"
        if not isinstance(entries, dict):
            return "its header is not a table"
    return None


def size_text(size: int) -> str:
    """``1.4 MB``: bytes for reading."""
    value = float(size)
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def shorten(text: str, limit: int = 80) -> str:
    """``text`` made fit for one line."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= limit else f"{plain[: limit // 2]}…{plain[-limit // 3 :]}"
