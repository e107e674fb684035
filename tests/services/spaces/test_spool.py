"""Fitting from files: what an interrupted fit read is not read again, and nothing holds all of θ at once."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.services.world import BASE, World
from w2w_registry.errors import Busy
from w2w_registry.lora import find_loras, write_lora
from w2w_registry.services.registry import Registry, no_progress
from w2w_registry.services.spaces import calibrated, fitset, manage, spool
from w2w_registry.services.spaces.fitset import in_common_gauge, read_fit_set
from w2w_registry.services.spaces.spool import spooled
from w2w_registry.space import rows
from w2w_registry.space.fit import fit
from w2w_registry.space.layout import layout_of


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files read from now on."""
    read: list[str] = []
    real = spool.read_lora

    def reading(path: Path) -> object:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(spool, "read_lora", reading)
    return read


def left_behind(registry: Registry) -> list[Path]:
    return list(registry.settings.temporary_dir.glob("w2w-tmp-fit-*"))


def test_an_interrupted_fit_goes_on_where_it_stopped(
    registry: Registry, loras: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = manage.fit_space(registry, "first", [str(loras)], base_model=BASE)["digest"]

    def interrupt(done: int, total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manage.fit_space(registry, "tiny", [str(loras)], base_model=BASE, progress=interrupt)
    (folder,) = left_behind(registry)
    assert oct(folder.stat().st_mode)[-3:] == "700"
    # A row that a crash cut short, a note that it cut short, and a file that changed since.
    (numbers,) = folder.glob("*.f32")
    with open(numbers, "ab") as stream:
        stream.write(b"torn")
    with open(folder / "read.jsonl", "a") as stream:
        stream.write('{"file": {"pa')
    write_lora(loras / "p0003", world.layout.unflatten(world.theta(3)), 4.0, base_model=BASE)
    read = counted_reads(monkeypatch)
    value = manage.fit_space(registry, "tiny", [str(loras)], base_model=BASE)
    assert value["digest"] == expected
    assert "p0003" in read
    assert len(read) <= 80 - 50 + 2
    assert left_behind(registry) == []


def test_a_refused_fit_leaves_nothing(registry: Registry, loras: Path) -> None:
    with pytest.raises(Exception, match="support 1 to 79"):
        manage.fit_space(registry, "tiny", [str(loras)], base_model=BASE, components=1000)
    assert left_behind(registry) == []


def test_nothing_holds_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 LoRAs of 8 MB in all, with pieces as small against them as they are against a large set: reading, gauge and
    fit take a quarter of that at most."""
    for module, name in ((rows, "_PIECE"), (rows, "_SHORT"), (fitset, "_BLOCK")):
        monkeypatch.setattr(module, name, getattr(module, name) >> 6)
    name = "down_blocks.0.attentions.{}.transformer_blocks.0.attn1.to_q"
    shapes = {(name.format(i), f): ((1, 64) if f == "A" else (64, 1)) for i in range(40) for f in ("A", "B")}
    layout = layout_of(shapes, 4.0)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    start = rng.normal(size=layout.dim)
    axes = rng.normal(size=(12, layout.dim)) * 0.1
    for i in range(400):
        theta = (start + rng.normal(size=12) @ axes + 0.01 * rng.normal(size=layout.dim)).astype(np.float32)
        write_lora(tmp_path / f"in/{i:04d}", layout.unflatten(theta), 4.0)
    whole = 400 * layout.dim * 4
    with spooled(tmp_path / "home", [str(tmp_path / "in/00*")], BASE) as spool:
        few = in_common_gauge(read_fit_set(spool, [str(tmp_path / "in/00*")], BASE))
        # What is imported on the way is not counted.
        fit(few.thetas, layout, base_model=BASE, components=12, memory=whole // 64, scratch=few.scratch)
    tracemalloc.start()
    try:
        with spooled(tmp_path / "home", [str(tmp_path / "in")], BASE) as spool:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            fit_set = in_common_gauge(read_fit_set(spool, [str(tmp_path / "in")], BASE))
            found = fit(
                fit_set.thetas, layout, base_model=BASE, components=12, memory=whole // 16, scratch=fit_set.scratch
            )
            peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert found.report.method == "krylov"
    assert isinstance(found.space.components, np.memmap)
    assert found.space.explained_variance_ratio.sum() > 0.95
    assert peak < whole / 4, peak / whole


def test_the_device_is_named_when_there_is_none(registry: Registry, loras: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(Exception, match="device") as caught:
        manage.fit_space(registry, "tiny", [str(loras)], base_model=BASE, device="cuda:77")
    assert "[[device]]" in str(caught.value.fields)  # type: ignore[attr-defined]


def test_torch_finds_the_same_space(registry: Registry, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same services on torch arrays, held and in blocks: equal to numpy within float32."""
    torch = pytest.importorskip("torch")
    from w2w_registry.space import device

    with spooled(registry.settings.temporary_dir, [str(loras)], BASE) as held:
        fit_set = in_common_gauge(read_fit_set(held, [str(loras)], BASE))
        ours = calibrated.fit_calibrated(fit_set, BASE, None, 20).space
        for form in (lambda x: torch.from_numpy(np.array(x)), lambda x: device.Staged(x, torch.device("cpu"))):
            monkeypatch.setattr(calibrated, "on_device", lambda thetas, _, form=form: form(thetas))
            theirs = calibrated.fit_calibrated(fit_set, BASE, None, 20).space
            np.testing.assert_allclose(theirs.component_std, ours.component_std, rtol=1e-5)
            np.testing.assert_allclose(np.abs(np.sum(theirs.components * ours.components, axis=0)), 1, atol=1e-4)
            assert theirs.fit_set_digest == ours.fit_set_digest
            assert theirs.software["torch"]


def test_a_fit_of_the_same_files_waits_for_its_turn(registry: Registry, loras: Path) -> None:
    folder = registry.settings.temporary_dir
    with spooled(folder, [str(loras)], BASE) as held:
        _noted(held, loras)
        with pytest.raises(Busy) as caught:
            manage.fit_space(registry, "tiny", [str(loras)], base_model=BASE)
        assert str(loras) in str(caught.value)
        with spooled(folder, [str(loras / "p0001")], BASE) as other:
            assert other.folder != held.folder
        assert held.folder.is_dir()
    assert manage.fit_space(registry, "tiny", [str(loras)], base_model=BASE)["digest"]
    assert list(folder.iterdir()) == []


def test_other_files_are_not_taken_for_those_read(tmp_path: Path, loras: Path) -> None:
    with spooled(tmp_path, [str(loras)], BASE) as one:
        first = dict(_noted(one, loras))
        os.utime(loras / "p0001" / "adapter_model.safetensors", ns=(1, 1))
        again = dict(_noted(one, loras))
    assert {name for name in first if first[name] != again[name]} == {"p0001"}


def _noted(spool: spool.Spool, loras: Path) -> list[tuple[str, object]]:
    return [(candidate.name, noted) for candidate, noted in spool.read(find_loras([loras]), BASE, no_progress)]
