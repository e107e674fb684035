"""The sections of ``w2w-reg --help``: what people come to do, in the order they do it."""

from __future__ import annotations

SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": ("init", "add", "search", "list", "show", "serve", "doctor", "stats"),
    "Describe": ("label", "tag", "note", "rate", "collection", "alias", "rename", "preview", "history", "remove"),
    "Weight spaces and likeness": ("space", "fingerprint", "calibrate", "groups", "duplicates", "diff"),
    "Make": ("train", "invert", "initializer", "direction", "edit", "mix", "sample", "generate", "evaluate", "export"),
    "Consent and people": ("subject", "consent", "resolve", "policy", "whose", "detect", "takedown"),
    "Share": ("push", "push-space", "pull", "sync", "releases", "sign", "verify"),
    "Prove": ("audit", "lineage", "manifest", "replay", "report"),
    "Keep": ("config", "backup", "restore", "copy-to", "db", "gc"),
}
"""Commands by section; what stands in none comes last, under "More"."""

EXAMPLES = (
    "w2w-reg add ~/loras --yes",
    "w2w-reg search alice",
    "w2w-reg list 'acme/*' --columns identity,aliases,tags",
    "w2w-reg export alice out/ --format diffusers",
)


def sectioned(names: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Section titles with those of ``names`` that belong there, each name once."""
    left = list(names)
    found = []
    for title, members in SECTIONS.items():
        here = [name for name in members if name in left]
        left = [name for name in left if name not in here]
        if here:
            found.append((title, here))
    return [*found, ("More", left)] if left else found
