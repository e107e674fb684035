"""Who may import whom (contracts of import-linter in pyproject.toml), what may load when, how long things may be, and
who opens files and names commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "w2w_registry"
# third-party package -> the only places that may import it
OWNED: dict[str, tuple[str, ...]] = {
    "click": ("cli/",),
    "fastapi": ("w2w_registry/web/",),
    "starlette": ("w2w_registry/web/",),
    "uvicorn": ("w2w_registry/web/",),
    "rich": ("cli/",),
    "huggingface_hub": ("w2w_registry/hub/client",),
    "faiss": ("w2w_registry/index/faiss",),
    "pymilvus": ("w2w_registry/index/milvus",),
    "torch": ("w2w_registry/diffusion/", "w2w_registry/space/device.py"),
    "diffusers": ("w2w_registry/diffusion/",),
    "peft": ("w2w_registry/diffusion/",),
    "transformers": ("w2w_registry/diffusion/",),
    "sqlalchemy": ("w2w_registry/catalog/", "w2w_registry/services/", "migrations/"),  # services: Session alone, below
    "c2pa": ("w2w_registry/marking/c2pa",),
    "pandas": ("w2w_registry/interface/results",),
    "sklearn": ("w2w_registry/space/direction_fit",),
    "alembic": ("w2w_registry/catalog/", "migrations/"),
    "tempfile": (
        "w2w_registry/artifacts.py",
        "w2w_registry/web/",
    ),  # temporary files lie under the home, closed to others
}


def sources() -> list[Path]:
    return [p for top in ("w2w_registry", "cli", "migrations") for p in sorted((ROOT / top).rglob("*.py"))]


def imports(path: Path, *, runtime_top_only: bool = False) -> list[tuple[str, int]]:
    """Absolute dotted names imported by a file, with line numbers."""
    tree = ast.parse(path.read_text("utf-8"))
    folders = path.relative_to(ROOT).parts[:-1]
    package = ".".join(folders if folders[0] == "w2w_registry" else ("w2w_registry", *folders))
    nodes = tree.body if runtime_top_only else ast.walk(tree)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            if base == "w2w_registry":
                found += [(f"w2w_registry.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((base, node.lineno))
    return found


def test_the_house_is_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Floors, the order of services, no circles: the contracts in pyproject.toml, checked by import-linter."""
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_libraries_stay_where_they_belong(path: Path) -> None:
    where = str(path.relative_to(ROOT))
    for name, line in imports(path):
        owners = OWNED.get(name.split(".")[0])
        if owners:
            assert where.startswith(owners), f"{where}:{line} imports {name}; only {', '.join(owners)} may"


def test_sql_is_built_in_the_catalog_alone() -> None:
    """Outside the catalog a database is a ``Session`` handed on, and rows that were read; nothing is asked or changed
    in SQL of one's own."""
    found = []
    for path in sources():
        where = str(path.relative_to(ROOT))
        if where.startswith(("w2w_registry/catalog/", "migrations/")):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
                names = {alias.name for alias in node.names} - {"Session", "Row"}
                found += [f"{where}:{node.lineno} imports {', '.join(sorted(names))}"] if names else []
            elif isinstance(node, ast.Import):
                found += [f"{where}:{node.lineno}" for a in node.names if a.name.split(".")[0] == "sqlalchemy"]
    assert found == []


def test_records_and_errors_need_only_the_standard_library() -> None:
    for name in ("records", "errors"):
        for module, line in imports(PACKAGE / f"{name}.py"):
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names or top == "w2w_registry", f"{name}.py:{line} imports {module}"


