"""A photo as a query: it finds whom `invert` would have registered, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.diffusion import tiny
from tests.services import studio
from w2w_registry.diffusion.pipeline import load_model
from w2w_registry.errors import BadFile, BadImage, ConsentDenied
from w2w_registry.lora import read_lora
from w2w_registry.services.audit.log import verify
from w2w_registry.services.identities import browsing
from w2w_registry.services.identities.previews import set_preview
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.registry import open_registry
from w2w_registry.services.search.draws import PHOTO, search_by
from w2w_registry.services.search.found import is_photo
from w2w_registry.services.search.query import search
from w2w_registry.services.synthesis import invert, looking


def test_a_photo_finds_whom_it_would_become(tmp_path: Path) -> None:
    pipeline = tiny.build("sd1", tmp_path / "pipeline")
    layout = tiny.layout(load_model(pipeline, device="cpu").unet)
    settings = studio.build(tmp_path, pipeline, layout)
    photo = studio.photo(tmp_path / "photos", "somebody", 3)
    with open_registry(settings) as registry:
        before = browsing.browse(registry)
        (query,) = looking.as_queries(registry, [str(photo)], studio.ENGINE)
        found = search(registry, query, limit=3)
        assert found.query == str(photo)
        assert len(found.results) == 3
        assert browsing.browse(registry) == before
        invert.invert(registry, invert.InvertRequest(photos=[str(photo)], name="new", engine=studio.ENGINE))
        assert search(registry, query, limit=1).results[0].identity == "new"
        (told,) = search_by(registry, [query], "weights", limit=1)  # the very point, and still no person's LoRA
        assert [(hit.identity, hit.verdict, hit.false_alarm) for hit in told.results] == [("new", "no", None)]
        assert (told.threshold, PHOTO in told.warnings) == (None, True)
        _, space = open_space(registry, None)
        assert query.file is not None
        assert np.isfinite(space.in_gauge(read_lora(query.file).theta()[None])).all()
        (tmp_path / "not.png").write_bytes(b"no picture")
        with pytest.raises(BadImage):
            looking.as_queries(registry, [str(tmp_path / "not.png")], studio.ENGINE)
        with pytest.raises(ConsentDenied):
            looking.as_queries(studio.strict(registry), [str(photo)], studio.ENGINE)


def test_what_a_photo_is(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.PNG")
    assert is_photo(str(tmp_path / "a.PNG"))
    assert not is_photo(str(tmp_path / "b.png"))
    assert not is_photo("p0007")


def test_a_preview_that_is_given(tmp_path: Path) -> None:
    pipeline = tiny.build("sd1", tmp_path / "pipeline")
    layout = tiny.layout(load_model(pipeline, device="cpu").unet)
    settings = studio.build(tmp_path, pipeline, layout)
    photo = studio.photo(tmp_path / "photos", "somebody", 3)
    with open_registry(settings) as registry:
        given, again = set_preview(registry, "p01", Path(photo)), set_preview(registry, "p01", Path(photo))
        assert (given["version"], given["changed"], again["changed"]) == ("p01@1", True, False)
        assert registry.artifacts.exists(given["preview"])
        with pytest.raises(BadFile):
            set_preview(registry, "p01", tmp_path / "labels.csv")
        assert verify(registry).ok
