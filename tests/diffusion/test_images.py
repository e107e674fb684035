from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from w2w_registry.diffusion import images
from w2w_registry.errors import BadFile, BadImage
from w2w_registry.services.identities.previews import shrunk


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """Red on the left, blue on the right, a green bar along the top."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 250
    pixels[:, width // 2 :, 2] = 250
    pixels[: height // 4] = (0, 250, 0)
    return Image.fromarray(pixels)


def saved(path: Path, image: Image.Image, **more: Any) -> Path:
    image.save(path, **more)
    return path


def is_right_way_up(pixels: np.ndarray, tolerance: int = 40) -> None:
    size = len(pixels)
    for (y, x), colour in {(2, size // 2): (0, 250, 0), (-4, 3): (250, 0, 0), (-4, -4): (0, 0, 250)}.items():
        assert np.abs(pixels[y, x].astype(int) - colour).max() <= tolerance, (y, x, pixels[y, x])


def test_a_photo_becomes_its_centred_square(tmp_path: Path) -> None:
    photo = images.load_photo(saved(tmp_path / "a.png", picture()), 32)
    assert photo.pixels.shape == (32, 32, 3)
    assert photo.pixels.dtype == np.uint8
    assert photo.notes == ()
    is_right_way_up(photo.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_flags_are_obeyed(tmp_path: Path, orientation: int) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = picture(64, 64)
    if orientation in turned:
        image = image.transpose(turned[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = images.load_photo(saved(tmp_path / "a.jpg", image, exif=exif, quality=95), 32)
    is_right_way_up(photo.pixels)


@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "LA", "RGBA", "1", "I;16", "F", "YCbCr"])
def test_every_mode_is_understood(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray((np.asarray(picture().convert("L"), np.uint16) * 257).astype(np.uint16))
    else:
        image = picture().convert(mode)
    suffix = {"CMYK": "jpg", "F": "tif", "YCbCr": "jpg"}.get(mode, "png")
    photo = images.load_photo(saved(tmp_path / f"a.{suffix}", image), 32)
    if mode in ("CMYK", "P", "RGBA", "YCbCr"):
        is_right_way_up(photo.pixels, 60)
    else:
        grey = np.asarray(picture().convert("1" if mode == "1" else "L").convert("RGB").crop((16, 0, 80, 64)))
        assert abs(float(photo.pixels.mean()) - float(grey.mean())) < 8


def test_transparency_is_shown_on_grey_and_said(tmp_path: Path) -> None:
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    photo = images.load_photo(saved(tmp_path / "a.png", image), 32)
    assert (photo.pixels == 128).all()
    assert any("transparent" in n for n in photo.notes)


def test_an_animation_gives_its_first_frame_and_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.gif", picture(), save_all=True, append_images=[picture().rotate(180)])
    photo = images.load_photo(path, 32)
    is_right_way_up(photo.pixels, 60)
    assert any("first frame" in n for n in photo.notes)


def test_fifty_megapixels_are_fine(tmp_path: Path) -> None:
    path = saved(tmp_path / "big.jpg", picture(9600, 5400), quality=60)
    is_right_way_up(images.load_photo(path, 64).pixels)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    image = picture()
    image.save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    with pytest.raises(BadImage) as caught:
        images.load_photo(path, 32)
    assert "many" in caught.value.fields["reason"]


def test_one_colour_is_flagged(tmp_path: Path) -> None:
    photo = images.load_photo(saved(tmp_path / "a.png", Image.new("RGB", (64, 64), "red")), 32)
    assert any("flat colour" in n for n in photo.notes)


def _jpeg() -> bytes:
    out = io.BytesIO()
    rough = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    Image.fromarray(rough).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="text"),
        pytest.param(_jpeg()[:500], id="truncated header"),
        pytest.param(_jpeg()[:9000], id="truncated body"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 100, id="hollow png"),
        pytest.param(b"GIF89a\0\0\0\0\0\0\0;", id="zero size"),
        pytest.param(b"\x93NUMPY\x01\x00", id="an array"),
    ],
)
def test_what_is_no_picture_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImage) as caught:
        images.load_photo(path, 32)
    assert caught.value.fields["path"] == str(path)
    assert caught.value.fields["reason"]


def test_postscript_never_reaches_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ending says nothing of the file, and Pillow by itself hands PostScript to whatever ``gs`` is there."""
    mark, program = tmp_path / "it ran", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(program))
    picture().save(tmp_path / "a.eps", "EPS")
    path = (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with suppress(OSError), Image.open(path) as plain:  # what Pillow does by itself
        plain.load()
    assert mark.exists()
    mark.unlink()
    for read in (lambda: images.load_photo(path, 32), lambda: images.load_mask(path, path, 32),
                 lambda: images.open_picture(path), lambda: shrunk(path.read_bytes())):  # fmt: skip
        with pytest.raises(BadFile):
            read()
    assert not mark.exists()


def test_missing_file_folder_and_specks_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "no.png", tmp_path, saved(tmp_path / "dot.png", picture(8, 8))):
        with pytest.raises(BadImage):
            images.load_photo(path, 32)


