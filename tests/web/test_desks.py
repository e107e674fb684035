"""Spaces, the compliance desk, selections and making: what pages say, and that rules are the services'."""

from __future__ import annotations

import io
import re
import sys
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.services.world import BASE, make_world
from tests.web.conftest import COUNT, HOST, ORIGIN, TOKEN, NoModel, csrf_of, enter
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.consent.records import Scope
from w2w_registry.services.audit import log
from w2w_registry.services.consent import grants
from w2w_registry.services.identities import browsing, describing, manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry
from w2w_registry.services.search import atlas
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis import direction_list as directions
from w2w_registry.web import charts
from w2w_registry.web.access import Access, Proxy, Role
from w2w_registry.web.app import create_app

OWN = {"origin": ORIGIN}
ANY = Scope(purposes=("any",), derivatives=True, publication=True)


@pytest.fixture
def alice(registry: Registry, tmp_path: Path) -> str:
    """Somebody who agreed to everything."""
    grants.grant(registry, "s-1", ANY)
    loras = make_world(60).write(tmp_path / "new", range(55, 56))
    add(registry, AddRequest(paths=(str(loras / "p0055"),), name="acme/alice", subjects=("s-1",)))
    return "acme/alice"


def post(client: TestClient, path: str, **form: object) -> tuple[int, str]:
    answer = client.post(path, data={"csrf": csrf_of(client), **form}, headers=OWN)
    return answer.status_code, answer.text


def test_a_space_shows_its_people_and_its_line(browser: TestClient) -> None:
    text = browser.get("/spaces/faces").text
    assert text.count('<circle class="person"') == 50
    assert "same from" in text
    assert "faces@1" in browser.get("/spaces").text


class Turned:
    """What UMAP is called as; people come out in another order than they went in by their first component."""

    def __init__(self, **how: int) -> None:
        assert how["random_state"] == 0, "the same people give the same map"

    def fit_transform(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([-np.arange(len(rows)), np.arange(len(rows))], axis=1).astype(np.float32)


def test_a_space_is_unfolded_where_umap_is_installed(
    browser: TestClient, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    text = browser.get("/spaces/faces?map=umap").text
    assert "pip install" in text
    assert "The first two components are shown." in text
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Turned, __spec__=object()))
    assert "is being worked out" in browser.get("/spaces/faces?map=umap&after=-1").text
    while ("umap", "faces@1") not in browser.app.state.site.remembered._kept:  # type: ignore[attr-defined]
        time.sleep(0.01)
    text = browser.get("/spaces/faces?map=umap&after=-2").text
    assert text.count('<circle class="person"') == 50
    assert "neighbours lie together" in text
    rows, everybody = atlas.table(registry, "faces", "umap", 20)
    assert (len(rows), everybody) == (20, 50)
    assert [row["x"] for row in rows] == sorted((row["x"] for row in rows), reverse=True)
    manage.remove(registry, "p0003", perform=True)
    del browser.app.state.site.remembered._kept["atlas", "faces@1"]  # type: ignore[attr-defined]
    assert browser.get("/spaces/faces?map=umap").text.count('<circle class="person"') == 49  # however old the map is


def test_a_map_takes_the_colours_of_a_label(browser: TestClient, registry: Registry) -> None:
    describing.label(registry, "p0001", {"hair": 0.2})
    describing.label(registry, "p0002", {"hair": 0.9})
    describing.label(registry, "p0003", {"mood": "cheerful"})
    text = browser.get("/spaces/faces?colour=hair").text
    places = re.findall(r'<circle class="(\S+)" cx="[^"]*" cy="[^"]*" r="5"><title>(\S+)@1<', text)
    shades = {name: shade for shade, name in places}
    assert len(shades) == COUNT
    assert (shades["p0001"], shades["p0002"], shades["p0003"]) == ("shade-0", "shade-4", "shade--1")
    assert "0.200<svg" in text
    assert re.findall(r'<option value="(\w+)"', text) == ["hair"]  # nobody's mood is a number
    for other in ("mood", "nothing", "<b>"):
        assert browser.get("/spaces/faces", params={"colour": other}).text.count('<circle class="person"') == COUNT


