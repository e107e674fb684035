"""How directions are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..output import pairs, table


def quality(row: Mapping[str, Any]) -> str:
    found = row["quality"]
    word = {"auroc": "AUROC", "r2": "R²"}[found["measure"]]
    return f"{word} {found['value']:.3f} (n={found['n']})"


def worst_leak(row: Mapping[str, Any]) -> str:
    if not row["leakage"]:
        return "-"
    name, value = max(row["leakage"].items(), key=lambda item: abs(item[1]))
    return f"{name} {value:+.2f}"


def show_direction(value: Mapping[str, Any]) -> None:
    skip = {"quality", "leakage"}
    pairs([(k, v) for k, v in value.items() if k not in skip] + [("quality", quality(value))])
    ranked = sorted(value["leakage"].items(), key=lambda item: -abs(item[1]))
    table([{"one unit moves": n, "by": v} for n, v in ranked[:10]], ["one unit moves", "by"], empty="nothing else")


def show_directions(rows: Sequence[Mapping[str, Any]]) -> None:
    shown = [{**r, "quality": quality(r), "kept": ", ".join(r["kept"]), "leaks most": worst_leak(r)} for r in rows]
    columns = ["direction", "space", "attribute", "method", "quality", "kept", "leaks most"]
    table(shown, columns, empty="no directions yet; `w2w-reg direction fit NAME`")
