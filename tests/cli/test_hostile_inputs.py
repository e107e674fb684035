"""Whatever a path given to a command names (a pipe, a device, a sparse file of 20 GB), one line says so at once."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.walk import OUTPUTS, paths_of_commands
from tests.services.world import BASE

# Commands that read a file somebody names, IT the file. What trains, inverts or draws opens the base model first: its
# photos and masks are tried below.
COMMANDS = {
    "add paths": "add IT --yes",
    "add labels_csv": "add LORAS --yes --labels IT",
    "add evidence": "add LORAS --yes --subject s-1 --evidence IT",
    "space fit paths": "space fit another IT --base-model BASE",
    "space fit repeats": "space fit another ALL --base-model BASE --repeats IT",
    "space import path": "space import another IT",
    "space update paths": "space update tiny IT",
    "label import file": "label import IT",
    "search query": "search IT",
    "whose pictures": "whose IT",
    "detect pictures": "detect IT",
    "preview set picture": "preview set p0001 IT",
    "subject assign evidence": "subject assign s-1 p0001 --evidence IT",
    "consent grant evidence": "consent grant s-1 --purpose any --evidence IT",
    "consent grant signed": "consent grant s-1 --signed IT",
    "consent sign key": "consent sign s-1 --purpose any --key IT --out OUT",
    "consent protect what": "subject protect s-1 IT",
    "policy set file": "policy set --file IT",
    "report roi rates": "report roi --rates IT",
    "audit query photo": "audit query photo --photo IT",
    "audit verify kept": "audit verify --checkpoint IT",
    "audit prove since": "audit prove --since IT --out OUT",
    "audit publish cosigned": "audit publish OUT --cosigned IT",
    "restore file": "--home OUT restore IT",
    "verify what": "verify IT",
    "verify key": "verify SIGNED --key IT",
    "sign key": "sign LORAS --key IT",
}
TRIED_ELSEWHERE = {
    "train photos", "invert photos", "invert mask", "replay mask",  # test_pictures_of_any_kind
    "calibrate repeats", "initializer fit photos", "evaluate photos", "replay photos",  # folders: regular files in them
    "sign folder",  # a folder
}  # fmt: skip


@pytest.fixture(params=["pipe", "device", "sparse", "socket"])
def strange(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "strange.safetensors"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "sparse":
            with path.open("wb") as stream:
                stream.truncate(20 * 2**30)
        case "socket":
            monkey = Path.cwd()
            os.chdir(tmp_path)  # the path of a socket is short
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
            os.chdir(monkey)
    yield path
    if path.parent == tmp_path:
        path.unlink()


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A command that waits for ever fails here; how long one takes is not asked."""

    def late(*_: object) -> None:
        raise AssertionError("the command still waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("which", COMMANDS)
def test_one_line_says_what_it_is(which: str, strange: Path, filled: Run, loras: Path, tmp_path: Path) -> None:
    assert filled("subject", "add", "s-1")[0] == 0
    one = next(p for p in sorted(loras.iterdir()) if p.is_dir() or p.suffix)
    signed = tmp_path / "signed"
    signed.mkdir()
    (signed / "model.sig").write_text("{}")
    words = {"IT": str(strange), "LORAS": str(one), "ALL": str(loras), "BASE": BASE}
    words |= {"OUT": str(tmp_path / "made"), "SIGNED": str(signed)}
    code, out, err = filled(*(words.get(word, word) for word in COMMANDS[which].split()))
    assert code != 0, out
    assert strange.name in err, err
    assert "Traceback" not in err, err
    assert not re.search(r"^bug:", err, re.MULTILINE), err


def _files_asked() -> set[str]:
    """Every argument and option that names a file or folder to read, as ``command option``."""
    found = {f"{name} {one.name}" for name, _, one in paths_of_commands() if one.name not in OUTPUTS}
    return found - {"backup file"}  # written


def test_every_file_a_command_reads_is_tried() -> None:
    assert _files_asked() <= {*COMMANDS, *TRIED_ELSEWHERE}


def _pictures() -> list[Callable[[Path], object]]:
    images = pytest.importorskip("w2w_registry.diffusion.images", exc_type=ImportError)
    return [
        lambda path: images.load_photo(path, 64),
        lambda path: images.load_mask(path, path, 64),
        images.open_picture,
        lambda path: images.load_photo(images.find_photos(path)[0], 64),
    ]


def test_pictures_of_any_kind(strange: Path) -> None:
    from w2w_registry.errors import BadImage

    for read in _pictures():
        with pytest.raises(BadImage):
            read(strange)


@pytest.mark.parametrize("beside", ["", "-wal"])
def test_a_database_that_is_no_file(beside: str, filled: Run, tmp_path: Path) -> None:
    """SQLite would wait for a pipe's writer in a call that no signal ends."""
    catalog = tmp_path / "home" / f"catalog.db{beside}"
    catalog.unlink(missing_ok=True)
    os.mkfifo(catalog)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for typed in (("list",), ("db", "upgrade"), ("doctor",)):
        code, out, err = filled(*typed)
        assert code
        assert f"catalog.db{beside} is not a regular file" in out + err
    for typed in (("--database", f"sqlite:///{pipe}", "list"), ("copy-to", f"sqlite:///{pipe}")):
        code, _, err = filled(*typed)
        assert (code, "pipe is not a regular file" in err) == (9, True)
