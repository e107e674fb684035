"""Work in pieces: here, and on a Ray cluster of two workers, one of which is killed while pieces are mapped."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from examples.miniworld.unpack import BASE_MODEL, DATA, load_loras
from tests.services import studio
from w2w_registry.errors import BadLora, MissingExtra, NotFound, UsageError
from w2w_registry.lora import lora_files, read_lora
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording import fingerprints, workers
from w2w_registry.services.recording.workers import mapped
from w2w_registry.services.registry import init_registry, open_registry
from w2w_registry.services.spaces import spool
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.services.synthesis import engine, train
from w2w_registry.settings import load_settings

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (w2w-registry[ray])")


@dataclass(frozen=True)
class Squares:
    """Says x²; the first to be asked for ``fatal`` dies of it, and whoever is asked again does not."""

    folder: Path
    fatal: int = -1

    def __call__(self, x: int) -> tuple[int, int]:
        if x == self.fatal:
            try:
                (self.folder / "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if x == 99:
            raise NotFound(what="number", name="99", near=())
        return x * x, os.getpid()


def test_here_it_is_a_map_that_takes_jobs_as_it_needs_them(tmp_path: Path) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for x in range(4):
            taken.append(x)
            yield x

    answers = mapped(Squares(tmp_path), jobs())
    assert next(answers)[0] == 0
    assert taken == [0]
    assert [square for square, _ in answers] == [1, 4, 9]


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match="ray"):
        next(mapped(Squares(tmp_path), [1], "auto"))


def test_where_no_cluster_is_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "find_spec", lambda _name: True)
    with pytest.raises(UsageError, match="nothing answers"):
        next(mapped(Squares(tmp_path), [1], "ray://127.0.0.1:1"))


def test_an_error_arrives_as_it_was_raised() -> None:
    error = BadLora(path="x", reason="broken")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is BadLora
    assert again.fields == error.fields


# -- on a cluster: half a minute to start one ----------------------------------------------------------
@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False)
    yield "auto"
    ray.shutdown()


@pytest.mark.soak
@needs_ray
def test_a_worker_killed_midway_changes_nothing(cluster: str, tmp_path: Path) -> None:
    numbers = range(12)
    local = [square for square, _ in mapped(Squares(tmp_path), numbers)]
    answers = list(mapped(Squares(tmp_path, fatal=5), numbers, cluster))
    assert (tmp_path / "died").exists()
    assert [square for square, _ in answers] == local
    assert os.getpid() not in {process for _, process in answers}


@pytest.mark.soak
@needs_ray
def test_what_a_worker_refuses_is_refused_here(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as told:
        list(mapped(Squares(tmp_path), [1, 99, 2], cluster))
    assert told.value.fields["name"] == "99"


@pytest.mark.soak
@needs_ray
def test_fingerprints_and_training_there_are_those_made_here(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loras = load_loras()
    for row in range(24):
        theta = loras.layout.unflatten(loras.theta[row])
        files = lora_files(tmp_path / "loras" / f"p{row:02d}", theta, loras.layout.alpha, base_model=BASE_MODEL)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for who in range(3):
        studio.photo(tmp_path / "people" / f"q{who}", "0", who)
    monkeypatch.setattr(fingerprints, "AT_ONCE", 6)  # four pieces
    prober = fingerprints.open_prober(str(DATA / "pipeline"), device="cpu")
    seen = []
    for where in (None, cluster):
        settings = load_settings(str(tmp_path / f"home-{where}"), actor="tester")
        init_registry(settings)
        with open_registry(settings) as registry:
            fit_space(registry, "faces", [str(tmp_path / "loras")], base_model=BASE_MODEL)
            add(registry, AddRequest([str(tmp_path / "loras")], subjects=[]))
            taken = fingerprints.take(registry, prober, ray=where)
            assert (taken.taken, taken.skipped) == (24, ())
            with registry.catalog.read() as session:
                rows = fingerprints.stored.answers(session, prober.base, prober.question).matrix
            request = train.TrainRequest(
                [str(tmp_path / "people")],
                out=str(tmp_path / f"out-{where}"),
                register=False,
                steps=2,
                samples=1,
                batch=1,
                engine=engine.Engine(pipeline=str(DATA / "pipeline"), device="cpu"),
                ray=where,
            )
            made = train.train(registry, request)
            assert len(made["identities"]) == 3
        thetas = [read_lora(Path(one["folder"])).theta() for one in made["identities"]]
        seen.append((np.asarray(rows), np.array(thetas)))
    for here, there in zip(*seen, strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.soak
@needs_ray
def test_a_space_whose_files_were_read_there_is_the_one_fitted_here(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies while it reads; one file cannot be read at all, which is said in both cases."""
    loras = load_loras()
    for row in range(24):
        theta = loras.layout.unflatten(loras.theta[row])
        files = lora_files(tmp_path / "loras" / f"p{row:02d}", theta, loras.layout.alpha, base_model=BASE_MODEL)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    next((tmp_path / "loras" / "p07").glob("*.safetensors")).write_bytes(b"cut short")
    monkeypatch.setattr(spool, "_PIECE", 3)
    made = []
    for where in (None, cluster):
        if where is not None:
            monkeypatch.setattr(spool, "_Reading", partial(DyingOnce, tmp_path))
        settings = load_settings(str(tmp_path / f"home-{where}"), actor="tester")
        init_registry(settings)
        with open_registry(settings) as registry:
            made.append(fit_space(registry, "faces", [str(tmp_path / "loras")], base_model=BASE_MODEL, ray=where))
    assert (tmp_path / "died").exists()
    assert made[0]["digest"] == made[1]["digest"]
    assert made[0]["warnings"] == made[1]["warnings"]
    assert any("p07" in warning for warning in made[0]["warnings"])


@dataclass(frozen=True)
class DyingOnce:
    """Reads files, and dies of the first piece that it is given."""

    folder: Path
    base_model: str

    def __call__(self, paths: Sequence[Path]) -> object:
        Squares(self.folder, fatal=0)(0)
        return [spool._read_or_why(path, self.base_model) for path in paths]
