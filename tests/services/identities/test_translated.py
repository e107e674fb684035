"""Adapters whose weights fit no space: coordinates by behaviour, and what can then be done with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from examples.miniworld.unpack import BASE_MODEL, DATA, load_loras
from tests.hub.local_hub import LocalHub
from w2w_registry.catalog import fingerprints as stored
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.diffusion import translate as walking
from w2w_registry.diffusion.bank import LoraBank
from w2w_registry.diffusion.pipeline import load_model
from w2w_registry.errors import NotFound, UsageError
from w2w_registry.hub.client import HubClient
from w2w_registry.lora import lora_files, read_lora, same_model
from w2w_registry.services.hub.pull import pull
from w2w_registry.services.hub.pulling import PullRequest
from w2w_registry.services.hub.release import PushRequest, push
from w2w_registry.services.identities import ingest, translated
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.provenance.replay import replay
from w2w_registry.services.recording.sources import TRANSLATION, source
from w2w_registry.services.registry import Registry, init_registry, open_registry
from w2w_registry.services.search.query import search
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis.edit import mix
from w2w_registry.services.synthesis.export import export
from w2w_registry.settings import load_settings

PIPELINE = str(DATA / "pipeline")
PEOPLE = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``loras/p00`` to ``p59``, and ``dora.safetensors``: what the retrained p05 does, as a DoRA."""
    made, loras = tmp_path_factory.mktemp("people"), load_loras()
    for row in range(PEOPLE):
        tensors = loras.layout.unflatten(loras.theta[row])
        files = lora_files(made / f"loras/p{row:02d}", tensors, loras.layout.alpha, fmt="peft", base_model=BASE_MODEL)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    bank = LoraBank(load_model(PIPELINE, device="cpu").unet, loras.layout)
    state: dict[str, torch.Tensor] = {}
    factors = loras.layout.unflatten(loras.retrained[5])
    for site, module in zip(bank._sites, loras.layout.modules, strict=True):
        a, b = (torch.from_numpy(factors[module, f].copy()) for f in "AB")
        b = b * loras.layout.scale(module)
        whole = site.linear.weight.detach() + b @ a
        state |= {f"unet.{module}.lora_A.weight": a, f"unet.{module}.lora_B.weight": b}
        state[f"unet.{module}.lora_magnitude_vector"] = whole.norm(dim=1)
    save_file({name: value.contiguous() for name, value in state.items()}, made / "dora.safetensors")
    return made


@pytest.fixture(scope="module")
def registry(folder: Path) -> Iterator[Registry]:
    settings = load_settings(str(folder / "home"), actor="tester")
    init_registry(settings)
    with open_registry(settings) as opened:
        fit_space(opened, "faces", [str(folder / "loras")], base_model=BASE_MODEL)
        ingest.add(opened, AddRequest([str(folder / "loras")], kind="product"))
        yield opened


