"""``w2w-reg sign``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .frame import Frame, takes_frame
from .output import emit, pairs


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--key", type=click.Path(path_type=Path), help="Private key (PEM). Without one, sigstore signs.")
@click.option(
    "--new-key", type=click.Path(file_okay=False, path_type=Path), help="Make a key pair in this folder first."
)
@click.option(
    "--identity-token",
    envvar="SIGSTORE_ID_TOKEN",
    show_envvar=True,
    metavar="TOKEN",
    help="Identity token for sigstore.",
)
@click.option("--ambient", is_flag=True, help="Sign through sigstore as the CI job this runs in.")
@takes_frame
def sign(
    frame: Frame, folder: Path, key: Path | None, new_key: Path | None, identity_token: str | None, ambient: bool
) -> None:
    """Sign an exported folder (OpenSSF model signing); the signature is FOLDER/model.sig.

    With a key pair, nothing leaves this machine. Without one, sigstore signs, which needs the internet and records
    the signer in a public log. (This is tested against a stand-in only, never against the real service.)
    """
    from w2w_registry.services import signing as service

    if sum((key is not None, new_key is not None, ambient)) > 1:
        raise click.UsageError("--key, --new-key and --ambient cannot be combined: one of them signs")
    service.check_folder(folder)
    made = {} if new_key is None else service.new_key_pair(new_key)
    own = Path(made["private_key"]) if made else key
    signer = own or service.Sigstore(identity_token, ambient, interactive=sys.stdin.isatty())
    value = {**service.sign_folder(folder, signer), **made}
    emit(frame, value, lambda: pairs((k.replace("_", " "), v) for k, v in value.items()))
