"""Every page there is, by the route that gives it; one that is not here fails ``test_every_route_is_a_page_here``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_type_hints

from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute

Page = Any
Send = Callable[[Page, str, Path], None]

READ: Final[Mapping[str, Mapping[str, str]]] = {
    "/": {
        "browse": "/",
        "filtered": "/?where=tag.team = ads or beard > 0.5&sort=-created",
        "no match": "/?where=kind = style",
        "bad filter": "/?where=kind ==",
    },
    "/identities/{name:path}": {"identity": "/identities/acme/both", "not found": "/identities/nobody"},
    "/who": {"who": "/who", "who is near": "/who?name=p0007"},
    "/make": {"make": "/make", "sliders": "/make?from=acme/alice"},
    "/spaces": {"spaces": "/spaces"},
    "/spaces/{name:path}": {"space": "/spaces/faces@1", "coloured": "/spaces/faces@1?colour=skin"},
    "/compliance": {"compliance": "/compliance"},
    "/compliance/events": {"events": "/compliance/events"},
    "/compliance/subjects/{subject:path}": {"subject": "/compliance/subjects/s-0"},
    "/compliance/withdrawals/{subject:path}": {"withdrawal": "/compliance/withdrawals/s-0"},
    "/api": {"api": "/api"},
}
"""Pages that are opened: by route, what they are called and an address."""


def _press(page: Page, name: str) -> None:
    with page.expect_navigation(wait_until="domcontentloaded"):
        page.get_by_role("button", name=name, exact=True).click()


def _who(page: Page, gallery: str, files: Path) -> None:
    page.goto(f"{gallery}/who", wait_until="domcontentloaded")
    page.locator("#files").set_input_files(files / "asked.safetensors")
    _press(page, "Find out")


def _who_refused(page: Page, gallery: str, files: Path) -> None:
    page.goto(f"{gallery}/who", wait_until="domcontentloaded")
    page.locator("#files").set_input_files(files / "broken.safetensors")
    _press(page, "Find out")


def _unmoved(page: Page, gallery: str, _files: Path) -> None:
    page.goto(f"{gallery}/make?from=acme/alice", wait_until="domcontentloaded")
    page.locator("#name").fill("acme/again")
    _press(page, "Save")


def _mixed(page: Page, gallery: str, _files: Path) -> None:
    page.goto(f"{gallery}/make", wait_until="domcontentloaded")
    page.locator("#people").fill("nobody\nacme/bob")
    page.locator("#mixname").fill("acme/none")
    _press(page, "Mix")


def _verified(page: Page, gallery: str, _files: Path) -> None:
    page.goto(f"{gallery}/compliance", wait_until="domcontentloaded")
    _press(page, "Verify the log")


def _mistyped(page: Page, gallery: str, _files: Path) -> None:
    page.goto(f"{gallery}/compliance/withdrawals/s-9", wait_until="domcontentloaded")
    page.locator("#confirm").fill("s-8")
    _press(page, "Withdraw")


def _withdrawn(page: Page, gallery: str, _files: Path) -> None:
    page.goto(f"{gallery}/compliance/withdrawals/s-9", wait_until="domcontentloaded")
    page.locator("#confirm").fill("s-9")
    _press(page, "Withdraw")


def _whom(page: Page, gallery: str, _files: Path) -> None:
    page.goto(f"{gallery}/?where=name like 'acme%25'", wait_until="domcontentloaded")
    for box in page.locator(".card input").all():
        box.check()
    _press(page, "Withdraw…")


SENT: Final[Mapping[str, Mapping[str, Send]]] = {
    "/who": {"found": _who, "not read": _who_refused},
    "/make": {"not saved": _unmoved},
    "/mixes": {"not mixed": _mixed},
    "/compliance/verify": {"verified": _verified},
    "/compliance/withdrawals/{subject:path}": {"mistyped": _mistyped, "withdrawn": _withdrawn},
    "/selection": {"whom": _whom},
}
"""Pages that a form answers with: by route, what they are called and how somebody gets there."""

NO_PAGES: Final = {
    ("GET", "/static/{name}"): "files of the pages",
    ("GET", "/pictures/{name:path}"): "pictures",
    ("GET", "/compliance/held/{name:path}"): "pictures",
    ("GET", "/make/pictures/{job}"): "pictures",
    ("POST", "/samples"): "leads to the list of what it made; a refusal is the page that a refused mix gives",
    ("POST", "/compliance/receipts/{subject:path}"): "a file to keep",
}


def page_routes(routes: list[APIRoute]) -> Iterator[tuple[str, str]]:
    """(method, path) of every route that may answer with a page."""
    for route in routes:
        if get_type_hints(route.endpoint).get("return") in (HTMLResponse, Response):
            yield from ((method, route.path) for method in sorted(route.methods - {"HEAD"}))


def addresses() -> dict[str, str]:
    """Every page that is opened."""
    return {name: address for found in READ.values() for name, address in found.items()}


def ways() -> dict[str, Send]:
    """How somebody comes to each page."""
    found: dict[str, Send] = {}
    for name, address in addresses().items():
        found[name] = _opens(address)
    for sent in SENT.values():
        found |= sent
    return found


def _opens(address: str) -> Send:
    def opened(page: Page, gallery: str, _files: Path) -> None:
        page.goto(gallery + address, wait_until="domcontentloaded")

    return opened
