"""Weight spaces on disk: our own form bit for bit, the public release without torch and without running anything."""

from __future__ import annotations

import collections
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tests.space.spaces import MODULES, make_layout, population
from w2w_registry.errors import BadFile, IntegrityError, StorageError, UsageError
from w2w_registry.services.recording.space_files import read_space, write_space
from w2w_registry.services.spaces.inert_pickle import Call, describe
from w2w_registry.services.spaces.public_release import read_w2w_release
from w2w_registry.services.spaces.torch_files import TorchFile
from w2w_registry.space import Layout, Metric, WeightSpace, calibrate_scores, fit_space

torch = pytest.importorskip("torch")

DATA = Path(__file__).parent / "data"
LAYOUT = make_layout(alpha=27.0)
D = LAYOUT.dim


def make_space() -> WeightSpace:
    thetas = population(LAYOUT, 60)
    space = fit_space(thetas, LAYOUT, base_model="acme/base", base_revision="r1", components=12)
    metric = Metric("whitened", tuple(float(w) for w in 1 / space.component_std))
    return replace(
        space,
        metric=metric,
        calibration=calibrate_scores("whitened", np.linspace(-1, 1, 900), false_match_rate=1e-3),
        repeat_reliability=np.linspace(1, 0.5, 12, dtype=np.float32),
    )


# -- our own form -------------------------------------------------------------------------------
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_bit_for_bit(tmp_path: Path, mmap: bool, verify: bool) -> None:
    space = make_space()
    write_space(tmp_path / "s", space)
    back = read_space(tmp_path / "s", mmap=mmap, verify=verify)
    assert back.digest == space.digest
    assert back.facts() == space.facts()
    assert back.arrays().keys() == space.arrays().keys()
    for name, array in space.arrays().items():
        assert back.arrays()[name].tobytes() == array.tobytes()
    assert isinstance(back.components, np.memmap) == mmap
    thetas = population(LAYOUT, 5, seed=9)
    np.testing.assert_array_equal(back.project(thetas), space.project(thetas))


def test_same_space_same_bytes_and_one_file_is_enough(tmp_path: Path) -> None:
    space = make_space()
    first, again = write_space(tmp_path / "a", space), write_space(tmp_path / "b", space)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    alone = tmp_path / "0123abcd"
    alone.write_bytes(first[0].read_bytes())
    assert read_space(alone).digest == space.digest
    assert json.loads(first[1].read_text())["digest"] == space.digest


def test_export_of_what_was_imported_is_the_same(tmp_path: Path) -> None:
    write_space(tmp_path / "a", make_space())
    files = write_space(tmp_path / "b", read_space(tmp_path / "a"))
    assert files[0].read_bytes() == (tmp_path / "a" / "space.safetensors").read_bytes()


def test_minimal_space(tmp_path: Path) -> None:
    space = replace(
        make_space(),
        metric=None,
        calibration=None,
        repeat_reliability=None,
        explained_variance_ratio=np.zeros(0, np.float32),
    )
    write_space(tmp_path, space)
    assert read_space(tmp_path).digest == space.digest


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    file, _ = write_space(tmp_path, make_space())
    whole = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    for place in [*rng.integers(8, len(whole), 150), len(whole) - 1]:
        before = whole[place]
        whole[place] ^= 1
        file.write_bytes(whole)
        with pytest.raises((IntegrityError, BadFile)):
            read_space(tmp_path)
        whole[place] = before
    file.write_bytes(whole)
    read_space(tmp_path)


