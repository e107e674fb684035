"""``python -m tests.hub.local_hub [--port P] [--user NAME]``: a Hub to try commands against by hand."""

from __future__ import annotations

import argparse
import contextlib

from tests.hub.local_hub.server import LocalHub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--user", action="append", help="an account; may be given several times (default: acme)")
    options = parser.parse_args()
    hub = LocalHub(options.port)
    print(f"export HF_ENDPOINT={hub.endpoint} HF_HUB_DISABLE_XET=1")
    for name in options.user or ["acme"]:
        print(f"export HF_TOKEN={hub.user(name).token}   # {name}")
    with contextlib.suppress(KeyboardInterrupt):
        hub.serve_forever()


if __name__ == "__main__":
    main()
