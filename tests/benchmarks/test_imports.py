"""Every benchmark asks of the package only what is there: nobody runs all of them at every change."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(str(benchmarks.__path__[0]))
SCRIPTS = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_benchmark_imports_is_there(script: str) -> None:
    for node in ast.walk(ast.parse((FOLDER / script).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("w2w_registry"):
            module = import_module(node.module)
            names = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            missing = [name for name in names if not _is_module(f"{node.module}.{name}")]
            assert not missing, f"{node.module} has no {', '.join(missing)}"


def _is_module(name: str) -> bool:
    try:
        import_module(name)
    except ModuleNotFoundError:
        return False
    return True
