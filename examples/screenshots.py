"""Pictures of every page, as docs/gallery.md shows them: ``python -m examples.screenshots OUT [FOLDER]``.

OUT is where ``make gallery`` made its registry; FOLDER is docs/gallery unless another is named. Takes playwright and a
Chromium (``W2W_CHROMIUM`` names one). The registry is served from a copy, so that nothing in OUT changes.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from examples.demo import program

SIZES = {"desk": (1440, 900, "light"), "phone": (390, 844, "light"), "dark": (1440, 900, "dark")}
PAGES = {
    "browse": "/",
    "filtered": "/?where=beard = 1 and hat = 1&sort=-label.skin",
    "identity": "/identities/acme/alice-bearded",
    "who": "/who",
    "sliders": "/make?from=acme/alice",
    "make": "/make",
    "spaces": "/spaces",
    "space": "/spaces/faces@1?colour=hat",
    "compliance": "/compliance",
    "held": "/compliance",
    "events": "/compliance/events",
    "subject": "/compliance/subjects/s-17",
    "withdrawal": "/compliance/withdrawals/s-17",
    "api": "/api",
    "problem": "/identities/p00001",
}
DARK = ("browse", "identity")
SOMEBODY = "p0100"
"""Whose retrained LoRA is asked about on "Who is this?"."""
PATIENCE = 240_000


def main(out: Path, folder: Path) -> None:
    """Take every picture."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with served(out) as (address, token), sync_playwright() as playwright:
        found = os.environ.get("W2W_CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=False)
        for size, (width, height, scheme) in SIZES.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
            )
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(f"{address}/?token={token}", wait_until="domcontentloaded")
            for name, path in PAGES.items():
                if size == "dark" and name not in DARK:
                    continue
                page.goto(address + path, wait_until="load")
                ACTS.get(name, lambda *_: None)(page, out / "world")
                everything_is_there(page)
                save(page.screenshot(), folder / f"{name}-{size}.webp")
                print(f"{name}-{size}", flush=True)
            context.close()
        browser.close()


def everything_is_there(page: Any) -> None:
    """Wait for every picture in sight, and for what moves to come to rest."""
    page.wait_for_load_state("networkidle")
    page.wait_for_function(
        "() => [...document.images]"
        ".filter(i => i.checkVisibility() && i.getBoundingClientRect().top < innerHeight)"
        ".every(i => i.complete && i.naturalWidth)"
    )
    page.evaluate("document.activeElement?.blur()")
    page.wait_for_timeout(300)


def ask_who(page: Any, world: Path) -> None:
    """Somebody trained again from other photos is asked about."""
    lora = world / "retrained" / SOMEBODY
    page.set_input_files("#files", [lora / "adapter_model.safetensors", lora / "adapter_config.json"])
    page.get_by_role("button", name="Find out").click()
    page.wait_for_selector(".verdict")
    page.evaluate("scrollTo(0, document.querySelector('.verdict').getBoundingClientRect().top + scrollY - 90)")


def move_a_slider(page: Any, _world: Path) -> None:
    """A beard is asked for, and drawn."""
    page.locator('input[name="d.beard"]').evaluate(
        "slider => { slider.value = 2.4; slider.dispatchEvent(new Event('input', {bubbles: true})) }"
    )
    page.get_by_text("after", exact=True).wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('figure img')].length > 1")


def open_the_decision(page: Any, _world: Path) -> None:
    """Who is held, beside whom they resemble."""
    page.locator("#held").evaluate("heading => scrollTo(0, heading.getBoundingClientRect().top + scrollY - 90)")
    page.locator("summary", has_text="Decide").first.click()


ACTS = {"who": ask_who, "sliders": move_a_slider, "held": open_the_decision}


def save(shot: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(path, "WEBP", quality=82, method=6)


@contextmanager
def served(out: Path) -> Iterator[tuple[str, str]]:
    """The gallery of a copy of OUT's registry: its address and token."""
    token = "screenshots-token-0123456789"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(shutil.copytree(out / "registry", Path(folder) / "registry"))
        words = [str(program()), "--home", str(home), "--actor", "curator", "serve", "--port", "0", "--token", token]
        words += ["--pipeline", str((out / "world" / "pipeline").absolute())]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip().partition("/?")[0], token
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "docs" / "gallery"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default)
