"""Pictures that left are known again: by their file, their credentials, or their pixels alone."""

from __future__ import annotations

import ast
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import select

from examples.detect import false_alarm, read
from tests.marking.pictures import HELD, corpus, cropped, halved, jpeg, scene
from tests.services.small import Small
from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.session import Catalog
from w2w_registry.cli.app import cli
from w2w_registry.errors import BadImage
from w2w_registry.marking.watermark import ALARM, embed
from w2w_registry.services.audit import log
from w2w_registry.services.consent import withdraw
from w2w_registry.services.provenance.whose import detect, whose
from w2w_registry.services.recording import pictures
from w2w_registry.services.recording.pictures import Outgoing, Ready

ROOT = Path(__file__).parents[3]
pytest.importorskip("c2pa")


@pytest.fixture
def small(sqlite_catalog: Catalog, tmp_path: Path) -> Small:
    return Small(sqlite_catalog, tmp_path)


def let_go(small: Small, versions: tuple[int, ...], side: int = 512, seed: int = HELD + 7) -> Ready:
    leaving = Outgoing(
        scene(np.random.default_rng(seed), side), {"ai_generated": True}, "p.png", "generate", versions, seed=3
    )
    (ready,) = pictures.prepare(small.registry, [leaving])
    with small.registry.catalog.write("curator") as uow:
        uow.event("version.generate", {"version": list(versions)}, **pictures.record(uow, [ready]))
    return ready


def saved(folder: Path, data: bytes, name: str = "p.png") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def plain(folder: Path, pixels: np.ndarray) -> Path:
    """The pixels alone: no metadata is left."""
    path = folder / "plain.png"
    Image.fromarray(pixels).save(path)
    return path


def test_by_file_by_credentials_and_by_pixels(small: Small, tmp_path: Path) -> None:
    small.grant("s1")
    version = small.add("a", "s1")
    ready = let_go(small, (version,))
    told = whose(small.registry, saved(tmp_path, ready.data))
    assert (told["found"], told["by"], told["identity"], told["version"]) == (True, "file", "a", 1)
    assert (told["operation"], told["seed"], told["consent"]) == ("generate", 3, "granted")
    assert told["credentials"]["state"] == "trusted"
    pixels = pixels_of(ready.data)
    for change in (lambda p: p, jpeg(75), jpeg(50), halved, cropped):
        told = whose(small.registry, plain(tmp_path, change(pixels)))
        assert (told["by"], told["ref"], told["consent"], told["credentials"]) == ("watermark", "a@1", "granted", None)
    assert log.verify(small.registry).ok


@pytest.mark.parametrize("composite", [False, True])
def test_what_is_signed_names_nobody_and_says_what_the_plain_note_says(small: Small, composite: bool) -> None:
    """The file's name is the identity's; its credentials outlive a renaming of the file."""
    import c2pa

    small.grant("s1")
    leaving = Outgoing(
        scene(np.random.default_rng(1), 64), {}, "alice_1.png", "generate", (small.add("alice", "s1"),), 1, composite
    )
    (ready,) = pictures.prepare(small.registry, [leaving])
    with c2pa.Reader("image/png", io.BytesIO(ready.data)) as reader:
        said = reader.json()
    assert "alice" not in said
    (kind,) = re.findall('"digitalSourceType": *"([^"]+)"', said)
    assert Image.open(io.BytesIO(ready.data)).text["XML:com.adobe.xmp"].count(f'DigitalSourceType="{kind}"') == 1


def test_in_every_kind_of_file_and_turned_every_way(small: Small, tmp_path: Path) -> None:
    small.grant("s1")
    image = Image.fromarray(pixels_of(let_go(small, (small.add("a", "s1"),)).data))
    grey = np.asarray(image.convert("L"))
    phone = Image.Exif()
    phone[0x0112] = 6  # EXIF orientation: to be shown turned by a quarter
    files: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "turned by a note.jpg": (image.transpose(Image.Transpose.ROTATE_90), {"exif": phone, "quality": 90}),
        "upside down.webp": (image.transpose(Image.Transpose.ROTATE_180), {"quality": 90}),
        "transposed.png": (image.transpose(Image.Transpose.TRANSPOSE), {}),
        "deep grey.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "deep grey.tiff": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "ink.jpg": (image.convert("CMYK"), {"quality": 90}),
        "palette.gif": (image.quantize(256), {}),
        "moving.gif": (image, {"save_all": True, "append_images": [image.rotate(9), image.rotate(20)]}),
        "moving.webp": (image, {"save_all": True, "append_images": [image.rotate(9)], "quality": 90}),
        "see-through.png": (Image.merge("RGBA", (*image.split(), Image.fromarray(grey))), {}),
        "pages.tiff": (image, {"save_all": True, "append_images": [image.rotate(9)]}),
    }
    for name, (changed, how) in files.items():
        changed.save(tmp_path / name, **how)
        told = whose(small.registry, tmp_path / name)
        assert (told["by"], told["ref"]) == ("watermark", "a@1"), name
        assert false_alarm(read(tmp_path / name)) <= ALARM, name
    assert whose(small.registry, tmp_path / "turned by a note.jpg")["turned"] == 270
    assert whose(small.registry, tmp_path / "transposed.png")["mirrored"]


