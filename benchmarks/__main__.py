"""Every benchmark, one after the other: ``python -m benchmarks`` (what ``make bench`` runs).

Speed is measured side by side in one run and read as ratios; each module says what it compares and takes its own
options (``python -m benchmarks.bench_index --help``).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run each module of this folder in a process of its own; 1 when any failed."""
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if not p.stem.startswith("_"))
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=here.parent).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
