"""``w2w-reg direction``: attribute directions of a weight space."""

from __future__ import annotations

from typing import Any

import click

from .output import Frame, emit, pairs, table, takes_frame


@click.group()
def direction() -> None:
    """Fit, list, show, compose and de-bias attribute directions."""


_SPACE = click.option("--space", metavar="NAME[@V]", help="Weight space (default: the newest).")
_REPLACE = click.option("--replace", is_flag=True, help="Make it anew if the name is taken.")


@direction.command()
@click.argument("name")
@click.option("--attribute", metavar="LABEL", help="The label to fit (default: NAME).")
@click.option(
    "--method",
    default="least-squares",
    show_default=True,
    type=click.Choice(["least-squares", "logistic"]),
    help="logistic is for yes/no labels.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the cross-validation.")
@_SPACE
@_REPLACE
@takes_frame
def fit(
    frame: Frame, name: str, attribute: str | None, method: Any, seed: int, space: str | None, replace: bool
) -> None:
    """Fit direction NAME on the labels of the registered identities.

    One unit is one standard deviation of the attribute in the space. Quality (AUROC or R²) is
    cross-validated; leakage says how far one unit moves the other labelled attributes, in their units.
    """
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import directions as service

    with open_registry(frame.settings()) as registry:
        value = service.fit(
            registry, name, attribute or name, space, method=method, seed=seed, replace_existing=replace
        )
    emit(frame, value, lambda: _show(value))


@direction.command(name="list")
@_SPACE
@takes_frame
def list_(frame: Frame, space: str | None) -> None:
    """List the directions of a space."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import directions as service

    with open_registry(frame.settings()) as registry:
        rows = service.list_directions(registry, space)
    shown = [{**r, "quality": _quality(r), "kept": ", ".join(r["kept"]), "leaks most": _worst(r)} for r in rows]
    columns = ["direction", "space", "attribute", "method", "quality", "kept", "leaks most"]
    emit(frame, rows, lambda: table(shown, columns, empty="no directions yet; `w2w-reg direction fit NAME`"))


@direction.command()
@click.argument("name")
@_SPACE
@takes_frame
def show(frame: Frame, name: str, space: str | None) -> None:
    """Show a direction: quality, calibration, leakage."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import directions as service

    with open_registry(frame.settings()) as registry:
        value = service.show(registry, name, space)
    emit(frame, value, lambda: _show(value))


@direction.command()
@click.argument("name")
@click.argument("parts", metavar="PARTS")
@_SPACE
@_REPLACE
@takes_frame
def compose(frame: Frame, name: str, parts: str, space: str | None, replace: bool) -> None:
    """Store direction NAME that moves several at once: `direction compose pirate 'beard=1, hat=2'`."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import directions as service
    from w2w_registry.services.synthesis.edit import parse_amounts

    with open_registry(frame.settings()) as registry:
        weights = {k: float(v) for k, v in parse_amounts(parts).items()}
        value = service.compose(registry, name, weights, space, replace_existing=replace)
    emit(frame, value, lambda: _show(value))


@direction.command()
@click.argument("name")
@click.option("--against", multiple=True, required=True, metavar="A", help="Label or direction to hold still.")
@click.option("--as", "new", metavar="NEW", help="Name of the result (default: NAME-only).")
@_SPACE
@_REPLACE
@takes_frame
def debias(
    frame: Frame, name: str, against: tuple[str, ...], new: str | None, space: str | None, replace: bool
) -> None:
    """Store direction NAME with what it does to other attributes taken out."""
    from w2w_registry.services.registry import open_registry
    from w2w_registry.services.synthesis import directions as service

    with open_registry(frame.settings()) as registry:
        value = service.debias(registry, new or f"{name}-only", name, against, space, replace_existing=replace)
    emit(frame, value, lambda: _show(value))


def _quality(row: dict[str, Any]) -> str:
    quality = row["quality"]
    word = {"auroc": "AUROC", "r2": "R²"}[quality["measure"]]
    return f"{word} {quality['value']:.3f} (n={quality['n']})"


def _worst(row: dict[str, Any]) -> str:
    if not row["leakage"]:
        return "-"
    name, value = max(row["leakage"].items(), key=lambda item: abs(item[1]))
    return f"{name} {value:+.2f}"


def _show(value: dict[str, Any]) -> None:
    skip = {"quality", "leakage"}
    pairs([(k, v) for k, v in value.items() if k not in skip] + [("quality", _quality(value))])
    ranked = sorted(value["leakage"].items(), key=lambda item: -abs(item[1]))
    table([{"one unit moves": n, "by": v} for n, v in ranked[:10]], ["one unit moves", "by"], empty="nothing else")
