"""The lowest versions that pyproject.toml declares go together. ``make minimums`` installs them and uses them."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
OURS = "w2w-registry"


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


@pytest.mark.parametrize("package", sorted(declared()))
def test_minimums_satisfy_each_other(package: str) -> None:
    """What a package asks of another, installed at its own lowest, allows the version we call the lowest."""
    minimums = declared()
    try:
        installed = Version(version(package))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed here")
    if installed != Version(minimums[package]):
        pytest.skip(f"{package} {installed} says nothing of {minimums[package]}")
    asked = [Requirement(line) for line in requires(package) or ()]
    for requirement in asked:
        lowest = minimums.get(canonicalize_name(requirement.name))
        if lowest is None or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        assert requirement.specifier.contains(lowest, prereleases=True), (
            f"{package} needs {requirement}, we declare {requirement.name}>={lowest}"
        )


def core_pins() -> str:
    """The core and the exact index at their lowest, as pip takes them: what ``make minimums`` installs."""
    names = [Requirement(line) for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"])]
    lowest = declared()
    return " ".join(f"{r.name}=={lowest[canonicalize_name(r.name)]}" for r in names)


if __name__ == "__main__":
    print(core_pins())
