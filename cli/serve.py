"""``w2w-reg serve``: the gallery in a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import click

from .frame import Frame, takes_frame
from .output import note, say


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port; 0 for a free one.")
@click.option("--open", "open_", is_flag=True, help="Open the gallery in a browser.")
@click.option("--read-only", is_flag=True, help="Show everything; change nothing.")
@click.option("--token", metavar="TOKEN", envvar="W2W_TOKEN", help="Access token (default: a new one).")
@click.option("--allow-host", multiple=True, metavar="HOST[:PORT]", help="Host name it may be reached by (repeatable).")
@click.option("--pipeline", metavar="PATH|ID", help="The base model's folder or Hub id, for drawing.")
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Processes that serve pages (default: one per core, at most four)."
)
@takes_frame
def serve(
    frame: Frame,
    host: str,
    port: int,
    open_: bool,
    read_only: bool,
    token: str | None,
    allow_host: tuple[str, ...],
    pipeline: str | None,
    workers: int | None,
) -> None:
    """Serve the gallery and the API of this registry, and print the address to open."""
    from w2w_registry.errors import MissingExtra

    try:
        from w2w_registry.web.serve import Serving, prepare, run
    except ModuleNotFoundError as error:
        raise MissingExtra(package=error.name or "fastapi", extra="web", feature="the gallery") from None

    asked = Serving(host, port, read_only, token, allow_host, pipeline, workers)
    prepared = prepare(frame.registry(), asked)
    say(prepared.url)
    sys.stdout.flush()
    note(f"Ctrl+C stops it.{_who_may_what(read_only=read_only, token='token=' in prepared.url)}")
    if open_:
        opened = _open(prepared.url)
        if not opened:
            note("No browser could be opened here; open the address above in yours.")
    run(prepared)


def _who_may_what(*, read_only: bool, token: bool) -> str:
    """What whoever has the address may do, where the address alone lets them in."""
    if not token:
        return " People sign in first; the address alone opens nothing."
    return "" if read_only else " Anybody with this address can do what you can."


def _open(url: str) -> bool:
    """Open a browser, without its launcher's own complaints; whether there was one to open."""
    if not sys.platform.startswith("linux"):
        return click.launch(url) == 0
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"))
    launcher = shutil.which("xdg-open") or shutil.which("wslview")
    if not shown or launcher is None:
        return False
    process = subprocess.Popen(
        [launcher, url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=2) == 0
    except subprocess.TimeoutExpired:  # it became the browser
        return True
