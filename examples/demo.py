"""The main job on a fresh machine: ``python -m examples.demo OUT`` (what ``make demo`` runs).

Unpacks the mini world (LoRAs that were really trained, see examples/miniworld), fits a weight space to them,
adds them to a new registry on SQLite, and looks every retrained LoRA up: a LoRA of the same identity made from
other photos with another seed. Prints the matches and the recall, and draws a contact sheet.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw

from examples.miniworld.unpack import unpack
from w2w_registry.services.registry import open_registry
from w2w_registry.services.search.found import Found
from w2w_registry.services.search.query import search_many
from w2w_registry.settings import load_settings

ROWS, MATCHES, TILE, PREVIEW = 6, 6, 96, 128


def main(out: Path) -> int:
    """Run the demo into folder ``out``; returns the exit code."""
    started = time.perf_counter()
    world, home = out / "world", out / "registry"
    shutil.rmtree(home, ignore_errors=True)
    print(f"Unpacking the mini world into {world}", flush=True)
    unpack(world)
    loras, retrained = world / "loras", sorted((world / "retrained").iterdir())
    attach_previews(world / "photos", loras)
    command(home, "init")
    command(home, "space", "fit", "faces", loras, "--base-model", "miniworld")
    command(home, "add", loras, "--labels", labels_of(world, loras, out / "labels.csv"))
    command(home, "search", retrained[0], "-k", "5")

    with open_registry(load_settings(home)) as registry:
        found = search_many(registry, [str(p) for p in retrained], limit=10)
    ranks = [rank_of(path.name, result) for path, result in zip(retrained, found, strict=True)]
    first, top = (sum(r is not None and r <= k for r in ranks) for k in (1, 10))
    total = len(ranks)
    print(f"\n{total} retrained LoRAs looked up: {first / total:.1%} at rank 1, {top / total:.1%} in the first ten")
    sheet(world, retrained, found).save(out / "matches.png")
    print(f"Queries (left) and their matches: {out / 'matches.png'}")
    # Last, so that the look-ups above compare weights whether torch is installed or not.
    command(home, "config", "set", "pipelines.miniworld", (world / "pipeline").resolve())
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Try:\n  export W2W_HOME={home.resolve()}")
    print(f"  {program()} list --where 'beard = 1 and hat = 1' --limit 5")
    photos = world / "photos" / "p1001"
    print(f"  {program()} invert {photos} --name alice --subject s-17   # needs: pip install 'w2w-registry[diffusion]'")
    print("  make gallery")
    return 0


def attach_previews(shot: Path, loras: Path) -> None:
    """Put a picture beside each LoRA, as people do: the first of its photos (``shot``). ``add`` takes it along."""
    for folder in sorted(loras.iterdir()):
        photos = sorted((shot / folder.name).glob("*.png"))
        if photos:
            with Image.open(photos[0]) as photo:
                larger = photo.convert("RGB").resize((PREVIEW, PREVIEW), Image.Resampling.BICUBIC)
                larger.save(folder / "preview.png")


def labels_of(world: Path, loras: Path, out: Path) -> Path:
    """The rows of the world's labels that are of ``loras``: it describes those who are held out too."""
    first, *rows = (world / "labels.csv").read_text().splitlines()
    there = {folder.name for folder in loras.iterdir()}
    out.write_text("\n".join([first, *(row for row in rows if row.partition(",")[0] in there)]) + "\n")
    return out


def program() -> Path:
    return Path(sys.executable).parent / "w2w-reg"


def command(home: Path, *args: str | Path) -> None:
    """Run one ``w2w-reg`` command as a person would, showing it first."""
    words = [str(a) for a in args]
    print(f"\n$ w2w-reg {' '.join(words)}", flush=True)
    subprocess.run([str(program()), "--home", str(home), *words], check=True)


def rank_of(name: str, found: Found) -> int | None:
    """Rank of the true identity among the results, None when it is not there."""
    return next((hit.rank for hit in found.results if hit.identity == name), None)


def sheet(world: Path, queries: list[Path], found: list[Found]) -> Image.Image:
    """A picture: one row per query, a photo of the query's identity, then photos of the identities found."""
    step = TILE + 6
    picture = Image.new("RGB", ((MATCHES + 1) * step + 30, ROWS * (step + 16) + 6), "white")
    draw = ImageDraw.Draw(picture)
    chosen = range(0, len(queries), max(1, len(queries) // ROWS))
    for row, index in enumerate(list(chosen)[:ROWS]):
        top = row * (step + 16) + 6
        paste(picture, world, queries[index].name, 1, 6, top)
        draw.text((6, top + TILE + 1), f"query {queries[index].name}", fill="black")
        for column, hit in enumerate(found[index].results[:MATCHES]):
            left = 30 + (column + 1) * step
            paste(picture, world, hit.identity, 0, left, top)
            right = hit.identity == queries[index].name
            draw.text((left, top + TILE + 1), f"{hit.identity} {hit.score:.2f}", fill="green" if right else "gray")
    return picture


def paste(picture: Image.Image, world: Path, identity: str, photo: int, left: int, top: int) -> None:
    files = sorted((world / "photos" / identity).glob("*.png"))
    if files:
        with Image.open(files[photo % len(files)]) as image:
            picture.paste(image.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC), (left, top))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out")))