def test_not_a_space(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadFile):
            read_space(path)
    save_file({"mean": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(BadFile, match="not a weight space"):
        read_space(tmp_path / "x.safetensors")
    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "y.safetensors", {"w2w_space": "{}"})
    with pytest.raises(BadFile, match="no weight space has"):
        read_space(tmp_path / "y.safetensors")
    save_file({"mean": np.zeros(3, np.float32)}, tmp_path / "z.safetensors", {"w2w_space": '{"format": 1}'})
    with pytest.raises(BadFile, match="description is broken"):
        read_space(tmp_path / "z.safetensors")
    save_file({"mean": np.zeros(3, np.float32)}, tmp_path / "w.safetensors", {"w2w_space": '{"format": 2}'})
    with pytest.raises(BadFile, match="form 2"):
        read_space(tmp_path / "w.safetensors")


def test_a_full_disk_leaves_the_old_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = make_space()
    write_space(tmp_path, space)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_space(tmp_path, space.truncated(3))
    assert read_space(tmp_path).digest == space.digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["space.json", "space.safetensors"]


# -- the public release -------------------------------------------------------------------------
def make_release(
    folder: Path, k: int = 10, known: int = 6, n: int = 40, frame: str | None = None, layout: Layout = LAYOUT
) -> dict[str, np.ndarray]:
    """A release in miniature, saved by torch itself; a few std values negative, mean and std as storages."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, d = np.random.default_rng(0), layout.dim
    truth = {
        "mean": rng.normal(size=d).astype(np.float32),
        "std": np.where(rng.random(d) < 0.1, -1, 1).astype(np.float32) * rng.uniform(0.5, 2, d).astype(np.float32),
        "V": np.linalg.qr(rng.normal(size=(d, k)))[0].astype(np.float32),
        "proj": (rng.normal(size=(n, k)) * np.linspace(3, 1, k) + 0.1).astype(np.float32),
    }
    torch.save(torch.from_numpy(truth["mean"]).untyped_storage(), folder / "mean.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # typed storages are deprecated, and what the release was saved with
        torch.save(torch.from_numpy(truth["std"]).storage(), folder / "std.pt")
    torch.save(torch.from_numpy(truth["V"]), folder / "V.pt")
    torch.save(torch.from_numpy(truth["proj"][:, :known].copy()), folder / "proj_1000pc.pt")
    table = collections.OrderedDict()
    for tensor in layout.tensors:
        key = f"base_model.model.{tensor.module}.lora_{tensor.factor}.identity1.weight"
        table[key] = ((tensor.size,), torch.Size(tensor.shape))
    torch.save(table, folder / "weight_dimensions.pt")
    config = {"base_model_name_or_path": "acme/realistic", "lora_alpha": 27, "r": 1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if frame:
        torch_zip(folder / "identity_df.pt", (DATA / frame).read_bytes())
    return truth


def torch_zip(path: Path, program: bytes, members: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, data in (members or {}).items():
            archive.writestr(f"archive/data/{name}", data)
    return path


def test_the_release_s_own_formula_holds(tmp_path: Path) -> None:
    truth = make_release(tmp_path)
    release = read_w2w_release(tmp_path, 6)
    space = release.space
    assert (space.k, space.base_model, space.fit_size) == (6, "acme/realistic", 40)
    assert space.layout == LAYOUT
    np.testing.assert_array_equal(space.std, truth["std"])
    np.testing.assert_array_equal(space.components, truth["V"][:, :6])
    np.testing.assert_array_equal(release.coordinates, truth["proj"][:, :6])
    c = truth["proj"][:, :6].astype(np.float64)
    theta = (c @ truth["V"][:, :6].T) * truth["std"] + truth["mean"]
    np.testing.assert_allclose(space.reconstruct(release.coordinates), theta, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(space.project(theta), c, atol=1e-4)
    np.testing.assert_allclose(space.component_std, c.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(space.coordinate_mean, c.mean(0), rtol=1e-4, atol=1e-6)
    assert any("negative" in note for note in release.notes)


def test_choosing_components(tmp_path: Path) -> None:
    truth = make_release(tmp_path)
    whole = read_w2w_release(tmp_path)
    assert whole.space.k == 6
    assert "V has 10 components, the release's own coordinates have 6: the space keeps the first 6" in whole.notes
    assert read_w2w_release(tmp_path, 3).space.k == 3
    more = read_w2w_release(tmp_path, 9)
    assert more.coordinates.shape == (40, 6)
    np.testing.assert_array_equal(more.space.components, truth["V"][:, :9])
    np.testing.assert_array_equal(more.space.component_std[6:], more.space.component_std[5])
    assert any("last known" in note for note in more.notes)
    with pytest.raises(UsageError, match="1 to 10"):
        read_w2w_release(tmp_path, 11)


def test_without_the_optional_files(tmp_path: Path) -> None:
    make_release(tmp_path)
    for name in ("proj_1000pc.pt", "adapter_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="alpha"):
        read_w2w_release(tmp_path)
    with pytest.raises(UsageError, match="base model"):
        read_w2w_release(tmp_path, alpha=27)
    release = read_w2w_release(tmp_path, base_model="acme/realistic", base_revision="r2", alpha=27)
    assert (release.space.k, release.coordinates, dict(release.labels)) == (10, None, {})
    assert (release.space.base_revision, release.space.layout.alpha) == ("r2", 27.0)
    assert any("unknown" in note for note in release.notes)


def test_a_release_becomes_our_own_form(tmp_path: Path) -> None:
    make_release(tmp_path / "release")
    space = read_w2w_release(tmp_path / "release").space
    write_space(tmp_path / "ours", space)
    assert read_space(tmp_path / "ours").digest == space.digest


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_v_in_other_orders_and_dtypes(tmp_path: Path, transposed: bool, dtype: str) -> None:
    truth = make_release(tmp_path)
    tensor = torch.from_numpy(truth["V"]).to(getattr(torch, dtype))
    tensor = tensor.T.contiguous().T if transposed else tensor
    torch.save(torch.nn.Parameter(tensor) if dtype == "float32" else tensor, tmp_path / "V.pt")
    space = read_w2w_release(tmp_path, 6).space
    np.testing.assert_array_equal(space.components, tensor[:, :6].float().detach().numpy())


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("frame-pandas-1.5.pkl", {"file": ["000001", "000002", "000003"], "Male": [1, -1, 1]}),
        ("frame-pandas-2.2.pkl", {"Young": [1, 1, -1], "score": [0.5, 1.5, 2.5], "ok": [True, False, True]}),
        ("frame-pandas-2.2-rows.pkl", {"file": ["000003", "000001"], "Male": [1, 1], "score": [2.5, 0.5]}),
        ("frame-pandas-1.5-rows.pkl", {"file": ["000003", "000001"], "Young": [-1, 1]}),
        ("frame-pandas-2.2-index.pkl", {"file": ["000001", "000002", "000003"], "Young": [1, 1, -1]}),
    ],
)
def test_labels(tmp_path: Path, frame: str, expected: dict[str, list[Any]]) -> None:
    """Frames pickled by pandas itself, pandas not needed."""
    make_release(tmp_path, n=len(next(iter(expected.values()))), frame=frame)
    labels = read_w2w_release(tmp_path).labels
    assert set(labels) == {"file", "Male", "Young", "score", "ok"}
    assert {name: labels[name] for name in expected} == expected


@pytest.mark.parametrize("frame", ["frame-pandas-1.5-objects.pkl", "frame-pandas-2.2-objects.pkl"])
def test_numpy_values_in_object_columns(tmp_path: Path, frame: str) -> None:
    make_release(tmp_path, n=2, frame=frame)
    assert read_w2w_release(tmp_path).labels == {"file": ["1", "2"], "x": [3, 2.5], "n": [None, "b"]}


def test_labels_that_are_not_the_release_s(tmp_path: Path) -> None:
    make_release(tmp_path, n=40, frame="frame-pandas-2.2.pkl")
    with pytest.raises(BadFile, match="its rows are not the 40"):
        read_w2w_release(tmp_path)


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    make_release(tmp_path)
    torch.save(torch.zeros(D - 1), tmp_path / "mean.pt")
    with pytest.raises(BadFile, match=r"mean\.pt"):
        read_w2w_release(tmp_path)
    make_release(tmp_path)
    torch.save(torch.zeros(D + 1, 4), tmp_path / "V.pt")
    with pytest.raises(BadFile, match="the layout needs"):
        read_w2w_release(tmp_path)
    make_release(tmp_path)
    torch.save(torch.zeros(40, 99), tmp_path / "proj_1000pc.pt")
    with pytest.raises(BadFile, match="do not belong"):
        read_w2w_release(tmp_path)
    make_release(tmp_path)
    torch.save(torch.full((40, 3), torch.nan), tmp_path / "proj_1000pc.pt")
    with pytest.raises(BadFile, match="row 0 hold NaN"):
        read_w2w_release(tmp_path)
    make_release(tmp_path)
    torch.save(torch.zeros(D), tmp_path / "std.pt")
    with pytest.raises(BadFile, match=r"std\.pt.* are 0"):
        read_w2w_release(tmp_path)
    for table, words in [
        ({"x": ((1,), (1,))}, "not a LoRA tensor"),
        ({f"unet.{MODULES[0]}.lora_A.weight": ((5,), (1, 6))}, "length 5"),
        ({f"unet.{MODULES[0]}.lora_A.weight": ((6,), (1, 6))}, "factors of a LoRA"),
        ({f"unet.{MODULES[0]}.lora_A.weight": 3}, "broken"),
        ({}, "factors of a LoRA"),
        ([1], "no table"),
    ]:
        make_release(tmp_path)
        torch.save(table, tmp_path / "weight_dimensions.pt")
        with pytest.raises(BadFile, match=words):
            read_w2w_release(tmp_path)


@pytest.mark.parametrize("name", ["mean.pt", "std.pt", "V.pt", "weight_dimensions.pt", "proj_1000pc.pt"])
def test_damaged_release_files(tmp_path: Path, name: str) -> None:
    make_release(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for length in (0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 30):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(BadFile):
            read_w2w_release(tmp_path)
    if name != "proj_1000pc.pt":
        (tmp_path / name).unlink()
        with pytest.raises(BadFile):
            read_w2w_release(tmp_path)


# -- nothing in a file is run -------------------------------------------------------------------
class Boom:
    target: Path

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (str(Boom.target),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["mean.pt", "V.pt", "weight_dimensions.pt", "identity_df.pt"])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    make_release(tmp_path)
    Boom.target = tmp_path / "executed"
    torch_zip(tmp_path / name, pickle.dumps({"x": Boom()}, protocol=protocol))
    with pytest.raises(BadFile) as caught:
        read_w2w_release(tmp_path)
    assert "refused unread" in caught.value.fields["reason"]
    assert not Boom.target.exists()
    (tmp_path / name).write_bytes(pickle.dumps(Boom(), protocol=protocol))
    with pytest.raises(BadFile):
        read_w2w_release(tmp_path)
    assert not Boom.target.exists()


def test_every_refusal_is_one_line(tmp_path: Path) -> None:
    programs = [
        b"cos\nsystem\n(X\x04\x00\x00\x00evilX\x01\x00\x00\x00\ntR.",
        b"\x80\x02c__builtin__\neval\n.",
        b"\x80\x02cbuiltins\nslice\n.",
        b"\x80\x02}X\x01\x00\x00\x00aK\x01s",
        b"\x80\x02h\x05.",
        b"\x80\x02)R.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02K\x01e.",
        b"\x80\x02]]s.",
        b"\x80\x02}}}s.",
        b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".",
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"I1\n.",
        b"",
        os.urandom(200),
    ]
    for program in programs:
        path = torch_zip(tmp_path / "x.pt", program)
        with pytest.raises(BadFile) as caught:
            TorchFile(path).mapping()
        assert "\n" not in caught.value.fields["reason"]


def tensor_program(shape: bytes, stride: bytes, offset: int = 0, count: int = 4) -> bytes:
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK"
        + bytes([count])
        + b"tQ"
    )
    tail = b"\x89ccollections\nOrderedDict\n)R"
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K"
        + bytes([offset])
        + shape
        + stride
        + tail
        + b"tR."
    )


def test_tensors_stay_inside_their_data(tmp_path: Path) -> None:
    data = {"0": np.arange(4, dtype="<f4").tobytes()}
    good = torch_zip(tmp_path / "good.pt", tensor_program(b"K\x02K\x02\x86", b"K\x02K\x01\x86"), data)
    np.testing.assert_array_equal(TorchFile(good).array(), [[0, 1], [2, 3]])
    assert not TorchFile(good).array().flags.writeable
    bad = [
        tensor_program(b"K\x02K\x03\x86", b"K\x02K\x01\x86"),
        tensor_program(b"K\x02K\x02\x86", b"K\x02K\x01\x86", offset=1),
        tensor_program(b"K\x02K\x02\x86", b"J\xff\xff\xff\xffK\x01\x86"),
        tensor_program(b"K\x02K\x02\x86", b"K\x02\x85"),
        tensor_program(b"K\x02K\x02\x86", b"K\x02K\x01\x86", count=5),
    ]
    for program in bad:
        with pytest.raises(BadFile):
            TorchFile(torch_zip(tmp_path / "bad.pt", program, data)).array()
    with pytest.raises(BadFile):
        TorchFile(torch_zip(tmp_path / "none.pt", tensor_program(b"K\x04\x85", b"K\x01\x85"))).array()
    squeezed = torch_zip(tmp_path / "z.pt", tensor_program(b"K\x04\x85", b"K\x01\x85"), data, zipfile.ZIP_DEFLATED)
    with pytest.raises(BadFile, match="compressed"):
        TorchFile(squeezed)


def test_old_torch_files_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(BadFile, match=r"before version 1\.6"):
        TorchFile(tmp_path / "x.pt")


def test_reading_needs_neither_torch_nor_the_memory_of_v(tmp_path: Path) -> None:
    """A V of 256 MB, read, used and written again where only 96 MB more may be allocated; without torch or pandas."""
    layout = make_layout(alpha=27.0, width=400)
    make_release(tmp_path, layout=layout)
    columns = (256 << 20) // (4 * layout.dim)
    torch.save(torch.full((layout.dim, columns), 0.5), tmp_path / "V.pt")
    code = """
import resource, sys
import numpy as np
from w2w_registry.services.recording.space_files import read_space, write_space
from w2w_registry.services.spaces.public_release import read_w2w_release
from w2w_registry.services.spaces.torch_files import TorchFile
pages = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (pages + (96 << 20),) * 2)  # counts allocations, not read-only maps
try:
    np.ones(256 << 20, np.uint8)
    sys.exit("the limit does not bite")
