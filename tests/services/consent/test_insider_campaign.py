"""Nobody who refused gets out by any route, name, kind, order or space, judged by what the files that got out draw.

``make soak`` runs a sample of sixty steps and thousands. What a second training or a foreign one gets past
the door is bounded by its rates (docs/door.md) and listed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples.miniworld.unpack import BASE_MODEL, DATA, load_loras
from tests.services.consent.insider import EVERYTHING, Eyes, Insider
from tests.services.consent.test_door_behaviour import write
from w2w_registry.services.consent import grants, withdraw
from w2w_registry.services.consent.protect import protect_subject
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.identities.manage import remove
from w2w_registry.services.registry import init_registry, open_registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.settings import load_settings

PEOPLE = range(100)
VICTIMS = (3, 5, 9, 14)
STRANGERS = range(1000, 1012)
POLICY = 'unknown = ["register", "search", "train", "invert", "edit", "mix", "sample", "generate", "export"]'


def campaign(tmp_path: Path, steps: int, seed: int) -> Insider:
    loras = load_loras()
    for row in (*PEOPLE, *STRANGERS):
        write(tmp_path / "loras" / f"p{row:03d}", loras, row)
    for row in VICTIMS:
        write(tmp_path / "again" / f"p{row:03d}", loras, row, again=True)
    home = tmp_path / "registry"
    settings = load_settings(str(home), actor="insider")
    init_registry(settings)
    (home / "registry.toml").write_text(
        f'[policy]\n{POLICY}\n[pipelines]\n"{BASE_MODEL}" = {json.dumps(str(DATA / "pipeline"))}\n'
    )
    with open_registry(load_settings(str(home), actor="insider")) as registry:
        paths = [tmp_path / "loras" / f"p{row:03d}" for row in PEOPLE]
        fit_space(registry, "faces", list(map(str, paths)), base_model=BASE_MODEL)
        for place, row in enumerate(VICTIMS[:3]):
            grants.grant(registry, f"s{place}", EVERYTHING)
            add(registry, AddRequest([str(tmp_path / "loras" / f"p{row:03d}")], subjects=[f"s{place}"]))
        add(registry, AddRequest([str(path) for row, path in zip(PEOPLE, paths, strict=True) if row not in VICTIMS]))
        withdraw.withdraw(registry, "s0")
        withdraw.withdraw(registry, "s1", erase=True)
        withdraw.withdraw(registry, "s2")
        remove(registry, f"p{VICTIMS[2]:03d}", perform=True)
        protect_subject(registry, "s3", str(tmp_path / "loras" / f"p{VICTIMS[3]:03d}"))
        files = [(tmp_path / "loras" / f"p{row:03d}", f"p{row:03d}") for row in (*VICTIMS, *VICTIMS, *STRANGERS)]
        files += [(tmp_path / "again" / f"p{row:03d}", f"second training of p{row:03d}") for row in VICTIMS]
        eyes = Eyes.opened(loras, [*PEOPLE[:24]], list(VICTIMS))
        insider = Insider(registry, eyes, tmp_path / "work", files, np.random.default_rng(seed))
        insider.run(steps)
    return insider


@pytest.mark.soak
def test_a_sample_of_an_insiders_steps(tmp_path: Path) -> None:
    insider = campaign(tmp_path, steps=60, seed=0)
    assert insider.out == []
    # An insider who can do nothing shows nothing.
    assert insider.done["add"]
    assert insider.done["export"]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_steps(tmp_path: Path, seed: int) -> None:
    insider = campaign(tmp_path, steps=1000, seed=seed)
    second = [way for way, _ in insider.out if "second training" in way]
    assert [out for out in insider.out if out[0] not in second] == []
    assert len(second) <= 0.02 * insider.tried["add"]
