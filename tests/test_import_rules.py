"""Who may import whom (contracts of import-linter in pyproject.toml), and what may load when."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "w2w_registry"
# third-party package -> the only places that may import it
OWNED: dict[str, tuple[str, ...]] = {
    "click": ("cli/",),
    "fastapi": ("w2w_registry/web/",),
    "starlette": ("w2w_registry/web/",),
    "uvicorn": ("w2w_registry/web/",),
    "rich": ("cli/",),
    "huggingface_hub": ("w2w_registry/hub/client",),
    "faiss": ("w2w_registry/index/faiss",),
    "pymilvus": ("w2w_registry/index/milvus",),
    "torch": ("w2w_registry/diffusion/", "w2w_registry/space/device.py"),
    "diffusers": ("w2w_registry/diffusion/",),
    "peft": ("w2w_registry/diffusion/",),
    "transformers": ("w2w_registry/diffusion/",),
    "sqlalchemy": ("w2w_registry/catalog/", "w2w_registry/services/", "migrations/"),  # services: Session alone, below
    "c2pa": ("w2w_registry/marking/c2pa",),
    "pandas": ("w2w_registry/interface/results",),
    "sklearn": ("w2w_registry/space/direction_fit",),
    "alembic": ("w2w_registry/catalog/", "migrations/"),
    "tempfile": (
        "w2w_registry/artifacts.py",
        "w2w_registry/web/",
    ),  # temporary files lie under the home, closed to others
}


def sources() -> list[Path]:
    return [p for top in ("w2w_registry", "cli", "migrations") for p in sorted((ROOT / top).rglob("*.py"))]


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


def test_the_house_is_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Floors, the order of services, no circles: the contracts in pyproject.toml, checked by import-linter."""
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_libraries_stay_where_they_belong(path: Path) -> None:
    where = str(path.relative_to(ROOT))
    for name, line in imports(path):
        owners = OWNED.get(name.split(".")[0])
        if owners:
            assert where.startswith(owners), f"{where}:{line} imports {name}; only {', '.join(owners)} may"


def test_sql_is_built_in_the_catalog_alone() -> None:
    """Outside the catalog a database is a ``Session`` handed on, and rows that were read; nothing is asked or changed
    in SQL of one's own."""
    found = []
    for path in sources():
        where = str(path.relative_to(ROOT))
        if where.startswith(("w2w_registry/catalog/", "migrations/")):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
                names = {alias.name for alias in node.names} - {"Session", "Row"}
                found += [f"{where}:{node.lineno} imports {', '.join(sorted(names))}"] if names else []
            elif isinstance(node, ast.Import):
                found += [f"{where}:{node.lineno}" for a in node.names if a.name.split(".")[0] == "sqlalchemy"]
    assert found == []


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


SURFACES = {"messages.py", "web", "interface"}


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.relative_to(PACKAGE).parts[0] not in SURFACES
        and p != PACKAGE / "audit" / "verifier.py"  # a command itself
    ],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_floors_name_no_flags(path: Path) -> None:
    """A flag is the command line's word: below, an error says ``[[name]]`` and each surface spells it."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        text = re.sub(r"w2w-reg [^;`\n]*|`[^`]*`", "", text)  # a whole command may be quoted
        assert not re.search(r"(?<![\w-])--[a-z]", text), (
            f"{path}:{node.lineno} {text!r}: below the surfaces write [[name]], which messages.py spells --name"
        )
