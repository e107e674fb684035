"""The watermark: found after what happens to pictures, carrying its number; never seen where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from examples.detect import false_alarm
from tests.marking.pictures import ATTACKS, HELD, cropped, doubled, drawing, face, jpeg, photographs, scene, texture
from w2w_registry.marking import tiles
from w2w_registry.marking.watermark import ALARM, Marked, detect, embed

SECRET, OTHER = b"\x01" * 32, b"\x02" * 32
NUMBERS = tuple(range(7, 7 + 16))


@pytest.fixture(scope="module")
def marked() -> list[tuple[np.ndarray, Marked]]:
    """Pictures that nothing was tuned on, at 512 and 256 pixels."""
    rng = np.random.default_rng(HELD + 1)
    pictures = [make(rng, side) for side in (512, 256) for make in (texture, scene, drawing, face)]
    pictures += [p for side in (512, 256) for _, p in photographs(None, side, 1, HELD)]
    return [(p, embed(p, SECRET, NUMBERS)) for p in pictures]


@pytest.mark.parametrize("attack", ATTACKS)
def test_found_with_its_number_after(marked: list[tuple[np.ndarray, Marked]], attack: str) -> None:
    for _, mark in marked:
        found = detect(ATTACKS[attack](mark.pixels), SECRET)
        assert found.present
        assert found.mark == mark.mark


@pytest.mark.parametrize("how", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
def test_found_with_its_number_at_twice_the_size(
    marked: list[tuple[np.ndarray, Marked]], how: Image.Resampling
) -> None:
    for original, mark in marked:
        large = doubled(how)(mark.pixels)
        for pixels, (mirrored, turned) in ((large, (False, 0)), (np.rot90(large[:, ::-1], -1), (True, 90))):
            found = detect(pixels, SECRET)
            assert (found.mark, found.enlarged, found.mirrored, found.turned) == (mark.mark, True, mirrored, turned)
            assert false_alarm(pixels) <= ALARM
        assert not detect(doubled(how)(original), SECRET).present


def test_cannot_be_seen_and_says_how_sure_it_is(marked: list[tuple[np.ndarray, Marked]]) -> None:
    for original, mark in marked:
        assert mark.psnr >= 40.0
        error = np.mean((mark.pixels.astype(float) - original) ** 2)
        assert 10 * np.log10(255**2 / error) == pytest.approx(mark.psnr, abs=0.01)
        assert mark.found.present
        assert mark.found.false_alarm <= ALARM
        assert mark.mark in NUMBERS


def test_unmarked_pictures_accuse_nobody(marked: list[tuple[np.ndarray, Marked]]) -> None:
    for original, _ in marked:
        found = detect(original, SECRET)
        assert not found.present
        assert found.mark is None


def test_the_mark_of_another_registry_is_there_and_not_ours(marked: list[tuple[np.ndarray, Marked]]) -> None:
    for _, mark in marked:
        found = detect(mark.pixels, OTHER)
        assert found.present
        assert found.mark is None


def test_the_presence_needs_no_secret_and_tells_no_number(marked: list[tuple[np.ndarray, Marked]]) -> None:
    found = detect(marked[0][1].pixels)
    assert found.present
    assert found.mark is None


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_picture_that_was_mirrored_and_turned_is_recognised(
    marked: list[tuple[np.ndarray, Marked]], quarters: int, mirrored: bool
) -> None:
    for pixels, number in [(m.pixels, m.mark) for _, m in marked[:6]] + [
        (marked[0][1].pixels[7:-30], marked[0][1].mark)
    ]:
        way = pixels[:, ::-1] if mirrored else pixels
        found = detect(np.ascontiguousarray(np.rot90(way, -quarters)), SECRET)
        assert (found.present, found.mark) == (True, number)
        assert (found.mirrored, found.turned) == (mirrored, 90 * quarters)


def test_attacks_together(marked: list[tuple[np.ndarray, Marked]]) -> None:
    for _, mark in marked[:4]:
        assert detect(jpeg(75)(cropped(mark.pixels)), SECRET).mark == mark.mark


def test_marking_again_keeps_the_first_or_the_second_number(marked: list[tuple[np.ndarray, Marked]]) -> None:
    again = embed(marked[0][1].pixels, SECRET, (9999,))
    assert detect(again.pixels, SECRET).mark in (marked[0][1].mark, 9999)


@pytest.mark.parametrize("size", [(16, 16), (16, 300), (33, 47), (150, 1100), (600, 40)])
def test_any_shape_can_be_marked(size: tuple[int, int]) -> None:
    pixels = texture(np.random.default_rng(0), 1100)[: size[0], : size[1]]
    mark = embed(pixels, SECRET, NUMBERS)
    assert mark.pixels.shape == pixels.shape
    assert mark.psnr >= 40.0
    assert detect(mark.pixels, SECRET) == mark.found


def test_a_long_sheet_carries_a_number() -> None:
    mark = embed(texture(np.random.default_rng(1), 1100)[:150], SECRET, NUMBERS)
    assert mark.found.mark == mark.mark is not None


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_pictures(value: int) -> None:
    mark = embed(np.full((512, 512, 3), value, np.uint8), SECRET, NUMBERS)
    assert mark.found.mark == mark.mark
    assert mark.psnr >= 40.0


def test_too_small_is_left_alone() -> None:
    pixels = texture(np.random.default_rng(2), 15)
    mark = embed(pixels, SECRET, NUMBERS)
    assert mark.mark is None
    assert not mark.found.present
    assert (mark.pixels == pixels).all()


@settings(deadline=None, max_examples=25)
@given(arrays(np.uint8, st.tuples(st.integers(1, 90), st.integers(1, 90), st.just(3))))
def test_no_picture_breaks_detection_or_embedding(pixels: np.ndarray) -> None:
    assert 0.0 <= detect(pixels, SECRET).false_alarm <= 1.0
    assert embed(pixels, SECRET, NUMBERS).psnr >= 40.0


def test_the_bound_holds_where_it_can_be_counted() -> None:
    """Random keys against one picture: the share of z above t stays under exp(−t²/2), for every t that can be seen."""
    profile = tiles.MIDDLE
    flat, _ = tiles.flatten(tiles.luma(scene(np.random.default_rng(5), 256)))
    spectrum = tiles.take(np.fft.fft2(tiles.fold(flat, profile.tile)), profile)
    units, weights = tiles.weigh(spectrum)
    phases = np.random.default_rng(6).uniform(0, 2 * np.pi, (20_000, units.size))
    z = np.sqrt(2) * (units * np.exp(-1j * phases)).real.sum(axis=1) / np.sqrt((weights**2).sum())
    for t in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        assert (z > t).mean() <= np.exp(-(t**2) / 2)
    assert z.std() == pytest.approx(1.0, abs=0.02)
