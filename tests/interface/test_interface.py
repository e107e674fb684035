"""The Python API: named like the commands, results with the keys of ``--json``, nothing public that is untested."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import w2w_registry as w2w
from tests.cli.walk import commands
from tests.services.world import World
from w2w_registry.cli.app import cli
from w2w_registry.commands import command
from w2w_registry.errors import ConsentDenied, NotFound, NotInitialised, UsageError, WhereError
from w2w_registry.interface.consent import Consent
from w2w_registry.interface.registry import Registry
from w2w_registry.interface.results import Pictures, Row, Rows, checked
from w2w_registry.interface.spaces import Spaces
from w2w_registry.lora import write_lora
from w2w_registry.records import Result
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.spaces.manage import fit_space, import_space
from w2w_registry.services.synthesis.edit import sample
from w2w_registry.services.synthesis.export import export
from w2w_registry.services.synthesis.generate import GenerateRequest
from w2w_registry.services.synthesis.invert import InvertRequest
from w2w_registry.services.synthesis.train import TrainRequest

PUBLIC = {
    Registry: {
        "add", "alias", "close", "edit", "export", "generate", "history", "invert", "lineage", "list", "mix", "remove",
        "sample", "search", "show", "tag", "train", "verify_audit",
    },
    Consent: {"check", "grant", "show", "subjects", "withdraw"},
    Spaces: {"export", "fit", "import_", "list", "show"},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty LoRAs, and a registry with a space fitted on them and everybody added."""
    from tests.services.world import make_world

    root = tmp_path_factory.mktemp("api")
    made: World = make_world()
    made.write(root / "loras", range(80))
    made.write(root / "retrained", range(10), training=1)
    stranger = (made.mean - made.identities[9] @ made.axes).astype(np.float32)
    write_lora(root / "stranger", made.layout.unflatten(stranger), made.layout.alpha, base_model="tiny/base")
    (root / "home").mkdir()
    (root / "home" / "registry.toml").write_text(
        '[policy]\nunknown = ["register", "search", "edit", "mix", "sample"]\n'
    )
    with w2w.open(root / "home", create=True, actor="curator") as reg:
        reg.spaces.fit("faces", root / "loras", base_model="tiny/base")
        reg.add(root / "loras")
    return root


def test_what_is_public_is_what_is_listed_here() -> None:
    for kind, names in PUBLIC.items():
        found = {n for n, f in vars(kind).items() if inspect.isfunction(f) and not n.startswith("_")}
        assert found == names
        for name in names:
            assert inspect.getdoc(getattr(kind, name)), f"{kind.__name__}.{name} has no docstring"
    assert sorted(w2w.__all__) == ["__version__", "open"]


