"""Every page in a real browser: no script or style refused, nothing serious found by axe, all by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import NO_PAGES, READ, SENT, addresses, page_routes, ways
from tests.web.conftest import TOKEN, Build
from tests.web.routes import own_routes

SIZES = {"phone": (320, 640), "desk": (1440, 900), "wall": (3840, 2160)}


@contextmanager
def page(chromium: Any, gallery: str, size: str = "desk", scheme: str = "light", **more: Any) -> Iterator[Any]:
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
    opened = context.new_page()
    opened.goto(f"{gallery}/?token={TOKEN}")
    yield opened
    context.close()


LOOKS = (("desk", "light"), ("phone", "light"), ("wall", "dark"), ("phone", "dark"))
"""Both sets of colours on the smallest and the widest arrangements of a page, each loaded once."""
RUN_AXE = """rules => axe.run({resultTypes: ["violations"], ...(rules ? {runOnly: rules} : {})})
    .then(found => found.violations.filter(v => ["serious", "critical"].includes(v.impact))
        .map(v => `${v.id} ${v.nodes.slice(0, 2).map(n => n.html.slice(0, 160)).join(" | ")}`))"""
SEEN = [
    "color-contrast", "link-in-text-block", "scrollable-region-focusable", "target-size", "aria-hidden-focus",
    "css-orientation-lock", "bypass", "landmark-one-main", "page-has-heading-one", "label", "button-name", "link-name",
]  # fmt: skip
"""Rules that ask what is seen, so that another size or other colours can break them; the others read the document."""


def test_every_route_is_a_page_here(build: Build) -> None:
    here = {("GET", path) for path in READ} | {("POST", path) for path in SENT}
    assert not here & set(NO_PAGES)
    assert here | set(NO_PAGES) == set(page_routes(own_routes(build()))), (
        "say in tests/browser/pages.py how it is reached"
    )


def test_nothing_serious_on_any_page(chromium: Any, gallery: str, asked: Path) -> None:
    """By axe-core; nor is any page wider than a small phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = []
    # axe is injected as a script, which the gallery's own policy rightly refuses
    with page(chromium, gallery, bypass_csp=True) as opened:
        opened.emulate_media(reduced_motion="reduce")
        for name, come in ways().items():
            come(opened, gallery, asked)
            opened.evaluate(axe.axe_script)
            for size, scheme in LOOKS:
                width, height = SIZES[size]
                opened.set_viewport_size({"width": width, "height": height})
                opened.emulate_media(color_scheme=scheme)
                told = f"{name}, {size}, {scheme}"
                first = (size, scheme) == LOOKS[0]
                found += [f"{told}: {one}" for one in opened.evaluate(RUN_AXE, None if first else SEEN)]
                over = opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                found += [f"{told}: {over} px too wide"] if over > 0 else []
            opened.set_viewport_size({"width": 1440, "height": 900})
            opened.emulate_media(color_scheme="light")
    assert not found, "\n".join(found)


def test_what_is_used_on_a_phone_is_large_enough(chromium: Any, gallery: str) -> None:
    """Sliders can be moved by a thumb, charts read, and no word is broken at the head of a table."""
    with page(chromium, gallery, "phone") as opened:
        opened.goto(f"{gallery}/make?from=acme/alice")
        sliders = opened.locator('input[type="range"]').all()
        assert sliders
        for slider in sliders:
            assert slider.bounding_box()["width"] >= 240
        opened.goto(f"{gallery}/spaces/faces@1")
        for text in opened.locator(".chart text").all():
            assert text.bounding_box()["height"] >= 9
        for path in ("/compliance/withdrawals/s-0", "/identities/acme/both"):
            opened.goto(gallery + path)
            for heading in opened.locator("table:not(.rows) thead th").all():
                assert heading.bounding_box()["height"] < 40, (path, heading.inner_text())


def test_the_policy_refuses_nothing_of_our_own(chromium: Any, gallery: str) -> None:
    said: list[str] = []
    with page(chromium, gallery) as opened:
        opened.on("console", lambda message: said.append(f"{opened.url}: {message.text}"))
        opened.on("pageerror", lambda error: said.append(f"{opened.url}: {error}"))
        for path in addresses().values():
            opened.goto(gallery + path)
    assert [text for text in said if "status of" not in text] == []


