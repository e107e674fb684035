"""How large a registry becomes, from what was measured of one: the table of docs/scaling.md.

    python -m benchmarks.sizing [--json FILE]

Bytes are what ``python -m benchmarks --only storage`` measures of a version at 1,000 components, seconds are CPU of one
core as ``--only search`` and ``--only catalog`` measured them at 10⁵ and 10⁶ (docs/benchmarks.md says on which
machine). Everything beyond 10⁶ is computed: each grows with the rows.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

SIZES: Final = (10**5, 10**6, 10**7, 10**8, 10**9)
LORA: Final = 4 * 99_648
"""Bytes of a LoRA of Stable Diffusion 1.5, rank 1, fp32."""


@dataclass(frozen=True)
class Measured:
    """Of one row: bytes in the catalog, and in the index as vectors and as codes; bytes of codes in the memory of a
    process that goes on searching. Of 10⁵ and 10⁶ rows: CPU seconds of a query and of a proven verdict. Of a row: CPU
    seconds of its part in building the index."""

    catalog: float = 7_447
    vectors: float = 1_000
    codes: float = 534
    resident: float = 129
    query: tuple[float, float] = (2.05e-3, 17.2e-3)
    verdict: tuple[float, float] = (4.8e-3, 39.6e-3)
    build: float = 55e-6


@dataclass(frozen=True)
class Sized:
    """A registry of so many identities: bytes and CPU seconds."""

    identities: int
    loras: float
    catalog: float
    index: float
    memory: float
    query: float
    verdict: float
    build: float


def sized(identities: int, of: Measured) -> Sized:
    """What ``identities`` take, of one version each."""
    return Sized(
        identities,
        identities * LORA,
        identities * of.catalog,
        identities * (of.vectors + of.codes),
        identities * of.resident,
        _at(identities, of.query),
        _at(identities, of.verdict),
        identities * of.build,
    )


def _at(identities: int, measured: tuple[float, float]) -> float:
    """Seconds at so many rows: as measured at 10⁵, and beyond 10⁶ in proportion to the rows."""
    return measured[0] if identities <= 10**5 else measured[1] * identities / 10**6


def table(of: Measured) -> str:
    """The table, in Markdown."""
    lines = [
        "| identities | LoRAs, if kept | catalog on disk | index on disk | codes in memory | one query, CPU "
        "| verdict, CPU | index built, CPU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for identities in SIZES:
        one = sized(identities, of)
        sizes = [_bytes(size) for size in (one.loras, one.catalog, one.index, one.memory)]
        times = [_seconds(time) for time in (one.query, one.verdict, one.build)]
        lines.append("| " + " | ".join([_power(identities), *sizes, *times]) + " |")
    return "\n".join(lines)


def _power(number: int) -> str:
    return "10" + str(len(str(number)) - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _bytes(size: float) -> str:
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= of:
            return f"{_two(size / of)} {unit}"
    return f"{_two(size / 1e3)} kB"


def _seconds(time: float) -> str:
    for unit, of in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if time >= of:
            return f"{_two(time / of)} {unit}"
    return f"{_two(1e3 * time)} ms"


def _two(value: float) -> str:
    """Two digits that count."""
    return f"{value:.1f}" if value < 9.95 else f"{float(f'{value:.2g}'):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    print(table(Measured()))
    if options.json:
        options.json.write_text(json.dumps([asdict(sized(n, Measured())) for n in SIZES], indent=2) + "\n")


if __name__ == "__main__":
    main()