def test_opening_loads_nothing_heavy() -> None:
    code = (
        "import sys, w2w_registry; w2w_registry.open;"
        "print(sorted({'numpy', 'sqlalchemy', 'torch', 'faiss', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_search_gives_identities_in_order(world: Path) -> None:
    with w2w.open(world / "home") as reg:
        found = reg.search(world / "retrained" / "p0004", limit=3)
        assert [len(found), found[0].identity, found.results[0].identity] == [3, "p0004", "p0004"]
        assert found[0]["score"] == found[0].score > found[1].score
        assert found.space == "faces@1"
        assert found[:2].space == "faces@1"
        with pytest.raises(NotFound):
            reg.search("nobody")
        with pytest.raises(AttributeError, match="it has rank"):
            _ = found[0].nonsense


def test_results_are_what_the_commands_print(world: Path) -> None:
    """The same keys and values as ``--json``, for everything that only reads."""
    asked = {
        ("list", "--limit", "3"): lambda reg: reg.list(limit=3).to_json(),
        ("show", "p0003"): lambda reg: reg.show("p0003").to_json(),
        ("search", "p0003"): lambda reg: reg.search("p0003").to_json(),
        ("space", "list"): lambda reg: reg.spaces.list().to_json(),
        ("space", "show", "faces"): lambda reg: reg.spaces.show("faces").to_json(),
        ("lineage", "p0003", "--up"): lambda reg: reg.lineage("p0003").to_json(),
        ("consent", "check", "p0003"): lambda reg: reg.consent.check("p0003").to_json(),
    }
    with w2w.open(world / "home") as reg:
        for command, call in asked.items():
            done = CliRunner().invoke(cli, ["--home", str(world / "home"), *command, "--json"])
            printed = json.loads(done.stdout)
            expected = printed["results"] if command[0] == "search" else printed
            assert json.loads(json.dumps(call(reg), default=str)) is not None
            got = call(reg)
            assert set(_keys(expected)) == set(_keys(got)), command


def _keys(value: object) -> list[str]:
    one = value[0] if isinstance(value, list) and value else value
    return list(one) if isinstance(one, dict) else []


def test_making_and_consent(world: Path, tmp_path: Path) -> None:
    with w2w.open(world / "home", actor="maker") as reg:
        mixed = reg.mix("p0001", "p0002", weights=[0.3], new="made/mix")
        assert mixed.identity == "made/mix"
        assert mixed.weights == [0.3, 0.7]
        assert len(reg.sample(2, name="made/new", seed=3).samples) == 2
        assert ["p0001@1", "made/mix@1"] in reg.lineage("made/mix").edges
        assert reg.alias("production", "made/mix@1").identity == "made/mix"
        assert reg.history("made/mix")[0].alias == "production"
        assert reg.tag("made/mix", team="ads").tags == {"team": "ads"}
        reg.add(world / "stranger", name="acme/nine", subjects=["s-9"])
        with pytest.raises(ConsentDenied):
            reg.export("acme/nine", tmp_path / "out")
        granted = reg.consent.grant("s-9", purposes=["research"], derivatives=True, expires="2099-12-31")
        assert granted.status == "given"
        assert reg.export("acme/nine", tmp_path / "out").files
        assert "s-9" in {row.subject for row in reg.consent.subjects()}
        assert reg.consent.withdraw("s-9", dry_run=True).subject == "s-9"
        reg.consent.withdraw("s-9")
        with pytest.raises(ConsentDenied):
            reg.export("acme/nine", tmp_path / "again")
        assert reg.remove("made/mix", dry_run=True).performed is False
        assert reg.show("made/mix").identity == "made/mix"
        reg.remove("made/mix")
        with pytest.raises(NotFound):
            reg.show("made/mix")
        with pytest.raises(UsageError):
            reg.mix("p0001", new="alone")
        assert reg.verify_audit().ok


def test_what_fits_no_space_is_registered_all_the_same(world: Path, tmp_path: Path) -> None:
    with w2w.open(tmp_path / "home", create=True) as reg:
        done = reg.add(world / "loras" / "p0001", world / "loras" / "p0002")
        assert [(row.status, row.identity) for row in done] == [("added", "p0001"), ("added", "p0002")]
        assert (done.space, done.skipped, reg.show("p0001").space) == (None, [], None)
    with w2w.open(world / "home") as reg:
        assert reg.add(world / "loras" / "p0001").space == "faces@1"
        with pytest.raises(NotFound):
            reg.add(world / "loras" / "p0001", space="nowhere")


def test_pandas_and_notebooks(world: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with w2w.open(world / "home") as reg:
        frame = reg.list(limit=4).to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert list(frame["identity"]) == [row.identity for row in reg.list(limit=4)]
    rows = Rows([{"name": "<b>", "score": 0.123456}])
    assert "&lt;b&gt;" in rows._repr_html_()
    assert "0.1235" in rows._repr_html_()
    (tmp_path / "sheet.png").write_bytes(b"png")
    assert "data:image/png" in Pictures({"sheet": str(tmp_path / "sheet.png")})._repr_html_()
    assert "img" not in Pictures({"sheet": str(tmp_path / "gone.png")})._repr_html_()
    assert dict(Row({"a": 1})) == {"a": 1}


def test_results_are_tables_at_the_prompt_too(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with w2w.open(world / "home") as reg:
        found = reg.list(names=["p000*"], limit=2)
        head, first, _, last = repr(found).splitlines()
        assert (head.split()[0], first.split()[0], last[:7]) == ("identity", found[0].identity, "[2 rows")
        assert len(first) <= 100
        row = dict(line.split(None, 1) for line in repr(reg.show("p0001")).splitlines() if " " in line.strip())
        assert row["identity"] == "p0001"
        with pytest.raises(WhereError, match=r"^where= does not parse"):
            reg.list("p000*")
    many = repr(Rows([{"name": "x" * 200, "score": 0.5, "none": None}] * 30)).splitlines()
    assert (len(many), many[0].split(), many[-1]) == (22, ["name", "score"], "[30 rows (the first 20)]")
    monkeypatch.setenv("COLUMNS", "60")
    assert repr(Rows([{"name": "x" * 200, "score": 0.5, "kind": "person"}])).endswith("[1 row; also score, kind]")
    assert repr(Rows([])) == "[0 rows]"


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ("synthesis.generate:Generated", "identity space folder files sheet warnings"),
        ("synthesis.train:Trained", "space out identities warnings"),
        (
            "synthesis.export:Exported",
            "identity space base_model model_digest format files bytes warnings space_digest base_revision "
            "coordinates_digest",
        ),
        ("provenance.lineage:ManifestShown", "manifest digest"),
        (
            "provenance.differences:Differences",
            "versions same_model related fields labels tags weights coordinates",
        ),
        ("identities.describing:Labelled", "identity version labels updated"),
        ("identities.describing:Imported", "updated unchanged unmatched"),
        ("hub.pulling:PullReport", "repo commit ours status version space residual consent warnings"),
    ],
)  # fmt: skip
def test_answers_keep_the_keys_that_programs_read(where: str, keys: str) -> None:
    module, _, name = where.partition(":")
    answer = getattr(import_module(f"w2w_registry.services.{module}"), name)
    assert [field.metadata.get("alias", field.name) for field in fields(answer)] == keys.split()
    assert issubclass(answer, Result)


def test_a_missing_registry_is_said_at_the_first_use(tmp_path: Path) -> None:
    with w2w.open(tmp_path / "none") as reg, pytest.raises(NotInitialised):
        reg.list()


def test_a_command_in_an_error_can_be_typed_wherever_it_is_read() -> None:
    error = ConsentDenied(
        operation="edit",
        subjects=(),
        reasons=(),
        ways_out=(command("subject assign", "SUBJECT", "p@1", evidence="FORM"),),
    )
    assert "w2w-reg subject assign SUBJECT p@1 --evidence FORM" in str(error)
    assert str(UsageError(reason="give [[name]]")).endswith("give name=")


def test_an_error_reads_as_a_sentence_and_spells_options_as_arguments(world: Path) -> None:
    with w2w.open(world / "home") as reg:
        with pytest.raises(NotFound) as missing:
            reg.show("nobody")
        assert str(missing.value).startswith("no identity named 'nobody'")
        assert repr(missing.value).startswith("NotFound(what='identity', name='nobody'")
    assert str(UsageError(reason="[[base-model]] is needed")) == "base_model= is needed"


OF_THE_COMMAND_ALONE = {"add": {"yes", "translate", "labels"}, "sample": {"sheet", "steps", "force"}}
"""Options no method takes: what they do is a call of its own, and a table of labels is ``labels_csv``."""


@pytest.mark.parametrize(
    ("command", "takes"),
    [
        ("add", AddRequest), ("train", TrainRequest), ("invert", InvertRequest), ("generate", GenerateRequest),
        ("sample", sample), ("export", export), ("space fit", fit_space), ("space import", import_space),
    ],
)  # fmt: skip
def test_options_are_named_as_those_of_the_command(command: str, takes: Callable[..., object]) -> None:
    given = [one for one in dict(commands())[command].params if isinstance(one, click.Option) and not one.hidden]
    flags = {max(one.opts, key=len)[2:].replace("-", "_"): one.multiple for one in given}
    for gathered in ("json", "help", "pipeline", "device", "dtype"):
        flags.pop(gathered, None)
    for flag, several in flags.items():
        if flag not in OF_THE_COMMAND_ALONE.get(command, ()):
            name = flag.removeprefix("no_")
            assert any(_taken(takes, one) for one in ([f"{name}s", name] if several else [name])), flag


def _taken(takes: Callable[..., object], name: str) -> bool:
    try:
        return bool(checked("m", takes, {name: 1}))
    except UsageError:
        return False


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("add", ("x",)), ("train", ("x",)), ("invert", ("x",)), ("sample", (1,)), ("generate", ("x", "y")),
        ("export", ("x", "y")),
    ],
)  # fmt: skip
def test_an_option_that_does_not_exist_is_named_with_those_that_do(
    world: Path, method: str, given: tuple[object, ...]
) -> None:
    with w2w.open(world / "home") as reg:
        with pytest.raises(UsageError) as unknown:
            getattr(reg, method)(*given, purpos="research")
        assert f"{method}() has no option 'purpos'" in str(unknown.value)
        for name, arguments in (("fit", ("x", "y")), ("import_", ("x", "y"))):
            more = {"base_model": "b"} if name == "fit" else {}
            with pytest.raises(UsageError, match="did you mean components="):
                getattr(reg.spaces, name)(*arguments, component=3, **more)
