"""Commands that compute nothing load nothing to compute with: most of what a small command costs is its imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tests.cli.conftest import Run
from w2w_registry.cli.app import cli

SMALL = (
    "list --limit 5",
    "show p0001",
    "releases",
    "direction list",
    "config show",
    "config set hub.endpoint http://127.0.0.1:1",
    "config unset hub.endpoint",
    "label set p0001 mood=1",
    "label unset p0001 mood",
    "label export",
    "tag set p0001 team=ads",
    "tag unset p0001 team",
    "alias set live p0001@1",
    "alias unset live p0001",
    "note p0001 hello",
    "rate p0001 --favourite",
    "rename p0002 q0002",
    "remove p0003 --yes",
    "history p0001",
    "lineage p0001",
    "manifest p0001",
    "subject add s-1",
    "subject list",
    "subject show s-1",
    "consent request s-1 --purpose research",
    "consent grant s-1 --purpose research",
    "consent narrow s-1 --no-publication",
    "consent renew s-1",
    "consent show s-1",
    "consent check p0001",
    "consent receipt s-1",
    "consent dispute s-1",
    "consent withdraw s-1",
    "subject add s-2",
    "consent grant s-2 --purpose research",
    "consent invalidate s-2",
    "policy show",
    "policy history",
    "stats",
    "gc --dry-run",
    "collection add best p0001",
    "collection list",
    "collection show best",
    "collection remove best p0001",
    "audit checkpoint",
    "audit verify",
    "audit prove 3",
    "audit export log.jsonl",
    "audit publish published",
    "audit query expiring",
    "report roi",
    "space list",
    "space show tiny",
)

OTHERS = {
    "asks the Hub or another machine": (
        "push", "push-space", "pull", "sync", "takedown", "sign", "audit witness", "serve",
    ),
    "reads coordinates, sketches or models": (
        "add", "search", "fingerprint", "calibrate", "duplicates", "groups", "diff", "verify", "space fit",
        "space import", "space export", "space refit", "space update", "space migrate", "space map",
        "index optimize", "export", "direction fit", "direction compose", "direction debias", "edit", "mix",
        "sample", "replay",
    ),
    "draws, trains or looks at pictures": (
        "train", "invert", "initializer fit", "whose", "detect", "generate", "preview draw", "preview set", "evaluate",
    ),
    "compares likenesses, or keeps and drops them": (
        "resolve", "consent resolve", "consent sign",
        "subject protect", "subject assign",
    ),
    "looks at the schema through Alembic": (
        "init", "db check", "db current", "db upgrade", "doctor", "backup", "restore", "copy-to", "audit report",
    ),
    "writes a page": ("report subject",),
    "has a sibling above that differs in nothing": ("direction show", "label import", "policy set"),
}  # fmt: skip
"""What is not small, and why."""

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


def leaves(command: click.Command, context: click.Context, path: str = "") -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield path
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, click.Context(command), f"{path} {name}".strip())


def test_small_commands_load_nothing_heavy(filled: Run, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TYPED, *SMALL], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-500:]


def test_every_command_is_small_or_says_why_not() -> None:
    told = [name for names in OTHERS.values() for name in names]
    assert len(told) == len(set(told))
    for name in leaves(cli, click.Context(cli)):
        small = any(f"{line} ".startswith(f"{name} ") for line in SMALL)
        assert small != (name in told), f"type {name} in SMALL, or say in OTHERS why it loads so much"