def test_a_space_shows_how_often_one_person_is_missed(browser: TestClient, registry: Registry, tmp_path: Path) -> None:
    again = make_world(50).write(tmp_path / "again", range(14), training=1)
    add(registry, AddRequest(paths=(str(again),)))
    drawn = atlas.atlas(registry, "faces")
    assert drawn.repeats == 14
    assert drawn.misses is not None
    assert list(drawn.misses) == sorted(drawn.misses)
    assert "14 identities that were learned twice" in browser.get("/spaces/faces").text
    assert charts.det((0.0, 0.5, 1.0), (0.5, 0.1, 0.01), (0.01, 0.1, 0.5), 0.5) is not None


def test_the_desk_counts_and_verifies(browser: TestClient, alice: str) -> None:
    assert "Published without valid consent" in browser.get("/compliance").text
    assert "/compliance/subjects/s-1" in browser.get("/compliance").text
    code, text = post(browser, "/compliance/verify")
    assert code == 200
    assert "holds</span>" in text


def test_events_go_by_number(browser: TestClient, registry: Registry) -> None:
    for i in range(120):
        manage.set_tags(registry, "p0001", [f"n={i}"])
    text = browser.get("/compliance/events").text
    assert text.count("<code>tag.set</code>") == 100
    assert "below=" in text
    fitted = browser.get("/compliance/events?action=space.").text
    assert 'space <a href="/spaces/faces@1">faces@1</a>' in fitted
    assert "No such event" in browser.get("/compliance/events?actor=nobody").text
    today = datetime.now(UTC).date()
    assert "tag.set" in browser.get(f"/compliance/events?until={today}").text  # a day that ends a period is part of it
    assert "tag.set" not in browser.get(f"/compliance/events?until={today - timedelta(days=1)}").text
    assert "tag.set" in browser.get(f"/compliance/events?since={today}").text  # and so is one that begins it
    assert browser.get("/compliance/events?since=yesterday").status_code == 400


def test_a_withdrawal_shows_its_plan_and_needs_the_name_again(
    browser: TestClient, registry: Registry, alice: str
) -> None:
    assert "nothing has changed yet" in browser.get("/compliance/withdrawals/s-1").text
    code, _ = post(browser, "/compliance/withdrawals/s-1", confirm="s-2")
    assert code == 400
    assert manage.show(registry, alice)["state"] == "active"
    code, text = post(browser, "/compliance/withdrawals/s-1", confirm="s-1")
    assert (code, "Withdrawn" in text) == (200, True)
    assert manage.show(registry, f"{alice}@1")["state"] == "blocked"
    assert browser.get(f"/pictures/{alice}@1").status_code == 404
    assert log.verify(registry).ok


def test_a_selection_is_tagged_and_collected(browser: TestClient, registry: Registry) -> None:
    form = {"identity": ["p0001", "p0002"], "back": "//evil.example"}
    answer = browser.post(
        "/selection", data={"csrf": csrf_of(browser), "action": "tag", "tags": "a=1,b=2", **form}, headers=OWN
    )
    assert answer.headers["location"] == "/evil.example?done=2"
    assert "2 identities are tagged." in browser.get("/?done=2").text
    assert "One identity is tagged." in browser.get("/?done=1").text
    assert "2 identities are in the collection." in browser.get("/?done=2&did=collected").text
    assert "new identities are made" in browser.get("/?done=2&did=sampled").text
    assert "tagged." not in browser.get("/").text
    assert post(browser, "/selection", action="collect", collection="spring", **form)[0] == 303
    assert manage.show(registry, "p0002")["tags"] == {"a": "1", "b": "2", "collection.spring": "1"}
    assert post(browser, "/selection", action="tag", tags="a=1")[0] == 400
    assert post(browser, "/selection", action="collect", identity="p0001")[0] == 400


