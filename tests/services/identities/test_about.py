"""What people keep beside an adapter becomes its labels, whichever program wrote it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from w2w_registry.lora.metadata import told_by
from w2w_registry.records import Rank, rank_of
from w2w_registry.services.identities.about import about, beside_told
from w2w_registry.services.identities.previews import preview_files, read_preview

BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "x.civitai.info": (
        {
            "baseModel": "SDXL 1.0",
            "trainedWords": ["ohwx", "man"],
            "description": "<p>soft</p>",
            "model": {"name": "Ann"},
        },
        {"base_hint": "SDXL 1.0", "trigger": "ohwx, man", "notes": "soft", "title": "Ann"},
    ),
    "x.json": (
        {"activation text": "ohwx", "sd version": "SD1", "preferred weight": 0.7, "notes": "soft"},
        {"trigger": "ohwx", "base_hint": "SD1", "strength": 0.7, "notes": "soft"},
    ),
    "x.metadata.json": (
        {
            "model_name": "Ann",
            "base_model": "Flux.1 D",
            "tags": ["face", "soft"],
            "usage_tips": '{"strength": 0.8}',
            "favorite": True,
            "rating": 4,
            "civitai": {"trainedWords": ["ohwx"], "baseModel": "Other"},
        },
        {
            **{"title": "Ann", "base_hint": "Flux.1 D", "tags": "face, soft", "strength": 0.8, "trigger": "ohwx"},
            **{"favorite": 1.0, "rating": 4.0},
        },
    ),
    "x.cm-info.json": (
        {
            "ModelName": "Ann",
            "BaseModel": "Pony",
            "TrainedWords": ["ohwx"],
            "ModelDescription": "soft",
            "Tags": ["face"],
        },
        {"title": "Ann", "base_hint": "Pony", "trigger": "ohwx", "notes": "soft", "tags": "face"},
    ),
    "x.swarm.json": (
        {
            **{"modelspec.title": "Ann", "modelspec.trigger_phrase": "ohwx", "modelspec.tags": "face, soft"},
            **{"modelspec.architecture": "stable-diffusion-xl-v1-base/lora", "modelspec.description": "soft"},
        },
        {
            **{"title": "Ann", "trigger": "ohwx", "tags": "face, soft", "notes": "soft"},
            "base_hint": "stable-diffusion-xl-v1-base",
        },
    ),
    "x.safetensors.rgthree-info.json": (
        {
            "name": "Ann",
            "baseModel": "Flux.1 D",
            "trainedWords": [{"word": "ohwx", "civitai": True}],
            "userNote": "soft",
        },
        {"base_hint": "Flux.1 D", "trigger": "ohwx", "notes": "soft"},
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_files_of_other_programs(tmp_path: Path, name: str) -> None:
    written, wanted = BESIDE[name]
    (tmp_path / name).write_text(json.dumps(written))
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert about(tmp_path / "x.safetensors", None) == wanted


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"model": 1, "trainedWords": 3, "tags": {}, "usage_tips": "[", "civitai": []}', "[" * 9999],
)
def test_broken_ones_say_nothing(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert about(tmp_path / "x.safetensors", None) == {}


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "cp1251"])
def test_of_another_encoding_what_is_in_english_letters_is_taken(tmp_path: Path, encoding: str) -> None:
    other = {"latin-1": "zoë", "gbk": "红发", "cp1251": "рыжая"}[encoding]
    table = {"trainedWords": ["ohwx woman", other], "poi": True, "model": {"name": other, "poi": False}}
    (tmp_path / "x.safetensors").touch()
    (tmp_path / "x.civitai.info").write_bytes(json.dumps(table, ensure_ascii=False).encode(encoding))
    assert about(tmp_path / "x.safetensors", None) == {"trigger": "ohwx woman"}
    told = beside_told(tmp_path / "x.safetensors")
    assert [rank_of(one) for one in told].count(Rank.LIKENESS) == 1
    assert "is not in UTF-8" in told[0]
    (tmp_path / "x.civitai.info").write_bytes(json.dumps(table, ensure_ascii=False).encode("utf-16"))
    assert about(tmp_path / "x.safetensors", None)["title"] == other


@pytest.mark.parametrize("name", BESIDE)
def test_what_cannot_be_read_beside_a_file_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    (tmp_path / name).write_text('{"model": ')
    (tmp_path / "x.preview.png").write_bytes(b"ftypmp42")
    told = beside_told(tmp_path / "x.safetensors")
    assert [words.split(" beside it ")[0] for words in told] == [name, "x.preview.png"]
    (tmp_path / name).write_text("{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.preview.png")
    assert beside_told(tmp_path / "x.safetensors") == ()


@pytest.mark.parametrize("name", ["x.civitai.info", "x.metadata.json"])
def test_a_real_person_is_said_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    model: dict[str, Any] = {"model": {"poi": True}}
    (tmp_path / name).write_text(json.dumps(model if "info" in name else {"civitai": model}))
    (told,) = beside_told(tmp_path / "x.safetensors")
    assert "a real person" in told
    assert rank_of(told) is Rank.LIKENESS
    deep = '{"civitai": ' * 900 + '{"poi": true}' + "}" * 900
    (tmp_path / name).write_text(deep)
    assert about(tmp_path / "x.safetensors", None) == {}
    assert len(beside_told(tmp_path / "x.safetensors")) <= 1


@pytest.mark.parametrize("name", ["x.txt", "x.description.txt", "x.safetensors.txt"])
def test_a_text_beside_it_is_a_note_where_nothing_else_says_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    (tmp_path / name).write_text("Soft light.\nUse at .8\n")
    assert about(tmp_path / "x.safetensors", None) == {"notes": "Soft light.\nUse at .8"}
    (tmp_path / "x.json").write_text('{"notes": "warm"}')
    assert about(tmp_path / "x.safetensors", None) == {"notes": "warm"}
    assert beside_told(tmp_path / "x.safetensors") == ()
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\xd8 no letters")
    (told,) = beside_told(tmp_path / "x.safetensors")
    assert told.startswith(f"{name} beside it cannot be read as a text")


def test_the_hubs_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nbase_model: black-forest-labs/FLUX.1-dev\ninstance_prompt: a photo of TOK\nlicense: mit\n"
        "tags:\n- lora\n- 3\n---\n# Ann\n"
    )
    assert about(tmp_path, told_by({})) == {
        "base_hint": "black-forest-labs/FLUX.1-dev",
        "trigger": "a photo of TOK",
        "license": "mit",
        "tags": "lora",
    }
    for broken in ("---\n&a [*a, : }\n---\n", "---\n- 1\n---\n", "no card"):
        (tmp_path / "README.md").write_text(broken)
        assert about(tmp_path, None) == {}


SITE = {"baseModel": "SDXL 1.0", "trainedWords": ["ohwx"], "model": {"name": "Ann"}}


@pytest.mark.parametrize(
    ("name", "written", "wanted"),
    [
        ("x.civitai.info", {"trainedWords": "ohwx, man"}, {"trigger": "ohwx, man"}),
        ("x.civitai.info", {"trainedWords": [" ohwx ,", "", "ohwx", None, 3]}, {"trigger": "ohwx"}),
        ("x.civitai.info", {"description": "<b>soft</b> &amp; warm&nbsp;"}, {"notes": "soft & warm"}),
        ("x.civitai.info", {"model": "Ann", "tags": "face", "baseModel": 7}, {"title": "Ann", "tags": "face"}),
        ("x.civitai.info", [SITE], {"base_hint": "SDXL 1.0", "trigger": "ohwx", "title": "Ann"}),
        (
            "x.civitai.info",  # the site's answer for a model, not for a version of it
            {"name": "Ann", "modelVersions": [{"baseModel": "SDXL 1.0", "trainedWords": ["ohwx"]}]},
            {"base_hint": "SDXL 1.0", "trigger": "ohwx", "title": "Ann"},
        ),
        ("x.civitai.info", {"name": "Ann", "modelVersions": [SITE, SITE]}, {"title": "Ann"}),  # which one is not said
        ("x.cm-info.json", {"TrainedWords": "ohwx"}, {"trigger": "ohwx"}),
        (
            "x.json",
            {"activation text": ["ohwx", "hat"], "preferred weight": "0.7"},
            {"trigger": "ohwx, hat", "strength": 0.7},
        ),
        ("x.json", {"preferred weight": "strong"}, {}),
        ("x.json", {"preferred weight": "0,7", "sd version": ["SDXL"]}, {"strength": 0.7, "base_hint": "SDXL"}),
        ("x.json", {"notes": ["soft", "warm"]}, {"notes": "soft, warm"}),
        ("x.cm-info.json", {"UserTitle": "Mine", "ModelName": "Ann"}, {"title": "Mine"}),
        ("x.json", {"preferred weight": "0"}, {}),
        ("x.safetensors.json", {"activation text": "ohwx"}, {"trigger": "ohwx"}),
        ("x.safetensors.civitai.info", {"trainedWords": ["ohwx"]}, {"trigger": "ohwx"}),
        ("x.civitai.json", {"baseModel": "SDXL 1.0"}, {"base_hint": "SDXL 1.0"}),
    ],
)
def test_the_same_facts_in_other_shapes(tmp_path: Path, name: str, written: Any, wanted: dict[str, Any]) -> None:
    (tmp_path / name).write_text("\ufeff" + json.dumps(written), encoding="utf-8")
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert about(tmp_path / "x.safetensors", None) == wanted


def test_the_hubs_card_beside_the_only_file(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\ninstance_prompt: TOK\n---\n")
    (tmp_path / "ann.safetensors").write_bytes(b"")
    assert about(tmp_path / "ann.safetensors", None) == {"trigger": "TOK"}
    (tmp_path / "bob.safetensors").write_bytes(b"")
    assert about(tmp_path / "ann.safetensors", None) == {}


def test_what_trainers_write_twice_or_elsewhere() -> None:
    folders = json.dumps(json.dumps({"5_ohwx man": {"ohwx": 3}}))
    assert told_by({"ss_tag_frequency": folders}).trigger == "ohwx man"
    both = json.dumps({"5_ohwx man": {}, "1_man": {}})
    assert told_by({"ss_tag_frequency": both}).trigger is None
    kept = json.dumps({"1_man": {"n_repeats": 1, "img_count": 90}})
    assert told_by({"ss_tag_frequency": both, "ss_reg_dataset_dirs": kept}).trigger == "ohwx man"
    parts = [{"class_tokens": "ohwx man", "is_reg": False}, {"class_tokens": "man", "is_reg": True}, {"is_reg": 1}, 7]
    assert told_by({"ss_datasets": json.dumps([{"subsets": parts}, {"subsets": parts[:1]}])}).trigger == "ohwx man"
    assert told_by({"ss_datasets": json.dumps([{"subsets": [*parts, {"class_tokens": "sks"}]}])}).trigger is None
    assert told_by({"ss_datasets": '[{"subsets": {"a": 1}}, 3]', "ss_reg_dataset_dirs": "[1]"}).trigger is None
    assert told_by({"ot_config": json.dumps({"base_model_name": "acme/base"})}).base_model == "acme/base"
    assert told_by({"ot_config": "[" * 9999}).base_model is None


@pytest.mark.parametrize("name", ["x.preview.jpeg", "x.webp", "x.gif", "x.PNG", "x.thumb.jpg", "x.swarm.json"])
def test_pictures_that_programs_put_beside_a_file(tmp_path: Path, name: str) -> None:
    out = io.BytesIO()
    kind = {"jpeg": "JPEG", "webp": "WEBP", "gif": "GIF"}.get(name.rpartition(".")[2], "PNG")
    Image.new("RGB", (30, 60), (9, 200, 9)).save(out, kind)
    (tmp_path / "x.safetensors").write_bytes(b"")
    data = out.getvalue()
    if name.endswith("json"):
        text = "data:image/png;base64," + base64.b64encode(data).decode()
        data = json.dumps({"modelspec.thumbnail": text}).encode()
    (tmp_path / name).write_bytes(data)
    assert beside_told(tmp_path / "x.safetensors") == ()
    png = read_preview(tmp_path / "x.safetensors", {})
    assert png is not None
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == (30, 60)
    for broken in ('{"modelspec.thumbnail": 3}', '{"modelspec.thumbnail": "data:image/png;base64,!"}', "[", "3"):
        (tmp_path / "y.swarm.json").write_text(broken)
        assert read_preview(tmp_path / "y.safetensors", {}) is None


def test_a_picture_in_the_files_own_header(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (300, 600), (9, 200, 9)).save(out, "JPEG")
    within = {"modelspec.thumbnail": "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()}
    png = read_preview(tmp_path / "x.safetensors", within)
    assert png is not None
    assert Image.open(io.BytesIO(png)).size == (128, 256)
    for broken in ("data:image/jpeg;base64,@@@", "data:image/png;base64,QUJD", "https://example.org/x.png", ""):
        assert read_preview(tmp_path / "x.safetensors", {"modelspec.thumbnail": broken}) is None
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    beside = read_preview(tmp_path / "x.safetensors", within)
    assert beside is not None
    assert Image.open(io.BytesIO(beside)).size == (64, 64)


@pytest.mark.parametrize(
    ("name", "what"), [("x.heic", "a HEIC"), ("x.preview.jxl", "a JPEG XL"), ("x.JXL", "a JPEG XL")]
)
def test_a_picture_of_a_kind_that_is_not_read_is_said(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "x.safetensors").touch()
    (tmp_path / name).touch()
    (said,) = beside_told(tmp_path / "x.safetensors")
    assert f"{name} beside it is {what} picture, which is not taken" in said


@pytest.mark.parametrize("there", [True, False])
def test_an_avif_picture_is_a_preview_where_pillow_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    from PIL import Image

    plugin = pytest.importorskip("PIL.AvifImagePlugin")
    if not plugin.SUPPORTED:
        pytest.skip("this Pillow came without AVIF's library")
    (tmp_path / "x.safetensors").touch()
    Image.new("RGB", (40, 20), (200, 30, 30)).save(tmp_path / "x.preview.avif")
    monkeypatch.setattr(plugin, "SUPPORTED", there)
    data = read_preview(tmp_path / "x.safetensors")
    told = beside_told(tmp_path / "x.safetensors")
    if there:
        assert data is not None
        assert (Image.open(io.BytesIO(data)).size, told) == ((40, 20), ())
    else:
        assert data is None
        assert "an AVIF picture, which this Pillow does not read" in told[0]


def _made(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((200, 200), 60).convert("RGB").save(out, kind, **options)
    return out.getvalue()


def _flipped(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes([data[half] ^ 255]) + data[half + 1 :]


THUMBNAIL = Image.Exif()
THUMBNAIL.get_ifd(0x8769)[0x927C] = _made("JPEG", quality=5)
BROKEN = {
    **{f"half.{kind.lower()}": _made(kind)[:20000] for kind in ("PNG", "JPEG", "WEBP", "BMP")},
    "thumbnail.jpg": _made("JPEG", exif=THUMBNAIL)[:-2000],
    "flipped.png": _flipped(_made("PNG")),
    "begun.gif": b"GIF89a",
    "empty.png": b"",
    "page.jpg": b"<html>",
    "huge.png": _made("PNG")[:16] + (60000).to_bytes(4, "big") * 2 + _made("PNG")[24:],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_said_and_the_next_is_the_preview(tmp_path: Path, name: str) -> None:
    kind = name.partition(".")[2]
    lora, broken = tmp_path / "x.safetensors", tmp_path / f"x.preview.{kind}"
    lora.touch()
    broken.write_bytes(BROKEN[name])
    assert read_preview(lora) is None
    (said,) = beside_told(lora)
    assert said.startswith(f"x.preview.{kind} beside it is not taken as a preview: ")
    (tmp_path / "x.webp").write_bytes(_made("WEBP"))
    assert read_preview(lora) is not None
    assert beside_told(lora) == (said,)
    broken.write_bytes(_made("JPEG", exif=THUMBNAIL) if kind == "jpg" else _made(kind.upper()))
    assert beside_told(lora) == ()


@pytest.mark.parametrize("name", ["x.preview.mp4", "x.webm"])
def test_a_video_for_a_preview_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert beside_told(tmp_path / "x.safetensors") == (f"{name} beside it is a video, which is not taken as a preview",)


@pytest.mark.parametrize("name", ["x.preview.png", "x.preview.webp", "x.jpg", "x.PNG", "x.preview.JPG"])
def test_pictures_beside_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert next(preview_files(tmp_path / "x.safetensors")) == tmp_path / name


@pytest.mark.parametrize("name", ["preview.png", "ann.webp", "image_0.png"])
def test_pictures_in_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / name).write_bytes(b"")
    assert next(preview_files(tmp_path / "ann")) == tmp_path / "ann" / name


def test_a_name_as_long_as_names_get_has_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / f"{'n' * 243}.safetensors"
    file.write_bytes(b"")
    assert (about(file, None), beside_told(file)) == ({}, ())