def test_photos_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for name in ("b.png", "a.JPG"):
        picture().save(tmp_path / name)
    assert [p.name for p in images.find_photos(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(BadImage):
        images.find_photos(tmp_path / "none")


def test_mask_is_cropped_like_its_photo(tmp_path: Path) -> None:
    photo = saved(tmp_path / "a.png", picture())
    marked = np.zeros((64, 96), np.uint8)
    marked[:, :48] = 255
    mask, digest = images.load_mask(saved(tmp_path / "m.png", Image.fromarray(marked)), photo, 32)
    assert mask.shape == (32, 32)
    assert len(digest) == 64
    assert mask[:, :15].min() == 1.0
    assert mask[:, 17:].max() == 0.0


@pytest.mark.parametrize(("shape", "value"), [((64, 96), 0), ((64, 64), 255)])
def test_a_mask_that_marks_nothing_or_has_another_shape_is_refused(
    tmp_path: Path, shape: tuple[int, int], value: int
) -> None:
    photo = saved(tmp_path / "a.png", picture())
    mask = saved(tmp_path / "m.png", Image.fromarray(np.full(shape, value, np.uint8)))
    with pytest.raises(BadImage):
        images.load_mask(mask, photo, 32)


def test_png_tells_what_it_is(tmp_path: Path) -> None:
    pixels = np.asarray(picture())
    facts = {"identity": "acme/alice", "version": 3, "prompt": 'a "smile" <& ü', "seed": 7, "ai_generated": True}
    path = tmp_path / "a.png"
    path.write_bytes(images.png_bytes(pixels, facts))
    with Image.open(path) as image:
        assert json.loads(image.text["w2w-registry"]) == facts
        np.testing.assert_array_equal(np.asarray(image), pixels)
        packet = image.info["xmp"] if "xmp" in image.info else image.text["XML:com.adobe.xmp"]
    packet = packet.decode() if isinstance(packet, bytes) else packet
    import xml.etree.ElementTree as Tree

    root = Tree.fromstring(packet[packet.index("<x:xmpmeta") : packet.index("<?xpacket end")])
    about = root[0][0]
    kind = about.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"]
    assert kind.endswith("trainedAlgorithmicMedia")
    assert json.loads(about.attrib["{https://w2w-registry.invalid/ns/1.0/}generation"]) == facts


def test_a_sheet_wraps_and_frames_the_same_person() -> None:
    cell = np.zeros((32, 32, 3), np.uint8)
    tiles = [images.Tile(cell, (f"name {n}", "0.5"), framed=n == 3) for n in range(10)]
    sheet = images.wrapped_sheet(tiles, columns=4, cell=64)
    assert sheet.shape[1] < 5 * 70 < sheet.shape[0] * 2
    green = (sheet == (0, 128, 0)).all(-1)
    assert 0 < green.sum() <= 4 * 3 * 70
    assert abs(np.argwhere(green)[:, 1].mean() - 3.5 * 70) < 10
    assert 10 * 64 * 64 <= (sheet.max(-1) == 0).sum() < 10 * 64 * 64 + 4000
    with pytest.raises(ValueError, match="at least one"):
        images.wrapped_sheet([])


def test_contact_sheet_has_a_cell_per_picture() -> None:
    cell = np.zeros((32, 32, 3), np.uint8)
    sheet = images.contact_sheet([[cell, cell], [cell]], row_labels=["a", "b"], column_labels=["1", "2"], cell=64)
    black = (sheet.max(-1) == 0).sum()
    assert black >= 3 * 64 * 64
    assert black < 3 * 64 * 64 + 2000
    with pytest.raises(ValueError, match="at least one"):
        images.contact_sheet([])
