"""What an identity takes in the database and in the index, at 1,000 components, against its LoRA's float32 numbers.

Measured on a registry that grows by ``sample``: what the database's file (the log folded in) and the index's folder
gain, a version. The LoRA is one of Stable Diffusion 1.5, rank 1 (99,648 numbers).
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.cases.recording import rate, registry_at
from benchmarks.frame import Row
from tests.services.world import BASE, World
from w2w_registry.catalog import schema
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.recording.nearest import optimize
from w2w_registry.services.registry import Registry
from w2w_registry.services.spaces.manage import fit_space
from w2w_registry.space.layout import layout_of

COMPONENTS, LORA = 1_000, 4 * 99_648
PEOPLE, WIDTH = 1_100, 80
TABLES = 12  # that are named


def rows(small: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as folder:
        url, home = f"sqlite:///{folder}/catalog.db", Path(folder) / "home"
        schema.upgrade(url)
        plain = registry_at(url, home)
        registry = replace(plain, settings=replace(plain.settings, index={"kind": "faiss"}))  # as above 50,000 rows
        loras = world().write(home / "loras", range(PEOPLE))
        fit_space(registry, "wide", [str(loras)], base_model=BASE, components=COMPONENTS)
        add(registry, AddRequest([str(loras)]))
        rate(registry, 200, "warm-")
        before, more = taken(registry, Path(folder)), 1_000 if small else 8_000
        tables = by_table(Path(folder))
        rate(registry, more, "more-")
        after = taken(registry, Path(folder))
        grown = {name: (held - tables.get(name, 0)) / more for name, held in by_table(Path(folder)).items()}
        each = {name: (after[name] - before[name]) / more for name in after}
        size = {"unit": "bytes", "components": COMPONENTS, "versions": more, "database": "SQLite"}
        yield Row("database, index and codes", sum(each.values()), LORA, "its LoRA, fp32", each, size)
        vectors = 4 * COMPONENTS + each["codes"]
        yield Row("coordinates and codes alone", vectors, LORA, "its LoRA, fp32", {}, size)
        if grown:
            most = dict(sorted(grown.items(), key=lambda item: -item[1])[:TABLES])
            yield Row("the catalog, by table", sum(grown.values()), LORA, "its LoRA, fp32", most, size)


def world() -> World:
    """People in a layout of more numbers than components."""
    module = "{}.attentions.0.transformer_blocks.0.attn{}.to_{}"
    names = [module.format(b, a, p) for b in ("down_blocks.0", "up_blocks.1") for a in (1, 2) for p in "qv"]
    layout = layout_of({(n, f): (1, WIDTH) if f == "A" else (WIDTH, 1) for n in names for f in "AB"}, 4.0)
    rng = np.random.default_rng(0)
    moves = np.concatenate([np.full(t.size, 0.05 if t.factor == "A" else 1.0) for t in layout.tensors])
    axes = rng.normal(size=(PEOPLE, layout.dim)) * moves * np.arange(1, PEOPLE + 1)[:, None] ** -0.53
    return World(layout, rng.normal(size=layout.dim), axes, rng.normal(size=(PEOPLE, PEOPLE)))


def by_table(folder: Path) -> dict[str, int]:
    """Bytes of each table, and of its indexes together, as SQLite's ``dbstat`` counts their pages; nothing where the
    library was built without it."""
    query = """
        SELECT CASE m.type WHEN 'index' THEN 'indexes of ' || m.tbl_name ELSE s.name END, sum(s.pgsize)
        FROM dbstat s LEFT JOIN sqlite_master m ON m.name = s.name GROUP BY 1
    """
    with closing(sqlite3.connect(folder / "catalog.db")) as connection:
        try:
            return dict(connection.execute(query).fetchall())
        except sqlite3.OperationalError:
            return {}


def taken(registry: Registry, folder: Path) -> dict[str, int]:
    """Bytes of the database, of the vectors in the index, and of the codes and the rest of it."""
    optimize(registry)
    registry.catalog.close()  # the last to close folds the log into the file
    index = [path for path in registry.settings.index_dir.rglob("*") if path.is_file()]
    vectors = sum(path.stat().st_size for path in index if path.name.startswith("vectors."))
    return {
        "catalog": sum(path.stat().st_size for path in folder.glob("catalog.db*")),
        "vectors": vectors,
        "codes": sum(path.stat().st_size for path in index) - vectors,
    }
