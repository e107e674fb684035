"""How long files and functions of the product may be: what is longer has a second reason to change."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.test_import_rules import ROOT, sources

LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60  # signature and docstring included
# What may be longer, and why: at most three of each.
LONG_FILES = {
    "w2w_registry/audit/verifier.py": "whoever trusts nothing else of the registry reads and runs this file alone",
}
LONG_FUNCTIONS = {
    "w2w_registry/space/fit.py fit": "half of it says what the arguments are and which mathematics they choose",
}


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _editable() -> list[Path]:
    """Migrations that have run somewhere are never edited again."""
    return [path for path in sources() if not _named(path).startswith("migrations/versions/")]


def test_no_file_is_longer_than_it_may_be() -> None:
    found = {_named(path) for path in _editable() if path.read_text("utf-8").count("\n") > LINES_OF_A_FILE}
    assert found == set(LONG_FILES)
    assert len(LONG_FILES) <= 3


def test_no_function_is_longer_than_it_may_be() -> None:
    found = {
        f"{_named(path)} {node.name}"
        for path in _editable()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LINES_OF_A_FUNCTION
    }
    assert found == set(LONG_FUNCTIONS)
    assert len(LONG_FUNCTIONS) <= 3
