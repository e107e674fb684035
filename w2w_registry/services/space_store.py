"""Weight spaces in the artifact store: one safetensors file each, facts in its header, arrays mapped, not copied."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2w_registry.artifacts import ArtifactStore
from w2w_registry.catalog.models import Space
from w2w_registry.errors import IntegrityError, NotFound
from w2w_registry.records import canonical_json
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.layout import Layout
from w2w_registry.space.metrics import Calibration, Metric

_KEY = "w2w_space"


def store_space(artifacts: ArtifactStore, space: WeightSpace) -> str:
    """Write ``space`` into the store; returns the artifact's digest. The same space gives the same artifact."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in sorted(space.arrays().items())}
    return artifacts.put(save(arrays, metadata={_KEY: canonical_json(space.facts())}))


def load_space(artifacts: ArtifactStore, row: Space) -> WeightSpace:
    """The space of a catalog row. On a local store its arrays are memory maps, read as they are used.

    Raises:
        NotFound: the artifact is gone. IntegrityError: the file is not what the row says.
    """
    path = artifacts.path(row.artifact_digest)
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "space"
            path.write_bytes(artifacts.get(row.artifact_digest))
            facts, arrays = _read(path, row, mapped=False)
    elif not path.exists():
        raise NotFound(what="artifact", name=row.artifact_digest)
    else:
        facts, arrays = _read(path, row, mapped=True)
    return space_from(facts, arrays)


def space_from(facts: dict[str, Any], arrays: dict[str, NDArray[np.float32]]) -> WeightSpace:
    """A space from what :meth:`WeightSpace.facts` and :meth:`WeightSpace.arrays` gave."""
    return WeightSpace(
        base_model=facts["base_model"],
        base_revision=facts["base_revision"],
        layout=Layout.from_json(facts["layout"]),
        mean=arrays["mean"],
        std=arrays["std"],
        components=arrays["components"],
        component_std=arrays["component_std"],
        explained_variance_ratio=arrays.get("explained_variance_ratio", np.zeros(0, np.float32)),
        fit_set_digest=facts["fit_set_digest"],
        fit_size=facts["fit_size"],
        software=facts["software"],
        coordinate_mean=arrays.get("coordinate_mean"),
        repeat_reliability=arrays.get("repeat_reliability"),
        metric=None if facts["metric"] is None else Metric.from_json(facts["metric"]),
        calibration=None if facts["calibration"] is None else Calibration.from_json(facts["calibration"]),
    )


def _read(path: Path, row: Space, *, mapped: bool) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    try:
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
        facts: dict[str, Any] = json.loads(header.pop("__metadata__")[_KEY])
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, entry in header.items():
            shape, start = tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            view: NDArray[np.float32] = np.memmap(path, "<f4", "r", start, shape)
            arrays[name] = view if mapped else np.array(view)
        return facts, arrays
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(what="space", name=row.ref, expected=row.artifact_digest, found=str(error)) from None