def test_a_selection_leads_to_whom_it_depicts(browser: TestClient, alice: str) -> None:
    assert "The selected identity depicts:" in post(browser, "/selection", action="withdraw", identity=alice)[1]
    both = post(browser, "/selection", action="withdraw", identity=[alice, "p0001"])[1]
    assert "The 2 selected identities depict:" in both


def test_what_was_not_made_is_still_in_its_fields(browser: TestClient) -> None:
    code, text = post(browser, "/mixes", people="nobody\np0001", weights="2 1", name="acme/x")
    assert code == 404
    assert ">nobody\np0001</textarea>" in text
    assert 'value="2 1"' in text
    assert 'value="acme/x"' in text
    assert 'role="alert"' in text
    assert post(browser, "/mixes", people="p0001\np0002", weights="much", name="acme/x")[0] == 400
    code, text = post(browser, "/samples", space="faces@1", count="3", seed="7", name="bad name")
    assert code == 400
    assert 'value="bad name"' in text
    assert 'name="seed" type="number" min="0" value="7"' in text


def test_a_selection_is_taken_to_where_it_is_mixed(browser: TestClient) -> None:
    form = {"csrf": csrf_of(browser), "action": "mix", "identity": ["p0001", "p0002"]}
    answer = browser.post("/selection", data=form, headers=OWN)
    assert answer.status_code == 303
    assert ">p0001\np0002</textarea>" in browser.get(answer.headers["location"]).text


def test_an_export_takes_who_agreed_and_names_who_did_not(browser: TestClient, alice: str) -> None:
    form = {"csrf": csrf_of(browser), "action": "export", "identity": [alice, "p0001"]}
    answer = browser.post("/selection", data=form, headers=OWN)
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert f"{alice}/adapter_model.safetensors" in names
    assert "NOT-EXPORTED.txt" in names
    assert post(browser, "/selection", action="export", identity="p0001")[0] == 403


def test_sliders_end_in_an_ordinary_edit(browser: TestClient, registry: Registry, alice: str) -> None:
    assert "No directions yet" in browser.get(f"/make?from={alice}").text
    assert browser.get("/make?from=nobody").status_code == 404
    refused = browser.get("/make?from=p0001")
    assert refused.status_code == 403
    assert "not allowed to generate" in refused.text.lower()
    code, _ = post(browser, "/make", **{"from": alice, "action": "save", "name": "acme/alice-2"})
    assert code == 400


@pytest.mark.parametrize("amount", ["x", "nan", "inf", "99"])
def test_an_amount_is_a_number_within_reach(browser: TestClient, alice: str, amount: str) -> None:
    code, _ = post(browser, "/make/pictures", **{"from": alice, "d.beard": amount})
    assert code == 400


def test_a_mix_takes_nobodys_name(browser: TestClient, registry: Registry, alice: str) -> None:
    assert post(browser, "/samples", space="faces", count="2", name="new")[0] == 303
    code, said = post(browser, "/mixes", people=f"{alice}\nnew-001", name="new-002")
    assert code == 409
    assert "is not whom this is made of" in said
    assert manage.show(registry, "new-002").version == 1
    assert post(browser, "/mixes", people=f"{alice}\nnew-001", name="both")[0] == 303


def test_a_mix_needs_everybodys_consent(browser: TestClient, registry: Registry, alice: str) -> None:
    assert post(browser, "/mixes", people=f"{alice}\np0001", name="mixed")[0] == 403
    assert post(browser, "/mixes", people=alice, name="mixed")[0] == 400
    assert post(browser, "/samples", space="faces", count="3", name="new")[0] == 303
    assert manage.show(registry, "new-001")["operation"]["kind"] == "sample"
    assert directions.list_directions(registry, "faces") == []


