"""Pictures that somebody tampered with, or that belong elsewhere: what may be said of them, and what may not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.marking.pictures import HELD, scene
from tests.services.provenance.test_whose import let_go, pixels_of, plain, saved
from tests.services.small import Small
from w2w_registry.catalog.session import Catalog
from w2w_registry.marking.watermark import embed
from w2w_registry.services.provenance.whose import BROKEN, FOREIGN, detect, whose
from w2w_registry.services.recording import pictures
from w2w_registry.services.recording.pictures import Outgoing

pytest.importorskip("c2pa")
OTHER = b"\x17" * 32
"""The secret of another registry."""


@pytest.fixture
def small(sqlite_catalog: Catalog, tmp_path: Path) -> Small:
    small = Small(sqlite_catalog, tmp_path)
    for subject in ("s1", "s2"):
        small.grant(subject)
    return small


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, the whole chunk) of a PNG."""
    at = 8
    while at < len(png):
        size = struct.unpack(">I", png[at : at + 4])[0] + 12
        yield png[at + 4 : at + 8], png[at : at + size]
        at += size


def with_manifest_of(png: bytes, other: bytes) -> bytes:
    """The first picture with the signed manifest of the second, where its own was or after its header."""
    (manifest,) = [chunk for kind, chunk in chunks(other) if kind == b"caBX"]
    header, *rest = [chunk for kind, chunk in chunks(png) if kind != b"caBX"]
    return png[:8] + header + manifest + b"".join(rest)


def test_a_manifest_of_another_picture_is_broken_and_said_to_be(small: Small, tmp_path: Path) -> None:
    ann, bob = (let_go(small, (small.add(n, s),), seed=HELD + i) for i, (n, s) in enumerate((("a", "s1"), ("b", "s2"))))
    assert with_manifest_of(ann.data, ann.data) == ann.data
    told = whose(small.registry, saved(tmp_path, with_manifest_of(ann.data, bob.data)))
    assert (told["by"], told["ref"]) == ("watermark", "a@1")
    assert told["credentials"]["state"] == "invalid"
    assert "assertion.dataHash.mismatch" in told["credentials"]["problems"]
    assert told["warnings"] == [BROKEN, FOREIGN]


def test_a_manifest_makes_no_photograph_ours(small: Small, tmp_path: Path) -> None:
    ready = let_go(small, (small.add("a", "s1"),))
    Image.fromarray(scene(np.random.default_rng(HELD + 9), 512)).save(tmp_path / "photo.png")
    path = saved(tmp_path, with_manifest_of((tmp_path / "photo.png").read_bytes(), ready.data))
    told = whose(small.registry, path)
    assert (told["found"], told["ai_generated"], told["warnings"]) == (False, False, [BROKEN])
    assert detect(path)["warnings"] == [BROKEN]


def test_a_picture_of_another_registry_is_a_models_and_not_known(small: Small, tmp_path: Path) -> None:
    """Whole, its signature is unbroken and vouched for by nobody here; stripped, its number is not ours to read."""
    version = small.add("a", "s1")
    there = replace(small.registry, settings=replace(small.registry.settings, home=tmp_path / "there"))
    pixels = scene(np.random.default_rng(HELD + 7), 512)
    (ready,) = pictures.prepare(there, [Outgoing(pixels, {}, "p.png", "generate", (version,))])
    told = whose(small.registry, saved(tmp_path, ready.data))
    assert (told["found"], told["ai_generated"], told["credentials"]["state"]) == (False, True, "valid")
    told = whose(small.registry, plain(tmp_path, pixels_of(ready.data)))
    assert (told["found"], told["ai_generated"], told["credentials"]) == (False, True, None)


def test_what_another_registry_marks_again_stays_ours_as_well(small: Small, tmp_path: Path) -> None:
    pixels = pixels_of(let_go(small, (small.add("a", "s1"),)).data)
    again = embed(pixels, OTHER, [7, 8, 9])
    assert again.found.mark in (7, 8, 9)
    told = whose(small.registry, plain(tmp_path, again.pixels))
    assert (told["by"], told["ref"]) == ("watermark", "a@1")


def test_a_part_of_a_sheet_is_known_as_the_sheet(small: Small, tmp_path: Path) -> None:
    shown = small.add("a", "s1"), small.add("b", "s2")
    pixels = pixels_of(let_go(small, shown, side=768).data)
    told = whose(small.registry, plain(tmp_path, pixels[100:612, 150:662]))
    assert [one["ref"] for one in told["shows"]] == ["a@1", "b@1"]


def test_a_picture_painted_over_in_part_is_known(small: Small, tmp_path: Path) -> None:
    pixels = pixels_of(let_go(small, (small.add("a", "s1"),)).data).copy()
    pixels[120:400, 100:380] = scene(np.random.default_rng(HELD + 3), 280)
    told = whose(small.registry, plain(tmp_path, pixels))
    assert (told["by"], told["ref"]) == ("watermark", "a@1")


def test_a_copied_mark_is_believed_as_a_number_only(small: Small, tmp_path: Path) -> None:
    """The limit of every mark that detectors read: what a filter takes for noise carries it onto another picture."""
    image = Image.fromarray(pixels_of(let_go(small, (small.add("a", "s1"),)).data))
    noise = np.asarray(image, float) - np.asarray(image.filter(ImageFilter.MedianFilter(3)), float)
    other = scene(np.random.default_rng(HELD + 5), 512).astype(float)
    forged = np.clip(np.rint(other + 2 * np.clip(noise, -6, 6)), 0, 255).astype(np.uint8)
    told = whose(small.registry, plain(tmp_path, forged))
    assert (told["by"], told["credentials"]) == ("watermark", None)  # never "file", never "credentials"
