"""``w2w-reg verify``."""

from __future__ import annotations

from pathlib import Path

import click

from .frame import Frame, takes_frame
from .output import emit, note, say


@click.command()
@click.argument("what", metavar="FOLDER|NAME[@V]")
@click.option("--key", type=click.Path(path_type=Path), help="Public key (PEM) of a signed folder.")
@click.option("--identity", metavar="ID", help="Signer of a sigstore signature.")
@click.option("--issuer", metavar="URL", help="Identity provider of that signer.")
@takes_frame
def verify(frame: Frame, what: str, key: Path | None, identity: str | None, issuer: str | None) -> int:
    """Verify a signed folder, or a registered version's files and coordinates. Exit 6 if something fails."""
    from w2w_registry.services import signing
    from w2w_registry.services.provenance import verify as service

    if signing.is_folder(what):
        signed = signing.verify_folder(Path(what), public_key=key, identity=identity, issuer=issuer)
        emit(frame, signed, lambda: say(f"OK: {what} is as it was signed"))
        return 0
    if key or identity or issuer:
        raise click.UsageError(f"--key, --identity and --issuer are for a signed folder; {what} is none")
    value = service.verify_version(frame.registry(), what)

    def human() -> None:
        say(f"{'OK' if value.ok else 'FAILED'}: {value.version} ({value.state})")
        for problem in value.problems:
            say(f"  {problem}")
        note(f"manifest {value.manifest}")

    emit(frame, value, human)
    return 0 if value.ok else 6