def test_the_api_says_what_json_says(program: TestClient, registry: Registry, alice: str) -> None:
    import json

    from w2w_registry.services.consent import subjects
    from w2w_registry.services.spaces.showing import list_spaces
    from w2w_registry.web.api import plain

    said = {
        "/api/v1/identities?limit=100": {
            "identities": browsing.browse(registry),
            "next": None,
            "previous": None,
        },
        f"/api/v1/identities/{alice}": manage.show(registry, alice),
        "/api/v1/spaces": list_spaces(registry),
        "/api/v1/subjects": {"subjects": subjects.list_subjects(registry), "next": None},
        "/api/v1/subjects/s-1": subjects.show_subject(registry, "s-1"),
    }
    for path, value in said.items():
        assert program.get(path).json() == json.loads(json.dumps(plain(value))), path


def test_the_api_makes_what_consent_allows(program: TestClient, registry: Registry, alice: str) -> None:
    body = {"identities": [alice, "p0001"], "name": "acme/both"}
    refused = program.post("/api/v1/mixes", json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "consent-denied")
    body["identities"] = [alice, alice]
    made = program.post("/api/v1/mixes", json=body)
    assert (made.status_code, made.json()["ref"]) == (201, "acme/both@1")
    assert program.post("/api/v1/edits", json={"identity": alice, "amounts": {}, "name": "x"}).status_code == 400
    assert program.post("/api/v1/verify", json={}).json()["ok"] is True
    events = program.get("/api/v1/events?limit=2").json()
    assert events["next"] == events["events"][-1]["seq"] == 2


def test_the_document_names_every_route_of_the_api(program: TestClient) -> None:
    document = program.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.")
    routes = {route.path.replace(":path", "") for route in program.app.routes if route.path.startswith("/api/")}  # type: ignore[attr-defined]
    assert set(document["paths"]) == routes - {"/api/v1/openapi.json"}


def put_picture(registry: Registry, *names: str) -> None:
    """Give versions a picture."""
    out = io.BytesIO()
    Image.new("RGB", (40, 40), (180, 120, 90)).save(out, "PNG")
    digest = registry.artifacts.put(out.getvalue())
    with registry.catalog.write("curator") as uow:
        ids = [version_for(uow.session, name).id for name in names]
        for one in ids:
            uow.bulk_update(Version, [one], {"preview_digest": digest})
        uow.event("version.tested", {"version": ids})


def test_what_is_held_waits_for_another_person(
    browser: TestClient, registry: Registry, alice: str, tmp_path: Path
) -> None:
    policies.adopt(registry, items=["second_person=true", "space_people=2"])
    again = make_world(60).write(tmp_path / "again", range(55, 56), training=1)
    grants.grant(registry, "s-2", ANY)
    for name in ("mallory", "eve"):
        add(registry, AddRequest(paths=(str(again / "p0055"),), name=name, subjects=("s-2",)))
        again = make_world(60).write(tmp_path / name, range(55, 56), training=2)
    assert manage.show(registry, "mallory")["state"] == "held"
    page = browser.get("/identities/mallory").text
    assert (
        'Held: it resembles <a href="/identities/acme/alice@1">acme/alice@1</a> (another subject; by weights).' in page
    )
    assert "w2w-reg resolve mallory@1 --same-as acme/alice --reason TEXT" in page
    before = len(log.events_list(registry, action="consent.refuse"))
    assert post(browser, "/make", **{"action": "save", "from": "mallory", "d.skin": "1", "name": "more"})[0] == 403
    assert len(log.events_list(registry, action="consent.refuse")) == before + 1  # as on the command line
    assert "waits for somebody else than you" in browser.get("/compliance").text
    form = {"version": "mallory@1", "decision": "same", "same_as": f"{alice}@1", "reason": "same face"}
    code, text = post(browser, "/compliance/held", **form)
    assert code == 403
    assert "mallory@1" in text
    put_picture(registry, "mallory", alice)
    assert "/compliance/held/" not in browser.get("/compliance").text
    olga = enter(create_app(registry, Access(TOKEN, "olga"), frozenset({HOST}), engine=NoModel()))
    page = olga.get("/compliance").text
    assert "It is acme/alice@1" in page
    faces = sorted(set(re.findall(r'class="face" src="([^"?]+)[^"]*" alt="([^"]*)"', page)))
    assert [where for where, _ in faces] == ["/compliance/held/mallory@1", "/pictures/acme/alice@1"]
    assert "held: no picture is shown" in page  # the other one's, which came without
    assert not any("mallory" in said or "alice" in said for _, said in faces)
    assert [olga.get(where).content[1:4] for where, _ in faces] == [b"PNG", b"PNG"]
    shut = ("/pictures/mallory@1", "/compliance/held/acme/alice@1", "/compliance/held/nobody@1")
    assert [olga.get(where).status_code for where in shut] == [404, 404, 404]
    proxy = Proxy("x-user", frozenset({"testclient"}), default=Role.AUDITOR)
    auditor = TestClient(
        create_app(registry, Access(TOKEN, "x", proxy=proxy), frozenset({HOST}), engine=NoModel()),
        base_url=ORIGIN,
        headers={"x-user": "audrey"},
    )
    assert "/compliance/held/" not in auditor.get("/compliance").text
    assert auditor.get("/compliance/held/mallory@1").status_code == 403
    assert post(olga, "/compliance/held", **{**form, "reason": " "})[0] == 400
    assert post(olga, "/compliance/held", **form)[0] == 303
    assert olga.get("/compliance/held/mallory@1").status_code == 404
    assert "s-1" in manage.show(registry, "mallory")["subjects"]
    program = TestClient(olga.app, base_url=ORIGIN, headers={"authorization": f"Bearer {TOKEN}"})
    assert [row["version"] for row in program.get("/api/v1/held").json()] == ["eve@1"]
    decision = {"version": "eve", "distinct": True, "reason": "her twin"}
    assert program.post("/api/v1/held", json=decision).json()["outcome"] == "distinct"
    assert program.get("/api/v1/held").json() == []
    assert log.verify(registry).ok


