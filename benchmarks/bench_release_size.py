"""How many bytes a release takes, against the bytes it is about: one LoRA and its coordinates.

    python -m benchmarks.bench_release_size [--components 100 1000 10000] [--json FILE]

The LoRA has Stable Diffusion 1.5's shapes (``to_q`` and ``to_v`` of attn1 and attn2, rank 1: D = 99,648) and random
numbers: sizes do not depend on them. The files are made by the very code that ``push`` uses, with a consent record, a
manifest and a card for a person; ``.gitattributes`` (the Hub's) is left out, as are previews.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from w2w_registry.artifacts import ArtifactStore
from w2w_registry.audit.chain import event_hash
from w2w_registry.catalog.models import Space
from w2w_registry.catalog.session import Catalog
from w2w_registry.consent import lifecycle
from w2w_registry.consent.policy import Upstream, decide
from w2w_registry.consent.records import Scope, Use
from w2w_registry.consent.rules import Rules
from w2w_registry.lora import lora_files, model_digest
from w2w_registry.provenance.graph import Input, OperationNode
from w2w_registry.provenance.manifest import Facts, manifest
from w2w_registry.records import now
from w2w_registry.services.hub.attesting import attest
from w2w_registry.services.hub.published_consent import consent_of
from w2w_registry.services.hub.release_files import Options, Place, VersionFacts, build_files
from w2w_registry.services.registry import Registry
from w2w_registry.settings import Settings
from w2w_registry.space.layout import Layout, LayoutTensor

TEXT_WIDTH = 768
BLOCKS = {
    **{f"down_blocks.{b}.attentions.{a}": 320 * 2**b for b in range(3) for a in range(2)},
    "mid_block.attentions.0": 1280,
    **{f"up_blocks.{b}.attentions.{a}": 320 * 2 ** (3 - b) for b in range(1, 4) for a in range(3)},
}
ALPHA = 27.0


def sd15_layout() -> Layout:
    """The layout of the public weights2weights release: 64 modules, 128 tensors, D = 99,648."""
    tensors = []
    for block, width in BLOCKS.items():
        for attention, value_width in (("attn1", width), ("attn2", TEXT_WIDTH)):
            for name, inner in (("to_q", width), ("to_v", value_width)):
                module = f"{block}.transformer_blocks.0.{attention}.{name}"
                tensors += [LayoutTensor(module, "A", (1, inner)), LayoutTensor(module, "B", (width, 1))]
    return Layout(tuple(tensors), ALPHA)


def measure(components: int, folder: Path) -> dict[str, Any]:
    """Bytes of both kinds of release for one version of a space with so many components."""
    layout = sd15_layout()
    rng = np.random.default_rng(components)
    theta = rng.normal(size=layout.dim).astype(np.float32)
    coordinates = rng.normal(size=components).astype("<f4").tobytes()
    registry = Registry(
        Settings(folder, f"sqlite:///{folder}/none.db", "bench", str(folder / "artifacts")),
        Catalog(f"sqlite:///{folder}/none.db", event_hash=event_hash),
        ArtifactStore(str(folder / "artifacts")),
    )
    lora = next(iter(lora_files("x.safetensors", layout.unflatten(theta), ALPHA, fmt="diffusers").values()))
    artifact = registry.artifacts.put(lora)
    digest = hashlib.sha256(coordinates).hexdigest()
    operation = OperationNode(
        "operation",
        "invert",
        "bench",
        parameters={"steps": 400, "components": components, "learning_rate": 0.1},
        seed=7,
        code_version="0",
        models={"base": "SG161222/Realistic_Vision_V5.1_noVAE"},
        inputs=(Input("photo", "photo", "photo", digest=digest), Input("space", "space", "faces@1", digest=digest)),
    )
    base = "SG161222/Realistic_Vision_V5.1_noVAE"
    said = manifest(
        Facts("faces@1", digest, layout.digest, base, None, digest, artifact, 0.0, operation, {}),
    )
    facts = VersionFacts(
        version_id=1,
        name="acme/p0007",
        number=1,
        kind="person",
        state="active",
        adapter="LoRA",
        place=Place(1, "faces@1", digest, f"acme/faces@{digest[:40]}", layout, coordinates),
        model_digest=model_digest(theta, layout),
        residual=0.0,
        base_model=base,
        base_revision=None,
        operation="invert",
        instance_prompt="a photo of sks person",
        made_from=(),
        artifact_digest=artifact,
        preview_digest=None,
        manifest=said,
        labels={},
    )
    at = now()
    scope = Scope(purposes=("research",), derivatives=True, publication=True)
    record = lifecycle.grant(lifecycle.request("0" * 36, "p0007", scope, at, "steward"), at, "steward")
    upstream = [Upstream("p0007", (record,))]
    consent = consent_of(upstream, decide(Use.PUBLISH, upstream, Rules(), at), at)
    sizes = {}
    for word, options in (("full", Options()), ("coordinates_only", Options(coordinates_only=True))):
        files = build_files(registry, facts, Space(), consent, options, "acme/p0007", None)
        files |= attest(registry, facts, options, files, digest)
        sizes[word] = {path: len(data) for path, data in sorted(files.items())}
    full, small = sum(sizes["full"].values()), sum(sizes["coordinates_only"].values())
    return {
        "components": components,
        "dim": layout.dim,
        "lora_bytes": len(lora),
        "coordinates_bytes": len(coordinates),
        "full_bytes": full,
        "full_over_needed": full / (len(lora) + len(coordinates)),
        "coordinates_only_bytes": small,
        "lora_over_coordinates_only": len(lora) / small,
        "files": sizes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("components  LoRA  coordinates  release  release ÷ needed  coordinates only  LoRA ÷ coordinates only")
    for components in options.components:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(components, Path(folder))
        rows.append(row)
        print(
            f"{components:>10,}  {row['lora_bytes']:,}  {row['coordinates_bytes']:,}  {row['full_bytes']:,}  "
            f"{row['full_over_needed']:.2f}  {row['coordinates_only_bytes']:,}  "
            f"{row['lora_over_coordinates_only']:.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
