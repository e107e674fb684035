"""Measure inversion, edits, sampling and speed on identities the space never saw, and print the tables.

``python -m examples.miniworld.evaluate [--suite inversion|edits|sampling|speed|all] [--small] [--json FILE]``

Everything drawn or inverted is kept under ``--cache``, so a killed run goes on where it was and a second one only
prints.  One thread; run several suites in several processes to use several cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from examples.miniworld.evaluation import edits, inversion, sampling, speed
from examples.miniworld.evaluation.assets import Assets, Scope, one_thread
from examples.miniworld.evaluation.report import Row, table
from examples.miniworld.unpack import DATA

SUITES: Final[dict[str, Callable[[Assets, Scope], list[Row]]]] = {
    "inversion": inversion.run,
    "edits": edits.run,
    "sampling": sampling.run,
    "speed": speed.run,
}
CACHE: Final = Path(".build/miniworld/evaluation")


def main(argv: list[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--small", action="store_true", help="few identities and seeds: a look, not a measurement")
    parser.add_argument("--heldout", type=int, help="measure on so many held-out identities")
    parser.add_argument("--registered", type=int, help="look for so many registered persons by an unseen photo")
    parser.add_argument("--samples", type=int, help="sample so many identities")
    parser.add_argument("--seeds", type=int, help="draw everybody with so many seeds")
    parser.add_argument("--json", type=Path, help="also write every row here")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args(argv)
    one_thread()
    asked = {name: getattr(args, name) for name in ("heldout", "registered", "samples", "seeds")}
    given = {name: value for name, value in asked.items() if value is not None}
    scope = replace(Scope.small() if args.small else Scope(), **given)
    assets = Assets.load(args.data, args.cache)
    rows: list[Row] = []
    for name in SUITES if args.suite == "all" else (args.suite,):
        began = time.time()
        found = SUITES[name](assets, scope)
        rows += found
        print(f"\n### {name}\n\n{table(found)}\n\n{time.time() - began:.0f} s", flush=True)
    if args.json is not None:
        facts = {
            "command": f"python -m examples.miniworld.evaluate --suite {args.suite}"
            + (" --small" if args.small else ""),
            "space": assets.space.digest,
            "base_model": assets.model.unet_digest,
            "scope": vars(scope),
            "software": assets.model.versions() | {"python": platform.python_version()},
            "rows": [row.to_json() for row in rows],
        }
        args.json.write_text(json.dumps(facts, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