def test_after_a_withdrawal_every_lookup_says_so(small: Small, tmp_path: Path) -> None:
    small.grant("s1")
    made = small.derive("e", small.add("a", "s1"))
    ready = let_go(small, (made,))
    withdraw.withdraw(small.registry, "s1")
    for path in (saved(tmp_path, ready.data), plain(tmp_path, pixels_of(ready.data))):
        told = whose(small.registry, path)
        assert (told["ref"], told["consent"], told["lineage"]) == ("e@1", "withdrawn", ["a@1"])


def test_a_question_makes_no_keys(small: Small, tmp_path: Path) -> None:
    told = whose(small.registry, plain(tmp_path, scene(np.random.default_rng(1), 256)))
    assert not told["found"]
    assert not (small.registry.settings.home / "keys").exists()


def test_a_sheet_shows_several(small: Small, tmp_path: Path) -> None:
    for subject in ("s1", "s2"):
        small.grant(subject)
    shown = small.add("a", "s1"), small.add("b", "s2")
    told = whose(small.registry, saved(tmp_path, let_go(small, shown).data))
    assert told["identity"] is None
    assert [one["ref"] for one in told["shows"]] == ["a@1", "b@1"]
    assert told["consent"] == "granted"


def test_one_that_cannot_be_read_hides_no_other(small: Small, sqlite_url: str, tmp_path: Path) -> None:
    """A folder stands for the pictures in it; what is no picture is said beside the others' answers."""
    small.grant("s1")
    ready = let_go(small, (small.add("a", "s1"),))
    folder = tmp_path / "pictures"
    folder.mkdir()
    marked, strange, broken = saved(folder, ready.data), folder / "strange.png", saved(folder, b"no picture", "z.png")
    Image.fromarray(scene(np.random.default_rng(0), 64)).save(strange)
    home = ["--home", str(small.registry.settings.home), "--database", sqlite_url]

    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, [*home, *args], standalone_mode=False)

    for command, codes in (("whose", (0, 3, 5)), ("detect", (0, 1, 5))):
        assert run(command, str(marked)).return_value == codes[0]
        assert run(command, str(marked), str(strange)).return_value == codes[1]
        told = run(command, str(folder))
        assert told.return_value == codes[2]
        assert f"{strange}: " in told.stdout
        assert str(marked) in told.stdout
        assert f"warning: {broken}: " in told.stderr
        assert [one["picture"] for one in json.loads(run("--json", command, str(folder)).stdout)] == [
            str(marked),
            str(strange),
        ]
        assert isinstance(run(command, str(broken)).exception, BadImage)
        assert isinstance(run(command, str(tmp_path / "nobody")).exception, BadImage)


def test_pictures_of_others_are_nobodys(small: Small, tmp_path: Path) -> None:
    plain_picture = scene(np.random.default_rng(1), 256)
    told = whose(small.registry, plain(tmp_path, plain_picture))
    assert (told["found"], told["ai_generated"], told["identity"], told["consent"]) == (False, False, None, None)
    foreign = whose(small.registry, plain(tmp_path, embed(plain_picture, b"\x09" * 32, [1, 2, 3]).pixels))
    assert (foreign["found"], foreign["ai_generated"]) == (False, True)


def test_only_policy_turns_marking_off_and_the_log_says_it(small: Small, tmp_path: Path) -> None:
    small.grant("s1")
    version = small.add("a", "s1")
    small.registry = replace(small.registry, settings=replace(small.registry.settings, policy={"marking": False}))
    ready = let_go(small, (version,))
    assert ready.mark is None
    assert not detect(saved(tmp_path, ready.data))["marked"]
    with small.registry.catalog.read() as session:
        last = session.scalars(select(Event).order_by(Event.seq.desc())).first()
        assert last is not None
        assert last.payload["marking"] == {"on": False, "pictures": 1, "seen": 0, "numbered": 0}


