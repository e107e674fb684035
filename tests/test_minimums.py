"""The lowest versions that pyproject.toml declares go together. ``make minimums`` installs them and uses them."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
OURS = "w2w-registry"
RECORD = Path(__file__).with_name("minimums.json")


def declared() -> dict[str, str]:
    """Package -> the lowest version declared, of the core and every extra but the developers' tools."""
    lines = list(PROJECT["dependencies"])
    for extra, more in PROJECT["optional-dependencies"].items():
        lines += more if extra != "dev" else []
    found = {}
    for line in lines:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) != OURS:
            lowest = [s.version for s in requirement.specifier if s.operator == ">="]
            assert lowest, f"{line} declares no lowest version"
            found[canonicalize_name(requirement.name)] = lowest[0]
    return found


def recorded() -> dict[str, dict[str, Any]]:
    """Package -> its lowest version and what that asks of others, as ``make minimums`` found them."""
    found: dict[str, dict[str, Any]] = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    return found


def test_what_is_recorded_is_what_is_declared() -> None:
    lowest = declared()
    named = {canonicalize_name(requirement.name) for requirement in core()}
    found = {name: Version(one["version"]) for name, one in recorded().items()}
    assert found == {name: Version(lowest[name]) for name in named}, (
        "the lowest versions changed: run `make minimums`, which installs, tries and records them"
    )


@pytest.mark.parametrize("package", sorted(recorded()))
def test_minimums_satisfy_each_other(package: str) -> None:
    """What a package asks of another, at its own lowest, allows the version we call the lowest."""
    lowest = declared()
    for line in recorded()[package]["asks"]:
        requirement = Requirement(line)
        named = lowest.get(canonicalize_name(requirement.name))
        assert named is not None
        assert requirement.specifier.contains(named, prereleases=True), (
            f"{package} needs {requirement}, we declare {requirement.name}>={named}"
        )


def core() -> list[Requirement]:
    """The core and the exact index."""
    return [Requirement(line) for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"])]


def core_pins() -> str:
    """The core at its lowest, as pip takes it: what ``make minimums`` installs."""
    lowest = declared()
    return " ".join(f"{r.name}=={lowest[canonicalize_name(r.name)]}" for r in core())


def _is_of_ours(asked: Requirement) -> bool:
    """Whether a package asks for another one that is declared here, and not for an extra of its own."""
    plainly = asked.marker is None or asked.marker.evaluate({"extra": ""})
    return plainly and canonicalize_name(asked.name) in declared()


def record(inspected: str) -> None:
    """Keep what ``pip inspect`` says the core asks for."""
    named = {canonicalize_name(requirement.name) for requirement in core()}
    found = {
        canonicalize_name(one["metadata"]["name"]): {
            "version": one["metadata"]["version"],
            "asks": [line for line in one["metadata"].get("requires_dist", []) if _is_of_ours(Requirement(line))],
        }
        for one in json.loads(inspected)["installed"]
    }
    kept = {name: one for name, one in sorted(found.items()) if name in named}
    RECORD.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        record(sys.stdin.read())
    else:
        print(core_pins())
