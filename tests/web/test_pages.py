"""What pages show, and that forms do what the command line does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.services.world import make_world
from tests.web.conftest import COUNT, ORIGIN, csrf_of
from w2w_registry.services.identities import manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry


def test_the_first_page_has_everybody(browser: TestClient) -> None:
    text = browser.get("/").text
    assert re.findall(r'<span class="name">([^<]+)</span>', text) == [f"p{i:04d}" for i in range(COUNT)]
    assert text.count('<img class="face"') == 10


def test_a_picture_is_kept_for_a_while_by_whoever_may_see_it(browser: TestClient) -> None:
    source = re.search(r'<img class="face" src="([^"]+)"', browser.get("/").text)
    assert source is not None
    answer = browser.get(source[1].replace("&amp;", "&"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["cache-control"] == "private, max-age=600"
    again = browser.get(source[1], headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert browser.get("/pictures/p0040").status_code == 404


def test_alternative_text_says_what_is_there_never_who(browser: TestClient) -> None:
    for alt in re.findall(r'<img class="face"[^>]* alt="([^"]*)"', browser.get("/").text):
        assert alt == "a face with beard"


def test_a_filter_that_does_not_parse_says_where(browser: TestClient) -> None:
    answer = browser.get("/?where=kind ==")
    assert answer.status_code == 400
    assert "position" in answer.text
    assert "The filter does not parse" in answer.text
    assert "In the filter, no field" in browser.get("/?where=beerd > 1").text
    assert 'aria-invalid="true"' in answer.text


def test_nobody_matches_says_what_to_do(browser: TestClient) -> None:
    assert "Nobody matches" in browser.get("/?where=kind = style").text


def test_the_page_of_one_identity(browser: TestClient) -> None:
    text = browser.get("/identities/p0001").text
    for said in ("p0001", "faces@1", "Nearest", "What may be done", "Lineage", "w2w-reg search p0001@1"):
        assert said in text


def test_a_form_tags_as_the_command_line_would(browser: TestClient, registry: Registry) -> None:
    form = {"csrf": csrf_of(browser), "identity": "p0001", "tags": "team=ads, due date=may"}
    answer = browser.post("/tags", data=form, headers={"origin": ORIGIN})
    assert answer.status_code == 400  # a tag's name has no blanks, here as there
    form["tags"] = "team=ads"
    answer = browser.post("/tags", data=form, headers={"origin": ORIGIN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/identities/p0001?did=tags")
    assert '<p class="done" role="status">The tags are set.</p>' in browser.get(answer.headers["location"]).text
    assert 'class="done"' not in browser.get("/identities/p0001?did=<b>").text
    assert manage.show(registry, "p0001")["tags"] == {"team": "ads"}


@pytest.mark.parametrize("alias", ["9", "<script>", ""])
def test_a_bad_alias_is_refused_as_on_the_command_line(browser: TestClient, alias: str) -> None:
    form = {"csrf": csrf_of(browser), "target": "p0001@1", "alias": alias}
    answer = browser.post("/aliases", data=form, headers={"origin": ORIGIN})
    assert answer.status_code == 400
    assert "<script>" not in answer.text.replace("<script type", "")


def test_what_a_space_was_fitted_on_is_paged_by_key(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from w2w_registry.web.pages import spaces

    monkeypatch.setattr(spaces, "MEMBERS", 20)
    seen, place = [], "/spaces/faces@1"
    while place:
        text = browser.get(place).text
        seen += re.findall(r'<a class="tag" href="/identities/(p\d+)@1">', text)
        following = re.search(r'<a rel="next" href="([^"#]+)#members">', text)
        place = following[1] if following else ""
    assert sorted(seen) == [f"p{i:04d}" for i in range(COUNT)]


def test_events_name_what_they_are_about(browser: TestClient) -> None:
    assert 'version <a href="/identities/p0000@1">p0000@1</a>' in browser.get("/compliance/events").text


def test_whoever_mistypes_is_led_on(browser: TestClient) -> None:
    answer = browser.get("/identities/p00001")
    assert answer.status_code == 404
    assert '<a class="button quiet" href="/identities/p0001">p0001</a>' in answer.text


def test_every_version_shows_the_picture_it_had(browser: TestClient, registry: Registry, tmp_path: Path) -> None:
    again = make_world(COUNT).write(tmp_path / "again", [1], training=1)
    add(registry, AddRequest(paths=(str(again / "p0001"),)))
    assert len(manage.show(registry, "p0001")["versions"]) == 2
    text = browser.get("/identities/p0001").text
    rows = text.partition('class="versions rows"')[2].partition("</table>")[0]
    assert rows.count("/pictures/p0001@1?") == 1
    assert rows.count("no picture yet") == 1
    assert browser.get(re.findall(r'src="(/pictures/p0001@1[^"]+)"', rows)[0]).headers["content-type"] == "image/png"