def test_the_api_is_read_as_a_page(browser: TestClient) -> None:
    text = browser.get("/api").text
    assert 'href="/api">API</a>' in browser.get("/").text
    document = browser.get("/api/v1/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b> {path}</code>" in text
    assert "whole number from 1 to 500" in text  # limit of a list
    assert "weights, behaviour or both" in text  # by of a search
    command = "curl -H &#34;Authorization: Bearer $W2W_TOKEN&#34; --json &#39;{&#34;query&#34;: &#34;…&#34;}&#39;"
    assert f"{command} &#39;http://{HOST}/api/v1/search&#39;" in text
    assert "<code>[].fit_size</code>" in text  # of a list's rows


def test_versions_of_a_space_stand_side_by_side(browser: TestClient, registry: Registry, tmp_path: Path) -> None:
    loras = make_world(COUNT).write(tmp_path / "loras", range(30))
    fit_space(registry, "faces", [str(loras)], base_model=BASE)
    text = browser.get("/spaces/faces@2").text.partition("Versions side by side")[2].partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", text)[1:]]
    first, second = ([row[0], row[2], row[4].endswith("%")] for row in rows)
    assert (first, second) == (["faces@1", "50", True], ["faces@2", "30", True])
    assert "Versions side by side" not in browser.get("/spaces").text


def test_whoever_may_not_is_told_who_may(registry: Registry) -> None:
    proxy = Proxy(
        "x-user", frozenset({"testclient"}), roles={"eve": Role.VIEWER, "max": Role.MAKER, "ada": Role.AUDITOR}
    )
    app = create_app(registry, Access(TOKEN, "curator", proxy=proxy), frozenset({HOST}), engine=NoModel())

    def told(name: str, path: str, **form: object) -> str:
        client = TestClient(app, base_url=ORIGIN, headers={"x-user": name}, follow_redirects=False)
        answer = client.post(path, data={"csrf": csrf_of(client), **form}, headers=OWN)
        assert answer.status_code == 403
        return answer.text

    assert "An auditor may not do that; ask a maker or a steward" in told("ada", "/tags", identity="p0001", tags="a=1")
    assert "A viewer may not do that; ask a steward or an auditor" in told("eve", "/compliance/verify")
    assert "A maker may not do that; ask a steward" in told("max", "/selection", action="withdraw", identity="p0001")