def test_small_pictures_have_signed_metadata_all_the_same(small: Small, tmp_path: Path) -> None:
    small.grant("s1")
    told = whose(small.registry, saved(tmp_path, let_go(small, (small.add("a", "s1"),), side=32).data))
    assert (told["by"], told["ai_generated"], told["credentials"]["state"]) == ("file", True, "trusted")


@pytest.mark.parametrize("side", [512, 200, 32])
def test_the_detector_that_stands_alone_agrees(side: int) -> None:
    for _, pixels in corpus(side, 1, HELD):
        marked = embed(pixels, b"\x05" * 32, [1, 2, 3])
        assert (false_alarm(marked.pixels) <= ALARM) == marked.found.present
        assert false_alarm(pixels) > ALARM


# What makes a file of pixels, by whatever library.
ENCODERS = {"png_bytes", "save", "savefig", "imsave", "imwrite", "imencode", "write_png", "write_jpeg", "encode_png"}
# Whoever has one of these signs, by why it may: file -> {sign: reason}.
ALLOWED: dict[str, dict[str, str]] = {
    "w2w_registry/diffusion/images.py": {"encodes": "makes the bytes"},
    "w2w_registry/services/recording/pictures.py": {"encodes": "the way out", "names a kind": "the way out"},
    "w2w_registry/services/identities/previews.py": {"encodes": "keeps what came with a LoRA; nothing leaves"},
    "w2w_registry/services/synthesis/previewing.py": {"encodes": "keeps what it drew; nothing leaves"},
    "w2w_registry/services/identities/search_sheet.py": {"reads previews": "tiles of a sheet, which leaves marked"},
    "w2w_registry/services/hub/release_files.py": {"reads previews": "a dry run, of which nothing leaves"},
    "w2w_registry/services/provenance/verify.py": {"reads previews": "only checks them"},
    "w2w_registry/services/provenance/whose.py": {"names a kind": "reads pictures that people name"},
    "w2w_registry/interface/results.py": {"names a kind": "shows a sheet that a command wrote"},
    "w2w_registry/web/site.py": {"names a kind": "files it ships; pictures it is given"},
    "w2w_registry/web/pages/drawing.py": {"names a kind": "what generate drew; tests/web/test_jobs.py"},
    "w2w_registry/web/pages/files.py": {"serves": "what paging.picture marked; tests/web/test_pictures_marked.py"},
}


def signs(text: str) -> set[str]:
    """How a file of source could let a picture out by itself."""
    nodes = list(ast.walk(ast.parse(text)))
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    calls = {f.attr for f in called if isinstance(f, ast.Attribute)}
    calls |= {f.id for f in called if isinstance(f, ast.Name) and f.id != "save"}  # that is safetensors'
    words = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = {
        "encodes": bool(calls & ENCODERS),
        "names a kind": any(re.search(r"(?<![\w\[])image/(?!svg)\w+$|data:image/\w+;base64,$", word) for word in words),
        "serves": "picture_response" in calls,
        "reads previews": "preview_digest" in text and bool(re.search(r"artifacts\.(get|local|open)\(", text)),
        "lays out a sheet": "contact_sheet" in calls
        and not re.search(r"recording(\.pictures)? import .*\b[pO]\w+", text),
    }
    return {sign for sign, there in found.items() if there}


def test_there_is_one_way_out_for_pictures() -> None:
    """Whatever encodes pictures, serves them or lays them in sheets goes by way of ``recording.pictures``."""
    found = {
        str(path.relative_to(ROOT)): seen
        for top in ("w2w_registry", "cli")
        for path in sorted((ROOT / top).rglob("*.py"))
        if (seen := signs(path.read_text("utf-8")))
    }
    assert found == {name: set(why) for name, why in ALLOWED.items()}


@pytest.mark.parametrize(
    ("source", "sign"),
    [
        ("def leak(image, out): image.save(out)", "encodes"),
        ("from PIL import Image\nImage.fromarray(x).save(out, format='JPEG')", "encodes"),
        ("import cv2\ncv2.imwrite('a.png', x)", "encodes"),
        ("import matplotlib.pyplot as plt\nplt.savefig(out)", "encodes"),
        ("@router.get('/raw')\ndef raw(desk): return Response(data, media_type='image/webp')", "names a kind"),
        ("def page(x): return f'<img src=\"data:image/png;base64,{x}\">'", "names a kind"),
        ("def raw(desk): return picture_response(data, digest, request)", "serves"),
        ("def raw(v): return registry.artifacts.get(v.preview_digest)", "reads previews"),
        ("def sheet(rows): return contact_sheet(rows)", "lays out a sheet"),
    ],
)
def test_a_new_way_out_is_seen(source: str, sign: str) -> None:
    assert sign in signs(source)