@pytest.fixture(scope="module")
def added(registry: Registry, folder: Path) -> Version:
    """The DoRA, translated in few steps."""
    short = walking.TranslateConfig()
    short = replace(short, pictures=2, drawing=4, walk=replace(short.walk, steps=10, samples=4, held_out=4, every=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walking, "TranslateConfig", lambda: short)
        asked = AddRequest([str(folder / "dora.safetensors")], kind="product")
        report = translated.add(registry, asked, PIPELINE, device="cpu")
    (item,) = report.items
    assert (item.status, item.identity, report.exit_code) == ("added", "dora", 0), item.error
    assert item.residual is not None
    assert 0 < item.residual < 0.9
    assert any("translated" in warning for warning in item.warnings)
    with registry.catalog.read() as session:
        version = version_for(session, "dora")
        assert version.operation.params
        return version


def test_a_translated_adapter_lies_near_its_person(registry: Registry, added: Version) -> None:
    found = search(registry, "dora", limit=2)
    assert next(hit.identity for hit in found.results if hit.identity != "dora") == "p05"
    params = added.operation.params[TRANSLATION]
    assert params["learned_from"] == PEOPLE
    assert params["prompt"]
    assert params["started_at_residual"] >= added.residual
    with registry.catalog.read() as session:
        (asked,) = stored.questions(session)
        assert asked.versions == 1  # its fingerprint is kept as well


def test_it_can_be_mixed_and_exported_from_its_coordinates_or_as_the_file_it_was(
    registry: Registry, added: Version, folder: Path, tmp_path: Path
) -> None:
    made = mix(registry, ["dora", "p07"], [0.5, 0.5], name="both")
    assert made["ref"] == "both@1"
    export(registry, "dora", str(tmp_path / "peft"))
    with registry.catalog.read() as session:
        origin = source(session, version_for(session, "dora"))
    assert origin.artifact_digest is None
    written = read_lora(tmp_path / "peft").theta()
    assert written.shape == load_loras().theta[0].shape
    export(registry, "dora", str(tmp_path / "original.safetensors"), fmt="original")
    assert (tmp_path / "original.safetensors").read_bytes() == (folder / "dora.safetensors").read_bytes()


def test_a_replay_does_not_take_its_own_coordinates_for_a_computation(registry: Registry, added: Version) -> None:
    assert replay(registry, "dora")["outcome"] == "impossible"


def test_what_is_there_already_is_said_and_a_plan_needs_no_base_model(
    registry: Registry, added: Version, folder: Path, tmp_path: Path
) -> None:
    again = AddRequest([str(folder / "dora.safetensors")])
    (item,) = translated.add(registry, again, "/nowhere").items
    assert (item.status, item.identity) == ("existing", "dora")
    broken = tmp_path / "in" / "broken.safetensors"
    broken.parent.mkdir()
    broken.write_bytes(b"x")
    (bad,) = translated.add(registry, AddRequest([str(broken)]), "/nowhere").items
    assert bad.status == "failed"
    other = tmp_path / "new.safetensors"
    save_file({f"unet.{m}.lora_{f}.weight": torch.ones(s) for m, f, s in _one_layer()}, other)
    (planned,) = translated.add(registry, AddRequest([str(other)], dry_run=True), "/nowhere").items
    assert planned.status == "added"
    with pytest.raises(NotFound):
        translated.add(registry, AddRequest([str(other)]), "/nowhere")


def test_a_space_nobody_is_registered_in_teaches_nothing(registry: Registry, folder: Path, tmp_path: Path) -> None:
    fit_space(registry, "empty", [str(folder / f"loras/p{row:02d}") for row in range(40)], base_model=BASE_MODEL)
    other = tmp_path / "new.safetensors"
    save_file({f"unet.{m}.lora_{f}.weight": torch.ones(s) for m, f, s in _one_layer()}, other)
    with pytest.raises(UsageError, match="at least 20 registered versions; there are 0"):
        translated.add(registry, AddRequest([str(other)], space="empty"), PIPELINE, device="cpu")


def _one_layer() -> list[tuple[str, str, tuple[int, ...]]]:
    layout = load_loras().layout
    module = layout.modules[0]
    out, wide = layout.by_key[module, "B"].shape[0], layout.by_key[module, "A"].shape[1]
    return [(module, "A", (2, wide)), (module, "B", (out, 2))]


def test_the_regression_is_judged_on_people_left_out() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(size=(200, 5)).astype(np.float32)
    prints = (white @ rng.normal(size=(5, 40)) + 0.1 * rng.normal(size=(200, 40))).astype(np.float32)
    noise = np.concatenate([white[:, :4], rng.normal(size=(200, 1)).astype(np.float32)], axis=1)
    ridge = walking.fit_ridge(prints, noise)
    assert (ridge.variance[:4] < 0.1).all()
    assert ridge.variance[4] > 0.8
    guess = ridge(prints[:3])
    assert np.allclose(guess.white.numpy()[:, :4], white[:3, :4], atol=0.3)
    with pytest.raises(Exception, match="at least"):
        walking.fit_ridge(prints[:5], noise[:5])


def test_what_is_published_of_it_is_the_lora_its_coordinates_say(
    registry: Registry, added: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with LocalHub() as hub:
        client = HubClient(hub.endpoint, token=hub.user("acme").token, sleep=lambda seconds: None)
        push(registry, client, PushRequest("dora", "acme/dora"))
        export(registry, "dora", str(tmp_path / "mine"))
        (tmp_path / "theirs").mkdir()
        for name, content in hub.files("acme/dora").items():
            if name.startswith("adapter") and content is not None:
                (tmp_path / "theirs" / name).write_bytes(content)
        assert same_model(read_lora(tmp_path / "mine"), read_lora(tmp_path / "theirs")).same
        assert "DoRA" not in (hub.files("acme/dora")["README.md"] or b"").decode()
        report = pull(registry, client, PullRequest("hf://acme/dora", name="fetched"))
    assert (report.status, report.residual is not None) == ("added", True)
