"""Every input file is opened without waiting, only when it is a regular file, and read up to a limit."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from w2w_registry.errors import BadFile, RegistryError
from w2w_registry.files import opened, read_bytes, read_text
from w2w_registry.lora import read_adapter
from w2w_registry.services.audit.log import read_notes
from w2w_registry.services.recording.labels import read_labels_csv
from w2w_registry.settings import read_settings_file

READERS: list[Callable[[Path], object]] = [
    read_bytes,
    read_adapter,
    read_labels_csv,
    read_settings_file,
    lambda path: read_notes([path]),
]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_nobody_writes_to_is_refused_at_once(tmp_path: Path, read: Callable[[Path], object]) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(RegistryError, match="regular file"):
        read(pipe)


@pytest.mark.parametrize("read", READERS)
def test_a_sparse_file_takes_no_memory(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as stream:
        stream.truncate(20 * 2**30)
    with pytest.raises(RegistryError):
        read(path)


def test_what_is_there_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9fe")
    assert read_text(path) == "grüße"
    with opened(path) as (stream, size):
        assert len(stream.read()) == size == 10
    for bad in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(BadFile):
            read_bytes(bad)
    with pytest.raises(BadFile, match="larger"):
        read_bytes(path, limit=3)


ROOT = Path(__file__).parents[1]
# The opener itself, and who opens what the registry wrote, downloaded within bounds, or ships: file -> what it is.
OWN_FILES = {
    "cli/completion.py": "the shell's start-up file, which the command writes",
    "cli/loudness.py": "the log, which is written",
    "cli/output.py": "/dev/null",
    "cli/reference.py": "this repository's README",
    "w2w_registry/artifacts.py": "artifacts",
    "w2w_registry/audit/verifier.py": "stands alone; reads what its user names, a pipe too",
    "w2w_registry/diffusion/adapters.py": "looked at by check_file first",
    "w2w_registry/diffusion/state.py": "states of training, under the home",
    "w2w_registry/files.py": "the opener",
    "w2w_registry/hub/api.py": "what is about to be published",
    "w2w_registry/hub/client.py": "what is being downloaded",
    "w2w_registry/index/codes.py": "the index",
    "w2w_registry/index/disk.py": "the index",
    "w2w_registry/index/faiss_scan.py": "the index",
    "w2w_registry/index/rows.py": "the index",
    "w2w_registry/interface/results.py": "a contact sheet that was just drawn",
    "w2w_registry/lora/write.py": "what is written",
    "w2w_registry/pictures.py": "pictures, from bytes that were read",
    "w2w_registry/services/audit/keys.py": "a key that is made",
    "w2w_registry/services/audit/log.py": "an export that is written",
    "w2w_registry/services/audit/publish.py": "tiles it published",
    "w2w_registry/services/audit/told.py": "its own notes",
    "w2w_registry/services/consent/door_key.py": "a key that is made",
    "w2w_registry/services/hub/attesting.py": "downloaded within bounds",
    "w2w_registry/services/hub/pull.py": "downloaded within bounds",
    "w2w_registry/services/hub/signatures.py": "downloaded within bounds",
    "w2w_registry/services/hub/spaces.py": "downloaded within bounds",
    "w2w_registry/services/recording/backups.py": "the home, and a tar file looked at by check_file first",
    "w2w_registry/services/recording/energy.py": "the machine's meters",
    "w2w_registry/services/recording/gallery.py": "bytes of the catalog",
    "w2w_registry/services/recording/outputs.py": "a regular file of the size of what would be written",
    "w2w_registry/services/recording/pictures.py": "its own secret",
    "w2w_registry/services/recording/pipelines.py": "the cache of huggingface_hub",
    "w2w_registry/services/recording/preview_pictures.py": "pictures it drew",
    "w2w_registry/services/recording/space_files.py": "spaces it wrote",
    "w2w_registry/services/reports/words.py": "words it ships",
    "w2w_registry/services/signing.py": "a key that is made",
    "w2w_registry/services/spaces/spool.py": "its temporary files",
    "w2w_registry/services/spaces/torch_files.py": "a stream of the opener's",
    "w2w_registry/services/synthesis/engine.py": "what it learned, under the home",
    "w2w_registry/web/pages/drawing.py": "pictures it just drew",
    "w2w_registry/web/site.py": "files it ships",
    "w2w_registry/web/uploads.py": "uploads it writes",
}


def _opens(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="open" | "load_file" | "safe_open"):
                return True
            case ast.Attribute(attr="read_bytes" | "read_text" | "memmap" | "fromfile"):
                return True
            case ast.Attribute(value=ast.Name(id="np" | "os" | "Image" | "tarfile" | "path"), attr="open" | "load"):
                return True
    return False


def test_nothing_else_opens_files() -> None:
    """A file that somebody names is opened by ``files`` (and a picture by ``pictures``), whoever asks for it."""
    found = {
        str(path.relative_to(ROOT))
        for top in ("w2w_registry", "cli")
        for path in (ROOT / top).rglob("*.py")
        if _opens(path)
    }
    assert found - set(OWN_FILES) == set()
    assert set(OWN_FILES) - found == set(), "these open nothing any more"
