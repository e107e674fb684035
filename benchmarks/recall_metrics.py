"""Which metric finds the same identity again? Recall of retrained LoRAs among all identities, for every metric.

``python -m benchmarks.recall_metrics [--loras FILE] [--components K …] [--unseen] [--json FILE]`` prints the table of
docs/metric.md. Data: the mini world's LoRAs, or an ``.npz`` with ``theta`` (n, D), ``retrained`` (q, D, row i the same
identity as row i of theta), ``fit`` (how many leading rows the space may be fitted on) and ``layout`` (its JSON).

Weights learned from repeats are always learned on other identities than the ones they are scored on: the retrained
identities are split in two halves, each scored with what the other half taught.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import csls, delta_w_scores, recall_at, theta_scores
from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.fit import Scaling, fit_space
from w2w_registry.space.layout import Layout
from w2w_registry.space.metrics import (
    Metric,
    cosine,
    powered,
    reliability_weighted,
    repeat_reliability,
)

Array = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Data:
    """LoRAs of all identities (n, D), of some retrained (q, D); rows ``first`` to ``fit`` may be fitted on."""

    layout: Layout
    theta: NDArray[np.float32]
    retrained: NDArray[np.float32]
    fit: int
    first: int = 0

    @property
    def fitted(self) -> NDArray[np.float32]:
        """The rows the space is fitted on."""
        return self.theta[self.first : self.fit]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``low`` and ``high`` bound recall@1 (95%, identities resampled). ``apart`` is how far a query's own identity scores
    above strangers, in standard deviations of the strangers' scores: the mean, and in ``worst`` the 5% quantile.
    """

    metric: str
    components: int | None
    labels: bool
    recall_1: float
    recall_10: float
    low: float
    high: float
    apart: float
    worst: float


def load(path: Path | None) -> Data:
    """The mini world's LoRAs, or those of an ``.npz``."""
    if path is None or path.suffix == ".safetensors":
        from examples.miniworld.identities import FIT
        from examples.miniworld.unpack import DATA, load_loras
        from w2w_registry.space.start import canonical_rows, common_start

        stored = load_loras(DATA if path is None else path.parent)
        # As `space fit` and `add` do: in the canonical gauge of the fit set's start.
        start = common_start(stored.theta[:FIT], stored.layout).values
        theta, again = (canonical_rows(t, stored.layout, start) for t in (stored.theta, stored.retrained))
        return Data(stored.layout, theta, again, FIT)
    with np.load(path) as arrays:
        layout = Layout.from_json(json.loads(str(arrays["layout"])))
        return Data(layout, arrays["theta"], arrays["retrained"], int(arrays["fit"]))


def table(data: Data, components: list[int]) -> list[Row]:
    """Every metric, at every number of components."""
    mean = data.fitted.mean(0)
    rows = [
        _row("raw θ, cosine", None, False, theta_scores(data.retrained, data.theta)),
        _row("raw θ less the mean, cosine", None, False, theta_scores(data.retrained - mean, data.theta - mean)),
        _row("ΔW, cosine", None, False, delta_w_scores(data.retrained, data.theta, data.layout)),
    ]
    scalings: tuple[Scaling, ...] = ("parameter", "module")
    for scaling in scalings:
        widest = fit_space(data.fitted, data.layout, base_model="benchmark", scaling=scaling)
        for k in sorted({min(k, widest.k) for k in components}):
            rows += _coordinate_rows(data, widest.truncated(k), f"coordinates (σ per {scaling})")
    return rows


def _coordinate_rows(data: Data, space: WeightSpace, kind: str) -> list[Row]:
    gallery, queries = space.project(data.theta), space.project(data.retrained)
    std = space.component_std
    free: dict[str, Metric] = {
        "cosine": cosine(),
        "std^-¼": powered(std, 0.25),
        "half-whitened": powered(std, 0.5),
        "std^-¾": powered(std, 0.75),
        "whitened": powered(std, 1.0),
    }
    rows = [_row(f"{kind}, {name}", space.k, False, _scores(m, queries, gallery)) for name, m in free.items()]
    half = free["half-whitened"]
    corrected = csls(_scores(half, queries, gallery), _scores(half, gallery, gallery))
    rows.append(_row(f"{kind}, half-whitened + CSLS", space.k, False, corrected))
    rows.append(_row(f"{kind}, reliability", space.k, True, _learned(space, gallery, queries)))
    return rows


def _learned(space: WeightSpace, gallery: NDArray[np.float32], queries: NDArray[np.float32]) -> Array:
    """Scores with weights learned from the half of the repeats a query does not belong to."""
    scores = np.empty((len(queries), len(gallery)))
    half = np.arange(len(queries)) % 2
    for part in (0, 1):
        taught = half != part
        rho = repeat_reliability(gallery[: len(queries)][taught], queries[taught])
        scores[half == part] = _scores(reliability_weighted(space.component_std, rho), queries[half == part], gallery)
    return scores


def _scores(metric: Metric, queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> Array:
    return np.asarray(metric.unit(queries).astype(np.float64) @ metric.unit(gallery).T.astype(np.float64))


def _row(name: str, components: int | None, labels: bool, scores: Array) -> Row:
    truth = np.arange(len(scores))
    hits = np.array([recall_at(scores[i : i + 1], truth[i : i + 1], 1) for i in truth])
    draws = np.random.default_rng(0).integers(len(hits), size=(RESAMPLES, len(hits)))
    low, high = np.quantile(hits[draws].mean(1), [0.025, 0.975])
    strangers = np.ma.masked_array(scores, np.eye(*scores.shape, dtype=bool))
    apart = np.asarray((scores[truth, truth] - strangers.mean(1)) / strangers.std(1))
    return Row(
        name,
        components,
        labels,
        float(hits.mean()),
        recall_at(scores, truth, 10),
        float(low),
        float(high),
        float(apart.mean()),
        float(np.quantile(apart, 0.05)),
    )


def markdown(rows: list[Row], data: Data) -> str:
    """The table, best first within its kind."""
    lines = [
        f"{len(data.retrained)} retrained LoRAs among {len(data.theta)} identities; "
        f"space fitted on {len(data.fitted)}; D = {data.layout.dim}.",
        "",
        "| metric | components | needs repeats | recall@1 (95%) | recall@10 | apart, mean | apart, worst 5% |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]

    def order(row: Row) -> tuple[bool, float, float]:
        return row.components is not None, row.recall_1, row.apart

    for row in sorted(rows, key=order):
        k = "–" if row.components is None else str(row.components)
        interval = f"{row.recall_1:.3f} ({row.low:.3f}–{row.high:.3f})"
        needs = "yes" if row.labels else "no"
        figures = f"{interval} | {row.recall_10:.3f} | {row.apart:.2f} | {row.worst:.2f}"
        lines.append(f"| {row.metric} | {k} | {needs} | {figures} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loras", type=Path, help="data/loras.safetensors of a mini world, or an .npz")
    parser.add_argument("--components", type=int, nargs="+", default=[64, 256, 999])
    parser.add_argument("--unseen", action="store_true", help="leave the retrained identities out of the fit")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args(argv)
    data = load(args.loras)
    if args.unseen:
        data = replace(data, first=len(data.retrained))
    rows = table(data, args.components)
    print(markdown(rows, data))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
