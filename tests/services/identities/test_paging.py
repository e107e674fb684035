"""Pages by key say what the whole list says, forwards, backwards and from the middle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.services.small import Small
from w2w_registry.catalog.session import Catalog
from w2w_registry.errors import NotFound, UsageError, WhereError
from w2w_registry.records import Kind
from w2w_registry.services.identities import browsing, manage, paging
from w2w_registry.services.identities.answers import IdentityRow
from w2w_registry.services.registry import Registry

NAMES = ["b", "a/2", "a/10", "B", "ä", "z-9", "c.d", "日本", "a+b", "e", "f", "g", "h"]
SORTS = [
    "name",
    "kind",
    "created",
    "residual",
    "version",
    "label.age",
    "label.word",
    "label.mixed",
    "tag.team",
    "space",
    "operation",
]


@pytest.fixture
def listed(catalog: Catalog, tmp_path: Path) -> Registry:
    """Thirteen identities; some lack the label or tag asked for, and values repeat."""
    small = Small(catalog, tmp_path)
    for i, name in enumerate(NAMES):
        labels: dict[str, float | str] = {}
        if i % 3:
            labels["age"] = float(i % 4)
        if i % 4:
            labels["word"] = "wxy"[i % 3]
        if i % 5:
            labels["mixed"] = float(i % 2) if i % 3 else "wx"[i % 2]
        small.add(name, kind=list(Kind)[i % 3], labels=labels)
        if i % 2:
            manage.set_tags(small.registry, name, [f"team={'ab'[i % 4 == 1]}"])
    small.add("b")
    return small.registry


def walk(registry: Registry, sort: str, size: int, where: str | None = None) -> list[paging.Page]:
    pages = [paging.page(registry, where=where, sort=sort, limit=size)]
    while pages[-1].next is not None:
        pages.append(paging.page(registry, where=where, sort=sort, limit=size, cursor=pages[-1].next))
    return pages


def test_pages_in_both_directions_are_the_list(listed: Registry) -> None:
    for sort in [way + one for one in SORTS for way in ("", "-")]:
        whole = browsing.browse(listed, sort=sort)
        for size in (1, 4, 13, 50):
            _walked_is_listed(listed, sort, size, whole)


def _walked_is_listed(registry: Registry, sort: str, size: int, whole: list[IdentityRow]) -> None:
    told = f"by {sort}, {size} a page"
    pages = walk(registry, sort, size)
    assert [row for page in pages for row in page.rows] == whole, told
    assert pages[0].previous is None, told
    back = [pages[-1]]
    while back[-1].previous is not None:
        back.append(paging.page(registry, sort=sort, limit=size, cursor=back[-1].previous))
    assert [row for page in reversed(back) for row in page.rows] == whole, told
    starts = [None, *(page.next for page in pages)]
    for number, start in enumerate(starts[:-1], start=1):
        jumped = paging.page_start(registry, sort=sort, size=size, number=number)
        assert jumped == start, f"{told}: where page {number} starts, whoever comes there on foot"
        known = paging.page_start(registry, sort=sort, size=size, number=number, total=len(whole))
        assert known == start, f"{told}: page {number} from whichever end"
    assert paging.page_start(registry, sort=sort, size=size, number=len(pages) + 9) is None, told


def test_a_filter_narrows_pages_counts_and_jumps(listed: Registry) -> None:
    where = "kind = product"
    whole = browsing.browse(listed, where=where)
    assert [row for page in walk(listed, "name", 2, where) for row in page.rows] == whole
    counted = paging.overview(listed, where)
    assert counted.total == len(whole)
    assert counted.facets["kind"] == {"product": len(whole)}
    teams = [row.tags["team"] for row in whole if "team" in row.tags]
    assert {value: number for _, value, number in counted.tags} == Counter(teams), "those of whom it has"
    assert 0 < len(teams) < len(whole)
    everybody = paging.overview(listed)
    gone = next(row.identity for row in browsing.browse(listed) if "team" in row.tags)
    manage.remove(listed, gone, perform=True)
    assert sum(n for *_, n in paging.overview(listed).tags) == sum(n for *_, n in everybody.tags) - 1
    assert everybody.total == len(NAMES) == sum(everybody.facets["kind"].values())
    assert everybody.facets["space"] == {"faces@1": len(NAMES)}


@pytest.mark.parametrize("cursor", ["", "x", "W10", "ää", "WyJhZnRlciIsIm5hbWUiLFsiIl0sW251bGxdXQ", "A" * 5000])
def test_a_cursor_made_by_hand_is_refused(listed: Registry, cursor: str) -> None:
    with pytest.raises(UsageError):
        paging.page(listed, cursor=cursor)


def test_a_cursor_belongs_to_its_sort(listed: Registry) -> None:
    cursor = paging.page(listed, sort="created", limit=2).next
    with pytest.raises(UsageError):
        paging.page(listed, sort="-created", cursor=cursor)
    with pytest.raises(UsageError):
        paging.page(listed, sort="beauty")
    with pytest.raises(WhereError):
        paging.page(listed, where="kind =")


def test_no_picture_is_said_as_such(listed: Registry) -> None:
    with pytest.raises(NotFound):
        paging.picture(listed, "e")
    assert paging.cards_of(listed, ["e@1", "nobody@1"]) == {
        "e@1": {"picture": None, "labels": {"mixed": "x", "word": "w"}, "state": "active"}
    }


def test_an_identity_that_never_had_an_alias_has_no_history(listed: Registry) -> None:
    assert manage.history(listed, "e") == []
