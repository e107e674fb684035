"""How well is a mark found after what happens to pictures, and is it ever found where there is none?

``python -m benchmarks.marking [--each N] [--photos FOLDER] [--unmarked N] [--kept FILE] [--json FILE]`` prints the
tables of docs/marking.md: for every size and attack the share of marked pictures that are found and the share whose
number is right; PSNR; then the nearest that unmarked pictures came to an alarm (``--kept``: stopped, it goes on from
there). Pictures are made on the way (textures, dead leaves, drawings, faces of the mini world) from seeds that nothing
was tuned on; photographs come from a folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.marking.pictures import ATTACKS, HELD, MAKERS, corpus, photographs
from w2w_registry.artifacts import write_atomic
from w2w_registry.marking.watermark import ALARM, detect, embed

Pixels = NDArray[np.uint8]
SECRET = b"\x2a" * 32
OTHER = b"\x17" * 32
SIZES = (512, 256, 128, 64, 32)


def survival(side: int, each: int, photos: Path | None) -> dict[str, Any]:
    """Marked pictures of one size under every attack."""
    rng = np.random.default_rng(side)
    hits = {name: [0, 0] for name in ATTACKS}
    quality, detecting, embedding, count = list[float](), list[float](), 0.0, 0
    missed: dict[str, int] = {}
    for kind, pixels in (*corpus(side, each, HELD), *photographs(photos, side, max(1, each // 2), HELD)):
        numbers = [int(n) for n in rng.integers(0, 2**32, 16)]
        start = time.process_time()
        mark = embed(pixels, SECRET, numbers)
        embedding += time.process_time() - start
        quality.append(mark.psnr)
        count += 1
        for name, attack in ATTACKS.items():
            changed = attack(mark.pixels)
            start = time.process_time()
            found = detect(changed, SECRET)
            if changed.shape[0] <= side:  # one that was enlarged takes longer
                detecting.append(time.process_time() - start)
            hits[name][0] += found.present
            hits[name][1] += mark.mark is not None and found.mark == mark.mark
            if not found.present:
                missed[kind] = missed.get(kind, 0) + 1
    return {
        "side": side,
        "pictures": count,
        "psnr_least": min(quality),
        "psnr_mean": float(np.mean(quality)),
        "embed_ms": 1e3 * embedding / count,
        "detect_ms": 1e3 * float(np.mean(detecting)),
        "present": {name: hit[0] / count for name, hit in hits.items()},
        "number": {name: hit[1] / count for name, hit in hits.items()} if side >= 256 else None,
        "missed_by_kind": missed,
    }


def unmarked(count: int, photos: Path | None, kept: Path | None = None) -> dict[str, Any]:
    """Pictures without a mark, and with the mark of another registry: who is accused, and how near it came.

    With ``kept`` the tally is written there after every sheaf, and a run that was stopped goes on from it.
    """
    tally: dict[str, Any] = {"sheaf": 0, "unmarked": 0, "accused": 0, "least_bound": 1.0, "foreign": 0}
    tally |= {"foreign_read": 0, "photos": None if photos is None else str(photos), "alarm": ALARM}
    if kept is not None and kept.exists():
        before = json.loads(kept.read_text())
        if (before["photos"], before["alarm"]) != (tally["photos"], ALARM):
            raise SystemExit(f"{kept} is of other photographs or another alarm: name another file")
        tally = before
    while tally["unmarked"] < count:
        for pixels in _crops(np.random.default_rng([HELD, 7, tally["sheaf"]]), photos, count - tally["unmarked"]):
            found = detect(pixels, SECRET)
            tally["unmarked"] += 1
            tally["least_bound"] = min(tally["least_bound"], found.false_alarm)
            tally["accused"] += found.present
            if tally["unmarked"] % 50 == 0:
                tally["foreign"] += 1
                tally["foreign_read"] += (
                    detect(embed(pixels, OTHER, [tally["unmarked"]]).pixels, SECRET).mark is not None
                )
        tally["sheaf"] += 1
        if kept is not None:
            write_atomic(kept, json.dumps(tally, indent=1).encode())
    return tally


def _crops(rng: np.random.Generator, photos: Path | None, most: int) -> Iterator[Pixels]:
    """A sheaf of crops of 64 to 256 pixels: a hundred of a sheet of each kind."""
    sheets = [make(rng, 512) for make in MAKERS.values()]
    sheets += [p for _, p in photographs(photos, 512, 1, int(rng.integers(2**31)))]
    for number in range(min(most, 100 * len(sheets))):
        sheet, side = sheets[number % len(sheets)], int(rng.integers(64, 257))
        top, left = (int(rng.integers(0, 513 - side)) for _ in range(2))
        yield sheet[top : top + side, left : left + side]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per attack, a column per size, ``present / number``."""
    lines = ["| after | " + " | ".join(f"{r['side']} px ({r['pictures']})" for r in rows) + " |"]
    lines.append("|" + " --- |" * (len(rows) + 1))
    for name in ATTACKS:
        cells = [f"{r['present'][name]:.3f}" + (f" / {r['number'][name]:.3f}" if r["number"] else "") for r in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append(
        "| PSNR, least (mean), dB | " + " | ".join(f"{r['psnr_least']:.2f} ({r['psnr_mean']:.1f})" for r in rows) + " |"
    )
    lines.append(
        "| embed / detect, ms of CPU | "
        + " | ".join(f"{r['embed_ms']:.0f} / {r['detect_ms']:.1f}" for r in rows)
        + " |"
    )
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--each", type=int, default=25, help="pictures of each kind and size; 0: only unmarked ones")
    options.add_argument("--photos", type=Path, help="folder of photographs; else the two of scikit-learn")
    options.add_argument("--unmarked", type=int, default=2000, help="pictures without a mark to try")
    options.add_argument("--kept", type=Path, help="where the tally of unmarked pictures is kept, to go on from")
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    rows = [survival(side, asked.each, asked.photos) for side in SIZES] if asked.each else []
    if rows:
        print(table(rows))
    alarms = unmarked(asked.unmarked, asked.photos, asked.kept)
    print(
        f"\n{alarms['unmarked']} unmarked pictures: {alarms['accused']} accused;"
        f" nearest bound {alarms['least_bound']:.1e} (alarm at {ALARM:.0e})."
        f" {alarms['foreign']} marks of another registry: {alarms['foreign_read']} read as ours."
    )
    if asked.json:
        asked.json.write_text(json.dumps({"survival": rows, "alarms": alarms}, indent=1))


if __name__ == "__main__":
    main()
