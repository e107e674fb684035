"""Completion in the shell: of commands and options by click, of what is in the registry by asking it.

A registry that cannot be opened completes nothing: a key pressed must never print an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from .output import say

_SCRIPTS = {
    "bash": (".bashrc", 'eval "$(_W2W_REG_COMPLETE=bash_source w2w-reg)"'),
    "zsh": (".zshrc", 'eval "$(_W2W_REG_COMPLETE=zsh_source w2w-reg)"'),
    "fish": (".config/fish/completions/w2w-reg.fish", "_W2W_REG_COMPLETE=fish_source w2w-reg | source"),
}
_MOST = 200
_NAMED = ("space", "queries", "edits", "subject", "subjects", "subject_id", "columns")


def install(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Add the line that turns completion on to the shell's own file, once."""
    if not value or ctx.resilient_parsing:
        return
    shell = Path(os.environ.get("SHELL", "bash")).name
    if shell not in _SCRIPTS:
        raise click.UsageError(f"completion works in {', '.join(_SCRIPTS)}; this shell is {shell}")
    name, line = _SCRIPTS[shell]
    path = Path.home() / name
    have = path.read_text(encoding="utf-8") if path.exists() else ""
    if line not in have:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(("" if not have or have.endswith("\n") else "\n") + line + "\n")
    say(f"completion is set up in {path}; open a new shell, or run: source {path}")
    ctx.exit()


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a word may become: identities (after ``@`` their aliases and versions), spaces, directions, subjects,
    collections, columns of a list, by what the parameter is called and whose it is."""
    try:
        from w2w_registry.services.identities.bulk import completions
        from w2w_registry.services.registry import open_registry
        from w2w_registry.settings import load_settings

        root: dict[str, Any] = ctx.find_root().params
        with open_registry(load_settings(root.get("home"), root.get("database"))) as registry:
            found = completions(registry, _noun(ctx, param), incomplete, _MOST)
    except Exception:  # whatever is wrong is said when the command runs
        return []
    return [CompletionItem(text) for text in found]


def _noun(ctx: click.Context, param: click.Parameter) -> str:
    """What the parameter names, by its own name and, where that says nothing, by its command's group."""
    name, metavar = str(param.name), str(getattr(param, "metavar", None) or "")
    group = None if ctx.parent is None else ctx.parent.info_name
    if name in ("subject", "subjects", "subject_id"):
        return "subject"
    if metavar == "COLLECTION":
        return "collection"
    if name == "columns":
        return "column"
    if name == "space" or (group == "space" and name in ("name", "source", "target")):
        return "space"
    return "direction" if "direction" in f"{name} {metavar}".lower() or name == "edits" else "identity"


def teach(command: click.Command) -> click.Command:
    """Let a command complete every argument and option that names an identity, a space, a direction, a subject, a
    collection or columns; names that are new are not completed."""
    for param in command.params:
        metavar = str(getattr(param, "metavar", None) or "")
        names = "NAME" in metavar and param.name not in ("new", "out", "file", "prefix")
        text = isinstance(param.type, click.types.StringParamType) or type(param.type).__name__ == "Word"
        if text and (names or param.name in _NAMED or metavar == "COLLECTION"):
            param._custom_shell_complete = complete
    return command