def test_heavy_libraries_do_not_load_with_the_package_or_its_help() -> None:
    code = (
        "import sys, w2w_registry, w2w_registry.cli\n"
        "try:\n    w2w_registry.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'faiss', 'huggingface_hub', 'numpy', 'sqlalchemy', 'rich'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "heavy: []"


SURFACES = {"messages.py", "web", "interface"}


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.relative_to(PACKAGE).parts[0] not in SURFACES
        and p != PACKAGE / "audit" / "verifier.py"  # a command itself
    ],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_floors_name_no_flags(path: Path) -> None:
    """A flag is the command line's word: below, an error says ``[[name]]`` and each surface spells it."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        text = re.sub(r"w2w-reg [^;`\n]*|`[^`]*`", "", text)  # a whole command may be quoted
        assert not re.search(r"(?<![\w-])--[a-z]", text), (
            f"{path}:{node.lineno} {text!r}: below the surfaces write [[name]], which messages.py spells --name"
        )


# -- how long files and functions may be: what is longer has a second reason to change --------------------
LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60  # signature and docstring included
# Which functions may be longer, and why: at most three.
LONG_FUNCTIONS = {
    "w2w_registry/space/fit.py fit": "half of it says what the arguments are and which mathematics they choose",
}


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _editable() -> list[Path]:
    """Migrations that have run somewhere are never edited again."""
    return [path for path in sources() if not _named(path).startswith("migrations/versions/")]


def test_no_file_is_longer_than_it_may_be() -> None:
    found = {_named(path) for path in _editable() if path.read_text("utf-8").count("\n") > LINES_OF_A_FILE}
    assert found == set()


def test_no_function_is_longer_than_it_may_be() -> None:
    found = {
        f"{_named(path)} {node.name}"
        for path in _editable()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LINES_OF_A_FUNCTION
    }
    assert found == set(LONG_FUNCTIONS)
    assert len(LONG_FUNCTIONS) <= 3


def test_the_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


# -- who opens files ------------------------------------------------------------------------------------
# The opener itself, and who opens what the registry wrote, downloaded within bounds, or ships: file -> what it is.
OWN_FILES = {
    "cli/completion.py": "the shell's start-up file, which the command writes",
    "cli/loudness.py": "the log, which is written",
    "cli/output.py": "/dev/null",
    "w2w_registry/artifacts.py": "artifacts",
    "w2w_registry/audit/verifier.py": "stands alone; reads what its user names, a pipe too",
    "w2w_registry/catalog/clock.py": "when the catalog was last used, beside it",
    "w2w_registry/diffusion/adapters.py": "looked at by check_file first",
    "w2w_registry/diffusion/state.py": "states of training, under the home",
    "w2w_registry/files.py": "the opener",
    "w2w_registry/hub/api.py": "what is about to be published",
    "w2w_registry/hub/client_fetch.py": "what is being downloaded",
    "w2w_registry/hub/oci_wire.py": "what is about to be published",
    "w2w_registry/index/codes.py": "the index",
    "w2w_registry/index/disk.py": "the index",
    "w2w_registry/index/faiss_scan.py": "the index",
    "w2w_registry/index/rows.py": "the index",
    "w2w_registry/index/short_rows.py": "the index",
    "w2w_registry/interface/results.py": "a contact sheet that was just drawn",
    "w2w_registry/lora/write.py": "what is written",
    "w2w_registry/pictures.py": "pictures, from bytes that were read",
    "w2w_registry/services/audit/keys.py": "a key that is made",
    "w2w_registry/services/audit/log.py": "an export that is written",
    "w2w_registry/services/audit/publish.py": "tiles it published",
    "w2w_registry/services/audit/told.py": "its own notes",
    "w2w_registry/services/recording/kept_galleries.py": "a cache under the home",
    "w2w_registry/services/consent/door_key.py": "a key that is made",
    "w2w_registry/services/hub/attesting.py": "downloaded within bounds",
    "w2w_registry/services/hub/pull.py": "downloaded within bounds",
    "w2w_registry/services/hub/signatures.py": "downloaded within bounds",
    "w2w_registry/services/hub/spaces.py": "downloaded within bounds",
    "w2w_registry/services/recording/answered.py": "answers it keeps, under the home",
    "w2w_registry/services/recording/backups.py": "the home, and a tar file looked at by check_file first",
    "w2w_registry/services/recording/energy.py": "the machine's meters",
    "w2w_registry/services/recording/gallery.py": "bytes of the catalog",
    "w2w_registry/services/recording/outputs.py": "a regular file of the size of what would be written",
    "w2w_registry/services/recording/pictures.py": "its own secret",
    "w2w_registry/services/recording/pipelines.py": "the cache of huggingface_hub",
    "w2w_registry/services/recording/preview_pictures.py": "pictures it drew",
    "w2w_registry/services/recording/space_files.py": "spaces it wrote",
    "w2w_registry/services/consent/receipts.py": "words it ships",
    "w2w_registry/services/reports/words.py": "words it ships",
    "w2w_registry/services/signing.py": "a key that is made",
    "w2w_registry/services/spaces/spool.py": "its temporary files",
    "w2w_registry/services/spaces/torch_files.py": "a stream of the opener's",
    "w2w_registry/services/synthesis/engine.py": "what it learned, under the home",
    "w2w_registry/web/pages/drawing.py": "pictures it just drew",
    "w2w_registry/web/site.py": "files it ships",
    "w2w_registry/web/uploads.py": "uploads it writes",
}


def _opens(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="open" | "load_file" | "safe_open"):
                return True
            case ast.Attribute(attr="read_bytes" | "read_text" | "memmap" | "fromfile"):
                return True
            case ast.Attribute(value=ast.Name(id="np" | "os" | "Image" | "tarfile" | "path"), attr="open" | "load"):
                return True
    return False


def test_nothing_else_opens_files() -> None:
    """A file that somebody names is opened by ``files`` (and a picture by ``pictures``), whoever asks for it."""
    found = {
        str(path.relative_to(ROOT))
        for top in ("w2w_registry", "cli")
        for path in (ROOT / top).rglob("*.py")
        if _opens(path)
    }
    assert found - set(OWN_FILES) == set()
    assert set(OWN_FILES) - found == set(), "these open nothing any more"


# -- prose below the surfaces ---------------------------------------------------------------------------
def _commands_named(path: Path) -> int:
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    skipped |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = (
        "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        if isinstance(node, ast.JoinedStr)
        else node.value
        for node in ast.walk(tree)
        if id(node) not in skipped and isinstance(node, (ast.Constant, ast.JoinedStr))
    )
    return sum(isinstance(text, str) and "w2w-reg " in text for text in texts)


def test_no_command_is_spelt_below_the_surfaces() -> None:
    """``commands.command`` builds what people are told to type: what stands in it is one word to a shell."""
    own = {"commands.py", "audit/verifier.py", "services/registry.py"}  # the last in the comments of a settings file
    found = {
        str(where): named
        for path in sorted(PACKAGE.rglob("*.py"))
        if (where := path.relative_to(PACKAGE)).parts[0] not in SURFACES and (named := _commands_named(path))
    }
    assert set(found) - own == set()
