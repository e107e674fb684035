"""Every page in a real browser: no script or style refused, nothing serious found by axe, all by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.web.conftest import TOKEN

PAGES = {
    "browse": "/",
    "filtered": "/?where=team = ads or beard > 0.5&sort=-created",
    "no match": "/?where=kind = style",
    "bad filter": "/?where=kind ==",
    "identity": "/identities/acme/both",
    "who": "/who?name=p0007",
    "make": "/make",
    "sliders": "/make?from=acme/alice",
    "spaces": "/spaces",
    "space": "/spaces/faces@1",
    "compliance": "/compliance",
    "events": "/compliance/events",
    "subject": "/compliance/subjects/s-0",
    "withdrawal": "/compliance/withdrawals/s-0",
    "api": "/api",
    "not found": "/identities/nobody",
}
SIZES = {"phone": (320, 640), "desk": (1440, 900), "wall": (3840, 2160)}


@contextmanager
def page(chromium: Any, gallery: str, size: str = "desk", scheme: str = "light", **more: Any) -> Iterator[Any]:
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
    opened = context.new_page()
    opened.goto(f"{gallery}/?token={TOKEN}")
    yield opened
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_on_any_page(chromium: Any, gallery: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = []
    # axe is injected as a script, which the gallery's own policy rightly refuses
    for size in SIZES:
        with page(chromium, gallery, size, scheme, bypass_csp=True) as opened:
            for name, path in PAGES.items():
                opened.goto(gallery + path, wait_until="domcontentloaded")
                for violation in axe.run(opened).response["violations"]:
                    if violation["impact"] in ("serious", "critical"):
                        nodes = [node["html"][:160] for node in violation["nodes"][:2]]
                        found.append(f"{name}, {size}, {scheme}: {violation['id']} {nodes}")
    assert not found, "\n".join(found)


def test_no_page_scrolls_sideways(chromium: Any, gallery: str) -> None:
    with page(chromium, gallery, "phone", bypass_csp=True) as opened:
        for name, path in PAGES.items():
            opened.goto(gallery + path, wait_until="domcontentloaded")
            over = opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 0, f"{name} is {over} px too wide at 320 px"


def test_what_is_used_on_a_phone_is_large_enough(chromium: Any, gallery: str) -> None:
    """Sliders can be moved by a thumb, charts read, and no word is broken in a table of the withdrawal's plan."""
    with page(chromium, gallery, "phone") as opened:
        opened.goto(f"{gallery}/make?from=acme/alice")
        for slider in opened.locator('input[type="range"]').all():
            assert slider.bounding_box()["width"] >= 240
        opened.goto(f"{gallery}/spaces/faces@1")
        for text in opened.locator(".chart text").all():
            assert text.bounding_box()["height"] >= 9
        opened.goto(f"{gallery}/compliance/withdrawals/s-0")
        for heading in opened.locator("thead th").all():
            assert heading.bounding_box()["height"] < 40


def test_the_policy_refuses_nothing_of_our_own(chromium: Any, gallery: str) -> None:
    said: list[str] = []
    with page(chromium, gallery) as opened:
        opened.on("console", lambda message: said.append(f"{opened.url}: {message.text}"))
        opened.on("pageerror", lambda error: said.append(f"{opened.url}: {error}"))
        for path in PAGES.values():
            opened.goto(gallery + path)
    assert [text for text in said if "status of" not in text] == []


def test_everything_is_reached_by_keyboard(chromium: Any, gallery: str) -> None:
    with page(chromium, gallery, bypass_csp=True) as opened:
        for name, path in PAGES.items():
            opened.goto(gallery + path, wait_until="domcontentloaded")
            wanted = opened.evaluate(
                """() => [...document.querySelectorAll('a[href], button, input, select, textarea, summary')]
                .filter(e => e.checkVisibility() && !e.disabled && e.type !== 'hidden' && !e.closest('svg.map'))
                .map((e, i) => { e.dataset.n = i; return i; }).length"""
            )
            reached = set()
            for _ in range(wanted + 60):
                opened.keyboard.press("Tab")
                number = opened.evaluate("document.activeElement?.dataset?.n")
                if number is not None:
                    reached.add(number)
                if len(reached) == wanted:
                    break
            assert len(reached) == wanted, f"{name}: {wanted - len(reached)} of {wanted} are out of a keyboard's reach"


def test_pages_are_read_without_javascript(chromium: Any, gallery: str) -> None:
    with page(chromium, gallery, java_script_enabled=False) as opened:
        opened.goto(f"{gallery}/identities/acme/both")
        assert opened.locator("svg.lineage a").count() == 3
        assert opened.get_by_text("What may be done").is_visible()
        opened.goto(f"{gallery}/")
        assert opened.locator(".card").count() == 53
        opened.locator(".card input").first.check()
        opened.locator("#tags").fill("seen=yes")
        opened.get_by_role("button", name="Tag", exact=True).click()
        opened.goto(f"{gallery}/?where=tag.seen = yes")
        assert opened.locator(".card").count() == 1


def test_the_filter_completes(chromium: Any, gallery: str) -> None:
    with page(chromium, gallery) as opened:
        box = opened.get_by_role("combobox", name="Filter")
        box.press_sequentially("ki")
        opened.keyboard.press("ArrowDown")
        opened.keyboard.press("Enter")
        assert box.input_value() == "kind "
        box.press_sequentially("= per")
        opened.keyboard.press("ArrowDown")
        opened.keyboard.press("Tab")
        assert box.input_value() == "kind = person "
        box.press("Enter")
        opened.wait_for_url("**where=kind*")
        assert opened.locator(".total strong").inner_text() == "53"


def test_the_bar_appears_with_a_selection(chromium: Any, gallery: str) -> None:
    with page(chromium, gallery) as opened:
        assert not opened.locator(".bulk").is_visible()
        boxes = opened.locator(".card input")
        boxes.nth(0).check()
        boxes.nth(3).click(modifiers=["Shift"])
        assert opened.locator("[data-selected]").inner_text() == "4"
        assert opened.locator(".bulk").is_visible()
