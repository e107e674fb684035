"""Commands that compute nothing load nothing to compute with: most of what a small command costs is its imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Run

SMALL = (
    "list --limit 5",
    "show p0001",
    "label set p0001 mood=1",
    "tag set p0001 team=ads",
    "alias set live p0001@1",
    "note p0001 hello",
    "rate p0001 --favourite",
    "history p0001",
    "lineage p0001",
    "manifest p0001",
    "subject add s-1",
    "subject list",
    "consent show s-1",
    "policy show",
    "stats",
    "collection list",
    "audit verify",
    "audit query expiring",
    "space list",
    "space show tiny",
)
TYPED = """
import sys
from w2w_registry.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as stop:
        assert not stop.code, line
    heavy = {"numpy", "faiss", "rich", "huggingface_hub", "fsspec", "cryptography.x509"} & set(sys.modules)
    assert not heavy, f"{line} loads {sorted(heavy)}"
"""


def test_small_commands_load_nothing_heavy(filled: Run, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TYPED, *SMALL], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-500:]
