"""Pictures made to cost much or to be two things at once: looked at cheaply, or refused in one line."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from w2w_registry.diffusion.images import load_photo
from w2w_registry.errors import BadImage

SIZE = 32
MEGABYTES = 200


def saved(kind: str, image: Image.Image | None = None, **more: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.linear_gradient("L").convert("RGB")).save(stream, kind, **more)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk before its pixels."""
    png = saved("PNG")
    return png[:33] + chunk(name, data) + png[33:]


def gif_of(frames: int) -> bytes:
    """A GIF whose one frame is repeated."""
    gif = saved("GIF", Image.linear_gradient("L").resize((16, 16)).convert("P"))
    start = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    return gif[:start] + gif[start:-1] * frames + b";"


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("run.sh", "no")
    return stream.getvalue()


def several(kind: str, frames: int) -> bytes:
    pictures = [Image.new("RGB", (16, 16), (i % 256, i // 256, 99)) for i in range(frames)]
    return saved(kind, pictures[0], save_all=True, append_images=pictures[1:])


NOUGHTS = zlib.compress(bytes(300 << 20), 9)
READ: dict[str, Callable[[], bytes]] = {
    "GIF of 10,000 frames": lambda: gif_of(10_000),
    "APNG of 1,000 frames": lambda: several("PNG", 1000),
    "WebP of 300 frames": lambda: several("WEBP", 300),
    "TIFF of 1,000 pages": lambda: several("TIFF", 1000),
    "MPO": lambda: several("MPO", 3),
    "JPEG and ZIP": lambda: saved("JPEG") + zipped(),
    "PNG and ZIP": lambda: saved("PNG") + zipped(),
    "rubbish as EXIF": lambda: saved("JPEG", exif=b"Exif\0\0" + b"\xff" * 60_000),
    "rubbish as a profile": lambda: saved("PNG", icc_profile=b"\xff" * 100_000),
}
REFUSED: dict[str, Callable[[], bytes]] = {
    "zTXt bomb": lambda: with_chunk(b"zTXt", b"a\0\0" + NOUGHTS),
    "iTXt bomb": lambda: with_chunk(b"iTXt", b"a\0\1\0\0\0" + NOUGHTS),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "ZIP": zipped,
    "100,000 by 100,000": lambda: saved("PNG")[:16] + struct.pack(">II", 100_000, 100_000) + saved("PNG")[24:],
    "cut off": lambda: saved("PNG")[:200],
}


@pytest.mark.parametrize("name", READ)
def test_what_is_a_picture_as_well_is_read_as_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(READ[name]())
    assert load_photo(path, SIZE).pixels.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_none_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(REFUSED[name]())
    with pytest.raises(BadImage) as refused:
        load_photo(path, SIZE)
    assert len(str(refused.value)) < 300


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_profile_that_unpacks_to_gigabytes_is_left_alone(tmp_path: Path) -> None:
    """Pillow leaves such a profile out; whatever it does, the picture takes no more memory than another."""
    path = tmp_path / "photo.png"
    path.write_bytes(with_chunk(b"iCCP", b"a\0\0" + NOUGHTS))
    assert peak(path) < MEGABYTES


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16"])
def test_millions_of_pixels_are_never_converted_at_once(mode: str, tmp_path: Path) -> None:
    """Files of some kilobytes; before, each was converted whole, which took gigabytes."""
    side, path = 6_000, tmp_path / "photo.png"
    image = Image.fromarray(np.zeros((side, side), np.uint16)) if mode == "I;16" else Image.new(mode, (side, side))
    image.save(path, **({"transparency": 0} if mode == "P" else {}))
    assert path.stat().st_size < 1 << 20
    assert peak(path) < MEGABYTES + side * side * 4 / 2**20


def peak(path: Path) -> float:
    """Megabytes at most that a process takes to look at a photo, or to refuse it."""
    code = (
        "import sys; from pathlib import Path; from w2w_registry.diffusion.images import load_photo\n"
        "from w2w_registry.errors import BadImage\n"
        f"try: load_photo(Path(sys.argv[1]), {SIZE})\nexcept BadImage: pass\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    return int(said.stdout) / 1024
