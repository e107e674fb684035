"""``lineage``, ``replay``, ``manifest``, ``sign``, ``verify``: where versions come from, and whether that holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from .output import Frame, emit, note, pairs, progress, table, takes_frame


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--up/--down", "up", default=True, help="What it was made from (default), or what was made of it.")
@click.option("--depth", type=click.IntRange(1), help="At most so many steps.")
@click.option("--dot", "form", flag_value="dot", help="Graphviz, for `dot -Tsvg`.")
@click.option("--svg", "form", flag_value="svg", help="A picture, as SVG.")
@click.option("--prov", "form", flag_value="prov", help="W3C PROV-JSON.")
@takes_frame
def lineage(frame: Frame, name: str, up: bool, depth: int | None, form: str | None) -> None:
    """Show ancestors or descendants of a version, with the operations between them."""
    from w2w_registry.services.provenance import lineage as service
    from w2w_registry.services.registry import open_registry

    chosen = form or ("json" if frame.json else "tree")
    with open_registry(frame.settings()) as registry:
        value = service.trace(registry, name, down=not up, depth=depth, form=chosen)
    if chosen in ("dot", "svg"):
        click.echo(value, nl=False)
    elif chosen == "prov":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        emit(frame, value, lambda: click.echo("\n".join(value)))


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--dry-run", is_flag=True, help="Print the plan; compute nothing.")
@click.option(
    "--tolerance", type=click.FloatRange(0), default=1e-4, show_default=True, help="Relative distance still equal."
)
@click.option(
    "--photos",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True),
    help="Where the photos of a training or inversion are: a file, or a folder with all below (repeatable).",
)
@click.option("--mask", type=click.Path(exists=True, dir_okay=False), help="The mask of an inversion.")
@click.option("--pipeline", metavar="PATH|ID", help="The base model's folder or Hub id (default: as recorded).")
@click.option("--device", help="auto, cpu, cuda (default: as recorded).")
@click.option("--dtype", help="auto, float32, bfloat16, float16 (default: as recorded).")
@click.option("--purpose", metavar="WHAT", help="What for, as consent records name it.")
@takes_frame
def replay(frame: Frame, name: str, dry_run: bool, tolerance: float, **given: Any) -> int:
    """Compute a version again from its recorded inputs: identical, equal within tolerance, or different, and why.

    Trainings and inversions run again: the registry knows their photos by digest only, --photos says where to look
    for them. What such a photo shows has to be allowed by consent today as it was then.

    Exit 6 when it comes out different, 3 when an input is gone.
    """
    from w2w_registry.services.provenance import replay as service
    from w2w_registry.services.provenance.replay_training import Given
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry, progress("replaying") as tick:
        value = service.replay(registry, name, Given(**given), dry_run=dry_run, tolerance=tolerance, progress=tick)

    def human() -> None:
        pairs((("version", value["version"]), ("operation", value["operation"]), ("seed", value["seed"])))
        rows = [{**step, "state": "" if step["missing"] is None else "missing"} for step in value["steps"]]
        table(rows, ["action", "of", "state"])
        for change in value["changed"]:
            note(f"changed since: {change}")
        if dry_run:
            click.echo("nothing is missing" if value["possible"] else "impossible as it stands")
            for step in value["steps"]:
                if step["missing"] is not None:
                    click.echo(f"  {step['missing']}")
        else:
            distance = "" if value["distance"] is None else f" (distance {value['distance']:.2e})"
            click.echo(f"{value['outcome']}{distance}")
            for reason in value["reasons"]:
                click.echo(f"  {reason}")

    emit(frame, value, human)
    return {"different": 6, "impossible": 3}.get(value.get("outcome", ""), 0)


@click.command()
@click.argument("name", metavar="NAME[@V]")
@takes_frame
def manifest(frame: Frame, name: str) -> None:
    """Print a version's manifest: every fact that fixes what it is, in one canonical form with one digest."""
    from w2w_registry.services.provenance import lineage as service
    from w2w_registry.services.registry import open_registry

    with open_registry(frame.settings()) as registry:
        value = service.show_manifest(registry, name)

    def human() -> None:
        click.echo(json.dumps(value["manifest"], indent=2, sort_keys=True, ensure_ascii=False))
        note(f"digest {value['digest']}")

    emit(frame, value, human)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--key", type=click.Path(path_type=Path), help="Private key (PEM). Without it sigstore signs.")
@click.option(
    "--new-key", type=click.Path(file_okay=False, path_type=Path), help="Make a key pair in this folder first."
)
@click.option(
    "--identity-token", envvar="SIGSTORE_ID_TOKEN", show_envvar=True, metavar="TOKEN", help="Who signs, to sigstore."
)
@click.option("--ambient", is_flag=True, help="Sign through sigstore as the CI job this runs in.")
@takes_frame
def sign(
    frame: Frame, folder: Path, key: Path | None, new_key: Path | None, identity_token: str | None, ambient: bool
) -> None:
    """Sign an exported folder (OpenSSF model signing); the signature is FOLDER/model.sig.

    With a key pair nothing leaves this machine. Without one sigstore signs: it needs the internet, and writes who
    signed into a public log. (That way is tested against a stand-in only, never against the real service.)
    """
    from w2w_registry.services import signing as service

    service.check_folder(folder)
    made = {} if new_key is None else service.new_key_pair(new_key)
    own = Path(made["private_key"]) if made else key
    signer = own or service.Sigstore(identity_token, ambient, interactive=sys.stdin.isatty())
    value = {**service.sign_folder(folder, signer), **made}
    emit(frame, value, lambda: pairs((k.replace("_", " "), v) for k, v in value.items()))


@click.command()
@click.argument("what", metavar="FOLDER|NAME[@V]")
@click.option("--key", type=click.Path(path_type=Path), help="Public key (PEM) of a signed folder.")
@click.option("--identity", metavar="ID", help="Who signed, through sigstore.")
@click.option("--issuer", metavar="URL", help="Who vouches for that identity.")
@takes_frame
def verify(frame: Frame, what: str, key: Path | None, identity: str | None, issuer: str | None) -> int:
    """Verify a signed folder, or a registered version's files and coordinates. Exit 6 when something does not hold."""
    from w2w_registry.services import signing
    from w2w_registry.services.provenance import verify as service
    from w2w_registry.services.registry import open_registry

    if signing.is_folder(what):
        value = signing.verify_folder(Path(what), public_key=key, identity=identity, issuer=issuer)
        emit(frame, value, lambda: click.echo(f"OK: {what} is as it was signed"))
        return 0
    with open_registry(frame.settings()) as registry:
        value = service.verify_version(registry, what)

    def human() -> None:
        click.echo(f"{'OK' if value['ok'] else 'FAILED'}: {value['version']} ({value['state']})")
        for problem in value["problems"]:
            click.echo(f"  {problem}")
        note(f"manifest {value['manifest']}")

    emit(frame, value, human)
    return 0 if value["ok"] else 6
