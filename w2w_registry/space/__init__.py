"""Weight-space mathematics: pure functions over arrays; no I/O, no sibling package.

- ``layout``: ``Layout``, ``layout_of``, ``differences``: how a LoRA flattens to θ (D,).
- ``basis``: ``WeightSpace``: ``project`` θ → coordinates (k,), ``reconstruct`` back, ``residual``, ``digest``.
- ``fit``: ``fit_space(thetas, layout, base_model=…, components=…)``, PCA of standardised θ, numpy or torch, streaming.
- ``start``: ``common_start`` and ``canonical_rows`` of a fit set: the reference A₀ of a canonical gauge.
- ``gauge``: ``to_gauge(tensors, alphas, layout, mean, std, start)``: any LoRA of the same modules into a space's gauge,
  with what that lost; ``obstacles(shapes, layout)``: what keeps one out.
- ``metrics``: ``Metric`` (``unit(coordinates)`` → vectors for an inner-product index), ``Calibration``.
- ``directions``, ``sampling``: attributes, mixing and new points (import them from their modules).
"""

from w2w_registry.space.basis import WeightSpace
from w2w_registry.space.fit import fit_space
from w2w_registry.space.gauge import Gauged, obstacles, to_gauge
from w2w_registry.space.layout import Layout, LayoutTensor, TensorKey, differences, layout_of
from w2w_registry.space.metrics import Calibration, Metric, calibrate_scores, repeat_reliability
from w2w_registry.space.start import Start, canonical_rows, common_start

__all__ = [
    "Calibration",
    "Gauged",
    "Layout",
    "LayoutTensor",
    "Metric",
    "Start",
    "TensorKey",
    "WeightSpace",
    "calibrate_scores",
    "canonical_rows",
    "common_start",
    "differences",
    "fit_space",
    "layout_of",
    "obstacles",
    "repeat_reliability",
    "to_gauge",
]
