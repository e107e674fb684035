"""DESIGN §4's import rules, read from the source: who may import whom, and what may load when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "w2w_registry"
ANYONE = {"errors", "records"}

# part -> parts of the package it may import besides itself, errors and records
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "records": set(),
    "settings": set(),
    "artifacts": set(),
    "space": set(),
    "consent": set(),
    "audit": set(),
    "provenance": set(),
    "lora": {"space"},
    "diffusion": {"space", "lora"},
    "catalog": {"migrations"},
    "index": set(),
    "hub": set(),
    "services": {
        "settings", "artifacts", "space", "lora", "catalog", "index", "diffusion",
        "consent", "audit", "provenance", "hub",
    },
    "cli": {"services", "settings"},
    "migrations": {"catalog"},
}  # fmt: skip

# third-party package -> the only places that may import it
OWNED: dict[str, tuple[str, ...]] = {
    "click": ("cli/",),
    "rich": ("cli/",),
    "huggingface_hub": ("w2w_registry/hub/client",),
    "faiss": ("w2w_registry/index/faiss",),
    "pymilvus": ("w2w_registry/index/milvus",),
    "torch": ("w2w_registry/diffusion/",),
    "diffusers": ("w2w_registry/diffusion/",),
    "peft": ("w2w_registry/diffusion/",),
    "transformers": ("w2w_registry/diffusion/",),
    "sqlalchemy": ("w2w_registry/catalog/", "w2w_registry/services/", "migrations/"),
    "alembic": ("w2w_registry/catalog/", "migrations/"),
}


def sources() -> list[Path]:
    return [p for top in ("w2w_registry", "cli", "migrations") for p in sorted((ROOT / top).rglob("*.py"))]


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    if relative.parts[0] in ("cli", "migrations"):
        return relative.parts[0]
    return relative.parts[1].removesuffix(".py")


def imports(path: Path, *, runtime_top_only: bool = False) -> list[tuple[str, int]]:
    """Absolute dotted names imported by a file, with line numbers."""
    tree = ast.parse(path.read_text("utf-8"))
    folders = path.relative_to(ROOT).parts[:-1]
    package = ".".join(folders if folders[0] == "w2w_registry" else ("w2w_registry", *folders))
    nodes = tree.body if runtime_top_only else ast.walk(tree)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            if base == "w2w_registry":
                found += [(f"w2w_registry.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((base, node.lineno))
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    allowed = ALLOWED[part] | ANYONE | {part, "__version__"}
    for name, line in imports(path):
        if name.startswith("w2w_registry."):
            target = name.split(".")[1]
            assert target in allowed, f"{path.relative_to(ROOT)}:{line}: {part} may not import {target}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_libraries_stay_where_they_belong(path: Path) -> None:
    where = str(path.relative_to(ROOT))
    for name, line in imports(path):
        owners = OWNED.get(name.split(".")[0])
        if owners:
            assert where.startswith(owners), f"{where}:{line} imports {name}; only {', '.join(owners)} may"


def test_records_and_errors_need_only_the_standard_library() -> None:
    for name in ("records", "errors"):
        for module, line in imports(PACKAGE / f"{name}.py"):
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names or top == "w2w_registry", f"{name}.py:{line} imports {module}"


def test_heavy_libraries_do_not_load_with_the_package_or_its_help() -> None:
    code = (
        "import sys, w2w_registry, w2w_registry.cli\n"
        "try:\n    w2w_registry.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'faiss', 'huggingface_hub', 'numpy', 'sqlalchemy', 'rich'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "heavy: []"