except MemoryError:
    pass
for k in (8, 3000):
    space = read_w2w_release(sys.argv[1], k).space
    assert space.project(np.ones((4, space.dim), np.float32)).shape == (4, k)
    write_space(sys.argv[2], space)
    back = read_space(sys.argv[2])
    assert back.digest == space.digest and back.k == k
assert "torch" not in sys.modules and "pandas" not in sys.modules
print("done")
"""
    arguments = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "ours")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stdout == "done\n", done.stderr


def test_a_pickle_is_described_not_run() -> None:
    def refuse(reason: str) -> NoReturn:
        raise BadFile(path="x", reason=reason)

    once = pickle.dumps(collections.OrderedDict(a=slice(1, 2)), protocol=2)
    noted = describe(once, {"collections OrderedDict", "builtins slice", "__builtin__ slice"}, refuse)
    assert isinstance(noted, Call)
    assert noted.name == "collections OrderedDict"
    assert isinstance(noted.items["a"], Call)
    assert noted.items["a"].args == (1, 2, None)
    for bomb in (b"\x80\x02Nr\xff\xff\xff\x7f.", b"Np2147483647\n."):  # a table of remembered values of 16 GB
        with pytest.raises(pickle.UnpicklingError, match="remembers"):
            describe(bomb, set(), refuse)