WATCH = """() => {
    const wanted = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
        .filter(e => e.checkVisibility() && !e.disabled && e.type !== 'hidden' && !e.closest('svg.map'));
    const look = e => { const s = getComputedStyle(e);
        return [s.outlineStyle, s.outlineWidth, s.outlineColor, s.boxShadow, s.borderColor].join(); };
    const told = e => (e.outerHTML.match(/^<[^>]*>/)[0] + e.textContent.trim().slice(0, 30)).slice(0, 140);
    const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
    const ground = e => { for (let at = e.parentElement; at; at = at.parentElement) {
        const c = getComputedStyle(at).backgroundColor;
        if (!/^rgba\\(.*, 0\\)$/.test(c) && !c.includes('color(')) return c; }
        return 'rgb(255, 255, 255)'; };
    const before = new Map(wanted.map(e => [e, look(e)]));
    const left = new Set(wanted), faults = [];
    const cut = (e, ring) => { const r = e.getBoundingClientRect();
        for (let at = e.parentElement; at && at !== document.body; at = at.parentElement) {
            if (getComputedStyle(at).overflowX === 'visible' || at.namespaceURI.endsWith('svg')) continue;
            const b = at.getBoundingClientRect();
            const over = [b.left - r.left, r.right - b.right, b.top - r.top, r.bottom - b.bottom];
            if (Math.max(...over) + ring > .6) return told(at); }
        return null; };
    document.addEventListener('focusin', ({target: e}) => {
        if (!left.delete(e)) return;
        e.scrollIntoView({block: 'nearest', inline: 'nearest'});  // as the browser does, a frame later
        const s = getComputedStyle(e), width = parseFloat(s.outlineWidth);
        if (look(e) === before.get(e) || s.outlineStyle === 'none' || width < 2) faults.push('no ring: ' + told(e));
        const [one, other] = [light(s.outlineColor), light(ground(e))].sort((a, b) => b - a);
        if ((one + .05) / (other + .05) < 3) faults.push(`ring of ${s.outlineColor} on ${ground(e)}: ` + told(e));
        const by = cut(e, width + parseFloat(s.outlineOffset));
        if (by && !e.closest('.wide')) faults.push(`ring cut off by ${by}: ` + told(e));
        const r = e.getBoundingClientRect();
        const at = document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2);
        const there = at && (e.contains(at) || at.contains(e) || at.closest('label')?.control === e);
        if (!there) faults.push('hidden: ' + told(e));
    });
    window.watched = {left: () => [...left].map(told), faults};
    return wanted.length;
}"""
"""Watches the focus: what it has yet to reach, and where it cannot be seen: no ring, one that does not stand out from
what is behind it by 3 to 1 (WCAG 2.2, 1.4.11), one that is cut off, or an element under another one (2.4.11)."""


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_everything_is_reached_and_seen_by_keyboard(
    chromium: Any, gallery: str, asked: Path, size: str, scheme: str
) -> None:
    found = []
    with page(chromium, gallery, size, scheme, bypass_csp=True, reduced_motion="reduce") as opened:
        for name, come in ways().items():
            come(opened, gallery, asked)
            wanted = opened.evaluate(WATCH)
            for _ in range(wanted + 10):
                opened.keyboard.press("Tab")
            found += [f"{name}: out of reach: {one}" for one in opened.evaluate("watched.left()")]
            found += [f"{name}: {one}" for one in opened.evaluate("watched.faults")]
    assert not found, "\n".join(found)


def test_the_focus_goes_back_too(chromium: Any, gallery: str) -> None:
    """Backwards through the page with most in it: nothing keeps the focus."""
    with page(chromium, gallery, bypass_csp=True) as opened:
        opened.goto(f"{gallery}/identities/acme/both", wait_until="domcontentloaded")
        wanted = opened.evaluate(WATCH)
        for _ in range(wanted + 10):
            opened.keyboard.press("Shift+Tab")
        assert opened.evaluate("watched.left()") == []


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
        everybody = opened.get_by_role("button", name="All on this page")
        everybody.click()
        assert opened.locator("[data-selected]").inner_text() == str(boxes.count())
        opened.get_by_role("button", name="None", exact=True).click()
        assert not opened.locator(".bulk").is_visible()


def test_registered_names_are_offered(chromium: Any, gallery: str) -> None:
    with page(chromium, gallery) as opened:
        for path, box in (("/make", "#from"), ("/who", "#name")):
            opened.goto(gallery + path)
            opened.locator(box).fill("acme/b")
            opened.locator("datalist option").nth(1).wait_for(state="attached")
            offered = opened.locator("datalist option").evaluate_all("all => all.map(one => one.value)")
            assert offered == ["acme/bob", "acme/both"]
